"""Volumes as directories of this machine's file system.

A snapshot is a copy of the directory, ``snapshots/<id>``, with ``snapshots/<id>.json``. Where the
file system shares blocks between files (XFS, Btrfs) a copy takes next to no time and space;
elsewhere both are those of the data, and the engine stands still for as long.

``volumes/<id>`` is what the agent gets as its mount point and ``volumes/<id>.json`` says how large
it was asked for, and whose it is when it was given to another instance than the one that it was
made for, whose id it keeps. A size is checked against the free space when the volume is made and
not enforced afterwards: a directory has no limit of its own.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

from oslo_config import cfg
from oslo_log import log

from trove.drivers import local_state
from trove.drivers.volume import base

LOG = log.getLogger(__name__)

_GIB = 1024**3
_SUFFIX = ".json"
#: Key of a volume's record: whose it is, by default of the instance that has its id.
_OWNER = "instance_id"
#: Most of what a program said that is told.
_MAX_TEXT = 300


class LocalVolume(base.VolumeDriver):
    """Directories under ``[local] state_dir``; a volume has the id of its first instance.

    The id of a snapshot is that of its owner.
    """

    has_snapshots = True
    snapshots_outlive_volumes = True

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Take the configuration."""
        self._state = local_state.LocalState(conf.local.state_dir)
        self._types = [_parse_type(text) for text in conf.local.volume_types]

    def list_volume_types(self) -> Sequence[base.VolumeType]:
        """Return the configured types; they are names only, directories are all alike."""
        return self._types

    def create_volume(
        self,
        *,
        instance_id: str,
        size_gib: int,
        volume_type: str | None,
        project_id: str,
        snapshot_id: str | None = None,
    ) -> base.Volume:
        """Make the directory of an instance, or return it; raises DriverError when space lacks."""
        path = self._state.volume(instance_id)
        with self._state.lock(f"volume:{instance_id}"):
            volume = self.find_volume(instance_id)
            if volume is not None and volume.status == "available":
                return volume
            if volume is None and path.exists():
                raise local_state.LocalDriverError(f"the volume at {path} is another instance's")
            self._check_space(self._state.directory("volumes"), size_gib)
            if snapshot_id is not None and not path.exists():
                _copy(self._kept_snapshot(snapshot_id, size_gib), path)
            with local_state.told(path):
                path.mkdir(exist_ok=True)
                # the engine's own user passes through to the directories that the agent makes
                path.chmod(0o711)
                local_state.replace(self._record(instance_id), json.dumps({"size_gib": size_gib}))
        LOG.info(
            "volume of instance %s made at %s; its size of %d GiB is not enforced: a directory has"
            " no limit of its own",
            instance_id,
            path,
            size_gib,
        )
        return base.Volume(
            id=instance_id, instance_id=instance_id, size_gib=size_gib, status="available"
        )

    def find_volume(self, instance_id: str) -> base.Volume | None:
        """Return the volume of an instance, or None.

        It is in status "error" when its directory is gone, "creating" when its record is missing.
        """
        own = self._find(instance_id)
        if own is not None and own.instance_id == instance_id:
            return own
        given = (each for each in self.list_volumes() if each.instance_id == instance_id)
        return next(given, None)

    def _find(self, volume_id: str) -> base.Volume | None:
        record = local_state.read_json(self._record(volume_id))
        is_there = self._state.volume(volume_id).is_dir()
        if record is None:
            if not is_there:
                return None
            return base.Volume(id=volume_id, instance_id=volume_id, size_gib=0, status="creating")
        return base.Volume(
            id=volume_id,
            instance_id=str(record.get(_OWNER, volume_id)),
            size_gib=int(record["size_gib"]),
            status="available" if is_there else "error",
        )

    def list_volumes(self) -> Sequence[base.Volume]:
        """Return all volumes."""
        names = local_state.names(self._state.root / "volumes")
        found = map(self._find, sorted({name.removesuffix(_SUFFIX) for name in names}))
        return [volume for volume in found if volume is not None]

    def give_volume(self, volume_id: str, instance_id: str) -> None:
        """Note whose the directory is."""
        with self._changing(volume_id) as record:
            record[_OWNER] = local_state.checked_id(instance_id)
        LOG.info("volume %s is the one of instance %s now", volume_id, instance_id)

    @contextlib.contextmanager
    def _changing(self, volume_id: str) -> Iterator[dict[str, Any]]:
        """Give the record of a volume, and write what it is then; raises DriverError."""
        path = self._record(volume_id)
        with self._state.lock(f"volume:{volume_id}"):
            volume = self._find(volume_id)
            if volume is None or volume.status != "available":
                raise local_state.LocalDriverError(f"there is no volume {volume_id}")
            before = local_state.read_json(path) or {}
            record = dict(before)
            yield record
            if record != before:
                with local_state.told(path):
                    local_state.replace(path, json.dumps(record))

    def extend_volume(self, volume_id: str, size_gib: int) -> None:
        """Note the new size when there is space for what is added; raises DriverError."""
        with self._changing(volume_id) as record:
            added_gib = size_gib - int(record["size_gib"])
            if added_gib <= 0:
                return
            self._check_space(self._state.directory("volumes"), added_gib)
            record["size_gib"] = size_gib
        LOG.info("volume %s has %d GiB now", volume_id, size_gib)

    def delete_volume(self, volume_id: str) -> None:
        """Remove a volume with its data; nothing when it is gone."""
        path = self._state.volume(volume_id)
        with self._state.lock(f"volume:{volume_id}"), local_state.told(path):
            if path.exists():
                shutil.rmtree(path)
                LOG.info("volume %s removed", volume_id)
            self._record(volume_id).unlink(missing_ok=True)

    # -- snapshots -----

    def create_snapshot(self, *, volume_id: str, owner_id: str) -> base.Snapshot:
        """Copy the directory of a volume, or return the copy that there is."""
        with self._state.lock(f"snapshot:{owner_id}"):
            found = self.find_snapshot(owner_id)
            if found is not None:
                return found
            volume = self._find(volume_id)
            if volume is None or volume.status != "available":
                raise local_state.LocalDriverError(f"there is no volume {volume_id}")
            self._state.directory("snapshots")
            path = self._snapshot(owner_id)
            if not path.exists():
                _copy(self._state.volume(volume_id), path)
            record: dict[str, Any] = {"volume_id": volume_id, "size_gib": volume.size_gib}
            with local_state.told(path):
                local_state.replace(_record_of(path), json.dumps(record))
        LOG.info("snapshot of volume %s made at %s", volume_id, path)
        return base.Snapshot(id=owner_id, owner_id=owner_id, status="available", **record)

    def find_snapshot(self, owner_id: str) -> base.Snapshot | None:
        """Return the complete copy made for an owner, or None."""
        path = self._snapshot(owner_id)
        record = local_state.read_json(_record_of(path))
        if record is None:
            return None
        return base.Snapshot(
            id=owner_id,
            owner_id=owner_id,
            volume_id=str(record["volume_id"]),
            size_gib=int(record["size_gib"]),
            status="available" if path.is_dir() else "error",
        )

    def list_snapshots(self, volume_id: str) -> Sequence[base.Snapshot]:
        """Return the copies of a volume."""
        names = local_state.names(self._state.root / "snapshots")
        ids = [name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)]
        found = (self.find_snapshot(each) for each in ids)
        return [each for each in found if each is not None and each.volume_id == volume_id]

    def delete_snapshot(self, snapshot_id: str) -> None:
        """Remove a copy, or what there is of one; nothing when it is gone."""
        path = self._snapshot(snapshot_id)
        with self._state.lock(f"snapshot:{snapshot_id}"), local_state.told(path):
            for each in (path, _part_of(path)):
                if each.exists():
                    shutil.rmtree(each)
            _record_of(path).unlink(missing_ok=True)

    def _snapshot(self, owner_id: str) -> pathlib.Path:
        return self._state.root / "snapshots" / local_state.checked_id(owner_id)

    def _kept_snapshot(self, snapshot_id: str, size_gib: int) -> pathlib.Path:
        """Return where a snapshot lies; raises DriverError unless a volume can be made of it."""
        found = self.find_snapshot(snapshot_id)
        if found is None or found.status != "available":
            raise local_state.LocalDriverError(f"there is no snapshot {snapshot_id}")
        if found.size_gib > size_gib:
            raise local_state.LocalDriverError(
                f"snapshot {snapshot_id} is of {found.size_gib} GiB, and the volume has {size_gib}"
            )
        return self._snapshot(snapshot_id)

    def _record(self, volume_id: str) -> pathlib.Path:
        return _record_of(self._state.volume(volume_id))

    def _check_space(self, directory: pathlib.Path, size_gib: int) -> None:
        with local_state.told(directory):
            free = shutil.disk_usage(directory).free
        if free < size_gib * _GIB:
            raise local_state.LocalDriverError(
                f"a volume of {size_gib} GiB needs {size_gib:.1f} GiB free in {directory}, and"
                f" {free / _GIB:.1f} GiB are: free some, or ask for a smaller volume"
            )


def _record_of(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.name + _SUFFIX)


def _part_of(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f".{path.name}.part")


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copy a directory with owners and modes; the copy appears complete and durable or not at all.

    Raises DriverError.
    """
    part = _part_of(target)
    with local_state.told(target):
        if part.exists():
            shutil.rmtree(part)
    try:
        _run("cp", "--archive", "--reflink=auto", "--no-target-directory", str(source), str(part))
        _run("sync", "--file-system", str(part))
        with local_state.told(target):
            part.rename(target)
    except local_state.LocalDriverError:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _run(*argv: str) -> None:
    with local_state.told(argv[0]):
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise local_state.LocalDriverError(
            f"{argv[0]} failed: {done.stderr.strip()[-_MAX_TEXT:] or done.returncode}"
        )


def _parse_type(text: str) -> base.VolumeType:
    name, _, description = text.partition(":")
    return base.VolumeType(id=name, name=name, description=description or None)
