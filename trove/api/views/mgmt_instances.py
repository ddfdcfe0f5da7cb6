"""Instances as operators see them: what users see, and what is behind it.

Nothing is asked of other services: servers and volumes are shown as this service's own record has
them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from trove import states
from trove.api.views import instances
from trove.api.views.instances import Viewer, timestamp
from trove.db.instance_views import InstanceView
from trove.db.roots import Enabling
from trove.rpc import payloads

_GIB = 2**30


def item(row: InstanceView, viewer: Viewer) -> dict[str, Any]:
    """Return an item of the list."""
    view = instances.detail(row, viewer)
    if row.is_deleted:
        view["status"] = states.api_status(row.task, row.server_status, is_deleted=True)
        view["operating_status"] = ""
    return view | {
        "tenant_id": row.project_id,
        "server": _server(row),
        "service_status": row.service_status.value,
        "deleted": row.is_deleted,
        "deleted_at": None if row.deleted is None else timestamp(row.deleted),
        "task_description": states.TASK_DESCRIPTIONS[row.task],
    }


def show(row: InstanceView, root: Enabling | None, viewer: Viewer) -> dict[str, Any]:
    """Return one instance."""
    view = item(row, viewer)
    if view["server"] is not None:
        view["server"]["addresses"] = _addresses(row.addresses)
    if root is not None:
        view["root_enabled"] = timestamp(root.enabled)
        view["root_enabled_by"] = root.user_id
    view["guest_status"] = {"state_description": row.service_status.description}
    view["volume"] = _volume(row)
    return view


def root_history(instance_id: str, root: Enabling | None) -> dict[str, Any]:
    """Return who enabled the superuser."""
    return {
        "id": instance_id,
        "enabled": "Never" if root is None else timestamp(root.enabled),
        "user": "Nobody" if root is None else root.user_id,
    }


def diagnostics(found: payloads.Diagnostics) -> dict[str, Any]:
    """Return what the agent uses, and the engine if one runs; sizes are KiB."""
    view = _process(found.agent)
    if found.engine is not None:
        view["engine"] = _process(found.engine)
    return view


def _process(facts: payloads.ProcessFacts) -> dict[str, Any]:
    return {
        "version": facts.version,
        "threads": facts.threads,
        "fdSize": facts.fd_size,
        "vmSize": facts.vm_size_kib,
        "vmPeak": facts.vm_peak_kib,
        "vmRss": facts.vm_rss_kib,
        "vmHwm": facts.vm_hwm_kib,
    }


def hardware(found: payloads.HwInfo) -> dict[str, Any]:
    """Return what an instance may use; memory is MiB."""
    return {"mem_total": found.memory_mib, "num_cpus": found.cpus}


def _server(row: InstanceView) -> dict[str, Any] | None:
    if row.server_id is None:
        return None
    return {
        "id": row.server_id,
        "name": row.name,
        "status": row.server_status.value,
        "tenant_id": row.project_id,
        "host": None,
    }


def _addresses(addresses: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return addresses by network, as the compute service shows them."""
    view: dict[str, list[dict[str, Any]]] = {}
    for each in addresses:
        address = each["address"]
        name = each.get("network") or each["type"]
        version = ipaddress.ip_address(address).version
        view.setdefault(name, []).append({"addr": address, "version": version})
    return view


def _volume(row: InstanceView) -> dict[str, Any] | None:
    if row.volume_size_gib is None:
        return None
    has_both = row.volume_id is not None and row.server_id is not None
    return {
        "id": row.volume_id,
        "size": row.volume_size_gib,
        "status": "in-use" if has_both else "available",
        "attachments": [{"server_id": row.server_id}] if has_both else [],
        "availability_zone": row.availability_zone,
        "created_at": timestamp(row.created),
        "used": _gib(row.disk_used_bytes),
        "total": _gib(row.disk_total_bytes),
    }


def _gib(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else round(size_bytes / _GIB, 3)
