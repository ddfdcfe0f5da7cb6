"""Block devices and their file systems: find, look at, make, check, grow.

A device is blank only when two independent readers find no signature on it and its first bytes can
be read; anything else is never written to. Errors stay OSError, with the words of the program.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import pathlib

from trove.guestagent.system import process

FILE_SYSTEM = "ext4"
#: What Cinder's volume id is cut to, as the serial number of a virtio disk.
_SERIAL_CHARACTERS = 20
_SECTOR_BYTES = 512
_HEAD_BYTES = 1024 * 1024
_SHORT_S = 60.0
_CHECK_S = 3600.0
_MAKE_S = 600.0
#: Results of blkid(8) and e2fsck(8).
_BLKID_NOTHING = 2
_E2FSCK_FINE = (0, 1)
_MAKE = (
    # no blocks kept for root: the agent's own files are on another disk
    *("-m", "0"),
    # tables and journal are written while the database runs, not before it starts
    *("-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What is on a device, such as ext4 with its UUID."""

    kind: str
    uuid: str | None = None


def find_by_volume(
    volume_id: str,
    *,
    block: pathlib.Path = pathlib.Path("/sys/class/block"),
    dev: pathlib.Path = pathlib.Path("/dev"),
) -> pathlib.Path | None:
    """Return the device of a volume: its serial number is the beginning of the volume's id.

    Raises OSError when several devices claim to be it.
    """
    wanted = volume_id[:_SERIAL_CHARACTERS]
    found = set()
    for path in sorted(block.glob("*/serial")):
        if (
            path.read_text(encoding="ascii", errors="replace").strip()[:_SERIAL_CHARACTERS]
            == wanted
        ):
            found.add(dev / path.parent.name)
    # buses other than virtio: the links that udev makes
    for link in sorted((dev / "disk" / "by-id").glob(f"*{wanted}*")):
        if "-part" not in link.name.rpartition(wanted)[2]:
            found.add(link.resolve())
    if len(found) > 1:
        names = ", ".join(sorted(path.name for path in found))
        raise OSError(errno.ENOTUNIQ, f"several devices have the serial number: {names}")
    return found.pop() if found else None


def size_bytes(device: pathlib.Path) -> int:
    """Return how large a device is; raises OSError."""
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)


def find_signature(device: pathlib.Path) -> Signature | None:
    """Return what is on a device, None when it is blank; raises OSError when that is unclear."""
    with open(device, "rb", buffering=0) as stream:
        # a device that cannot be read looks blank to blkid
        head = stream.read(_HEAD_BYTES)
    if not head:
        raise OSError(errno.EIO, "the device is empty or cannot be read", str(device))
    probe = process.run(
        ["blkid", "--probe", "--output", "export", "--", str(device)], timeout_s=_SHORT_S
    )
    fields = dict(line.split("=", 1) for line in probe.output.splitlines() if "=" in line)
    if probe.return_code == 0:
        kind = fields.get("TYPE") or fields.get("PTTYPE") or "something unknown"
        return Signature(kind=kind, uuid=fields.get("UUID"))
    if probe.return_code != _BLKID_NOTHING or probe.output.strip():
        # several signatures, or no answer: surely not blank
        return Signature(kind="something unclear")
    wipe = _run(["wipefs", "--no-act", "--parsable", "--", str(device)], _SHORT_S)
    traces = [line for line in wipe.splitlines() if line and not line.startswith("#")]
    return Signature(kind=traces[0].rpartition(",")[2]) if traces else None


def make_file_system(device: pathlib.Path, *, label: str) -> None:
    """Make an ext4 file system on a device that is blank; raises OSError."""
    signature = find_signature(device)
    if signature is not None:
        raise OSError(errno.EEXIST, f"there is {signature.kind} on the device", str(device))
    _run(["mkfs.ext4", "-q", "-L", label, *_MAKE, "--", str(device)], _MAKE_S)


def check_file_system(device: pathlib.Path) -> None:
    """Replay the journal and mend what can be mended without asking; raises OSError."""
    result = process.run(["e2fsck", "-p", "--", str(device)], timeout_s=_CHECK_S)
    if result.return_code not in _E2FSCK_FINE:
        raise OSError(errno.EIO, " ".join(result.output.split())[-300:], str(device))


def grow_file_system(device: pathlib.Path) -> None:
    """Grow a mounted ext4 file system to the size of its device; raises OSError."""
    _run(["resize2fs", "--", str(device)], _MAKE_S)


def _run(argv: list[str], timeout_s: float) -> str:
    result = process.run(argv, timeout_s=timeout_s)
    if result.return_code != 0:
        text = " ".join(result.output.split())[-300:]
        raise OSError(errno.EIO, f"{argv[0]}: {text or 'failed'}", argv[-1])
    return result.output
