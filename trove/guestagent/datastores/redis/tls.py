"""TLS of the Redis family: a port of its own, and certificates changed under a running server.

CONFIG SET has the server read its files again, whatever their names were before; sessions go on
with what they began with. Plain connections and TLS cannot share a port: where TLS is a must, the
plain port is closed. The agent comes over the local socket.
"""

from __future__ import annotations

import socket
import ssl
from typing import Protocol

from oslo_log import log

from trove.common import exception
from trove.datastores import spec as datastore_spec
from trove.guestagent import tls
from trove.guestagent.datastores import base
from trove.guestagent.datastores.redis import connection
from trove.rpc import payloads

LOG = log.getLogger(__name__)

_HANDSHAKE_TIMEOUT_S = 10.0


class TlsServer(Protocol):
    """What is asked of the server."""

    tls_store: tls.TlsStore

    @property
    def address(self) -> str:
        """Where the server listens."""

    @property
    def tls_port(self) -> int:
        """Where the server speaks TLS."""

    def has_tls(self) -> bool:
        """Tell whether the server program was built with TLS."""

    def tls_options(self, setting: tls.Setting) -> dict[str, str]:
        """Return the options of TLS, ports among them."""

    def rewrite_configuration(self) -> None:
        """Write the configuration from what is remembered."""


class RedisTls(base.Tls):
    """TLS of a server of the family."""

    capabilities = frozenset({datastore_spec.Capability.TLS})

    def __init__(self, server: TlsServer, connector: connection.Connector) -> None:
        """Take the collaborators."""
        self._server = server
        self._store = server.tls_store
        self._connector = connector

    def apply(self, job: payloads.SslJob) -> None:
        """Install, reload and try; what was in force before comes back when that fails."""
        if not self._server.has_tls():
            raise exception.GuestError(
                reason="the engine does no TLS: its program was built without it"
            )
        tls.install(self._store, job)
        old = self._store.setting()
        new = tls.Setting(mode=job.mode, set_id=job.set_id)
        with self._connector.session() as client:
            try:
                self._enforce(client, new)
            except (exception.GuestError, connection.ServerError, OSError) as e:
                LOG.warning("the certificate was not taken, the former one comes back")
                self._enforce(client, old)
                raise _explained(e) from None
        self._store.save(new)
        self._server.rewrite_configuration()
        self._store.prune({new.set_id, *job.keep})
        LOG.info("TLS is %s now", new.mode)

    def _enforce(self, client: connection.Client, setting: tls.Setting) -> None:
        """Have the running server as a setting says; raises GuestError, ServerError, OSError."""
        self._store.link(setting.set_id)
        # what has the same name as before is read again too
        client.config_set(self._server.tls_options(setting))
        self._shake_hands(setting)

    def _shake_hands(self, setting: tls.Setting) -> None:
        """Have the server show the certificate over TLS; raises GuestError, OSError."""
        expected = self._store.certificate_der(setting.set_id)
        context = tls.looking_context()
        # a server that wants to see a certificate of ours says so after its own was seen
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        where = (self._server.address, self._server.tls_port)
        with (
            socket.create_connection(where, timeout=_HANDSHAKE_TIMEOUT_S) as plain,
            context.wrap_socket(plain) as channel,
        ):
            shown = channel.getpeercert(binary_form=True)
        if shown != expected:
            raise exception.GuestError(reason="the database shows another certificate")


def _explained(error: Exception) -> exception.GuestError:
    if isinstance(error, connection.ServerError):
        return exception.GuestError(reason=connection.explain(error))
    return tls.explain(error)
