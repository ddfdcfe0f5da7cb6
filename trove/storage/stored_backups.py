"""A backup's objects as the control plane sees them: read, checked, told by a URL, removed.

Its manifest is what makes objects a backup: it is the first that goes and the last that is
believed. What has no manifest below its prefix is left over of an attempt.
"""

from __future__ import annotations

import base64
import dataclasses
import re
import urllib.parse
from collections.abc import Iterator
from typing import Any

from trove.common import crypto
from trove.storage import base, manifests

_PAGE = 1000
_LONGEST_ID = 36
_LONGEST_VERSION = 64
_LARGEST = 2**63 - 1
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
#: The prefix of a backup, at the beginning of an object's name: <instance>/<backup>/.
_PREFIX = re.compile(rf"({_UUID})/({_UUID})/")
_MANIFEST = f"/{manifests.MANIFEST_NAME}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where a backup's objects are; ``account_id`` None: in the account of who asks."""

    account_id: str | None
    container: str
    prefix: str


def make_prefix(instance_id: str, backup_id: str) -> str:
    """Return what the names of all objects of a backup begin with."""
    return f"{instance_id}/{backup_id}/"


def key_purpose(backup_id: str) -> str:
    """Return what the data key of a backup is wrapped for."""
    return f"backup:{backup_id}"


def find_prefix(name: str) -> tuple[str, str, str] | None:
    """Return (prefix, instance id, backup id) by the name of an object; None for others."""
    found = _PREFIX.match(name)
    return None if found is None else (found[0], found[1], found[2])


def parse_location(text: str, *, account_prefix: str) -> Location | None:
    """Return where a backup is by what clients were told of it; None for what tells nothing.

    That is ``<kind>://<account>/<container>/<prefix>``, the URL of an object below an account of
    Swift's (whose names begin with ``account_prefix``), or ``<container>/<prefix>``.
    """
    split = urllib.parse.urlsplit(text)
    parts = [urllib.parse.unquote(part) for part in split.path.split("/") if part]
    account: str | None = None
    if split.scheme in ("http", "https"):
        places = [i for i, part in enumerate(parts) if part.startswith(account_prefix)]
        if not places:
            return None
        account = parts[places[0]].removeprefix(account_prefix)
        parts = parts[places[0] + 1 :]
    elif split.scheme:
        account = urllib.parse.unquote(split.netloc)
    if len(parts) < 2 or account == "":
        return None
    prefix = "/".join(parts[1:]).removesuffix(_MANIFEST).rstrip("/")
    return Location(account_id=account, container=parts[0], prefix=f"{prefix}/")


def read_manifest(account: base.Account, container: str, prefix: str) -> manifests.Manifest:
    """Return the manifest below a prefix; raises ObjectNotFound, ManifestError, StorageError."""
    name = prefix + manifests.MANIFEST_NAME
    stored, file = account.open(container, name)
    with file:
        if stored.size_bytes > manifests.MOST_BYTES:
            raise manifests.ManifestError(reason="it is too large")
        return manifests.Manifest.from_json(file.read(stored.size_bytes + 1))


def open_key(manifest: manifests.Manifest, key_ring: crypto.KeyRing) -> bytes:
    """Return the data key of a backup by its manifest, which is checked; raises ManifestError."""
    try:
        key = key_ring.unwrap(
            base64.b64decode(manifest.wrapped_key), purpose=key_purpose(manifest.backup_id)
        )
    except crypto.DecryptionFailed:
        raise manifests.ManifestError(
            reason="none of this service's [guest] key_encryption_keys is the one it was made with"
        ) from None
    manifest.check(key)
    return key


def facts_of(manifest: manifests.Manifest) -> dict[str, Any]:
    """Return what is kept of a manifest, by the names of the columns; raises ManifestError.

    A guest wrote it: what does not fit its column is refused.
    """
    archive = manifest.archive
    numbers = [manifest.stored_bytes, manifest.data_bytes]
    if archive is not None:
        numbers.append(archive.sequence)
        if len(archive.epoch) > _LONGEST_ID:
            raise manifests.ManifestError(reason="the id of its archive is too long")
    if max(numbers) > _LARGEST:
        raise manifests.ManifestError(reason="a number in it is too large")
    return {
        "engine_version": manifest.engine_version[:_LONGEST_VERSION],
        "stored_bytes": manifest.stored_bytes,
        "data_bytes": manifest.data_bytes,
        "manifest_sha256": manifest.sha256,
        "facts": dict(manifest.facts),
        "archive_epoch": None if archive is None else archive.epoch,
        "archive_sequence": None if archive is None else archive.sequence,
        "began": manifest.began,
        "completed": manifest.completed,
    }


def check_segments(
    account: base.Account, container: str, prefix: str, manifest: manifests.Manifest
) -> list[str]:
    """Raise ManifestError unless all segments are there, as large as they were.

    Returns the names of objects below the prefix that do not belong to the backup. Listings may be
    late: what they do not have is looked for by its name.
    """
    wanted = {prefix + segment.name: segment.size for segment in manifest.segments}
    strangers = []
    for each in list_objects(account, container, prefix):
        size = wanted.get(each.name)
        if size == each.size_bytes:
            del wanted[each.name]
        elif size is None and each.name != prefix + manifests.MANIFEST_NAME:
            strangers.append(each.name)
    for name, size in wanted.items():
        found = account.find(container, name)
        if found is None:
            raise manifests.ManifestError(reason=f"object {name} is missing")
        if found.size_bytes != size:
            raise manifests.ManifestError(
                reason=f"object {name} has {found.size_bytes} bytes instead of {size}"
            )
    return strangers


def list_objects(
    account: base.Account, container: str, prefix: str = ""
) -> Iterator[base.StoredObject]:
    """Yield all objects of a container whose names begin with a prefix."""
    marker = ""
    while page := account.list(container, prefix=prefix, marker=marker, limit=_PAGE):
        yield from page
        marker = page[-1].name


def remove(account: base.Account, container: str, prefix: str) -> int:
    """Remove all objects below a prefix, the manifest first; return how many there were."""
    count = int(account.delete(container, prefix + manifests.MANIFEST_NAME))
    for each in list_objects(account, container, prefix):
        count += account.delete(container, each.name)
    return count
