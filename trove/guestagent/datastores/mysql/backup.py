"""Backups of MariaDB, and databases made from them.

What a copy is restored to is prepared in place: no second copy is made. The log behind it is
replayed by a private server (:mod:`.private`).
"""

from __future__ import annotations

import contextlib
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from oslo_log import log

from trove.common import exception
from trove.datastores import spec as datastore_spec
from trove.guestagent.datastores import base
from trove.guestagent.datastores.mysql import (
    binlog,
    binlog_index,
    connection,
    copies,
    mbstream,
    origin,
    private,
    probe,
    replay,
)
from trove.guestagent.datastores.mysql import dialect as dialects
from trove.guestagent.system import filesystem, pipes, process

LOG = log.getLogger(__name__)

_READ_BYTES = 1024 * 1024
#: What holds commits back, step by step.
_STAGES = (
    "BACKUP STAGE START",
    "BACKUP STAGE FLUSH",
    "BACKUP STAGE BLOCK_DDL",
    "BACKUP STAGE BLOCK_COMMIT",
)
#: Longest that a statement in the way is waited for.
_QUIESCE_WAIT_S = 10
_DAY_S = 86400.0
#: What a copy has that a data directory has not.
_NOT_DATA = ("backup-my.cnf", "xtrabackup_*", "mariadb_backup_*")
#: Up to this size a table's check looks at everything that can be looked at.
_EXTENDED_BYTES = 256 * 1024 * 1024
_CHECKED = re.compile(r"^(\S.*?)\s+OK$")


class MariadbBackup(base.Backup):
    """Backups by mariabackup."""

    capabilities = frozenset(
        {datastore_spec.Capability.BACKUP, datastore_spec.Capability.INCREMENTS}
    )

    def __init__(
        self,
        dialect: dialects.Dialect,
        programs: dialects.BackupPrograms,
        environment: base.Environment,
        *,
        connector: connection.Connector,
        configuration: pathlib.Path,
        socket: pathlib.Path,
        find_settings: Callable[[], base.Settings | None],
        explain_exit: Callable[[int | None, str], str],
    ) -> None:
        """Take the server that is copied, and what is known of it."""
        self._dialect = dialect
        self._programs = programs
        self._environment = environment
        self._layout = environment.layout
        self._find_settings = find_settings
        self._explain_exit = explain_exit
        self._connector = connector
        self._copier = copies.Copier(
            dialect,
            programs,
            environment,
            connector=connector,
            configuration=configuration,
            socket=socket,
        )

    # -- making them -----

    def estimate_bytes(self) -> int:
        """Return about how large a full copy is."""
        return self._copier.estimate_bytes()

    def open_full(self) -> base.Stream:
        """Begin to copy the running server."""
        return self._copier.open_full()

    def open_increment(self, parent: Mapping[str, Any]) -> base.Stream:
        """Begin to copy the pages that changed since a backup."""
        return self._copier.open_increment(parent)

    def write_probe(self, mark: str) -> bool:
        """Write a mark that every backup from now on holds."""
        probe.write(self._connector, mark)
        return True

    @contextlib.contextmanager
    def quiesce(self) -> Iterator[Mapping[str, Any]]:
        """Flush tables that know no transactions, and hold all commits back.

        Readers are not waited for, writers of such tables and changes of tables are.
        """
        with self._connector.session() as session:
            session.execute("SET SESSION lock_wait_timeout = {seconds}", seconds=_QUIESCE_WAIT_S)
            for stage in _STAGES:
                session.execute(stage)
            ((gtid,),) = session.execute("SELECT @@GLOBAL.gtid_current_pos")
            yield {"gtid": str(gtid or "")}
            # no stage outlives the connection, which may be broken by now
            session.execute("BACKUP STAGE END")

    # -- databases from them -----

    def adopt(self, work: pathlib.Path, kept: pathlib.Path) -> None:
        """Have the list of the log's files name those that are there."""
        binlog_index.make_relative(work, owner=self._layout.engine_user)

    def check(self, facts: Mapping[str, Any]) -> None:
        """Raise GuestError unless this is a backup of this engine, of this series."""
        version, installed = origin.read(
            facts, self._dialect, format_=copies.FORMAT, basedir=self._environment.basedir
        )
        series = version.split(".")[:2]
        if series != installed.split(".")[:2]:
            raise origin.refusal(version, installed, needed=".".join(series))
        for each in (self._programs.backup, self._programs.unpack):
            copies.find_program(each, basedir=self._environment.basedir)

    def _check_chain(self, chain: Sequence[base.Kept]) -> None:
        if not chain:
            raise exception.GuestError(reason="there is no backup to restore")
        former: Mapping[str, Any] | None = None
        for number, kept in enumerate(chain):
            facts = kept.facts
            self.check(facts)
            if former is None:
                if facts.get("kind") != "full":
                    raise exception.GuestError(reason="the first backup to restore is not full")
            elif (
                facts.get("kind") != "increment"
                or facts.get("history") != former.get("history")
                or facts.get("from_lsn") != former.get("to_lsn")
            ):
                raise exception.GuestError(
                    reason=f"backup {number + 1} of the chain does not follow the one before"
                )
            former = facts

    def restore(self, recovery: base.Recovery, work: pathlib.Path) -> dict[str, Any]:
        """Unpack, prepare, apply increments, replay the log, clean up."""
        self._check_chain(recovery.chain)
        last = recovery.chain[-1].facts
        plan = replay.Plan.find(recovery)
        if plan is not None:
            self._find_replay_programs()
        increment = work.with_name(f"{work.name}.increment")
        logs = work.with_name(f"{work.name}.log")
        self._layout.make_volume()
        self._server(work).end_former()
        try:
            with copies.explained("restoring the backup"):
                for leftover in (increment, logs):
                    filesystem.remove_tree(leftover)
                self._unpack(recovery.chain[0], work)
                self._prepare(work, None)
                for kept in recovery.chain[1:]:
                    self._unpack(kept, increment)
                    self._prepare(work, increment)
                    filesystem.remove_tree(increment)
                self._remove_traces(work)
                facts: dict[str, Any] = {"restored_to_s": last.get("consistent_s")}
                if plan is not None and recovery.logs is not None:
                    facts = self._replay(plan, recovery.logs, work=work, logs=logs)
                self._write_state(work, str(facts.get("gtid", last.get("gtid", ""))))
                filesystem.sync_file_system(work)
        finally:
            for leftover in (increment, logs):
                with contextlib.suppress(OSError):
                    filesystem.remove_tree(leftover)
        return facts

    def _unpack(self, kept: base.Kept, target: pathlib.Path) -> None:
        """Unpack a copy into a new directory while it is read."""
        user = self._layout.engine_user
        program = copies.find_program(self._programs.unpack, basedir=self._environment.basedir)
        target.mkdir(mode=0o700)
        filesystem.ensure_directory(target, mode=0o700, owner=user)
        follower = mbstream.Follower()
        messages = self._layout.agent_dir / "unpack.log"
        with (
            contextlib.ExitStack() as stack,
            kept.open() as content,
            pipes.Program(
                [program, "-x", "-C", str(target)],
                user=user,
                messages=messages,
                directory=target,
                is_written_to=True,
            ) as unpacker,
        ):
            stack.callback(messages.unlink, missing_ok=True)
            while data := content.read(_READ_BYTES):
                follower.feed(data)
                try:
                    unpacker.write(data)
                except BrokenPipeError:
                    break
            unpacker.end_input()
            return_code = unpacker.wait(_DAY_S)
            said = unpacker.said()
        if return_code != 0:
            raise exception.GuestError(
                reason=f"the backup cannot be unpacked: {copies.explain(unpacker.name, said)}"
            )
        follower.finish(required=copies.REQUIRED_OF_INCREMENT)

    def _prepare(self, target: pathlib.Path, increment: pathlib.Path | None) -> None:
        """Make a copy what the server left at its end, with the pages of an increment."""
        program = copies.find_program(self._programs.backup, basedir=self._environment.basedir)
        argv = [
            program,
            "--no-defaults",
            "--prepare",
            f"--target-dir={target}",
            f"--use-memory={private.memory_mib(self._find_settings())}M",
            f"--tmpdir={self._layout.temporary_dir}",
        ]
        if increment is not None:
            argv.append(f"--incremental-dir={increment}")
        result = process.run(
            argv, timeout_s=_DAY_S, user=self._layout.engine_user, directory=target
        )
        if result.return_code != 0 or not result.output.rstrip().endswith(copies.OK):
            name = pathlib.Path(program).name
            raise exception.GuestError(
                reason="the backup cannot be made a database:"
                f" {copies.explain(name, result.output)}"
            )

    @staticmethod
    def _remove_traces(work: pathlib.Path) -> None:
        for pattern in _NOT_DATA:
            for path in work.glob(pattern):
                path.unlink()

    def _write_state(self, work: pathlib.Path, gtids: str) -> None:
        """Have the numbers of transactions go on where the copy, or the log, ended."""
        lines = "".join(f"{gtid.strip()}\n" for gtid in gtids.split(",") if gtid.strip())
        if lines:
            path = work / f"{binlog.BASE_NAME}.state"
            filesystem.write_file(path, lines, mode=0o660, owner=self._layout.engine_user)

    # -- with a server -----

    def _server(self, data_dir: pathlib.Path) -> private.PrivateServer:
        return private.PrivateServer.of_instance(
            self._dialect,
            self._environment,
            data_dir=data_dir,
            settings=self._find_settings(),
            explain=self._explain_exit,
        )

    def _find_replay_programs(self) -> tuple[str, str]:
        basedir = self._environment.basedir
        reader = copies.find_program(self._programs.read_log, basedir=basedir)
        return reader, copies.find_program(self._programs.client, basedir=basedir)

    def _replay(
        self,
        plan: replay.Plan,
        pieces: Callable[[], Iterator[base.Kept]],
        *,
        work: pathlib.Path,
        logs: pathlib.Path,
    ) -> dict[str, Any]:
        reader, client = self._find_replay_programs()
        filesystem.ensure_directory(logs, mode=0o700, owner=self._layout.engine_user)
        with self._server(work) as server:
            user = self._layout.engine_user
            voice = replay.ToolVoice(
                reader=reader,
                client=client,
                options=server.client_options,
                user=user,
                directory=logs,
            )
            replayer = replay.Replayer(voice, user=user, directory=logs)
            try:
                facts = replayer.replay(plan, pieces())
            except exception.GuestError:
                if server.has_ended():
                    raise exception.GuestError(
                        reason="the database ended while its log was replayed:"
                        f" {server.explain_end()}"
                    ) from None
                raise
            server.stop()
        return facts

    def verify(self, work: pathlib.Path) -> dict[str, Any]:
        """Start a server on a restored database and have it check all tables."""
        program = copies.find_program(self._programs.check, basedir=self._environment.basedir)
        size_bytes = filesystem.tree_bytes(work)
        self._layout.make_volume()
        with copies.explained("checking the backup"), self._server(work) as server:
            argv = [
                program,
                f"--defaults-file={server.client_options}",
                "--all-databases",
                "--check",
            ]
            if size_bytes <= _EXTENDED_BYTES:
                argv.append("--extended")
            result = process.run(argv, timeout_s=_DAY_S, user=self._layout.engine_user)
            lines = [line.strip() for line in result.output.splitlines() if line.strip()]
            good = [line for line in lines if _CHECKED.match(line)]
            bad = _complaints(lines)
            if server.has_ended():
                bad.append(server.explain_end())
            if result.return_code != 0 or bad or not good:
                said = " / ".join(bad or lines[-2:])[:600]
                raise exception.GuestError(reason=f"the database is damaged: {said}")
            mark = probe.find(server.connector)
            server.stop()
        return {
            "check": pathlib.Path(program).name,
            "objects": len(good),
            "bytes": size_bytes,
            "probe": mark,
        }


def _complaints(lines: list[str]) -> list[str]:
    """Return what a check found wrong, with the table before it."""
    found: list[str] = []
    table = ""
    for line in lines:
        kind, colon, _ = line.partition(":")
        word = kind.strip().lower()
        if colon and word == "error":
            found.append(f"{table}: {line}")
        elif colon and word in ("warning", "note", "status", "info"):
            # such as a MyISAM table that was in use when it was copied, which is fine
            continue
        elif not _CHECKED.match(line):
            table = line
    return found
