"""The directory that the local drivers share: its layout, its locks, its small files.

Several processes work on it at a time. Every file appears complete or not at all (written beside
its place, then linked or renamed), and what must not happen twice happens under an flock, which
the kernel gives back when its holder dies.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import pathlib
import re
import secrets
from collections.abc import Iterator
from typing import Any

from trove.common import exception

_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}\Z")
_LOCKS = 64


class LocalDriverError(exception.DriverError):
    """This machine did not do what a local driver asked of it."""

    def __init__(self, reason: str) -> None:
        """Say what is wrong and what helps."""
        super().__init__(service="Local driver", reason=reason)


class LocalState:
    """Paths under ``[local] state_dir``, by instance id."""

    def __init__(self, root: str) -> None:
        """Take the directory; nothing is made before it is needed."""
        self.root = pathlib.Path(root).absolute()

    def directory(self, name: str) -> pathlib.Path:
        """Return a directory below the root, made when it is missing.

        Others may pass through (o+x), since engines run as users of their own; raises DriverError.
        """
        path = self.root / name
        with told(path):
            if not path.is_dir():
                path.mkdir(parents=True, exist_ok=True)
                path.chmod(0o711)
        return path

    def server(self, instance_id: str) -> pathlib.Path:
        """Return where the server of an instance lives."""
        return self.root / "servers" / checked_id(instance_id)

    def volume(self, instance_id: str) -> pathlib.Path:
        """Return where the data of an instance lives."""
        return self.root / "volumes" / checked_id(instance_id)

    def image(self, image_id: str) -> pathlib.Path:
        """Return where an image lives."""
        return self.root / "images" / checked_id(image_id)

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the lock that ``name`` falls on, against threads and processes alike.

        There is a fixed number of lock files, so that none ever has to be removed: two names may
        share one, which costs milliseconds and nothing else.
        """
        slot = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % _LOCKS
        path = self.directory("locks") / f"{slot:02}"
        with told(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def checked_id(value: str) -> str:
    """Return an id that is safe as a file name; raises DriverError for any other."""
    if not _ID.match(value):
        raise LocalDriverError(f"{value!r} is not an id")
    return value


@contextlib.contextmanager
def told(path: os.PathLike[str] | str) -> Iterator[None]:
    """Turn an OSError into a DriverError that names the path and what helps."""
    try:
        yield
    except OSError as e:
        where = e.filename or path
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = f"no space is left for {where}: free some, or move [local] state_dir"
        elif e.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            reason = f"{where} cannot be written ({e.strerror}): check its owner and mode"
        else:
            reason = f"{where}: {e.strerror or e}"
        raise LocalDriverError(reason) from e


def write_new(path: pathlib.Path, content: str, *, mode: int = 0o600) -> pathlib.Path:
    """Write a file of a fresh name beside ``path`` and return it, for a link or a rename."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def replace(path: pathlib.Path, content: str, *, mode: int = 0o600) -> None:
    """Write a file in one step: readers see the old content or the new."""
    temporary = write_new(path, content, mode=mode)
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: pathlib.Path) -> dict[str, Any] | None:
    """Return the object in a file, or None when there is no such file.

    Raises DriverError when the file holds something else: a person has to look at that.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as e:
        raise LocalDriverError(f"{path} cannot be read: {e.strerror}") from e
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise LocalDriverError(f"{path} is damaged: it does not hold a JSON object")
    return value


def names(directory: pathlib.Path) -> list[str]:
    """Return the names in a directory, sorted, without hidden ones; none when it is missing."""
    try:
        found = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as e:
        raise LocalDriverError(f"{directory} cannot be read: {e.strerror}") from e
    return sorted(name for name in found if not name.startswith("."))
