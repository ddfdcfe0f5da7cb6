"""Datastores, versions, flavors and limits as clients see them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from trove.api.ratelimit import RateWindow
from trove.api.urls import VERSION, Urls
from trove.db.datastores import Datastore, Version
from trove.drivers.compute.base import Flavor

_PLAIN_NUMBER = re.compile(r"(0|[1-9][0-9]{0,17})\Z")


def datastore(row: Datastore, urls: Urls, *, is_admin: bool) -> dict[str, Any]:
    """Return a datastore; its default version only when it is among the versions shown."""
    view: dict[str, Any] = {
        "id": row.id,
        "name": row.name,
        "links": urls.links("datastores", row.id),
        "versions": [_version_item(version, urls, is_admin=is_admin) for version in row.versions],
    }
    if any(version.id == row.default_version_id for version in row.versions):
        view["default_version"] = row.default_version_id
    return view


def version(row: Version, urls: Urls, *, is_admin: bool) -> dict[str, Any]:
    """Return a version that stands alone."""
    return {**_version_item(row, urls, is_admin=is_admin), "datastore": row.datastore_id}


def _version_item(row: Version, urls: Urls, *, is_admin: bool) -> dict[str, Any]:
    view: dict[str, Any] = {
        "id": row.id,
        "name": row.name,
        "version": row.version,
        "links": urls.links("datastores/versions", row.id),
    }
    if is_admin:
        view |= {
            "active": row.active,
            "packages": ",".join(row.packages) or None,
            "image": row.image_id,
            "registry_ext": row.registry_ext,
            "repl_strategy": row.repl_strategy,
            "image_tags": list(row.image_tags),
        }
    return view


def flavor(row: Flavor, urls: Urls) -> dict[str, Any]:
    """Return a flavor; ``id`` only for plain numbers, ``str_id`` always."""
    return {
        "id": int(row.id) if _PLAIN_NUMBER.match(row.id) else None,
        "str_id": row.id,
        "name": row.name,
        "ram": row.ram_mib,
        "vcpus": row.vcpus,
        "disk": row.disk_gib,
        "ephemeral": row.ephemeral_gib,
        "links": urls.links("flavors", row.id),
    }


def limits(quotas: Mapping[str, int], windows: Iterable[RateWindow]) -> list[dict[str, Any]]:
    """Return the limits; clients take the first for the absolute ones."""
    absolute: dict[str, Any] = {"verb": "ABSOLUTE"}
    absolute |= {f"max_{resource}": limit for resource, limit in quotas.items()}
    rates = [
        {
            "verb": window.method,
            "uri": "*",
            "regex": ".*",
            "value": window.value,
            "remaining": window.remaining,
            "unit": "MINUTE",
            "nextAvailable": window.next_available.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        for window in windows
    ]
    return [absolute, *rates]


def api_version(urls: Urls) -> dict[str, Any]:
    """Return the only version of this API."""
    return {
        "id": VERSION,
        "status": "CURRENT",
        "updated": "2012-08-01T00:00:00Z",
        "links": [{"rel": "self", "href": f"{urls.base}/{VERSION}/"}],
    }
