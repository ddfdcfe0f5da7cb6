"""A data directory from copies and the log behind them.

Every file is proven by the manifest of its copy while it is written. Increments of the server's own
are combined with what they are of; a log is replayed by a private server up to the target. Any
recovery, of a full copy alone too, ends in a new history (timeline) of a new incarnation, so that
nothing of the former one is ever taken for its continuation. Where replaying ended is compared with
where the log ends: the server itself takes damage for the end.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from oslo_log import log

from trove.common import exception
from trove.guestagent.datastores import base
from trove.guestagent.datastores.postgresql import archive, copies, feed, private, tar, wal
from trove.guestagent.system import filesystem, process, users

LOG = log.getLogger(__name__)

_READ_BYTES = 1024 * 1024
_COMBINE_TIMEOUT_S = 86400.0
_FIRST_WITH_LINKS = 18
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_NOT_REACHED = "recovery ended before configured recovery target was reached"
_TOO_EARLY = "requested recovery stop point is before consistent recovery point"
_INCOMPLETE = "WAL ends before"
#: What recovering leaves behind.
_LEFTOVERS = ("backup_label.old", "tablespace_map.old", "standby.signal", "recovery.signal")
_MOST_NAME_BYTES = 63
_CLEAN = "shut down"


def _refuse(reason: str) -> exception.GuestError:
    return exception.GuestError(reason=reason)


def check_target(target: base.Target) -> None:
    """Raise GuestError for a target that means nothing."""
    given = [each for each in (target.time_s, target.position, target.name) if each is not None]
    if len(given) > 1:
        raise _refuse("a database is restored to one target: a time, an LSN, or a name")
    if target.position is not None:
        wal.parse(target.position)
    name = target.name
    if name is not None and not (0 < len(name.encode()) <= _MOST_NAME_BYTES and name.isprintable()):
        raise _refuse("the name of a restore point has 1 to 63 bytes that can be printed")


def _settings(target: base.Target) -> dict[str, str]:
    """Return what has the server stop replaying at a target."""
    if target.time_s is not None:
        moment = _EPOCH + datetime.timedelta(microseconds=round(target.time_s * 1e6))
        # the commits of this very microsecond too
        return {
            "recovery_target_time": moment.strftime("%Y-%m-%d %H:%M:%S.%f+00"),
            "recovery_target_inclusive": "on",
        }
    if target.position is not None:
        # an LSN is where the last record ends: the one that begins there is left out
        return {
            "recovery_target_lsn": wal.show(wal.parse(target.position)),
            "recovery_target_inclusive": "off",
        }
    if target.name is not None:
        return {"recovery_target_name": target.name}
    return {}


def check_chain(chain: Sequence[base.Kept]) -> None:
    """Raise GuestError unless every copy is the child of the one before it."""
    if not chain or chain[0].facts.get("kind") != copies.FULL:
        raise _refuse("the chain of backups does not begin with a full one")
    for parent, child in itertools.pairwise(chain):
        if child.facts.get("parent") != parent.facts.get("id"):
            raise _refuse("the chain of backups is broken: an increment is of another parent")
        for name in ("incarnation", "major", "timeline", "segment_bytes"):
            if child.facts.get(name) != parent.facts.get(name):
                raise _refuse("the chain of backups is broken: an increment is of another history")


class Restorer:
    """Makes one data directory, ``work``."""

    def __init__(
        self,
        recovery: base.Recovery,
        work: pathlib.Path,
        *,
        program: pathlib.Path,
        owner: users.SystemUser,
    ) -> None:
        """Take what it is made from; ``program`` is the server."""
        self._recovery = recovery
        self._work = work
        self._program = program
        self._owner = owner
        self._parts = work.with_name(f"{work.name}.parts")
        self._logs = work.with_name(f"{work.name}.log")
        self._facts = recovery.chain[-1].facts

    def restore(self) -> dict[str, Any]:
        """Make it; returns facts of it. Raises GuestError."""
        private.end_former(self._work)
        self._clear()
        try:
            self._unpack()
            try:
                found = self._recover(self._pieces())
            finally:
                filesystem.remove_tree(self._logs)
            self._clean()
        except BaseException:
            with contextlib.suppress(OSError):
                filesystem.remove_tree(self._work)
            raise
        finally:
            with contextlib.suppress(OSError):
                self._clear()
        return found

    def _clear(self) -> None:
        filesystem.remove_tree(self._parts)
        filesystem.remove_tree(self._logs)

    # -- the files -----

    def _unpack(self) -> None:
        """Have the data directory as the last copy with blocks left it."""
        with_blocks = [
            each for each in self._recovery.chain if each.facts["kind"] != copies.LOG_RANGE
        ]
        if len(with_blocks) == 1:
            self._unpack_one(with_blocks[0], self._work)
            return
        filesystem.ensure_directory(self._parts, mode=0o700, owner=self._owner)
        parts = [self._parts / str(number) for number in range(len(with_blocks))]
        for each, part in zip(with_blocks, parts, strict=True):
            manifest = self._unpack_one(each, part)
            private.write_file(part / tar.MANIFEST, manifest.decode(), owner=self._owner)
        self._combine(parts)
        filesystem.remove_tree(self._parts)

    def _unpack_one(self, kept: base.Kept, target: pathlib.Path) -> bytes:
        with contextlib.closing(tar.Directory(target, owner=self._owner)) as directory:
            scanner = tar.Scanner(directory)
            with kept.open() as content:
                while data := content.read(_READ_BYTES):
                    scanner.feed(data)
            scanner.finish()
            if directory.check() != kept.facts.get("manifest_checksum"):
                raise _refuse("the copy is not the one that its facts are of")
            return directory.manifest

    def _combine(self, parts: list[pathlib.Path]) -> None:
        program = self._program.with_name(copies.COMBINE_PROGRAM)
        whole = self._parts / "whole"
        argv = [str(program), *map(str, parts), "-o", str(whole), "--no-sync", "--no-manifest"]
        if copies.major_of(self._program) >= _FIRST_WITH_LINKS:
            # what it is made of is thrown away
            argv.append("--link")
        try:
            result = process.run(
                argv, timeout_s=_COMBINE_TIMEOUT_S, user=self._owner, directory=self._parts
            )
        except (OSError, TimeoutError) as e:
            raise _refuse(f"{copies.COMBINE_PROGRAM} cannot be run: {e}") from None
        if result.return_code != 0:
            said = " ".join(result.output.split()[-60:])
            raise _refuse(f"{copies.COMBINE_PROGRAM} failed with code {result.return_code}: {said}")
        whole.rename(self._work)

    # -- the log -----

    def _pieces(self) -> Callable[[], Iterator[base.Kept]] | None:
        """Return what gives the log that is to be replayed: of the increments, and behind them."""
        ranges = [each for each in self._recovery.chain if each.facts["kind"] == copies.LOG_RANGE]
        logs = self._recovery.logs
        if not ranges and logs is None:
            return None

        def pieces() -> Iterator[base.Kept]:
            yield from ranges
            if logs is not None:
                yield from logs()

        return pieces

    def _recover(self, pieces: Callable[[], Iterator[base.Kept]] | None) -> dict[str, Any]:
        """Have a private server replay the log up to the target, and begin a history of its own."""
        target = self._recovery.target
        if target != base.Target() and pieces is None:
            raise _refuse("there is no log behind the backup to restore up to a target")
        given = self._feed(pieces) if pieces is not None else None
        settings = {
            "restore_command": given.command() if given is not None else "false",
            "recovery_target_timeline": "current",
            "recovery_target_action": "promote",
        }
        try:
            if given is not None:
                given.start()
            try:
                found = self._run({**settings, **_settings(target)}, given)
            except private.Ended as e:
                if given is not None:
                    given.raise_failure()
                self._check_end(e, given)
                # all that there is of the log is older: to its end
                target = base.Target()
                found = self._run(settings, given)
            if given is not None and target == base.Target():
                given.raise_failure()
                self._check_complete(found, given)
        finally:
            if given is not None:
                given.stop()
        return {key: value for key, value in found.items() if value is not None}

    def _feed(self, pieces: Callable[[], Iterator[base.Kept]]) -> feed.Feed:
        first_facts = next(
            each.facts
            for each in reversed(self._recovery.chain)
            if each.facts["kind"] != copies.LOG_RANGE
        )
        present = sorted(
            path.name for path in (self._work / "pg_wal").iterdir() if wal.is_segment(path.name)
        )
        return feed.Feed(
            self._logs,
            pieces=pieces,
            owner=self._owner,
            first=wal.parse(str(first_facts["resume_lsn"])),
            timeline=int(self._facts["timeline"]),
            incarnation=str(self._facts["incarnation"]),
            segment_bytes=int(self._facts["segment_bytes"]),
            present=tuple(present),
        )

    def _run(self, settings: Mapping[str, str], given: feed.Feed | None) -> dict[str, Any]:
        """Run the server until it has recovered, and stop it; returns what it says of it."""
        private.write_file(self._work / "recovery.signal", "", owner=self._owner)
        with private.running(
            program=self._program, data=self._work, owner=self._owner, settings=settings
        ) as server:
            try:
                server.await_ready(given.must_end if given is not None else None)
            except exception.GuestError:
                if given is not None:
                    given.raise_failure()
                raise
            with server.connector.session() as session:
                ((last_s, name),) = session.execute(
                    "SELECT extract(epoch FROM pg_last_xact_replay_timestamp())::float8,"
                    " pg_walfile_name(pg_current_wal_insert_lsn())"
                )
            server.stop()
        timeline = int(name[:8], 16)
        end = self._end_of_replay(timeline)
        as_of_s = float(self._facts["as_of_s"])
        return {
            "restored_to_s": as_of_s if last_s is None else float(last_s),
            "restored_to_lsn": wal.show(end),
            "timeline": timeline,
        }

    def _end_of_replay(self, timeline: int) -> int:
        """Return where the former history ended, from the one that the server wrote."""
        path = self._work / "pg_wal" / f"{timeline:08X}.history"
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return wal.parse(lines[-1].split("\t")[1])

    def _check_end(self, ended: private.Ended, given: feed.Feed | None) -> None:
        """Raise GuestError unless all that is wrong is that the log ends before the target."""
        target = self._recovery.target
        if _TOO_EARLY in ended.words:
            raise _refuse(
                "the target is before the end of the backup: restore from an older backup, or to a"
                " later target"
            )
        if _NOT_REACHED not in ended.words or given is None:
            if _INCOMPLETE in ended.words:
                raise _refuse("the log that belongs to the backup itself is not whole")
            raise ended
        if target.name is not None:
            raise _refuse(f"the log has no restore point of the name {target.name}")
        if target.position is not None and wal.parse(target.position) > given.end:
            raise _refuse(f"the log ends at {wal.show(given.end)}, before the target")

    def _check_complete(self, found: Mapping[str, Any], given: feed.Feed) -> None:
        """Raise GuestError unless all of the log was replayed."""
        if given.whole_until is None:
            return
        segment_bytes = int(self._facts["segment_bytes"])
        end = wal.bare(wal.parse(str(found["restored_to_lsn"])), segment_bytes)
        if end < wal.bare(given.whole_until, segment_bytes):
            raise _refuse(
                f"the log is damaged at {wal.show(end)}, it should go on to"
                f" {wal.show(given.whole_until)}: restore to a time before that"
            )

    # -- the end -----

    def _clean(self) -> None:
        """Have the directory as a server leaves it that was stopped; who asked for it syncs it."""
        state = private.control_data(self._program, self._work).get("Database cluster state")
        if state != _CLEAN:
            raise _refuse(f"the restored database was not stopped cleanly ({state})")
        for name in (*_LEFTOVERS, tar.MANIFEST):
            (self._work / name).unlink(missing_ok=True)
        private.write_file(
            self._work / wal.INCARNATION, archive.new_incarnation(), owner=self._owner
        )
