"""Which kind of object store there is: by configuration in the control plane, by grant in guests.

What comes with this project is named here, so that a guest need not search what is installed; other
kinds are found by their entry points (group ``trove.storage``).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

from oslo_config import cfg

from trove.common import exception
from trove.storage import base, filesystem, presigned, tempurl

NAMESPACE = "trove.storage"
#: Module and class; imported when asked for, since a guest lacks what the cloud's need.
_OWN: Mapping[str, tuple[str, str]] = {
    "filesystem": ("trove.storage.filesystem", "FilesystemStore"),
    "s3": ("trove.storage.s3", "S3Store"),
    "swift": ("trove.storage.swift", "SwiftStore"),
}
_OWN_GRANTS: Mapping[str, Callable[[Mapping[str, Any]], base.Account]] = {
    "filesystem": filesystem.FilesystemStore.open_grant,
    "s3": presigned.open_grant,
    "swift": tempurl.open_grant,
}


def _find_kind(kind: str) -> Any:
    """Return the class of a kind of store, None when there is none."""
    if kind in _OWN:
        module, name = _OWN[kind]
        return getattr(importlib.import_module(module), name)
    for entry_point in metadata.entry_points(group=NAMESPACE, name=kind):
        return entry_point.load()
    return None


def load(conf: cfg.ConfigOpts) -> base.Store | None:
    """Return the configured store, None without one; raises ConfigurationError."""
    kind = conf.storage.driver
    if not kind:
        return None
    found = _find_kind(kind)
    if found is None:
        raise exception.ConfigurationError(
            reason=f"[storage] driver = {kind}: there is no such store;"
            f" {', '.join(sorted(_OWN))} can be chosen"
        )
    store: base.Store = found.from_config(conf)
    return store


def open_grant(kind: str, grant: Mapping[str, Any]) -> base.Account:
    """Return the account that a grant of a kind of store is for; raises StorageError."""
    own = _OWN_GRANTS.get(kind)
    if own is not None:
        return own(grant)
    found = _find_kind(kind)
    if found is None:
        raise base.StorageError(reason=f"this image cannot use a store of the kind {kind[:50]}")
    account: base.Account = found.open_grant(grant)
    return account
