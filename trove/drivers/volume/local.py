"""Volumes as directories of this machine's file system.

``volumes/<id>`` is what the agent gets as its mount point and ``volumes/<id>.json`` says how large
it was asked for. A size is checked against the free space when the volume is made and not enforced
afterwards: a directory has no limit of its own.
"""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Sequence

from oslo_config import cfg
from oslo_log import log

from trove.drivers import local_state
from trove.drivers.volume import base

LOG = log.getLogger(__name__)

_GIB = 1024**3
_SUFFIX = ".json"


class LocalVolume(base.VolumeDriver):
    """Directories under ``[local] state_dir``; the id of a volume is that of its instance."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Take the configuration."""
        self._state = local_state.LocalState(conf.local.state_dir)
        self._types = [_parse_type(text) for text in conf.local.volume_types]

    def list_volume_types(self) -> Sequence[base.VolumeType]:
        """Return the configured types; they are names only, directories are all alike."""
        return self._types

    def create_volume(
        self, *, instance_id: str, size_gib: int, volume_type: str | None, project_id: str
    ) -> base.Volume:
        """Make the directory of an instance, or return it; raises DriverError when space lacks."""
        path = self._state.volume(instance_id)
        with self._state.lock(f"volume:{instance_id}"):
            volume = self.find_volume(instance_id)
            if volume is not None and volume.status == "available":
                return volume
            self._check_space(self._state.directory("volumes"), size_gib)
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
        record = local_state.read_json(self._record(instance_id))
        is_there = self._state.volume(instance_id).is_dir()
        if record is None:
            if not is_there:
                return None
            return base.Volume(
                id=instance_id, instance_id=instance_id, size_gib=0, status="creating"
            )
        return base.Volume(
            id=instance_id,
            instance_id=instance_id,
            size_gib=int(record["size_gib"]),
            status="available" if is_there else "error",
        )

    def list_volumes(self) -> Sequence[base.Volume]:
        """Return all volumes."""
        names = local_state.names(self._state.root / "volumes")
        ids = sorted({name.removesuffix(_SUFFIX) for name in names})
        found = (self.find_volume(instance_id) for instance_id in ids)
        return [volume for volume in found if volume is not None]

    def extend_volume(self, volume_id: str, size_gib: int) -> None:
        """Note the new size when there is space for what is added; raises DriverError."""
        with self._state.lock(f"volume:{volume_id}"):
            volume = self.find_volume(volume_id)
            if volume is None or volume.status != "available":
                raise local_state.LocalDriverError(f"instance {volume_id} has no volume to extend")
            if volume.size_gib >= size_gib:
                return
            self._check_space(self._state.directory("volumes"), size_gib - volume.size_gib)
            path = self._record(volume_id)
            with local_state.told(path):
                local_state.replace(path, json.dumps({"size_gib": size_gib}))
        LOG.info("volume of instance %s has %d GiB now", volume_id, size_gib)

    def delete_volume(self, volume_id: str) -> None:
        """Remove a volume with its data; nothing when it is gone."""
        path = self._state.volume(volume_id)
        with self._state.lock(f"volume:{volume_id}"), local_state.told(path):
            if path.exists():
                shutil.rmtree(path)
                LOG.info("volume of instance %s removed", volume_id)
            self._record(volume_id).unlink(missing_ok=True)

    def _record(self, instance_id: str) -> pathlib.Path:
        path = self._state.volume(instance_id)
        return path.with_name(path.name + _SUFFIX)

    def _check_space(self, directory: pathlib.Path, size_gib: int) -> None:
        with local_state.told(directory):
            free = shutil.disk_usage(directory).free
        if free < size_gib * _GIB:
            raise local_state.LocalDriverError(
                f"a volume of {size_gib} GiB needs {size_gib:.1f} GiB free in {directory}, and"
                f" {free / _GIB:.1f} GiB are: free some, or ask for a smaller volume"
            )


def _parse_type(text: str) -> base.VolumeType:
    name, _, description = text.partition(":")
    return base.VolumeType(id=name, name=name, description=description or None)
