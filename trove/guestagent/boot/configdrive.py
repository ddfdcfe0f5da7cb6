"""The config drive that Nova gives a server: found by its label, read once, unmounted.

It is looked for on the block devices themselves: udev's links need not be there yet.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from trove.guestagent.boot import errors
from trove.guestagent.system import mounts

LABEL = "config-2"
_LATEST = pathlib.PurePath("openstack/latest")
_ISO9660 = b"CD001"
#: Offsets of a volume's name: ISO 9660 volume descriptor; boot sectors of FAT12/16 and FAT32.
_ISO9660_AT = 16 * 2048
_FAT_LABELS_AT = (43, 71)
_LABEL_BYTES = 11
_FILE_NAME = re.compile(r"^[a-z][a-z0-9_-]{0,60}(\.[a-z0-9]{1,8})?$")
#: Far more than Nova takes.
_MAX_FILE_BYTES = 256 * 1024


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ConfigDrive:
    """What the drive says. ``files`` are for the agent and hold secrets."""

    server_id: str
    hostname: str
    network: Mapping[str, Any]
    files: Mapping[str, str] = dataclasses.field(repr=False)


def has_label(path: pathlib.Path) -> bool:
    """Tell whether a device or file is an ISO 9660 or FAT volume of the config drive's name."""
    with contextlib.suppress(OSError), open(path, "rb") as stream:
        head = stream.read(512)
        for offset in _FAT_LABELS_AT:
            label = head[offset : offset + _LABEL_BYTES]
            if label.rstrip(b" \0").lower() == LABEL.encode():
                return True
        stream.seek(_ISO9660_AT)
        descriptor = stream.read(128)
        return (
            descriptor[1:6] == _ISO9660
            and descriptor[40:72].rstrip(b" \0").lower() == LABEL.encode()
        )
    return False


def find(block: pathlib.Path, dev: pathlib.Path) -> pathlib.Path | None:
    """Return the device of the drive, from the names in ``block`` (/sys/class/block)."""
    try:
        names = sorted(path.name for path in block.iterdir())
    except OSError:
        return None
    # small ones and those read-only first: the drive is one of them
    candidates = [name for name in names if not name.startswith(("ram", "zram", "dm-", "md"))]
    candidates.sort(key=lambda name: not name.startswith("sr"))
    for name in candidates:
        if has_label(dev / name):
            return dev / name
    return None


@contextlib.contextmanager
def mounted(device: pathlib.Path) -> Iterator[pathlib.Path]:
    """Mount the drive read-only where nobody else looks, for as long as it takes."""
    with tempfile.TemporaryDirectory(prefix="trove-config-", dir="/run") as name:
        target = pathlib.Path(name)
        mounts.mount(device, target, options=("ro", "nosuid", "nodev", "noexec"))
        try:
            yield target
        finally:
            mounts.unmount(target)


def read(root: pathlib.Path) -> ConfigDrive:
    """Return what the drive mounted at ``root`` says; raises BootError."""
    latest = root / _LATEST
    meta = _read_json(latest / "meta_data.json")
    network = _read_json(latest / "network_data.json", missing="{}")
    user_data = _read_json(latest / "user_data", missing="{}")
    server_id = meta.get("uuid")
    if not isinstance(server_id, str) or not server_id:
        raise errors.BootError("meta_data.json of the config drive names no server")
    return ConfigDrive(
        server_id=server_id,
        hostname=str(meta.get("hostname") or meta.get("name") or ""),
        network=network,
        files=_files(user_data),
    )


def _files(user_data: Mapping[str, Any]) -> dict[str, str]:
    if user_data.get("trove") != 1 or not isinstance(user_data.get("files"), dict):
        raise errors.BootError(
            "the user data of the config drive is not a document of this service: this image is"
            " for database instances, which the service itself starts"
        )
    files = user_data["files"]
    for name, content in files.items():
        if not _FILE_NAME.match(name) or not isinstance(content, str):
            raise errors.BootError("a file of the user data has no proper name")
    return dict(files)


def _read_json(path: pathlib.Path, *, missing: str | None = None) -> dict[str, Any]:
    """Return a document; its content is never part of an error, it may be secret."""
    try:
        with open(path, "rb") as stream:
            text = stream.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        if missing is None:
            raise errors.BootError(f"{path.name} is missing on the config drive") from None
        text = missing.encode()
    if len(text) > _MAX_FILE_BYTES:
        raise errors.BootError(f"{path.name} of the config drive is too large")
    try:
        document = json.loads(text)
    except ValueError:
        raise errors.BootError(f"{path.name} of the config drive is not JSON") from None
    if not isinstance(document, dict):
        raise errors.BootError(f"{path.name} of the config drive is not a JSON object")
    return document
