"""Certificates of the tenant's, and what is demanded of clients.

``rotateCertificates`` has the server read its files again; sessions go on with what they began
with, and files that do not fit each other are refused. A running server can be told to demand TLS,
but not to do without again, nor whether clients must show a certificate: that takes a restart.
"""

from __future__ import annotations

from typing import Protocol

from oslo_log import log
from pymongo import errors

from trove.common import exception
from trove.datastores import spec as datastore_spec
from trove.guestagent import tls
from trove.guestagent.datastores import base
from trove.guestagent.datastores.mongodb import connection
from trove.rpc import payloads

LOG = log.getLogger(__name__)


class TlsServer(Protocol):
    """What is asked of the server's files."""

    tls_store: tls.TlsStore

    def write_tls_files(self) -> None:
        """Write the current set as the server reads it."""

    def rewrite_configuration(self) -> None:
        """Write the configuration from what is remembered."""


class MongodbTls(base.Tls):
    """TLS of a mongod."""

    capabilities = frozenset({datastore_spec.Capability.TLS})

    def __init__(self, server: TlsServer, connector: connection.Connector) -> None:
        """Take the collaborators."""
        self._server = server
        self._store = server.tls_store
        self._connector = connector

    def apply(self, job: payloads.SslJob) -> None:
        """Install, reload and try; what was in force before comes back when that fails."""
        tls.install(self._store, job)
        old = self._store.setting()
        new = tls.Setting(mode=job.mode, set_id=job.set_id)
        with self._connector.session() as client:
            try:
                self._rotate(client, new)
                # it refuses what it does already
                if new.requires_tls and _mode(client) != "requireTLS":
                    client.admin.command("setParameter", 1, tlsMode="requireTLS")
            except (errors.PyMongoError, OSError) as e:
                LOG.warning("the certificate was not taken, the former one comes back")
                self._rotate(client, old)
                raise _explained(e) from None
        self._store.save(new)
        self._server.rewrite_configuration()
        self._store.prune({new.set_id, *job.keep})
        LOG.info("TLS is %s now", new.mode)

    def _rotate(self, client: connection.Client, setting: tls.Setting) -> None:
        self._store.link(setting.set_id)
        self._server.write_tls_files()
        client.admin.command("rotateCertificates", 1)

    def needs_restart(self) -> bool:
        """Tell whether the running server demands something else of clients than it shall."""
        setting = self._store.setting()
        with self._connector.session() as client:
            started = client.admin.command("getCmdLineOpts")["parsed"]["net"]["tls"]
            mode = _mode(client)
        demands = not started.get("allowConnectionsWithoutCertificates", False)
        return (
            demands != setting.requires_client_certificate
            or (mode == "requireTLS") != setting.requires_tls
        )


def _mode(client: connection.Client) -> str:
    """Return what the running server wants of connections."""
    return str(client.admin.command("getParameter", 1, tlsMode=1)["tlsMode"])


def _explained(error: Exception) -> exception.GuestError:
    if isinstance(error, errors.PyMongoError):
        return exception.GuestError(reason=connection.explain(error))
    return tls.explain(error)
