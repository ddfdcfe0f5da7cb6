"""A volume driver for tests: volumes are entries of a dict, faults are injected."""

from __future__ import annotations

import dataclasses
import threading
import uuid
from collections.abc import Sequence

from oslo_config import cfg

from trove.common import exception
from trove.drivers import injection
from trove.drivers.volume import base


class FakeVolume(base.VolumeDriver):
    """Volumes that exist only here."""

    has_snapshots = True

    def __init__(self, conf: cfg.ConfigOpts | None = None) -> None:
        """Begin without volumes; the configuration is not used."""
        self.injector = injection.Injector()
        #: How often a volume was made for each instance.
        self.created: dict[str, int] = {}
        #: Of which snapshot the volume of each instance was made.
        self.made_of: dict[str, str | None] = {}
        #: What new volumes are.
        self.status = "available"
        #: Whether a volume can be removed that has snapshots.
        self.deletes_with_snapshots = False
        self._volumes: dict[str, base.Volume] = {}
        self._snapshots: dict[str, base.Snapshot] = {}
        self._lock = threading.Lock()
        #: What users may choose.
        self.types: list[base.VolumeType] = []

    def list_volume_types(self) -> Sequence[base.VolumeType]:
        """Return the types."""
        with self.injector.around("list_volume_types"), self._lock:
            return list(self.types)

    def create_volume(
        self,
        *,
        instance_id: str,
        size_gib: int,
        volume_type: str | None,
        project_id: str,
        snapshot_id: str | None = None,
    ) -> base.Volume:
        """Make a volume, unless the instance has one."""
        with self.injector.around("create_volume"), self._lock:
            volume = self._find(instance_id)
            if volume is None:
                self._check_snapshot(snapshot_id, size_gib)
                volume = base.Volume(
                    id=str(uuid.uuid4()),
                    instance_id=instance_id,
                    size_gib=size_gib,
                    status=self.status,
                )
                self._volumes[volume.id] = volume
                self.created[instance_id] = self.created.get(instance_id, 0) + 1
                self.made_of[instance_id] = snapshot_id
            return volume

    def _check_snapshot(self, snapshot_id: str | None, size_gib: int) -> None:
        if snapshot_id is None:
            return
        snapshot = self._snapshots.get(snapshot_id)
        if snapshot is None or snapshot.status != "available" or snapshot.size_gib > size_gib:
            raise exception.DriverError(service="volume", reason=f"no snapshot {snapshot_id}")

    def find_volume(self, instance_id: str) -> base.Volume | None:
        """Return the volume made for an instance, or None."""
        with self.injector.around("find_volume"), self._lock:
            return self._find(instance_id)

    def list_volumes(self) -> Sequence[base.Volume]:
        """Return all volumes."""
        with self.injector.around("list_volumes"), self._lock:
            return list(self._volumes.values())

    def give_volume(self, volume_id: str, instance_id: str) -> None:
        """Have a volume be another instance's."""
        with self.injector.around("give_volume"), self._lock:
            volume = self._volumes.get(volume_id)
            if volume is None:
                raise exception.DriverError(service="volume", reason=f"no volume {volume_id}")
            self._volumes[volume_id] = dataclasses.replace(volume, instance_id=instance_id)

    def extend_volume(self, volume_id: str, size_gib: int) -> None:
        """Make a volume larger."""
        with self.injector.around("extend_volume"), self._lock:
            volume = self._volumes.get(volume_id)
            if volume is None:
                raise exception.DriverError(service="volume", reason=f"no volume {volume_id}")
            if volume.status == "in-use" and not self.extends_attached:
                raise exception.DriverError(service="volume", reason="a server has it")
            size_gib = max(size_gib, volume.size_gib)
            self._volumes[volume_id] = dataclasses.replace(volume, size_gib=size_gib)

    def delete_volume(self, volume_id: str) -> None:
        """Remove a volume; nothing when it is gone."""
        with self.injector.around("delete_volume"), self._lock:
            has_snapshots = any(each.volume_id == volume_id for each in self._snapshots.values())
            if has_snapshots and not self.deletes_with_snapshots:
                raise exception.DriverError(service="volume", reason="it has snapshots")
            self._volumes.pop(volume_id, None)

    def create_snapshot(self, *, volume_id: str, owner_id: str) -> base.Snapshot:
        """Make a snapshot, unless the owner has one."""
        with self.injector.around("create_snapshot"), self._lock:
            found = self._find_snapshot(owner_id)
            if found is None:
                volume = self._volumes.get(volume_id)
                if volume is None:
                    raise exception.DriverError(service="volume", reason=f"no volume {volume_id}")
                found = base.Snapshot(
                    id=str(uuid.uuid4()),
                    owner_id=owner_id,
                    volume_id=volume_id,
                    size_gib=volume.size_gib,
                    status=self.status,
                )
                self._snapshots[found.id] = found
            return found

    def find_snapshot(self, owner_id: str) -> base.Snapshot | None:
        """Return the snapshot made for an owner, or None."""
        with self.injector.around("find_snapshot"), self._lock:
            return self._find_snapshot(owner_id)

    def list_snapshots(self, volume_id: str) -> Sequence[base.Snapshot]:
        """Return the snapshots of a volume."""
        with self.injector.around("list_snapshots"):
            return [each for each in self.snapshots if each.volume_id == volume_id]

    def delete_snapshot(self, snapshot_id: str) -> None:
        """Remove a snapshot; nothing when it is gone."""
        with self.injector.around("delete_snapshot"), self._lock:
            found = self._snapshots.get(snapshot_id)
            if found is not None and found.status == "creating":
                raise exception.DriverError(service="volume", reason="it is being made")
            self._snapshots.pop(snapshot_id, None)

    # -- for compute drivers and tests -----

    @property
    def snapshots(self) -> Sequence[base.Snapshot]:
        """All snapshots that there are."""
        with self._lock:
            return list(self._snapshots.values())

    def set_snapshot_status(self, snapshot_id: str, status: str) -> None:
        """Put a snapshot into a status."""
        with self._lock:
            snapshot = self._snapshots[snapshot_id]
            self._snapshots[snapshot_id] = dataclasses.replace(snapshot, status=status)

    def set_status(self, volume_id: str, status: str) -> None:
        """Put a volume into a status, as a server that takes it or lets go of it does."""
        with self._lock:
            volume = self._volumes.get(volume_id)
            if volume is not None:
                self._volumes[volume_id] = dataclasses.replace(volume, status=status)

    def _find_snapshot(self, owner_id: str) -> base.Snapshot | None:
        for snapshot in self._snapshots.values():
            if snapshot.owner_id == owner_id:
                return snapshot
        return None

    def _find(self, instance_id: str) -> base.Volume | None:
        for volume in self._volumes.values():
            if volume.instance_id == instance_id:
                return volume
        return None
