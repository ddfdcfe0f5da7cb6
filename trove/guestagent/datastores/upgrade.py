"""Data that another version of the engine takes over: what all engines have in common.

The volume remembers which version its data belong to, and an upgrade until it has proved itself.
Whoever starts the engine first brings data and programs together: forward when the programs are
newer, back when they are those from before an upgrade that is being given up. Everything can be
done again after a crash in between.

The way back from within a series is the old programs on the same data. From another series it is
what was kept of the data as the old version left them, beside them on the volume.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import pathlib
from collections.abc import Callable

from oslo_log import log

from trove.common import exception
from trove.datastores import upgrades
from trove.guestagent import state
from trove.guestagent.datastores import base
from trove.guestagent.system import filesystem

LOG = log.getLogger(__name__)

#: What must be left on the volume when the data have been copied.
_HEADROOM_BYTES = 256 * 1024 * 1024
_MIB = 1024 * 1024


class Phase(enum.StrEnum):
    """How far an upgrade is."""

    BEGINNING = "beginning"
    BEGUN = "begun"
    COMPLETED = "completed"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a volume remembers; ``old`` and ``phase`` are those of an upgrade to ``version``."""

    version: str
    old: str | None = None
    phase: Phase | None = None


class Transition:
    """Brings the data of an instance to the version of the programs that are here, or back.

    Without an upgrade part it does nothing. ``stop`` stops the engine cleanly; ``on_return`` is
    called before data take the place of those that the engine has written since.
    """

    def __init__(
        self,
        part: base.Upgrade | base.Unsupported,
        *,
        layout: state.Layout,
        stop: Callable[[], object],
        on_return: Callable[[], object] = lambda: None,
    ) -> None:
        """Take the engine's part and where its data lie."""
        self._on_return = on_return
        self._part = part if isinstance(part, base.Upgrade) else None
        self._layout = layout
        self._stop = stop

    # -- what the volume remembers -----

    @property
    def _path(self) -> pathlib.Path:
        return self._layout.volume_agent_dir / "engine.json"

    def find(self) -> Memory | None:
        """Return what the volume remembers; None when no version ran on it, or none that said."""
        try:
            wire = json.loads(self._path.read_text(encoding="utf-8"))
            phase = wire.get("phase")
            return Memory(
                version=str(wire["version"]),
                old=wire.get("old"),
                phase=None if phase is None else Phase(phase),
            )
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise exception.GuestError(
                reason=f"{self._path} is damaged, which says what version the data are of: have the"
                " operator look at the volume"
            ) from None

    def _save(self, memory: Memory) -> None:
        self._layout.make_volume_agent_dir()
        text = json.dumps(dataclasses.asdict(memory))
        filesystem.write_file(self._path, text, mode=0o600)

    # -- before the engine starts -----

    def check(self, *, running: str | None, new: str) -> str | None:
        """Return the version that runs; raises GuestError unless ``new`` may follow it."""
        if self._part is None:
            return running
        memory = self.find()
        if memory is not None and memory.phase is Phase.COMPLETED:
            # nobody came back to say so, but it has proved itself
            self.commit()
        old = running or (memory.version if memory is not None else self._part.version())
        if memory is None:
            # made by an agent that remembered nothing yet: the next one has to know
            self._save(Memory(version=upgrades.plain(old)))
        self._part.check(old=upgrades.plain(old), new=new)
        return old

    def enter(self, wanted: str | None = None) -> None:
        """Have the data ready for the programs that are here; ``wanted`` is the record's version.

        An upgrade whose old version the record still has is given up when the old programs are
        here. Raises GuestError when the programs are not of the version wanted, or cannot take
        over the data.
        """
        part, memory = self._part, self.find()
        if part is None or (wanted is None and memory is None):
            return
        here = upgrades.plain(part.version())
        if wanted is not None and not upgrades.agree(here, wanted):
            raise exception.GuestError(
                reason=f"the image has version {here} of the engine, not {wanted}: have the"
                " operator correct the datastore version"
            )
        if memory is None:
            return
        if memory.old is not None and memory.phase is not None:
            self._go_on(part, memory.old, memory, here, wanted)
        elif here != memory.version:
            part.check(old=memory.version, new=here)
            self._begin(part, old=memory.version, new=here)

    def _go_on(
        self, part: base.Upgrade, old: str, memory: Memory, here: str, wanted: str | None
    ) -> None:
        """Go on with an upgrade that has not been committed, or give it up."""
        if here == memory.version:
            if memory.phase is Phase.BEGINNING:
                self._begin(part, old=old, new=here)
            return
        is_recorded = wanted is None or upgrades.agree(wanted, memory.version)
        if here != old or (is_recorded and not part.is_same_series(old, memory.version)):
            raise exception.GuestError(
                reason=f"the data were upgraded from version {old} to {memory.version}, and the"
                f" image has {here}: have the operator rebuild the instance with an image of"
                f" {memory.version}"
            )
        self._stop()
        LOG.warning("the upgrade from %s to %s is given up", old, memory.version)
        if not part.is_same_series(old, memory.version):
            self._on_return()
        part.revert(old=old, new=memory.version)
        self._save(Memory(version=old))

    def _begin(self, part: base.Upgrade, *, old: str, new: str) -> None:
        self._stop()
        LOG.info("the data of version %s are made ready for %s", old, new)
        self._save(Memory(version=new, old=old, phase=Phase.BEGINNING))
        part.begin(old=old, new=new)
        filesystem.sync_file_system(self._layout.mount_point)
        self._save(Memory(version=new, old=old, phase=Phase.BEGUN))

    # -- when it answers -----

    @property
    def loses_writes(self) -> bool:
        """Tell whether what is written before an upgrade has proved itself can be lost."""
        part = self._part
        memory = self.find() if part is not None else None
        if part is None or memory is None or memory.old is None or memory.phase is not Phase.BEGUN:
            return False
        return not part.is_same_series(memory.old, memory.version)

    def leave(self, version: str | None) -> None:
        """Do what an upgrade has left to do once the engine answers; remember its version."""
        part = self._part
        if part is None or version is None:
            return
        memory, here = self.find(), upgrades.plain(version)
        if memory is not None and memory.old is not None:
            if memory.phase is Phase.BEGUN:
                if here != memory.version:
                    raise exception.GuestError(
                        reason=f"the engine says that it is {here}, not {memory.version}"
                    )
                part.complete(old=memory.old, new=memory.version)
                self._save(dataclasses.replace(memory, phase=Phase.COMPLETED))
        elif memory is None or memory.version != here:
            self._save(Memory(version=here))

    def commit(self) -> None:
        """Remove what was kept to go back; nothing when nothing was."""
        part, memory = self._part, self.find()
        if part is None or memory is None or memory.phase is not Phase.COMPLETED:
            return
        part.commit()
        self._save(Memory(version=memory.version))

    # -- data that came from a backup -----

    def check_restored(self, version: str) -> None:
        """Raise GuestError unless data of a version can take the place of those there are."""
        part = self._part
        if part is None:
            return
        memory = self.find()
        if memory is not None and memory.phase is Phase.COMPLETED:
            self.commit()
        elif memory is not None and memory.old is not None:
            raise exception.GuestError(
                reason=f"the data are being upgraded from version {memory.old} to"
                f" {memory.version}: that has to end first"
            )
        here, old = upgrades.plain(part.version()), upgrades.plain(version)
        if old and not self._can_read(part, old, here):
            part.check(old=old, new=here)

    def adopt(self, version: str | None) -> None:
        """Note that the data are of another version now, of before the next start."""
        part, old = self._part, upgrades.plain(version or "")
        if part is None or not old:
            return
        here = upgrades.plain(part.version())
        self._save(Memory(version=here if self._can_read(part, old, here) else old))

    @staticmethod
    def _can_read(part: base.Upgrade, old: str, here: str) -> bool:
        """Tell whether the programs are those of the data, or of before them in the series."""
        return old == here or (upgrades.is_older(here, old) and part.is_same_series(old, here))


class MinorUpgrade(base.Upgrade):
    """New programs on the same data; refuses older ones, and those of another series."""

    def __init__(self, manager: str, *, find_version: Callable[[], str]) -> None:
        """Take the engine, and what asks its programs their version."""
        self._manager = manager
        self._find_version = find_version

    def version(self) -> str:
        """Return the version of the programs."""
        return self._find_version()

    def check(self, *, old: str, new: str) -> None:
        """Raise GuestError unless there is a way."""
        wrong = upgrades.check(self._manager, old, new)
        if wrong is not None:
            raise exception.GuestError(reason=wrong)

    def is_same_series(self, old: str, new: str) -> bool:
        """Tell whether the programs of two versions run on the same data."""
        return upgrades.is_same_series(self._manager, old, new)

    def begin(self, *, old: str, new: str) -> None:
        """Do nothing: the data stay as they are."""

    def complete(self, *, old: str, new: str) -> None:
        """Do nothing more."""

    def revert(self, *, old: str, new: str) -> None:
        """Do nothing: the old version goes on with its data."""

    def commit(self) -> None:
        """Do nothing: nothing was kept."""


class Kept:
    """The data as they were before an upgrade or a restoration, beside those that came after.

    Nothing half made ever has the name: what appears there, or in the place of the data, gets there
    by a rename.
    """

    def __init__(
        self,
        layout: state.Layout,
        *,
        directory: pathlib.Path | None = None,
        work: pathlib.Path | None = None,
    ) -> None:
        """Take where the data lie, where they are kept, and where others are made."""
        self._layout = layout
        self.data = layout.data_dir
        self.directory = directory or layout.former_data_dir
        self.work = work or layout.mount_point / "data.next"
        self._discarded = layout.mount_point / "data.discarded"

    @property
    def is_there(self) -> bool:
        """Tell whether something is kept."""
        return self.directory.is_dir()

    def check_space(self) -> None:
        """Raise GuestError unless the volume can hold the data twice, or share their blocks."""
        mount_point = self._layout.mount_point
        if filesystem.can_share_blocks(mount_point):
            return
        available = filesystem.disk_use(mount_point).available_bytes
        needed = filesystem.tree_bytes(self.data) + _HEADROOM_BYTES
        if available < needed:
            raise exception.GuestError(
                reason=f"the volume has {available // _MIB} MiB left, and {needed // _MIB} MiB are"
                " needed to keep the data as they are until the new version has proved itself:"
                " resize the volume first"
            )

    def copy(self) -> None:
        """Keep a copy; nothing when there is one."""
        if self.is_there:
            return
        self.clear()
        self.check_space()
        filesystem.copy_tree(self.data, self.work, owner=self._layout.engine_user)
        self._rename(self.work, self.directory)

    def swap(self) -> None:
        """Keep the data, and have what was made of them (``work``) in their place."""
        if not self.is_there:
            self._rename(self.data, self.directory)
        if not self.data.exists():
            self._rename(self.work, self.data)

    def put_back(self) -> None:
        """Have the data again that were kept; nothing when none were."""
        if self.is_there:
            filesystem.remove_tree(self._discarded)
            if self.data.exists():
                self._rename(self.data, self._discarded)
            self._rename(self.directory, self.data)
        self.clear()

    def discard(self) -> None:
        """Remove what was kept."""
        if self.is_there:
            filesystem.remove_tree(self._discarded)
            self._rename(self.directory, self._discarded)
        self.clear()

    def clear(self) -> None:
        """Remove what is neither the data nor kept."""
        for path in (self.work, self._discarded):
            filesystem.remove_tree(path)

    def _rename(self, source: pathlib.Path, target: pathlib.Path) -> None:
        filesystem.sync_file_system(self._layout.mount_point)
        source.rename(target)
        filesystem.sync_directory(self._layout.mount_point)


class CopyingUpgrade(MinorUpgrade):
    """New programs on the same data; a copy is kept when they are of another series."""

    def __init__(
        self, manager: str, *, find_version: Callable[[], str], layout: state.Layout
    ) -> None:
        """Take the engine, and where its data lie."""
        super().__init__(manager, find_version=find_version)
        self._kept = Kept(layout)

    def check(self, *, old: str, new: str) -> None:
        """Raise GuestError unless there is a way, and space for what is to be kept."""
        super().check(old=old, new=new)
        if not self.is_same_series(old, new):
            self._kept.check_space()

    def begin(self, *, old: str, new: str) -> None:
        """Keep a copy, unless the old programs could go on with what the new ones leave."""
        if not self.is_same_series(old, new):
            self._kept.copy()

    def revert(self, *, old: str, new: str) -> None:
        """Have the data again that were kept."""
        self._kept.put_back()

    def commit(self) -> None:
        """Remove what was kept."""
        self._kept.discard()
