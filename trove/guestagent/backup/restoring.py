"""Databases from backups: everything is checked before anything is touched.

A restoration is read from the storage, proved to be what it claims, and made a data directory in
``data.restored`` on the volume. Only a complete one gets another name, by a rename. What is refused
or fails leaves the volume as it was.

Restoring in the place of a database keeps that one as ``data.former`` until it is committed or
reverted. ``restore.json`` on the volume says how far that is; whoever is killed goes on so:

=========== ============= =============== ================== ===========================
phase       ``data``      ``data.former`` ``data.restored``  what the next agent does
=========== ============= =============== ================== ===========================
none        the former    none            none, or a part    begins anew
placing     the former    none            complete           the first rename
placing     none          the former      complete           the second rename
placing     the restored  the former      none               notes that it is placed
placed      the restored  the former      none               has the engine run
reverting   any           the former      none               removes ``data``, renames
reverting   the former    none            none               has the engine run, and fails
=========== ============= =============== ================== ===========================
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import hashlib
import itertools
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from oslo_log import log

from trove import states
from trove.common import crypto, exception
from trove.guestagent import state
from trove.guestagent.backup import pieces, probes, reader
from trove.guestagent.backup import place as places
from trove.guestagent.backup import progress as progresses
from trove.guestagent.datastores import base
from trove.guestagent.datastores import upgrade as engine_upgrade
from trove.guestagent.system import filesystem, process, writeback
from trove.rpc import payloads
from trove.storage import manifests

LOG = log.getLogger(__name__)

#: What must be left on the volume beside a restored database.
_HEADROOM_BYTES = 64 * 1024 * 1024
_MIB = 1024 * 1024
#: Longest that programs take to end that were killed.
_END_TIMEOUT_S = 10.0

#: Opens the objects of a backup (its id) or of an archive (its epoch) by a grant.
OpenPlace = Callable[[payloads.GrantRequest, payloads.ObjectStorage], places.Place]


def digest_of(restoration: payloads.Restoration) -> str:
    """Return what tells a restoration from others, whatever grants it comes with."""
    archive = restoration.archive
    parts = [
        [[each.backup_id, each.manifest_sha256] for each in restoration.chain],
        None if archive is None else [archive.epoch, archive.first, archive.last],
        [restoration.target_time, restoration.target_position, restoration.target_name],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class NoSpace(exception.GuestError):
    """The volume has no space for a restored database."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A restoration that can be done, as far as that can be told."""

    recovery: base.Recovery
    #: Version of the engine that the last backup was made by.
    engine_version: str
    needed_bytes: int


class Restorer:
    """Makes data directories from what is stored."""

    def __init__(
        self,
        part: base.Backup | base.Unsupported,
        *,
        manager: str,
        layout: state.Layout,
        open_place: OpenPlace,
        check_version: Callable[[str], object],
    ) -> None:
        """Take the engine's part; ``check_version`` raises GuestError for data of a version."""
        self._part = part
        self._manager = manager
        self._layout = layout
        self._open_place = open_place
        self._check_version = check_version

    @property
    def work(self) -> pathlib.Path:
        """Where databases are restored."""
        return self._layout.mount_point / "data.restored"

    @property
    def proof(self) -> pathlib.Path:
        """Where they are restored to be looked at, and thrown away."""
        return self._layout.mount_point / "data.verify"

    def end_left(self) -> None:
        """End the programs that an agent left which was killed while it restored."""
        for directory in (self.work, self.proof):
            count = process.end_on(directory, timeout_s=_END_TIMEOUT_S)
            if count:
                LOG.warning("ended %d programs that worked on %s", count, directory)

    # -- checking -----

    def check(self, restoration: payloads.Restoration, progress: progresses.Progress) -> Checked:
        """Return a restoration whose parts are all there and fit; raises GuestError."""
        stored = [self._open_backup(each, progress) for each in restoration.chain]
        found = [each.manifest for each in stored]
        self._check_chain(found)
        for each in found:
            self._part.check(each.facts)
        self._check_version(found[-1].engine_version)
        logs, log_bytes = self._open_logs(restoration, found[-1], progress)
        data_bytes = sum(each.data_bytes for each in found)
        progress.set_total(data_bytes)
        return Checked(
            recovery=base.Recovery(
                chain=[each.kept for each in stored],
                logs=logs,
                target=base.Target(
                    time_s=restoration.target_time,
                    position=restoration.target_position,
                    name=restoration.target_name,
                ),
            ),
            engine_version=found[-1].engine_version,
            needed_bytes=data_bytes + log_bytes + _HEADROOM_BYTES,
        )

    def find_facts(
        self, backup: payloads.StoredBackup, progress: progresses.Progress
    ) -> Mapping[str, Any]:
        """Return the facts of a backup of this engine; raises GuestError."""
        manifest = self._open_backup(backup, progress).manifest
        self._check_manager(manifest)
        return manifest.facts

    def _open_backup(
        self, backup: payloads.StoredBackup, progress: progresses.Progress
    ) -> reader.StoredBackup:
        place = self._open_place(payloads.GrantRequest(backup_id=backup.backup_id), backup.storage)
        return reader.open_backup(
            place,
            key=crypto.decode_key(backup.key),
            backup_id=backup.backup_id,
            manifest_sha256=backup.manifest_sha256,
            progress=progress,
        )

    def _check_manager(self, manifest: manifests.Manifest) -> None:
        if manifest.manager != self._manager:
            raise exception.GuestError(
                reason=f"backup {manifest.backup_id} is one of {manifest.manager}, and this is"
                f" {self._manager}"
            )

    def _check_chain(self, chain: Sequence[manifests.Manifest]) -> None:
        if not chain or chain[0].kind is not states.BackupKind.FULL:
            raise exception.GuestError(reason="the chain of backups does not begin with a full one")
        for manifest in chain:
            self._check_manager(manifest)
        for parent, child in itertools.pairwise(chain):
            is_next = child.parent_id == parent.backup_id
            if not is_next or child.kind is not states.BackupKind.INCREMENT:
                raise exception.GuestError(
                    reason=f"the chain of backups is broken: {child.backup_id} does not build on"
                    f" {parent.backup_id}"
                )

    def _open_logs(
        self,
        restoration: payloads.Restoration,
        last: manifests.Manifest,
        progress: progresses.Progress,
    ) -> tuple[Callable[[], Iterator[base.Kept]] | None, int]:
        """Return the log behind the last backup, and how large it is in the storage."""
        archive = restoration.archive
        if archive is None:
            targets = (
                restoration.target_time,
                restoration.target_position,
                restoration.target_name,
            )
            if any(target is not None for target in targets):
                raise exception.GuestError(
                    reason="the backup has no log behind it: it can be restored as it is only"
                )
            return None, 0
        start = last.archive
        if start is None or start.epoch != archive.epoch or start.sequence < archive.first:
            raise exception.GuestError(
                reason=f"the log of epoch {archive.epoch} does not go on from backup"
                f" {last.backup_id}"
            )
        place = self._open_place(payloads.GrantRequest(epoch=archive.epoch), archive.storage)
        end, log_bytes = self._check_pieces(place, start.sequence, archive.last, progress)
        key = crypto.decode_key(archive.key)

        def iterate() -> Iterator[base.Kept]:
            return pieces.iterate(
                place, start.sequence, end, key=key, epoch=archive.epoch, progress=progress
            )

        return iterate, log_bytes

    @staticmethod
    def _check_pieces(
        place: places.Place, first: int, last: int | None, progress: progresses.Progress
    ) -> tuple[int, int]:
        """Return the number of the last piece, and their size; raises GuestError for a gap."""
        sequence, size_bytes = first, 0
        while last is None or sequence <= last:
            found = place.find(pieces.piece_name(sequence), progress=progress)
            if found is None and last is None:
                break
            if found is None:
                name = place.full_name(pieces.piece_name(sequence))
                raise exception.GuestError(
                    reason=f"the log has a gap: piece {sequence} ({name}) is missing"
                )
            size_bytes += found.size_bytes
            sequence += 1
        return sequence - 1, size_bytes

    def check_space(self, checked: Checked) -> None:
        """Raise GuestError unless the volume has space for a restored database."""
        available = filesystem.disk_use(self._layout.mount_point).available_bytes
        if available < checked.needed_bytes:
            raise NoSpace(
                reason=f"the volume has {available // _MIB} MiB left, and"
                f" {checked.needed_bytes // _MIB} MiB are needed to restore the backup: resize it,"
                " or restore into an instance with a larger one"
            )

    def describe_shortage(self) -> str:
        """Return what an engine that does not run may be short of; nothing when it is not."""
        try:
            available = filesystem.disk_use(self._layout.mount_point).available_bytes
        except OSError:
            # whatever is wrong with the volume, this is not the place to find out
            return ""
        if available >= _HEADROOM_BYTES:
            return ""
        return f"; the volume has only {available // _MIB} MiB left"

    @contextlib.contextmanager
    def _needing_space(self, checked: Checked, work: pathlib.Path) -> Iterator[None]:
        """Have what fails for want of space say so; by itself it may look like a bad backup.

        The space that was there at first may have been taken by somebody else.
        """
        try:
            yield
        except (progresses.Cancelled, places.StorageFailed):
            raise
        except (exception.TroveError, OSError) as e:
            available = filesystem.disk_use(self._layout.mount_point).available_bytes
            if available + filesystem.tree_bytes(work) >= checked.needed_bytes:
                raise
            cause = e.kwargs.get("reason", e) if isinstance(e, exception.TroveError) else e
            raise NoSpace(
                reason="the volume got full while the backup was restored, with"
                f" {available // _MIB} MiB left: {cause}"
            ) from e

    # -- restoring -----

    def restore(
        self, checked: Checked, work: pathlib.Path, progress: progresses.Progress
    ) -> dict[str, Any]:
        """Make ``work`` a complete data directory, durably; raises GuestError, Cancelled."""
        filesystem.remove_tree(work)
        self.check_space(checked)
        try:
            # what is restored is on its way to the disk before it is waited for
            with self._needing_space(checked, work), writeback.running(work):
                facts = self._part.restore(checked.recovery, work)
            if not work.is_dir():
                raise exception.GuestError(reason="restoring the backup made no database")
            progress.check()
            filesystem.sync_file_system(self._layout.mount_point)
        except BaseException:
            with contextlib.suppress(OSError):
                filesystem.remove_tree(work)
            raise
        return dict(facts)

    def verify(
        self, restoration: payloads.Restoration, progress: progresses.Progress
    ) -> dict[str, Any]:
        """Restore beside the database, have the engine check that, remove it.

        Raises GuestError for what cannot be restored or is damaged, NotProven where nothing was
        found out: the store fails, or, which is NotProvable, space or a program lacks here.
        """
        try:
            checked = self.check(restoration, progress)
            facts = self.restore(checked, self.proof, progress)
            mark = checked.recovery.chain[-1].facts.get(probes.KEY)
            with self._needing_space(checked, self.proof):
                found = self._part.verify(self.proof)
            findings = probes.compare(
                # the log behind a backup may hold the mark of another one
                mark if restoration.archive is None else None,
                found,
            )
        except (NoSpace, exception.ProgramMissing) as e:
            raise exception.NotProvable(reason=e.kwargs["reason"]) from e
        except places.StorageFailed as e:
            raise exception.NotProven(reason=e.kwargs["reason"]) from e
        except OSError as e:
            raise exception.NotProven(reason=filesystem.explain(e, "proving a backup")) from e
        finally:
            filesystem.remove_tree(self.proof)
        return {"findings": findings, "facts": facts}


class NewDatabase:
    """A restored database in a place where there is none yet.

    ``restored.json`` on the volume says which restoration the data are of, and is written before
    the rename: a job that is done again knows its own.
    """

    def __init__(self, restorer: Restorer, layout: state.Layout) -> None:
        """Take what restores."""
        self._restorer = restorer
        self._layout = layout

    @property
    def _path(self) -> pathlib.Path:
        return self._layout.volume_agent_dir / "restored.json"

    def make(
        self, restoration: payloads.Restoration, progress: progresses.Progress
    ) -> dict[str, Any]:
        """Have the database in its place; returns ``facts`` and ``engine_version`` of it.

        Raises GuestError; there is no database then.
        """
        digest = digest_of(restoration)
        known = _read(self._path)
        if self._layout.data_dir.exists():
            if known is None or known.get("digest") != digest:
                raise exception.GuestError(
                    reason="there is a database on the volume already: nothing was overwritten"
                )
            return {name: known[name] for name in ("facts", "engine_version")}
        checked = self._restorer.check(restoration, progress)
        facts = self._restorer.restore(checked, self._restorer.work, progress)
        result = {"facts": facts, "engine_version": checked.engine_version}
        self._layout.make_volume_agent_dir()
        _write(self._path, {"digest": digest, **result})
        self._restorer.work.rename(self._layout.data_dir)
        filesystem.sync_directory(self._layout.mount_point)
        return result


class Phase(enum.StrEnum):
    """How far a restoration in the place of a database is."""

    PLACING = "placing"
    PLACED = "placed"
    REVERTING = "reverting"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What the volume remembers of a restoration in place.

    It is known by its job: the same backup may be restored twice.
    """

    job_id: str
    phase: Phase
    facts: dict[str, Any]
    #: Version of the engine that the restored data are of, and the former.
    engine_version: str
    former_version: str | None
    #: Why it is reverted.
    reason: str | None = None


class Replacement:
    """A restored database in the place of another one, which is kept; see the table above."""

    def __init__(self, restorer: Restorer, layout: state.Layout) -> None:
        """Take what restores."""
        self._restorer = restorer
        self._layout = layout
        self._kept = engine_upgrade.Kept(
            layout, directory=layout.replaced_data_dir, work=restorer.work
        )

    @property
    def _path(self) -> pathlib.Path:
        return self._layout.volume_agent_dir / "restore.json"

    def find(self) -> Memory | None:
        """Return how far a restoration is; None when none is under way."""
        known = _read(self._path)
        if known is None:
            return None
        return Memory(**{**known, "phase": Phase(known["phase"])})

    def _save(self, memory: Memory) -> None:
        self._layout.make_volume_agent_dir()
        _write(self._path, dataclasses.asdict(memory))

    @property
    def has_former(self) -> bool:
        """Tell whether the database from before a restoration is kept."""
        return self._kept.is_there

    @property
    def has_data(self) -> bool:
        """Tell whether there is something in the place of the database."""
        return self._kept.data.exists()

    def place(self, memory: Memory) -> Memory:
        """Have the restored database in place of the former one, which is kept.

        The engine is stopped. May be called again after a crash in between.
        """
        if memory.phase is Phase.PLACING:
            self._save(memory)
            self._kept.swap()
            memory = dataclasses.replace(memory, phase=Phase.PLACED)
            self._save(memory)
        return memory

    def revert(self, memory: Memory | None, *, reason: str | None) -> Memory | None:
        """Have the former database again, if it is kept; the engine is stopped."""
        if memory is not None:
            if memory.phase is not Phase.REVERTING:
                memory = dataclasses.replace(memory, phase=Phase.REVERTING, reason=reason)
            self._save(memory)
        self._kept.put_back()
        return memory

    def commit(self) -> None:
        """Remove the former database."""
        self._kept.discard()

    def clear(self) -> None:
        """Remove what a restoration left that did not get as far as the place of the database."""
        self._kept.clear()

    def forget(self) -> None:
        """Note that no restoration is under way."""
        self._path.unlink(missing_ok=True)


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    """Return what a file on the volume says; raises GuestError when it is damaged."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise exception.GuestError(
            reason=f"{path} is damaged, which says what database is on the volume: have the"
            " operator look at it"
        )
    return document


def _write(path: pathlib.Path, document: Mapping[str, Any]) -> None:
    filesystem.write_file(path, json.dumps(document), mode=0o600)
