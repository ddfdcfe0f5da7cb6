"""Configuration groups and parameters as clients see them."""

from __future__ import annotations

from typing import Any

from trove.api.views.instances import timestamp
from trove.datastores.parameters import Parameter
from trove.db.configurations import Group
from trove.services.configurations import GroupDetail


def item(group: Group) -> dict[str, Any]:
    """Return an item of the list."""
    return {
        "id": group.id,
        "name": group.name,
        "description": group.description,
        "created": timestamp(group.created),
        "updated": timestamp(group.updated),
        "datastore_name": group.datastore_name,
        "datastore_version_id": group.datastore_version_id,
        "datastore_version_name": group.version_name,
        "datastore_version_number": group.version_number,
    }


def detail(found: GroupDetail) -> dict[str, Any]:
    """Return one group."""
    return {
        **item(found.group),
        "values": dict(found.group.values),
        "instance_count": found.instance_count,
    }


def parameter(rule: Parameter, version_id: str) -> dict[str, Any]:
    """Return a parameter; limits that there are not are absent."""
    return _parameter(rule, version_id, suffix="")


def mgmt_parameter(rule: Parameter, version_id: str) -> dict[str, Any]:
    """Return a parameter as operators' clients know it."""
    return _parameter(rule, version_id, suffix="_size")


def _parameter(rule: Parameter, version_id: str, *, suffix: str) -> dict[str, Any]:
    view: dict[str, Any] = {
        "name": rule.name,
        "datastore_version_id": version_id,
        "restart_required": rule.restart_required,
        "type": rule.type.value,
    }
    for name, limit in (("max", rule.maximum), ("min", rule.minimum)):
        if limit is not None:
            view[f"{name}{suffix}"] = limit
    return view
