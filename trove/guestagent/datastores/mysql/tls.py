"""Certificates of the tenant's in the MySQL family, changed under a running server.

``FLUSH SSL`` has the server read its files again (MariaDB 10.4, https://mariadb.com/kb/en/flush/);
sessions go on with what they began with. ``require_secure_transport`` is dynamic from 10.5.2 on and
lets local sockets through, so the agent is never locked out. A client's certificate is checked
against the CA whenever the client shows one; that it must show one is a demand of each account
(``REQUIRE X509``), which the service makes of all accounts that are the tenant's.
"""

from __future__ import annotations

import dataclasses
import socket
import struct
from collections.abc import Callable

from oslo_log import log

from trove.common import exception
from trove.datastores import spec as datastore_spec
from trove.guestagent import tls
from trove.guestagent.datastores import base
from trove.guestagent.datastores.mysql import connection
from trove.guestagent.datastores.mysql import dialect as dialects
from trove.rpc import payloads

LOG = log.getLogger(__name__)

_HANDSHAKE_TIMEOUT_S = 10.0
#: CLIENT_PROTOCOL_41 | CLIENT_SSL | CLIENT_SECURE_CONNECTION, the largest packet, utf8mb4.
_SSL_REQUEST = struct.pack("<IIB23x", 0x0200 | 0x0800 | 0x8000, 1 << 24, 45)
_ERROR_PACKET = 0xFF
#: Values of mysql.user.ssl_type and what they are in ALTER USER.
_DEMANDS = {"": "NONE", "ANY": "SSL", "X509": "X509"}


class MysqlTls(base.Tls):
    """TLS of a server of the family."""

    capabilities = frozenset({datastore_spec.Capability.TLS})

    def __init__(
        self,
        dialect: dialects.Dialect,
        connector: connection.Connector,
        *,
        store: tls.TlsStore,
        rewrite_configuration: Callable[[], object],
    ) -> None:
        """Take the collaborators; ``rewrite_configuration`` is called once a setting is saved."""
        self._dialect = dialect
        self._connector = connector
        self._store = store
        self._rewrite_configuration = rewrite_configuration

    def apply(self, job: payloads.SslJob) -> None:
        """Install, reload and try; what was in force before comes back when that fails."""
        tls.install(self._store, job)
        old = self._store.setting()
        with self._connector.session() as session:
            strict = self._strict(session, old)
            new = tls.Setting(mode=job.mode, set_id=job.set_id, strict_before=strict)
            if new.requires_client_certificate and not old.requires_client_certificate:
                # the next agent must not take the service's demands for the tenant's
                self._store.remember_own_demands(strict)
            try:
                self._enforce(session, new)
            except (exception.GuestError, connection.ServerError, OSError) as e:
                LOG.warning("the certificate was not taken, the former one comes back")
                self._enforce(session, dataclasses.replace(old, strict_before=strict))
                self._store.remember_own_demands(None)
                raise _explained(e) from None
            self._store.save(new)
            self._store.remember_own_demands(None)
            # of accounts that were made meanwhile what is saved is demanded too
            self._demand(session, new)
        self._rewrite_configuration()
        self._store.prune({new.set_id, *job.keep})
        LOG.info("TLS is %s now", new.mode)

    def _enforce(self, session: connection.Session, setting: tls.Setting) -> None:
        """Have the running server as a setting says; raises GuestError, ServerError, OSError."""
        self._store.link(setting.set_id)
        if self._dialect.reload_tls is not None:
            session.execute(self._dialect.reload_tls)
        self._shake_hands(setting)
        session.execute(
            "SET GLOBAL require_secure_transport = {value}", value=int(setting.requires_tls)
        )
        self._demand(session, setting)

    # -- accounts -----

    def _accounts(self, session: connection.Session) -> list[tuple[str, str, str]]:
        """Return name, host and demand of all accounts that are the tenant's, root among them."""
        rows = session.execute(
            "SELECT accounts.User, accounts.Host, u.ssl_type"  # noqa: S608 (a constant)
            f" FROM {self._dialect.user_source} JOIN mysql.user AS u"
            " ON u.User = accounts.User AND u.Host = accounts.Host"
        )
        spec = self._dialect.spec
        return [
            (str(name), str(host), str(demand))
            for name, host, demand in rows
            if name and (not spec.is_reserved_user(name) or (name, host) == (spec.root_name, "%"))
        ]

    def _strict(self, session: connection.Session, old: tls.Setting) -> dict[str, str]:
        """Return the demands that are the tenant's own doing."""
        if old.requires_client_certificate:
            return dict(old.strict_before)
        remembered = self._store.find_own_demands()
        if remembered is not None:
            return dict(remembered)
        return {
            f"{name}@{host}": demand for name, host, demand in self._accounts(session) if demand
        }

    def _demand(self, session: connection.Session, setting: tls.Setting) -> None:
        for name, host, demand in self._accounts(session):
            own = setting.strict_before.get(f"{name}@{host}", "")
            wanted = own
            if setting.requires_client_certificate:
                wanted = "X509" if demand in ("", "ANY") else demand
            # what is tied to a certain subject or issuer stays so
            if wanted == demand or demand not in _DEMANDS or wanted not in _DEMANDS:
                continue
            statement = self._dialect.syntax.demand.replace("<demand>", _DEMANDS[wanted])
            session.execute(statement, name=name, host=host)

    # -- the proof -----

    def _shake_hands(self, setting: tls.Setting) -> None:
        """Have the server show the certificate over TLS; raises GuestError, OSError."""
        expected = self._store.certificate_der(setting.set_id)
        context = tls.looking_context()
        # by the local socket, which does TLS as well: to an address without accounts the server
        # does not even speak
        with self._connector.channel(timeout_s=_HANDSHAKE_TIMEOUT_S) as plain:
            greeting = _read_packet(plain)
            if not greeting or greeting[0] == _ERROR_PACKET:
                raise exception.GuestError(reason="the database takes no connections now")
            plain.sendall(struct.pack("<I", len(_SSL_REQUEST) | 1 << 24) + _SSL_REQUEST)
            with context.wrap_socket(plain) as channel:
                shown = channel.getpeercert(binary_form=True)
        if shown != expected:
            raise exception.GuestError(reason="the database shows another certificate")


def _read_packet(channel: socket.socket) -> bytes:
    """Return one packet of the protocol: three bytes of length, a number, the content."""
    header = _read(channel, 4)
    return _read(channel, int.from_bytes(header[:3], "little"))


def _read(channel: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        chunk = channel.recv(size - len(content))
        if not chunk:
            raise exception.GuestError(reason="the database ended the connection")
        content += chunk
    return content


def _explained(error: Exception) -> exception.GuestError:
    if isinstance(error, connection.ServerError):
        return exception.GuestError(reason=connection.explain(error))
    return tls.explain(error)
