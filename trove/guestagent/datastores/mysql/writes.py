"""Writes to a server of the family: a proof that it takes them, and having it take none.

The proof is a row of the agent's own among the system's tables, which only a superuser sees; should
one break it, it is made anew. It is not replicated.

A server that takes no writes goes on taking those of accounts with a certain privilege. Tenants'
accounts that have it, root first of all, lose it for as long, and their sessions, which would keep
it; who they are is remembered.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import pymysql.err
from oslo_log import log

from trove.common import exception
from trove.datastores import mysql
from trove.guestagent import state
from trove.guestagent.datastores import base
from trove.guestagent.datastores.mysql import connection
from trove.guestagent.datastores.mysql import dialect as dialects

LOG = log.getLogger(__name__)

_PROOF = "REPLACE INTO mysql.trove_pulse (id, beat) VALUES (1, UTC_TIMESTAMP())"
_TABLE_GONE = "DROP TABLE IF EXISTS mysql.trove_pulse"
_TABLE_MADE = (
    "CREATE TABLE mysql.trove_pulse (id TINYINT PRIMARY KEY, beat DATETIME NOT NULL)"
    " ENGINE = InnoDB"
)
#: Not replicated, and soon to give up.
_BRIEF = "SET SESSION sql_log_bin = 0, lock_wait_timeout = 2, innodb_lock_wait_timeout = 2"
_LOCK_TIMEOUT = 1205
_GRANTEE = re.compile(r"'(.*)'@'(.*)'\Z", re.DOTALL)
_DOCUMENT = "read_only_exempt"


class Writes:
    """What the agent does about writes."""

    def __init__(
        self,
        dialect: dialects.Dialect,
        connector: connection.Connector,
        *,
        kept: connection.KeptConnection,
        store: state.Store,
    ) -> None:
        """Take the member of the family and what connects to the server."""
        self._dialect = dialect
        self._connector = connector
        self._kept = kept
        self._store = store

    # -- the proof -----

    def prove(self) -> None:
        """Write the row; raises NotReady."""
        try:
            with self._kept.session() as session:
                session.execute(_BRIEF)
                try:
                    session.execute(_PROOF)
                except pymysql.err.MySQLError as e:
                    if e.args[0] in connection.LOST | connection.DISK_FULL | {_LOCK_TIMEOUT}:
                        raise
                    # not there yet, or not as it was made
                    session.execute(_TABLE_GONE)
                    session.execute(_TABLE_MADE)
                    session.execute(_PROOF)
        except exception.GuestError as e:
            raise base.NotReady(reason=f"it takes no writes, {e.kwargs['reason']}") from None

    # -- none of the tenants -----

    def set_read_only(self, is_read_only: bool) -> None:
        """Have the server take no writes, or all again; raises GuestError."""
        with self._connector.session() as session:
            session.execute(_BRIEF)
            if is_read_only:
                self._exclude(session)
                self._forbid(session)
            else:
                session.execute(f"SET GLOBAL {self._dialect.read_only} = 0")
                # with the stricter of two, the plain one was set as well
                session.execute("SET GLOBAL read_only = 0")
                self._readmit(session)

    def _forbid(self, session: connection.Session) -> None:
        statement = f"SET GLOBAL {self._dialect.read_only} = 1"
        try:
            session.execute(statement)
        except pymysql.err.MySQLError as e:
            if e.args[0] != _LOCK_TIMEOUT:
                raise
            # what writes now would go on until the disk is full
            self._end_sessions(session, None)
            session.execute(statement)

    def _exempt(self, session: connection.Session) -> list[tuple[str, str]]:
        """Return the tenants' accounts that may write all the same."""
        if self._dialect.read_only_exemption is None:
            return []
        rows = session.execute(
            "SELECT GRANTEE FROM information_schema.USER_PRIVILEGES"
            " WHERE REPLACE(PRIVILEGE_TYPE, '_', ' ') = {privilege}",
            privilege=self._dialect.read_only_exemption,
        )
        found = []
        for (grantee,) in rows:
            match = _GRANTEE.match(str(grantee))
            if match and not self._is_own(match[1]):
                found.append((match[1], match[2]))
        return found

    def _is_own(self, name: str) -> bool:
        spec = self._dialect.spec
        return name == mysql.AGENT_USER or (
            spec.is_reserved_user(name) and name.lower() != spec.root_name
        )

    def _remembered(self) -> list[tuple[str, str]]:
        accounts = (self._store.find(_DOCUMENT) or {}).get("accounts", [])
        return [(str(name), str(host)) for name, host in accounts]

    def _exclude(self, session: connection.Session) -> None:
        exempt = self._exempt(session)
        if exempt:
            known = self._remembered()
            accounts = known + [account for account in exempt if account not in known]
            self._store.save(_DOCUMENT, {"accounts": accounts})
        for name, host in exempt:
            session.execute(
                f"REVOKE {self._dialect.read_only_exemption} ON *.* FROM {{name}}@{{host}}",
                name=name,
                host=host,
            )
            LOG.info("an account of the tenant's may not write while the disk is full")
            self._end_sessions(session, name)

    def _readmit(self, session: connection.Session) -> None:
        accounts = self._remembered()
        for name, host in accounts:
            # it may have been dropped since
            with contextlib.suppress(pymysql.err.MySQLError):
                session.execute(
                    f"GRANT {self._dialect.read_only_exemption} ON *.* TO {{name}}@{{host}}",
                    name=name,
                    host=host,
                )
        if accounts:
            self._store.save(_DOCUMENT, {})

    def _end_sessions(self, session: connection.Session, name: str | None) -> None:
        """End the sessions of a user; of all tenants' users without a name."""
        for number, user in self._sessions(session):
            if user == name or (name is None and not self._is_own(user)):
                # it may have ended by itself
                with contextlib.suppress(pymysql.err.MySQLError):
                    session.execute("KILL {number}", number=number)

    @staticmethod
    def _sessions(session: connection.Session) -> Iterator[tuple[int, str]]:
        rows = session.execute("SELECT ID, USER FROM information_schema.PROCESSLIST")
        for number, user in rows:
            if user not in ("system user", "event_scheduler"):
                yield int(number), str(user)
