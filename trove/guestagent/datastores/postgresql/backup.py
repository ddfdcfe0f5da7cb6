"""Backups of PostgreSQL: copies of the running server, and databases from copies."""

from __future__ import annotations

import contextlib
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from oslo_log import log
from psycopg2 import sql

from trove.common import exception
from trove.datastores import postgresql
from trove.datastores import spec as datastore_spec
from trove.guestagent.datastores import base
from trove.guestagent.datastores.postgresql import (
    archive,
    connection,
    copies,
    private,
    recovery,
    template,
    wal,
)
from trove.guestagent.system import filesystem, process

LOG = log.getLogger(__name__)

_CHECK_TIMEOUT_S = 86400.0
#: Up to this size every row is looked up in every index of its.
_THOROUGH_BYTES = 1024 * 1024 * 1024
_SCANNED = re.compile(r"Blocks scanned: +(\d+)")
#: What pg_controldata calls a server that has ended.
_ENDED = ("shut down", "shut down in recovery")
_BAD = re.compile(r"Bad checksums: +(\d+)")


class PostgresqlBackup(base.Backup):
    """Backups by ``pg_basebackup``, and increments: see :mod:`.copies`, :mod:`.recovery`."""

    capabilities = frozenset(
        {datastore_spec.Capability.BACKUP, datastore_spec.Capability.INCREMENTS}
    )

    def __init__(self, environment: base.Environment, connector: connection.Connector) -> None:
        """Take where the server runs, and connections to it."""
        self._environment = environment
        self._owner = environment.layout.engine_user
        self._connector = connector
        self._copier = copies.Copier(environment, connector)

    @property
    def _program(self) -> pathlib.Path:
        return template.find_server(basedir=self._environment.basedir)

    def estimate_bytes(self) -> int:
        """Return the size of all databases."""
        return self._copier.estimate_bytes()

    def write_probe(self, mark: str) -> bool:
        """Write a mark that every backup from now on holds: what is said of the agent's role."""
        with self._connector.session() as session:
            session.execute(
                "COMMENT ON ROLE {role} IS {mark}",
                role=sql.Identifier(postgresql.AGENT_USER),
                mark=sql.Literal(mark),
            )
        return True

    def open_full(self) -> base.Stream:
        """Begin to copy the running server."""
        return self._copier.open_full()

    def open_increment(self, parent: Mapping[str, Any]) -> base.Stream:
        """Begin to copy what changed since a backup."""
        return self._copier.open_increment(parent)

    @contextlib.contextmanager
    def quiesce(self) -> Iterator[Mapping[str, Any]]:
        """Have the server write all its pages: what starts on them has little log to replay."""
        try:
            with self._connector.session() as session:
                session.execute("CHECKPOINT")
        except exception.GuestError as e:
            # it costs a longer recovery, and nothing else
            LOG.warning("no checkpoint before the snapshot: %s", e)
        yield {}

    def adopt(self, work: pathlib.Path, kept: pathlib.Path) -> None:
        """Begin another history, without what a former server kept of its log for others."""
        with contextlib.suppress(FileNotFoundError):
            (work / "postmaster.pid").unlink()
        slots_dir = work / "pg_replslot"
        if slots_dir.is_dir():
            for slot in slots_dir.iterdir():
                filesystem.remove_tree(slot)
        private.write_file(work / wal.INCARNATION, archive.new_incarnation(), owner=self._owner)

    def check(self, facts: Mapping[str, Any]) -> None:
        """Raise GuestError unless it is a backup of this major version of PostgreSQL."""
        if facts.get("manager") != "postgresql":
            raise exception.GuestError(reason="this is no backup of PostgreSQL")
        if facts.get("format") != copies.FORMAT:
            raise exception.GuestError(
                reason="this backup was made by a later release of the service: upgrade this one"
            )
        installed = template.server_version(self._program)
        if facts.get("major") != postgresql.major_version(installed):
            raise exception.GuestError(
                reason=f"a backup of PostgreSQL {facts.get('engine_version')} cannot be restored to"
                f" {installed}: restore it to version {facts.get('major')}, and upgrade that"
            )
        needed = ["pg_controldata"]
        if facts.get("kind") == copies.BLOCKS:
            needed.append(copies.COMBINE_PROGRAM)
        for name in needed:
            if not self._program.with_name(name).exists():
                raise exception.ProgramMissing(
                    reason=f"the program {name} is missing: rebuild the image"
                )

    def restore(self, recovery_of: base.Recovery, work: pathlib.Path) -> dict[str, Any]:
        """Make a data directory."""
        recovery.check_chain(recovery_of.chain)
        recovery.check_target(recovery_of.target)
        for kept in recovery_of.chain:
            self.check(kept.facts)
        return recovery.Restorer(
            recovery_of, work, program=self._program, owner=self._owner
        ).restore()

    def verify(self, work: pathlib.Path) -> dict[str, Any]:
        """Check every page of a restored directory, then what is in them."""
        self._recover(work)
        findings: dict[str, Any] = {"check": "pg_checksums", "blocks": self._check_pages(work)}
        with private.running(program=self._program, data=work, owner=self._owner) as server:
            server.await_ready()
            findings |= self._count(server)
            findings["probe"] = self._find_probe(server)
            if self._check_objects(server, size=int(findings["bytes"])):
                findings["check"] = "pg_checksums, pg_amcheck"
            server.stop()
        return findings

    def _recover(self, work: pathlib.Path) -> None:
        """Have data of a server that did not end, as those of a snapshot, be whole on the disk."""
        state = private.control_data(self._program, work).get("Database cluster state")
        if state not in _ENDED:
            with private.running(program=self._program, data=work, owner=self._owner) as server:
                server.await_ready()
                server.stop()

    def _find_probe(self, server: private.PrivateServer) -> str | None:
        with server.connector.session() as session:
            rows = session.execute(
                "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = %s",
                postgresql.AGENT_USER,
            )
        return rows[0][0] if rows else None

    def _check_pages(self, work: pathlib.Path) -> int:
        """Return how many pages there are, each with the right checksum; raises GuestError."""
        result = self._run(
            [str(self._program.with_name("pg_checksums")), "--check", "-D", str(work)]
        )
        scanned, bad = _SCANNED.search(result.output), _BAD.search(result.output)
        if bad is not None and int(bad[1]):
            raise exception.GuestError(reason=f"{bad[1]} pages of the database are damaged")
        if result.return_code != 0 or scanned is None:
            said = " ".join(result.output.split()[-60:])
            raise exception.GuestError(reason=f"pg_checksums failed: {said}")
        return int(scanned[1])

    def _count(self, server: private.PrivateServer) -> dict[str, int]:
        with server.connector.session() as session:
            rows = session.execute(
                "SELECT datname, pg_database_size(oid)::int8 FROM pg_database WHERE datallowconn"
            )
        objects = 0
        for name, _ in rows:
            with server.connector.session(str(name)) as inside:
                ((found,),) = inside.execute(
                    "SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'i', 'm', 't', 'S')"
                )
                objects += int(found)
        return {"databases": len(rows), "objects": objects, "bytes": sum(row[1] for row in rows)}

    def _check_objects(self, server: private.PrivateServer, *, size: int) -> bool:
        """Check tables and indexes, where the programs for it are installed; raises GuestError."""
        program = self._program.with_name("pg_amcheck")
        with server.connector.session() as session:
            rows = session.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'amcheck'")
        if not rows or not program.exists():
            return False
        argv = [
            *(str(program), "--all", "--install-missing", "-w"),
            *("-h", str(server.directory), "-p", "5432", "-U", postgresql.AGENT_USER),
        ]
        if size <= _THOROUGH_BYTES:
            argv.append("--heapallindexed")
        result = self._run(argv, as_agent=True)
        if result.return_code != 0:
            said = " ".join(result.output.split()[:60])
            raise exception.GuestError(reason=f"the database is damaged: {said[:600]}")
        return True

    def _run(self, argv: list[str], *, as_agent: bool = False) -> process.Result:
        try:
            return process.run(
                argv, timeout_s=_CHECK_TIMEOUT_S, user=None if as_agent else self._owner
            )
        except (OSError, TimeoutError) as e:
            raise exception.GuestError(reason=f"{argv[0]} cannot be run: {e}") from None
