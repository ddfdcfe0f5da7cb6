"""Copies of a running PostgreSQL server, as streams.

A full copy is what ``pg_basebackup`` writes, with the log that it needs to be consistent in it
(``-X fetch``): it can be restored from itself alone, archive or not. A slot of the copy's own has
the server keep that log until it was read.

An increment is, from version 17 on, the server's own: the blocks that changed since its parent,
whose manifest the server asks for. The manifest is kept compressed on the data volume, for it may
be large. Before 17 an increment is the log since the parent, which a slot has the server keep.

Both are of one history of the data: a restore, an upgrade, a template begin another one.
"""

from __future__ import annotations

import contextlib
import pathlib
import secrets
import shutil
import tempfile
import zlib
from collections.abc import Mapping
from typing import Any

from oslo_log import log

from trove.common import exception
from trove.datastores import postgresql
from trove.guestagent.datastores import base
from trove.guestagent.datastores.postgresql import archive, connection, slots, tar, template, wal
from trove.guestagent.system import filesystem, pipes, users

LOG = log.getLogger(__name__)

FORMAT = archive.FORMAT
FULL, BLOCKS, LOG_RANGE = "full", "blocks", archive.LOG_KIND
PROGRAM = "pg_basebackup"
COMBINE_PROGRAM = "pg_combinebackup"
#: The first version with increments of its own.
FIRST_WITH_INCREMENTS = 17
_END_TIMEOUT_S = 60.0
_READ_BYTES = 1024 * 1024
#: Manifests that are kept: increments can be made of as many of the last copies.
_MOST_MANIFESTS = 16
_WHOLE = "make a full backup"


def major_of(program: pathlib.Path) -> int:
    """Return the first number of the version of a server program."""
    return postgresql.major_version(template.server_version(program)) or 0


class Manifests:
    """Manifests of the last copies, compressed, on the data volume."""

    def __init__(self, directory: pathlib.Path) -> None:
        """Take where they lie."""
        self._directory = directory

    def path(self, backup: str) -> pathlib.Path:
        """Return where the manifest of a copy is."""
        return self._directory / f"{backup}.gz"

    def make(self) -> None:
        """Have the directory, and room for one more."""
        filesystem.ensure_directory(self._directory, mode=0o700)
        for path in self._directory.glob("*.part"):
            path.unlink(missing_ok=True)
        found = sorted(self._directory.glob("*.gz"), key=lambda path: path.stat().st_mtime)
        for path in found[: max(0, len(found) - _MOST_MANIFESTS + 1)]:
            path.unlink(missing_ok=True)

    def unpack(self, backup: str, target: pathlib.Path) -> None:
        """Write the manifest of a copy to a file; raises GuestError when it is not kept."""
        try:
            reader = open(self.path(backup), "rb")  # noqa: SIM115 (closed below)
        except FileNotFoundError:
            raise exception.GuestError(
                reason=f"what this increment starts from is no longer known here: {_WHOLE}"
            ) from None
        unpacker = zlib.decompressobj(wbits=31)
        with reader, open(target, "xb") as writer:
            while data := reader.read(_READ_BYTES):
                writer.write(unpacker.decompress(data))
            writer.write(unpacker.flush())


class _ManifestFile:
    """The manifest of a copy that is being made; kept once the copy is complete."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._part = path.with_suffix(".part")
        self._packer = zlib.compressobj(wbits=31)
        self._file = open(self._part, "xb")  # noqa: SIM115 (closed with the stream)

    def take(self, text: bytes) -> None:
        self._file.write(self._packer.compress(text))

    def keep(self) -> None:
        self._file.write(self._packer.flush())
        self._file.close()
        self._part.rename(self._path)

    def close(self) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)


class BaseBackup(base.Stream):
    """What ``pg_basebackup`` writes; everything that it needs ends with it."""

    def __init__(
        self,
        argv: list[str],
        *,
        environment: Mapping[str, str],
        connector: connection.Connector,
        facts: Mapping[str, Any],
        work: pathlib.Path,
        manifest: pathlib.Path | None,
        chain_slot: str | None,
    ) -> None:
        """Begin; ``work`` is a directory of the stream's own, which is removed with it."""
        self._facts = dict(facts)
        self._connector = connector
        self._chain_slot = chain_slot
        self._manifest = None
        with contextlib.ExitStack() as ends:
            ends.callback(shutil.rmtree, work, ignore_errors=True)
            session = ends.enter_context(connector.session())
            # it ends with the session
            slots.create(session, f"trove_copy_{secrets.token_hex(8)}", is_temporary=True)
            if manifest is not None:
                self._manifest = _ManifestFile(manifest)
                ends.callback(self._manifest.close)
            keep = self._manifest.take if self._manifest is not None else None
            self._watch = tar.Watch(keep)
            self._scanner = tar.Scanner(self._watch)
            self._program = self._start(argv, work=work, environment=environment)
            ends.callback(self._program.close)
            self._ends = ends.pop_all()

    @staticmethod
    def _start(
        argv: list[str], *, work: pathlib.Path, environment: Mapping[str, str]
    ) -> pipes.Program:
        try:
            return pipes.Program(
                argv,
                # the server knows the agent by its user of the operating system
                user=users.current(),
                messages=work / "said",
                directory=work,
                environment=environment,
            )
        except OSError as e:
            raise exception.GuestError(
                reason=f"{PROGRAM} cannot be run ({e.strerror}): install postgresql-client"
            ) from None

    @property
    def pid(self) -> int:
        """Number of the program's process."""
        return self._program.pid

    def read(self, most: int) -> bytes:
        """Return some of the archive, looking at it on its way."""
        data = self._program.read(most)
        self._scanner.feed(data)
        return data

    def finish(self) -> dict[str, Any]:
        """Return the facts, once program, archive and manifest all say that it is complete."""
        try:
            code = self._program.wait(_END_TIMEOUT_S)
        except TimeoutError as e:
            raise exception.GuestError(reason=str(e)) from None
        if code != 0:
            said = " ".join(self._program.said().split()[-60:])
            raise exception.GuestError(reason=f"{PROGRAM} failed with code {code}: {said[-600:]}")
        self._scanner.finish()
        checksum, ranges = self._watch.manifest.finish()
        if not ranges:
            raise exception.GuestError(reason="the copy does not say where in the log it is")
        first, last = ranges[0], ranges[-1]
        stop = wal.parse(last["End-LSN"])
        segment_bytes = int(self._facts["segment_bytes"])
        with self._connector.session() as session:
            ((now_s, name),) = session.execute(
                "SELECT extract(epoch FROM clock_timestamp())::float8,"
                " pg_walfile_name(pg_current_wal_insert_lsn())"
            )
            if int(name[:8], 16) != last["Timeline"]:
                raise exception.GuestError(reason="the database changed its history meanwhile")
            if self._chain_slot is not None:
                slots.advance(session, self._chain_slot, stop)
        if self._manifest is not None:
            self._manifest.keep()
        return {
            **self._facts,
            "timeline": last["Timeline"],
            "start_lsn": first["Start-LSN"],
            "stop_lsn": last["End-LSN"],
            # the file that it ends in is complete in it
            "resume_lsn": wal.show((stop - 1) // segment_bytes * segment_bytes + segment_bytes),
            "manifest_checksum": checksum,
            "files": self._watch.files,
            "as_of_s": float(now_s),
        }

    def close(self) -> None:
        """End the program, give the slot back, remove what was made."""
        self._ends.close()


class Copier:
    """Makes copies of the running server."""

    def __init__(self, environment: base.Environment, connector: connection.Connector) -> None:
        """Take where the server runs, and connections to it."""
        self._environment = environment
        self._layout = environment.layout
        self._connector = connector
        self._manifests = Manifests(self._layout.volume_agent_dir / "manifests")

    def estimate_bytes(self) -> int:
        """Return the size of all databases."""
        with self._connector.session() as session:
            ((size,),) = session.execute(
                "SELECT coalesce(sum(pg_database_size(oid)), 0)::int8 FROM pg_database"
            )
        return int(size)

    def open_full(self) -> base.Stream:
        """Begin a full copy."""
        facts = self._facts(FULL)
        has_increments = facts["major"] >= FIRST_WITH_INCREMENTS
        chain_slot = None
        if not has_increments:
            chain_slot = slots.CHAIN
            with self._connector.session() as session:
                slots.ensure(session, chain_slot)
        return self._copy(facts, chain_slot=chain_slot)

    def open_increment(self, parent: Mapping[str, Any]) -> base.Stream:
        """Begin a copy of what changed since another one."""
        facts = self._facts(FULL)
        self._check_parent(parent, facts)
        facts["parent"] = parent["id"]
        if facts["major"] < FIRST_WITH_INCREMENTS:
            return self._log_since(parent, {**facts, "kind": LOG_RANGE})
        return self._copy({**facts, "kind": BLOCKS}, parent=str(parent["id"]))

    @staticmethod
    def _check_parent(parent: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Raise GuestError unless the server is of the history that a copy is of."""
        if parent.get("manager") != facts["manager"] or parent.get("format") != FORMAT:
            raise exception.GuestError(reason=f"the parent is no copy of PostgreSQL: {_WHOLE}")
        if parent.get("incarnation") != facts["incarnation"]:
            raise exception.GuestError(
                reason="the database was restored or upgraded since the parent, or the parent is"
                f" of another one: {_WHOLE}"
            )
        if (parent.get("major"), parent.get("timeline")) != (facts["major"], facts["timeline"]):
            raise exception.GuestError(
                reason=f"the parent is of another version or history: {_WHOLE}"
            )

    def _facts(self, kind: str) -> dict[str, Any]:
        """Return what is known before a copy begins; raises GuestError."""
        layout = self._layout
        with self._connector.session() as session:
            ((tablespaces, version, identifier),) = session.execute(
                "SELECT (SELECT count(*) FROM pg_tablespace WHERE NOT starts_with(spcname, 'pg_')),"
                " current_setting('server_version'),"
                " (SELECT system_identifier::text FROM pg_control_system())"
            )
            if tablespaces:
                raise exception.GuestError(
                    reason="tablespaces cannot be backed up: move what is in them to pg_default"
                    " and drop them"
                )
            now = wal.moment(session)
        version = str(version).split()[0]
        return {
            "manager": "postgresql",
            "format": FORMAT,
            "kind": kind,
            "id": secrets.token_hex(16),
            "parent": None,
            "incarnation": archive.ensure_incarnation(layout.data_dir, layout.engine_user),
            "engine_version": version,
            "major": postgresql.major_version(version),
            "system_identifier": str(identifier),
            "segment_bytes": now.segment_bytes,
            "timeline": now.timeline,
        }

    def _copy(
        self, facts: dict[str, Any], *, parent: str | None = None, chain_slot: str | None = None
    ) -> BaseBackup:
        environment = self._environment
        server = template.find_server(basedir=environment.basedir)
        work = pathlib.Path(tempfile.mkdtemp(prefix="trove-copy-"))
        try:
            argv = [
                *(str(server.with_name(PROGRAM)), "-D", "-", "-F", "t", "-X", "fetch"),
                *("-c", "fast", "--manifest-checksums=SHA256", "--no-sync", "-l", "trove"),
                *("-w", "-h", str(environment.store.run_dir()), "-p", str(environment.port)),
                *("-U", postgresql.AGENT_USER),
            ]
            if parent is not None:
                self._manifests.unpack(parent, work / "parent")
                argv.append(f"--incremental={work / 'parent'}")
            manifest = None
            if facts["major"] >= FIRST_WITH_INCREMENTS:
                self._layout.make_volume_agent_dir()
                self._manifests.make()
                manifest = self._manifests.path(facts["id"])
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
        return BaseBackup(
            argv,
            environment={
                "PGSSLMODE": "disable",
                "PGGSSENCMODE": "disable",
                "PGPASSFILE": str(work / "none"),
                "PGCONNECT_TIMEOUT": "10",
                "HOME": str(work),
            },
            connector=self._connector,
            facts=facts,
            work=work,
            manifest=manifest,
            chain_slot=chain_slot,
        )

    def _log_since(self, parent: Mapping[str, Any], facts: dict[str, Any]) -> base.Stream:
        """Return the log since a copy, as far as it is on the disk."""
        segment_bytes = int(facts["segment_bytes"])
        first = wal.parse(str(parent["resume_lsn"]))
        # files of the log are read from their beginning
        first -= first % segment_bytes
        directory = self._layout.data_dir / "pg_wal"

        def check() -> None:
            with self._connector.session() as session:
                slot = slots.find(session, slots.CHAIN)
            if (
                slot is None
                or slot.lsn is None
                or slot.lsn // segment_bytes * segment_bytes > first
            ):
                raise exception.GuestError(
                    reason="the database no longer has the log since the parent (more was written"
                    f" than it keeps): {_WHOLE}"
                )

        check()
        with self._connector.session() as session:
            slots.advance(session, slots.CHAIN, first)
            now = wal.moment(session)
        if now.timeline != facts["timeline"] or now.lsn < first:
            raise exception.GuestError(reason=f"the database was put back in time: {_WHOLE}")
        return wal.Range(
            directory,
            first=first,
            end=now.lsn,
            timeline=now.timeline,
            segment_bytes=segment_bytes,
            facts={
                **facts,
                "from_lsn": wal.show(first),
                "to_lsn": wal.show(now.lsn),
                "resume_lsn": wal.show(now.lsn),
                "stop_lsn": wal.show(now.lsn),
                "is_whole": True,
                "as_of_s": now.time_s,
            },
            check=check,
        )
