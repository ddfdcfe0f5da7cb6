"""Mounting and unmounting, by mount(8) and umount(8), whose words tell what is wrong."""

from __future__ import annotations

import errno
import pathlib
from collections.abc import Sequence

from trove.guestagent.system import process

_TIMEOUT_S = 120.0


def mount(
    device: pathlib.Path,
    target: pathlib.Path,
    *,
    options: Sequence[str] = (),
    file_system: str | None = None,
) -> None:
    """Mount a device; raises OSError with the words of mount(8)."""
    argv = ["mount", "-o", ",".join(options)] if options else ["mount"]
    if file_system is not None:
        argv += ["-t", file_system]
    _run([*argv, "--", str(device), str(target)], target)


def unmount(target: pathlib.Path) -> None:
    """Unmount what is mounted there; raises OSError, with EBUSY while it is in use."""
    _run(["umount", "--", str(target)], target)


def _run(argv: list[str], target: pathlib.Path) -> None:
    result = process.run(argv, timeout_s=_TIMEOUT_S)
    if result.return_code != 0:
        text = " ".join(result.output.split())[:300]
        number = errno.EBUSY if "busy" in text else errno.EIO
        raise OSError(number, text or f"{argv[0]} failed", str(target))
