"""Backups of Oracle's MySQL, and databases made from them: statements, see :mod:`.dumps`.

They are said to a private server on a new data directory, which writes no log and takes over no
transaction's number: a restored database begins a history of its own. There are no increments: the
log behind a backup, which the agent says to the same server, brings it to a point in time.
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
from trove.guestagent.datastores.mysql import (
    binlog_index,
    connection,
    definitions,
    dumps,
    events,
    origin,
    private,
    probe,
    replay,
)
from trove.guestagent.datastores.mysql import dialect as dialects
from trove.guestagent.system import filesystem

LOG = log.getLogger(__name__)

#: Longest that one statement may take: many rows, or the check of a large table.
_STATEMENT_TIMEOUT_S = 86400
#: Longest that statements in the way of a snapshot are waited for.
_QUIESCE_WAIT_S = 10
#: How long after a connection was lost its server may take to end.
_END_S = 2.0
#: Up to this size a table's check looks at everything that can be looked at.
_EXTENDED_BYTES = 256 * 1024 * 1024
#: What is written with a small redo log.
_SMALL_BYTES = 256 * 1024 * 1024
#: Identity of the server that the data were made by; it makes one of its own where there is none.
_IDENTITY = "auto.cnf"
_NOT_CHECKED = frozenset({"information_schema", "performance_schema", "sys"})
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

    # -- snapshots of the volume -----

    @contextlib.contextmanager
    def quiesce(self) -> Iterator[Mapping[str, Any]]:
        """Hold all writes back, with all tables flushed; statements under way are waited for."""
        with self._connector.session() as session:
            session.execute("SET SESSION lock_wait_timeout = {seconds}", seconds=_QUIESCE_WAIT_S)
            session.execute("FLUSH TABLES WITH READ LOCK")
            # the lock does not outlive the connection
            yield {}

    def adopt(self, work: pathlib.Path, kept: pathlib.Path) -> None:
        """Be another server than the one of the snapshot."""
        (work / _IDENTITY).unlink(missing_ok=True)
        binlog_index.make_relative(work, owner=self._layout.engine_user)

    # -- making them -----

    def estimate_bytes(self) -> int:
        """Return about how large a full copy is."""
        return self._dumper.estimate_bytes()

    def open_full(self) -> base.Stream:
        """Begin to copy the running server."""
        return self._dumper.open()

    def write_probe(self, mark: str) -> bool:
        """Write a mark that every backup from now on holds."""
        probe.write(self._connector, mark)
        return True

    # -- databases from them -----

    def check(self, facts: Mapping[str, Any]) -> None:
        """Raise GuestError unless this is a backup of this series, not of a later version."""
        version, installed = origin.read(
            facts, self._dialect, format_=dumps.FORMAT, basedir=self._environment.basedir
        )
        try:
            copied, here = (tuple(map(int, each.split("."))) for each in (version, installed))
        except ValueError:
            raise exception.GuestError(
                reason="the backup does not tell the version of its database"
            ) from None
        if copied[:2] != here[:2] or copied > here:
            series = ".".join(version.split(".")[:2])
            needed = f"{series}, of {version} or later"
            raise origin.refusal(version, installed, needed=needed)

    def restore(self, recovery: base.Recovery, work: pathlib.Path) -> dict[str, Any]:
        """Make a new database and say it what the copy says."""
        if not recovery.chain:
            raise exception.GuestError(reason="there is no backup to restore")
        if len(recovery.chain) > 1:
            raise exception.GuestError(reason="this engine has no incremental backups")
        (kept,) = recovery.chain
        self.check(kept.facts)
        plan = replay.Plan.find(recovery)
        logs = work.with_name(f"{work.name}.log")
        self._layout.make_volume()
        server = self._server(work, kept.facts)
        server.end_former()
        facts: dict[str, Any] = {"restored_to_s": kept.facts.get("consistent_s")}
        try:
            with dumps.explained():
                filesystem.remove_tree(logs)
                self._make_data(work)
                with server:
                    refused = self._say(server, kept)
                    if plan is not None and recovery.logs is not None:
                        facts = self._replay(server, plan, recovery.logs, logs=logs)
                    server.stop()
                (work / _IDENTITY).unlink(missing_ok=True)
                filesystem.sync_file_system(work)
        finally:
            with contextlib.suppress(OSError):
                filesystem.remove_tree(logs)
        return {**facts, "left_out": refused} if refused else facts

    def _replay(
        self,
        server: private.PrivateServer,
        plan: replay.Plan,
        pieces: Callable[[], Iterator[base.Kept]],
        *,
        logs: pathlib.Path,
    ) -> dict[str, Any]:
        """Have a server do what the log says."""
        user = self._layout.engine_user
        filesystem.ensure_directory(logs, mode=0o700, owner=user)
        voice = events.EventVoice(server.connector)
        replayer = replay.Replayer(voice, user=user, directory=logs)
        with _explained(server):
            return replayer.replay(plan, pieces())

    def _server(
        self, data_dir: pathlib.Path, facts: Mapping[str, Any] | None = None
    ) -> private.PrivateServer:
        """Return a server on data; ``facts`` are of what is to be written there."""
        size_bytes = 0 if facts is None else int(facts.get("data_bytes", 0))
        return private.PrivateServer.of_instance(
            self._dialect,
            self._environment,
            data_dir=data_dir,
            settings=self._find_settings(),
            explain=self._explain_exit,
            # a redo log of the instance's size takes seconds to be made
            has_small_redo_log=size_bytes < _SMALL_BYTES,
        )

    def _say(self, server: private.PrivateServer, kept: base.Kept) -> list[str]:
        """Have a server run the statements of a copy; returns what it says of views it refuses.

        What a view names may have been gone when it was copied, which not every version tells.
        """
        refused = []
        with (
            _explained(server),
            kept.open() as content,
            contextlib.closing(server.connector.bulk(timeout_s=_STATEMENT_TIMEOUT_S)) as session,
        ):
            for statement in dumps.Reader(content).statements():
                try:
                    session.say(statement)
                except connection.ServerError as e:
                    if e.args[0] not in definitions.BLIND or not definitions.is_view(statement):
                        raise
                    refused.append(connection.explain(e))
                    LOG.warning("a view is not restored, what it names is gone: %s", refused[-1])
        return refused

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
            mark = probe.find(server.connector)
        return {"check": "CHECK TABLE", "objects": checked, "bytes": size_bytes, "probe": mark}


@contextlib.contextmanager
def _explained(server: private.PrivateServer) -> Iterator[None]:
    """Say why a server ended rather than that it did."""
    try:
        yield
    except (connection.ServerError, exception.GuestError) as e:
        if server.has_ended(within_s=_END_S):
            reason = f"the restored database ended: {server.explain_end()}"
        elif isinstance(e, connection.ServerError):
            reason = f"the backup cannot be restored: {connection.explain(e)}"
        else:
            raise
        raise exception.GuestError(reason=reason) from None


def _all_tables(session: connection.Session) -> list[tuple[str, str]]:
    """Return all tables that can be checked; the server's lists of facts leave out broken ones."""
    unchecked = session.execute(
        "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES"
        " WHERE ENGINE IN ('CSV', 'FEDERATED')"
    )
    found = []
    for (database,) in session.execute("SHOW DATABASES"):
        if database not in _NOT_CHECKED:
            rows = session.execute(
                "SHOW TABLES FROM {database}", database=connection.Identifier(str(database))
            )
            found += [(str(database), str(table)) for (table,) in rows]
    return sorted(set(found) - {(str(each[0]), str(each[1])) for each in unchecked})


def _complaints(rows: Any) -> list[str]:
    """Return what a check found wrong."""
    if any(str(kind).lower() == "status" and text == "OK" for _, _, kind, text in rows):
        return []
    return [
        f"{table}: {text}" for table, _, kind, text in rows if str(kind).lower() not in _HARMLESS
    ]
