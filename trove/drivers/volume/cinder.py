"""Volumes of Cinder, in the project of this service.

A volume is named after its instance, and carries the instance's id as metadata. Cinder lets two
volumes have one name: whoever makes one looks again afterwards, and all agree on which one stays.
Nothing is ever forced: a volume that Cinder gave up on is the operator's, and its error says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from oslo_config import cfg
from oslo_log import log

from trove.common import exception
from trove.drivers import cloud
from trove.drivers.volume import base

LOG = log.getLogger(__name__)

_SERVICE = "Cinder"
#: The item of a volume's metadata that says whose it is.
INSTANCE = "trove_instance_id"

#: Cinder's words -> those of the interface; errors apart, any other means "busy".
_STATUSES = {
    "creating": "creating",
    "downloading": "creating",
    "available": "available",
    "in-use": "in-use",
    "deleting": "deleting",
}
#: In these Cinder accepts a deletion.
_DELETABLE = frozenset({"available", "error", "error_restoring", "error_extending"})
_DELETABLE_SNAPSHOT = frozenset({"available", "error"})
#: The first version of the API that tells why something failed.
_MESSAGES = "3.5"


def _marks(instance_id: str) -> dict[str, Any]:
    """Return what says whose a volume is."""
    return {
        "name": cloud.name_of(instance_id),
        "description": f"Data of database instance {instance_id}",
        "metadata": {INSTANCE: instance_id},
    }


class CinderVolume(base.VolumeDriver):
    """Volumes in the project of ``[service_credentials]``."""

    has_snapshots = True

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Take the configuration; connects on first use."""
        self._cloud = cloud.Cloud(conf)
        self._type: str | None = conf.cinder.volume_type
        self._zone: str | None = conf.cinder.availability_zone
        self.extends_attached = conf.cinder.extend_attached
        self.look_interval_s = conf.cinder.look_interval_s

    @property
    def _cinder(self) -> Any:
        return self._cloud.connection.block_storage

    # -- types -----

    def list_volume_types(self) -> Sequence[base.VolumeType]:
        """Return the public types."""
        with cloud.told(_SERVICE, "list volume types"):
            found = list(self._cinder.types(is_public=True))
        return [
            base.VolumeType(id=each.id, name=each.name, description=each.description or None)
            for each in found
            if each.is_public is not False
        ]

    # -- volumes -----

    def create_volume(
        self,
        *,
        instance_id: str,
        size_gib: int,
        volume_type: str | None,
        project_id: str,
        snapshot_id: str | None = None,
    ) -> base.Volume:
        """Begin to make a volume, or return the one that there is; a second one is removed.

        One of a snapshot is where the snapshot is, and of its type: Cinder takes no other. It is
        made as large as the snapshot and extended then: of one that was asked for larger, Cinder's
        NFS driver (2022) has the size in its books alone, and no server can have it.
        """
        found = self._keep_one(instance_id)
        if not found:
            values: dict[str, Any] = {**_marks(instance_id), "size": size_gib}
            if snapshot_id is None:
                values |= {
                    "volume_type": volume_type or self._type,
                    "availability_zone": self._zone,
                }
            else:
                size_of_snapshot = self._size_of(snapshot_id)
                values |= {"snapshot_id": snapshot_id, "size": min(size_of_snapshot, size_gib)}
            with cloud.told(_SERVICE, f"create a volume of {size_gib} GiB"):
                made = self._cinder.create_volume(
                    **{name: value for name, value in values.items() if value is not None}
                )
            LOG.info("instance %s: volume %s is being made", instance_id, made.id)
            found = self._keep_one(instance_id) or [made]
        volume = self._volume(found[0])
        is_small = snapshot_id is not None and volume.size_gib < size_gib
        if is_small and volume.status == "available":
            self.extend_volume(volume.id, size_gib)
        # whoever waits for it asks again, and the second one is removed then
        is_unfinished = is_small or len(found) > 1
        if is_unfinished and volume.status in ("available", "busy"):
            return dataclasses.replace(volume, status="creating")
        return volume

    def find_volume(self, instance_id: str) -> base.Volume | None:
        """Return the volume of an instance, or None."""
        found = self._find(instance_id)
        return None if found is None else self._volume(found)

    def list_volumes(self) -> Sequence[base.Volume]:
        """Return all volumes of this service; one request, or as many as there are pages."""
        with cloud.told(_SERVICE, "list volumes"):
            found = list(self._cinder.volumes())
        return [self._volume(each, explain=False) for each in found if cloud.instance_of(each.name)]

    def give_volume(self, volume_id: str, instance_id: str) -> None:
        """Name a volume after another instance, in one request."""
        marks = _marks(instance_id)
        with cloud.told(_SERVICE, f"find volume {volume_id}"):
            volume = self._cinder.get_volume(volume_id)
        if volume.name == marks["name"]:
            return
        metadata = {**(volume.metadata or {}), **marks["metadata"]}
        with cloud.told(_SERVICE, f"rename volume {volume_id}"):
            self._cinder.update_volume(volume_id, **{**marks, "metadata": metadata})
        LOG.info("volume %s is the one of instance %s now", volume_id, instance_id)

    def extend_volume(self, volume_id: str, size_gib: int) -> None:
        """Begin to make a volume larger; nothing when it is that large, or on its way."""
        with cloud.told(_SERVICE, f"find volume {volume_id}"):
            volume = self._cinder.get_volume(volume_id)
        if volume.size >= size_gib or volume.status == "extending":
            return
        if volume.status == "in-use" and not self.extends_attached:
            raise cloud.CloudConflict(
                service=_SERVICE,
                action=f"extend volume {volume_id}",
                reason="a server has it, and [cinder] extend_attached is false",
            )
        with cloud.told(_SERVICE, f"extend volume {volume_id} to {size_gib} GiB"):
            self._cinder.extend_volume(volume, size_gib)
        LOG.info("volume %s is being extended to %d GiB", volume_id, size_gib)

    def delete_volume(self, volume_id: str) -> None:
        """Begin to remove a volume; nothing when that has begun. Never forced."""
        try:
            with cloud.told(_SERVICE, f"find volume {volume_id}"):
                volume = self._cinder.get_volume(volume_id)
            if volume.status == "deleting":
                return
            if volume.status not in _DELETABLE:
                raise _not_deletable("volume", volume)
            with cloud.told(_SERVICE, f"delete volume {volume_id}"):
                self._cinder.delete_volume(volume, ignore_missing=True)
        except cloud.CloudNotFound:
            return
        LOG.info("volume %s is being deleted", volume_id)

    def _named(self, instance_id: str) -> list[Any]:
        """Return the volumes of an instance, the one that counts first.

        That is one which a server has, else the oldest: whoever looks sees the same.
        """
        name = cloud.name_of(instance_id)
        with cloud.told(_SERVICE, f"find volume {name}"):
            found = [each for each in self._cinder.volumes(name=name) if each.name == name]
        return sorted(found, key=lambda each: (not each.attachments, each.created_at, each.id))

    def _find(self, instance_id: str) -> Any:
        return next(iter(self._named(instance_id)), None)

    def _keep_one(self, instance_id: str) -> list[Any]:
        """Return the volume that counts, having removed what somebody made at the same time.

        After it come those that cannot be removed yet, since they are being made.
        """
        found = self._named(instance_id)
        for twin in found[1:]:
            if twin.status in _DELETABLE:
                LOG.warning("instance %s: volume %s is a second one", instance_id, twin.id)
                self.delete_volume(twin.id)
        return [*found[:1], *(twin for twin in found[1:] if twin.status == "creating")]

    def _volume(self, volume: Any, *, explain: bool = True) -> base.Volume:
        is_error = volume.status.startswith("error")
        return base.Volume(
            id=volume.id,
            instance_id=cloud.instance_of(volume.name) or "",
            size_gib=volume.size,
            status="error" if is_error else _STATUSES.get(volume.status, "busy"),
            fault=self._explain(volume) if is_error and explain else None,
        )

    def _explain(self, volume: Any) -> str:
        """Say why a volume is in error, as Cinder tells its users, and what helps."""
        text = f"Cinder has volume {volume.id} in status {volume.status}"
        told = self._find_message(volume.id)
        if told is not None:
            text += f": {str(told.get('user_message', '')).rstrip('.')}"
            text += f" (request {told.get('request_id')})"
        if volume.status == "error_extending":
            text += (
                ". The operator runs 'openstack volume set --state in-use' for it; a backend that"
                " cannot extend volumes in use needs [cinder] extend_attached = false"
            )
        return text

    def _find_message(self, volume_id: str) -> dict[str, Any] | None:
        """Return the newest message on a volume; None when there is none to be had."""
        try:
            with cloud.told(_SERVICE, "list messages"):
                answer = self._cinder.get(
                    "/messages",
                    params={"resource_uuid": volume_id, "sort": "created_at:desc"},
                    microversion=_MESSAGES,
                    raise_exc=True,
                )
        except exception.DriverError as e:
            LOG.debug("no messages on volume %s: %s", volume_id, e)
            return None
        found = [each for each in answer.json()["messages"] if each["resource_uuid"] == volume_id]
        return max(found, key=lambda each: str(each.get("created_at")), default=None)

    # -- snapshots -----

    def create_snapshot(self, *, volume_id: str, owner_id: str) -> base.Snapshot:
        """Begin to make a snapshot, or return the one that there is."""
        found = self._find_snapshots(owner_id)
        if not found:
            with cloud.told(_SERVICE, f"make a snapshot of volume {volume_id}"):
                made = self._cinder.create_snapshot(
                    name=cloud.name_of(owner_id),
                    volume_id=volume_id,
                    # a server may have the volume; whoever asks has seen to what is on it
                    is_forced=True,
                )
            LOG.info("snapshot %s of volume %s is being made", made.id, volume_id)
            found = self._find_snapshots(owner_id) or [made]
            for twin in found[1:]:
                # one that is being made cannot be removed yet; it is when the first one is
                if twin.status in _DELETABLE_SNAPSHOT:
                    self.delete_snapshot(twin.id)
        return _snapshot(found[0])

    def find_snapshot(self, owner_id: str) -> base.Snapshot | None:
        """Return the snapshot of an owner, or None."""
        found = self._find_snapshots(owner_id)
        return _snapshot(found[0]) if found else None

    def list_snapshots(self, volume_id: str) -> Sequence[base.Snapshot]:
        """Return the snapshots of a volume whose names are ours."""
        with cloud.told(_SERVICE, f"list snapshots of volume {volume_id}"):
            found = list(self._cinder.snapshots(volume_id=volume_id))
        return [
            _snapshot(each)
            for each in found
            if each.volume_id == volume_id and cloud.instance_of(each.name)
        ]

    def delete_snapshot(self, snapshot_id: str) -> None:
        """Begin to remove a snapshot; nothing when that has begun."""
        try:
            with cloud.told(_SERVICE, f"find snapshot {snapshot_id}"):
                snapshot = self._cinder.get_snapshot(snapshot_id)
            if snapshot.status == "deleting":
                return
            if snapshot.status not in _DELETABLE_SNAPSHOT:
                raise _not_deletable("volume snapshot", snapshot)
            with cloud.told(_SERVICE, f"delete snapshot {snapshot_id}"):
                self._cinder.delete_snapshot(snapshot, ignore_missing=True)
        except cloud.CloudNotFound:
            return
        LOG.info("snapshot %s is being deleted", snapshot_id)

    def _size_of(self, snapshot_id: str) -> int:
        with cloud.told(_SERVICE, f"find snapshot {snapshot_id}"):
            return int(self._cinder.get_snapshot(snapshot_id).size)

    def _find_snapshots(self, owner_id: str) -> list[Any]:
        name = cloud.name_of(owner_id)
        with cloud.told(_SERVICE, f"find snapshot {name}"):
            found = [each for each in self._cinder.snapshots(name=name) if each.name == name]
        return sorted(found, key=lambda each: (each.created_at, each.id))


def _not_deletable(kind: str, found: Any) -> cloud.CloudError:
    """Return why a volume or a snapshot cannot be deleted now; ``kind`` is the client's word."""
    remedy = None
    if found.status == "error_deleting":
        remedy = (
            "The operator looks into the log of cinder-volume, mends the cause and runs"
            f" 'openstack {kind} set --state error {found.id}': it is deleted then"
        )
    return cloud.CloudConflict(
        service=_SERVICE,
        action=f"delete {kind} {found.id}",
        reason=f"it is in status {found.status}",
        remedy=remedy,
    )


def _snapshot(snapshot: Any) -> base.Snapshot:
    is_error = snapshot.status.startswith("error")
    return base.Snapshot(
        id=snapshot.id,
        owner_id=cloud.instance_of(snapshot.name) or "",
        volume_id=snapshot.volume_id,
        size_gib=snapshot.size,
        status="error" if is_error else snapshot.status,
    )
