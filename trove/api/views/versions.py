"""Datastore versions as operators see them, and volume types."""

from __future__ import annotations

from typing import Any

from trove.db.datastores import Version
from trove.drivers.volume.base import VolumeType


def version(row: Version, *, is_default: bool) -> dict[str, Any]:
    """Return a version with all that operators can set."""
    return {
        "id": row.id,
        "name": row.name,
        "version": row.version,
        "datastore_id": row.datastore_id,
        "datastore_name": row.datastore_name,
        "datastore_manager": row.manager,
        "image": row.image_id,
        "image_tags": list(row.image_tags),
        "packages": list(row.packages),
        "active": row.active,
        "registry_ext": row.registry_ext,
        "repl_strategy": row.repl_strategy,
        "default": is_default,
    }


def volume_type(row: VolumeType) -> dict[str, Any]:
    """Return a volume type."""
    return {
        "id": row.id,
        "name": row.name,
        "is_public": row.is_public,
        "description": row.description,
    }
