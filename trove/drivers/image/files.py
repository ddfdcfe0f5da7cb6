"""Files of guest images: what is in them, by their own contents and by the builder's note.

The builder leaves a note beside an image, ``<file>.json``: an object with "manager", "version",
"agent_version" and "sha256" of what it built. The format is taken from the contents, never from the
name; an image that refers to other files is refused, since the hypervisor would read them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

from oslo_utils.imageutils import format_inspector

from trove.common import exception

_GIB = 1024**3
_NOTE_TEXTS = ("manager", "version", "agent_version", "sha256")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GuestFile:
    """A file that is fit to be a guest image.

    ``disk_format`` is "qcow2" or "raw", ``disk_gib`` the disk that a server needs for it;
    ``version`` and ``agent_version`` are the builder's words, None when it left none.
    """

    path: pathlib.Path
    size_bytes: int
    disk_format: str
    disk_gib: int
    sha256: str
    version: str | None = None
    agent_version: str | None = None

    def digest(self, algorithm: str) -> str:
        """Return the hash of the contents, hexadecimal; raises DriverError."""
        return _digest(self.path, algorithm)


def wrong(reason: str) -> exception.DriverError:
    """Return the error for a file that cannot be used."""
    return exception.DriverError(service="Reading the image", reason=reason)


def inspect(name: str, *, manager: str) -> GuestFile:
    """Look at a file that is to be the image of a datastore manager.

    Raises DriverError with what to do about it.
    """
    path = pathlib.Path(name)
    try:
        size = path.stat().st_size
        disk_format, virtual = _find_format(path)
        note = _read_note(path)
    except OSError as e:
        raise wrong(f"{e.filename or path}: {e.strerror or e}") from e
    made_for = note.get("manager", manager)
    if made_for != manager:
        raise wrong(f"{path} was built for {made_for}, not for {manager}")
    sha256 = _digest(path, "sha256")
    if note.get("sha256", sha256).lower() != sha256:
        raise wrong(
            f"{path} is not what its builder noted in {_note_path(path).name}: its SHA-256 is"
            f" {sha256}, and {note['sha256']} is noted. Copy or build it again"
        )
    return GuestFile(
        path=path,
        size_bytes=size,
        disk_format=disk_format,
        disk_gib=-(-virtual // _GIB),
        sha256=sha256,
        version=note.get("version"),
        agent_version=note.get("agent_version"),
    )


def _find_format(path: pathlib.Path) -> tuple[str, int]:
    """Return the disk format of a file and the bytes of its disk."""
    try:
        found = format_inspector.detect_file_format(os.fspath(path))
    except format_inspector.ImageFormatError as e:
        raise wrong(f"{path}: {e}") from e
    kind = "" if found is None else str(found)
    # a bootable disk begins with a boot sector, with or without partitions
    if kind == "gpt":
        return "raw", path.stat().st_size
    if found is None or kind != "qcow2":
        known = "neither qcow2 nor a bootable disk" if kind in ("", "raw") else f"{kind}, not qcow2"
        raise wrong(f"{path} is {known}: 'qemu-img convert -O qcow2' makes qcow2 of other formats")
    try:
        found.safety_check()
    except format_inspector.SafetyCheckFailed as e:
        reasons = "; ".join(str(reason) for reason in e.failures.values())
        raise wrong(f"{path} cannot be used: {reasons}. 'qemu-img convert' makes it whole") from e
    return kind, found.virtual_size


def _note_path(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.name + ".json")


def _read_note(path: pathlib.Path) -> dict[str, Any]:
    """Return the builder's note; empty when there is none."""
    note = _note_path(path)
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as e:
        raise wrong(f"{note} is not JSON: {e}") from e
    if not isinstance(found, dict) or not all(
        isinstance(found.get(name, ""), str) for name in _NOTE_TEXTS
    ):
        raise wrong(f"{note} is no note of the image builder")
    return found


def _digest(path: pathlib.Path, algorithm: str) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()
    except OSError as e:
        raise wrong(f"{path}: {e.strerror or e}") from e
