"""Modules as clients see them."""

from __future__ import annotations

import re
from typing import Any

from trove.api.views.instances import timestamp
from trove.db.modules import Count, Module
from trove.rpc.payloads import ModuleResult
from trove.services.instance_modules import Applied
from trove.services.modules import ALL

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\Z", re.ASCII)
_BASE64 = re.compile(r"[0-9A-Za-z+/]*={0,2}\Z")
_LONGEST = 500


def item(row: Module) -> dict[str, Any]:
    """Return an item of the list."""
    return {
        "id": row.id,
        "name": row.name,
        "type": row.type,
        "description": row.description,
        "tenant_id": row.project_id,
        "datastore_id": row.datastore_id,
        "datastore_version_id": row.datastore_version_id,
        "auto_apply": row.auto_apply,
        "priority_apply": row.priority_apply,
        "is_admin": row.is_admin,
        "visible": row.visible,
        "apply_order": row.apply_order,
        "md5": row.md5,
        "created": timestamp(row.created),
        "updated": timestamp(row.updated),
        "tenant": row.project_id or ALL,
        "datastore": row.datastore_name or ALL,
        "datastore_version": row.version_name or ALL,
    }


def detail(row: Module, *, instance_count: int | None = None) -> dict[str, Any]:
    """Return a module that stands alone."""
    view = {**item(row), "live_update": row.live_update}
    if instance_count is not None:
        view["instance_count"] = instance_count
    return view


def count(row: Module, counted: Count) -> dict[str, Any]:
    """Return how many instances have which contents of a module."""
    return {
        "module_name": row.name,
        "module_id": row.id,
        "module_md5": counted.md5,
        "instance_count": counted.instances,
        "current": counted.md5 == row.md5,
        "min_updated_date": timestamp(counted.first),
        "max_updated_date": timestamp(counted.last),
    }


def result(applied: Applied) -> dict[str, Any]:
    """Return how a module is on an instance; what a guest says is shortened and made printable."""
    said = applied.result
    view: dict[str, Any] = {
        "id": said.id,
        "md5": _text(said.md5),
        "status": "OK" if said.status == "OK" else "ERROR",
        "message": None if said.message is None else _text(said.message),
        "created": _time(said.created),
        "updated": _time(said.updated),
        "removed": _time(said.removed),
        **_facts(said, applied.module),
    }
    contents = said.contents
    if contents is not None and applied.may_show_contents and _BASE64.match(contents):
        view["contents"] = contents
    return view


def _facts(said: ModuleResult, module: Module | None) -> dict[str, Any]:
    """Return what a module is: by its row, or by the guest when there is none any more."""
    if module is not None:
        keys = ("name", "type", "tenant", "datastore", "datastore_version")
        shown = item(module)
        return {key: shown[key] for key in (*keys, "auto_apply", "visible", "is_admin")}
    return {
        "name": _text(said.name),
        "type": _text(said.type),
        "tenant": _text(said.tenant),
        "datastore": _text(said.datastore),
        "datastore_version": _text(said.datastore_version),
        "auto_apply": said.auto_apply,
        "visible": said.visible,
        "is_admin": said.is_admin,
    }


def _text(value: str) -> str:
    return "".join(c if c.isprintable() else " " for c in value[:_LONGEST])


def _time(value: str | None) -> str | None:
    return value if value is not None and _TIME.match(value) else None
