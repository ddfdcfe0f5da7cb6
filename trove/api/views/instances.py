"""Instances as clients see them.

A key that has nothing to say is absent, never null: clients test for its presence.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
from typing import Any

import orjson

from trove import states
from trove.api.urls import Urls
from trove.db import packed_columns
from trove.db.instance_views import InstanceSummary, InstanceView, PackedSummary
from trove.db.log_archives import Window

_GIB = 2**30
_ALMOST_A_SECOND = datetime.timedelta(microseconds=999_999)
#: Items of lists that are kept as JSON, a kilobyte each.
_KEPT_SUMMARIES = 8192


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """For whom, from where and when instances are shown."""

    urls: Urls
    is_admin: bool
    now: datetime.datetime
    heartbeat_expiry: datetime.timedelta
    #: Whose last heartbeat is before this is silent, as :mod:`trove.db.packed_columns` says it.
    silent_since: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """Derive what is compared with every item of a list."""
        object.__setattr__(
            self, "silent_since", packed_columns.written(self.now - self.heartbeat_expiry)
        )


def timestamp(moment: datetime.datetime) -> str:
    """Return a time as this API writes it: UTC, without zone and fractions."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S")


def summary(row: PackedSummary, viewer: Viewer) -> orjson.Fragment:
    """Return an item of the list, as JSON: most are as they were when last shown."""
    return _summary(
        row._replace(created="", heartbeat_received=""),
        row.heartbeat_received < viewer.silent_since,
        viewer.is_admin,
        viewer.urls.base,
        viewer.urls.project_id,
    )


@functools.lru_cache(maxsize=_KEPT_SUMMARIES)
def _summary(
    row: PackedSummary, is_silent: bool, is_admin: bool, url: str, project_id: str
) -> orjson.Fragment:
    """Return an item of the list by all that it depends on."""
    now, age = datetime.datetime.now(datetime.UTC), datetime.timedelta(seconds=is_silent)
    viewer = Viewer(
        urls=Urls(base=url, path="", project_id=project_id),
        is_admin=is_admin,
        now=now,
        heartbeat_expiry=datetime.timedelta(0),
    )
    timed = row._replace(
        created=packed_columns.written(now), heartbeat_received=packed_columns.written(now - age)
    )
    return orjson.Fragment(orjson.dumps(base(timed.unpack(), viewer)))


def base(row: InstanceSummary | InstanceView, viewer: Viewer) -> dict[str, Any]:
    """Return an item of the list."""
    links = viewer.urls.links
    view: dict[str, Any] = {
        "id": row.id,
        "name": row.name,
        "status": states.api_status(row.task, row.server_status, is_backing_up=row.is_backing_up),
        "operating_status": states.api_operating_status(
            row.task,
            row.server_status,
            row.service_status,
            heartbeat_age=viewer.now - row.heartbeat_received,
            heartbeat_expiry=viewer.heartbeat_expiry,
        ),
        "links": links("instances", row.id),
        "flavor": {"id": row.flavor_id, "links": links("flavors", row.flavor_id)},
        "datastore": {"type": row.datastore_name, "version": row.version_name},
        "region": row.region,
        "access": _access(row),
    }
    if viewer.is_admin:
        view["tenant_id"] = row.project_id
    if row.volume_size_gib is not None:
        view["volume"] = {"size": row.volume_size_gib}
    if row.hostname is not None:
        # instead of the addresses, by the contract with older clients
        view["hostname"] = row.hostname
    elif row.addresses:
        view["ip"] = [address["address"] for address in row.addresses]
        view["addresses"] = [_address(address) for address in row.addresses]
    if row.replica_of_id is not None:
        view["replica_of"] = {
            "id": row.replica_of_id,
            "links": links("instances", row.replica_of_id),
        }
    if row.replica_ids:
        view["replicas"] = [
            {"id": replica_id, "links": links("instances", replica_id)}
            for replica_id in row.replica_ids
        ]
    return view


def detail(row: InstanceView, viewer: Viewer) -> dict[str, Any]:
    """Return an item of the detailed list."""
    view = base(row, viewer)
    view["datastore"]["version_number"] = row.version_number
    view["created"] = timestamp(row.created)
    view["updated"] = timestamp(row.updated)
    view["service_status_updated"] = timestamp(row.heartbeat_received)
    view["tags"] = row.tags
    view["deletion_protected"] = row.is_protected
    if row.configuration_id is not None:
        view["configuration"] = {
            "id": row.configuration_id,
            "name": row.configuration_name,
            "links": viewer.urls.links("configurations", row.configuration_id),
        }
    if row.locality is not None:
        view["locality"] = row.locality
    if (fault := row.fault) is not None:
        view["fault"] = {
            "message": fault.message,
            "created": timestamp(fault.created),
            "details": fault.details if viewer.is_admin else None,
        }
    if viewer.is_admin:
        view["server_id"] = row.server_id
        view["volume_id"] = row.volume_id
        view["encrypted_rpc_messaging"] = True
    return view


def show(row: InstanceView, viewer: Viewer) -> dict[str, Any]:
    """Return one instance: the details and what its agent last said of its disk."""
    view = detail(row, viewer)
    if row.disk_used_bytes is None:
        return view
    used_gib = round(row.disk_used_bytes / _GIB, 3)
    if "volume" not in view:
        view["local_storage"] = {"used": used_gib}
    else:
        view["volume"]["used"] = used_gib
        if row.disk_total_bytes:
            percent = 100 * row.disk_used_bytes / row.disk_total_bytes
            view["volume"]["used_percent"] = round(percent, 2)
    return view


def restorable(window: Window | None, viewer: Viewer) -> dict[str, Any]:
    """Return to which moments an instance can be restored, and how well its log is kept."""
    earliest = None if window is None else window.earliest
    latest = None if window is None else window.latest
    if earliest is not None:
        # in whole seconds, and never before it
        earliest = (earliest + _ALMOST_A_SECOND).replace(microsecond=0)
        if latest is not None and latest < earliest:
            # of a backup just made: there will be one in a moment
            latest = None
    view: dict[str, Any] = {
        "earliest_restorable_time": None if earliest is None else timestamp(earliest),
        "latest_restorable_time": None if latest is None else timestamp(latest),
    }
    if window is not None:
        lag = viewer.now - (window.as_of or window.created)
        is_active = window.state is states.ArchiveStatus.ACTIVE
        view["archive"] = {
            "status": window.state.value,
            "lag_seconds": max(0, round(lag.total_seconds())) if is_active else None,
            "pending_bytes": window.pending_bytes,
            "problem": window.problem,
        }
    return view


def _access(row: InstanceSummary | InstanceView) -> dict[str, Any]:
    if row.access is not None:
        return {key: row.access[key] for key in ("is_public", "allowed_cidrs") if key in row.access}
    if row.addresses:
        return {"is_public": any(address["type"] == "public" for address in row.addresses)}
    return {}


def _address(address: Any) -> dict[str, str]:
    view = {"address": address["address"], "type": address["type"]}
    if address["type"] == "private" and address.get("network"):
        view["network"] = address["network"]
    return view
