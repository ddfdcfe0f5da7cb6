"""Certificates of the tenant's in PostgreSQL, changed under a running server.

The server reads key, certificate and CA again when it is told to read its configuration; sessions
go on with what they began with. Whether a client must use TLS, and show a certificate of its own,
are words of the access rules, which are read again as well; the agent comes by the local socket,
which has no TLS, and is never locked out. The CA is named to the server only while clients must
show a certificate: else it would refuse those who happen to show one of another CA.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import Protocol

from oslo_log import log

from trove.common import exception
from trove.datastores import spec as datastore_spec
from trove.guestagent import tls
from trove.guestagent.datastores import base
from trove.guestagent.datastores.postgresql import connection
from trove.rpc import payloads

LOG = log.getLogger(__name__)

_HANDSHAKE_TIMEOUT_S = 10.0
_LOOK_S = 0.02


class TlsServer(Protocol):
    """What is asked of the server's files."""

    tls_store: tls.TlsStore

    @property
    def address(self) -> tuple[str, int]:
        """Where the server listens."""

    def has_tls(self) -> bool:
        """Tell whether the server does TLS at all."""

    def use_tls(self, setting: tls.Setting | None) -> None:
        """Write all files as a setting says; None: as what is remembered says."""


class PostgresqlTls(base.Tls):
    """TLS of a server."""

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
                reason="the engine does no TLS: it was built without, or the instance was made"
                " without a certificate"
            )
        tls.install(self._store, job)
        new = tls.Setting(mode=job.mode, set_id=job.set_id)
        try:
            self._enforce(new)
        except (exception.GuestError, OSError) as e:
            LOG.warning("the certificate was not taken, the former one comes back")
            self._server.use_tls(None)
            self._connector.reload()
            raise tls.explain(e) from None
        self._store.save(new)
        self._server.use_tls(None)
        self._store.prune({new.set_id, *job.keep})
        LOG.info("TLS is %s now", new.mode)

    def _enforce(self, setting: tls.Setting) -> None:
        """Have the running server as a setting says; raises GuestError, OSError."""
        self._server.use_tls(setting)
        self._connector.reload()
        with self._connector.session() as session:
            rows = session.execute("SELECT error FROM pg_hba_file_rules WHERE error IS NOT NULL")
            if rows:
                raise exception.GuestError(reason=f"the database says {rows[0][0]}")
        expected = self._store.certificate_der(setting.set_id)
        # the server tells of a new configuration a moment before it has read the certificate
        moment, until_s = threading.Event(), time.monotonic() + _HANDSHAKE_TIMEOUT_S / 5
        while self._shown(setting) != expected:
            if time.monotonic() > until_s:
                raise exception.GuestError(
                    reason="the database goes on with another certificate: it does not take this"
                    " one with its key"
                )
            moment.wait(_LOOK_S)

    def _shown(self, setting: tls.Setting) -> bytes | None:
        """Return the certificate that the server shows over TLS; raises GuestError, OSError."""
        context = tls.looking_context()
        # what the server thinks of a client without a certificate, it says after the handshake
        with socket.create_connection(self._server.address, _HANDSHAKE_TIMEOUT_S) as plain:
            plain.sendall(connection.TLS_REQUEST)
            if plain.recv(1) != b"S":
                raise exception.GuestError(reason="the database does no TLS")
            with context.wrap_socket(plain) as channel:
                return channel.getpeercert(binary_form=True)
