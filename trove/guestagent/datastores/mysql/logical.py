"""Backups of Oracle's MySQL, and databases made from them: statements, see :mod:`.dumps`.

They are said to a private server on a new data directory, which writes no log and takes over no
transaction's number: a restored database begins a history of its own. There are no increments: the
log behind a backup is what point in time recovery is made of.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from oslo_log import log

from trove.common import exception
from trove.datastores import spec as datastore_spec
from trove.guestagent.datastores import base
from trove.guestagent.datastores.mysql import connection, dumps, private, template
from trove.guestagent.datastores.mysql import dialect as dialects
from trove.guestagent.system import filesystem

LOG = log.getLogger(__name__)

#: Longest that one statement may take: many rows, or the check of a large table.
_STATEMENT_TIMEOUT_S = 86400
#: Up to this size a table's check looks at everything that can be looked at.
_EXTENDED_BYTES = 256 * 1024 * 1024
#: Identity of the server that the data were made by; it makes one of its own where there is none.
_IDENTITY = "auto.cnf"
#: What is no fault of a table: its engine checks none, it is empty.
_HARMLESS = frozenset({"status", "note", "info", "warning"})


class MysqlBackup(base.Backup):
    """Backups by statements."""

    capabilities = frozenset({datastore_spec.Capability.BACKUP})

    def __init__(
        self,
        dialect: dialects.Dialect,
        environment: base.Environment,
        *,
        connector: connection.Connector,
        find_settings: Callable[[], base.Settings | None],
        make_data: Callable[[pathlib.Path], None],
        explain_exit: Callable[[int | None, str], str],
    ) -> None:
        """Take the server that is copied; ``make_data`` makes a new data directory."""
        self._dialect = dialect
        self._environment = environment
        self._layout = environment.layout
        self._connector = connector
        self._find_settings = find_settings
        self._make_data = make_data
        self._explain_exit = explain_exit
        self._dumper = dumps.Dumper(dialect, environment, connector=connector)

    # -- making them -----

    def estimate_bytes(self) -> int:
        """Return about how large a full copy is."""
        return self._dumper.estimate_bytes()

    def open_full(self) -> base.Stream:
        """Begin to copy the running server."""
        return self._dumper.open()

    # -- databases from them -----

    def check(self, facts: Mapping[str, Any]) -> None:
        """Raise GuestError unless this is a backup of this series, not of a later version."""
        manager, version = self._dialect.spec.manager, str(facts.get("engine_version"))
        if facts.get("manager") != manager:
            raise exception.GuestError(
                reason=f"this is a backup of {facts.get('manager')}, not of {manager}"
            )
        if facts.get("format") != dumps.FORMAT:
            raise exception.GuestError(
                reason="this backup was made by a later release of the service: upgrade this one"
            )
        program = template.find_server(self._dialect, basedir=self._environment.basedir)
        installed = template.server_version(program)
        try:
            copied, here = (tuple(map(int, each.split("."))) for each in (version, installed))
        except ValueError:
            raise exception.GuestError(
                reason="the backup does not tell the version of its database"
            ) from None
        if copied[:2] != here[:2] or copied > here:
            series = ".".join(version.split(".")[:2])
            raise exception.GuestError(
                reason=f"this is a backup of version {version}, which {installed} cannot restore:"
                f" restore it to an instance of {series}, of {version} or later"
            )

    def restore(self, recovery: base.Recovery, work: pathlib.Path) -> dict[str, Any]:
        """Make a new database and say it what the copy says."""
        if not recovery.chain:
            raise exception.GuestError(reason="there is no backup to restore")
        if len(recovery.chain) > 1:
            raise exception.GuestError(reason="this engine has no incremental backups")
        (kept,) = recovery.chain
        self.check(kept.facts)
        if recovery.logs is not None or recovery.target != base.Target():
            raise exception.GuestError(reason="without the log there is no point in time to go to")
        self._layout.make_volume()
        server = self._server(work)
        server.end_former()
        with dumps.explained():
            self._make_data(work)
            with server:
                self._say(server, kept)
                server.stop()
            self._clean(work)
            filesystem.sync_file_system(work)
        return {"restored_to_s": kept.facts.get("consistent_s")}

    @staticmethod
    def _clean(work: pathlib.Path) -> None:
        (work / _IDENTITY).unlink(missing_ok=True)

    def _server(self, data_dir: pathlib.Path) -> private.PrivateServer:
        return private.PrivateServer.of_instance(
            self._dialect,
            self._environment,
            data_dir=data_dir,
            settings=self._find_settings(),
            explain=self._explain_exit,
        )

    def _say(self, server: private.PrivateServer, kept: base.Kept) -> None:
        """Have a server run the statements of a copy."""
        with (
            _explained(server),
            kept.open() as content,
            contextlib.closing(server.connector.bulk(timeout_s=_STATEMENT_TIMEOUT_S)) as session,
        ):
            for statement in dumps.Reader(content).statements():
                session.say(statement)

    def verify(self, work: pathlib.Path) -> dict[str, Any]:
        """Start a server on a restored database and have it check all tables."""
        size_bytes = filesystem.tree_bytes(work)
        self._layout.make_volume()
        checked = 0
        wrong: list[str] = []
        extent = "EXTENDED" if size_bytes <= _EXTENDED_BYTES else "MEDIUM"
        with dumps.explained(), self._server(work) as server:
            with (
                _explained(server),
                server.connector.session(timeout_s=_STATEMENT_TIMEOUT_S) as session,
            ):
                for database, table in _all_tables(session):
                    rows = session.execute(
                        f"CHECK TABLE {{database}}.{{table}} {extent}",
                        database=connection.Identifier(database),
                        table=connection.Identifier(table),
                    )
                    wrong += _complaints(rows)
                    checked += 1
            if wrong or not checked:
                said = " / ".join(wrong)[:600] or "it has no tables"
                raise exception.GuestError(reason=f"the database is damaged: {said}")
            server.stop()
        return {"check": "CHECK TABLE", "objects": checked, "bytes": size_bytes}


@contextlib.contextmanager
def _explained(server: private.PrivateServer) -> Iterator[None]:
    """Say why a server ended rather than that it did."""
    try:
        yield
    except (connection.ServerError, exception.GuestError) as e:
        if server.has_ended():
            reason = f"the restored database ended: {server.explain_end()}"
        elif isinstance(e, connection.ServerError):
            reason = f"the backup cannot be restored: {connection.explain(e)}"
        else:
            raise
        raise exception.GuestError(reason=reason) from None


def _all_tables(session: connection.Session) -> list[tuple[str, str]]:
    rows = session.execute(
        "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES"
        " WHERE TABLE_TYPE IN ('BASE TABLE', 'VIEW')"
        " AND TABLE_SCHEMA NOT IN ('information_schema', 'performance_schema', 'sys')"
        " AND (ENGINE IS NULL OR ENGINE NOT IN ('CSV', 'FEDERATED'))"
        " ORDER BY 1, 2"
    )
    return [(str(database), str(table)) for database, table in rows]


def _complaints(rows: Any) -> list[str]:
    """Return what a check found wrong."""
    if any(str(kind).lower() == "status" and text == "OK" for _, _, kind, text in rows):
        return []
    return [
        f"{table}: {text}" for table, _, kind, text in rows if str(kind).lower() not in _HARMLESS
    ]
