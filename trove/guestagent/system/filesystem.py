"""Files and directories, written so that a crash at any moment leaves the old or the new.

Errors stay OSError; :func:`explain` puts them in words with a remedy.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import fcntl
import os
import pathlib
import shutil
import stat
import tempfile

from trove.guestagent.system import users

#: ioctl that shares the blocks of a file instead of copying them (linux/fs.h, FICLONE).
_FICLONE = 0x40049409
_COPY_CHUNK_BYTES = 64 * 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DiskUse:
    """How full a file system is, in bytes; ``available`` is what the engine may still use."""

    used_bytes: int
    total_bytes: int
    available_bytes: int

    @property
    def is_nearly_full(self) -> bool:
        """Tell whether it is time to do something about it."""
        return self.available_bytes < min(self.total_bytes // 20, 512 * 1024 * 1024)


def explain(error: OSError, doing: str) -> str:
    """Return what went wrong while ``doing`` something, and what helps."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"The disk is full{where} while {doing}: delete data, resize the volume, or create"
            " the instance with a larger one."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"Permission denied{where} while {doing}: the directory must belong to the agent's"
            " user."
        )
    if error.errno == errno.EROFS:
        return f"The file system is read-only{where} while {doing}: check the volume."
    return f"{os.strerror(error.errno or 0)}{where} while {doing}."


def disk_use(path: pathlib.Path) -> DiskUse:
    """Return how full the file system of ``path`` is; raises OSError."""
    result = os.statvfs(path)
    return DiskUse(
        used_bytes=(result.f_blocks - result.f_bfree) * result.f_frsize,
        total_bytes=result.f_blocks * result.f_frsize,
        available_bytes=result.f_bavail * result.f_frsize,
    )


def tree_bytes(path: pathlib.Path) -> int:
    """Return the bytes that the files below ``path`` occupy; files that vanish do not count."""
    total = 0
    pending = [os.fspath(path)]
    while pending:
        with contextlib.suppress(FileNotFoundError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


def sync_directory(path: pathlib.Path) -> None:
    """Make renames in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(path: pathlib.Path) -> None:
    """Make everything written to the file system of ``path`` durable (syncfs)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), "syncfs failed", os.fspath(path))
    finally:
        os.close(descriptor)


def write_file(
    path: pathlib.Path, content: str | bytes, *, mode: int, owner: users.SystemUser | None = None
) -> None:
    """Replace a file as a whole: temporary file, sync, rename. Never readable more than ``mode``.

    The file keeps the calling user unless an ``owner`` is given.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "wb") as stream:
            stream.write(data)
            if owner is not None and not owner.is_current:
                os.fchown(descriptor, owner.uid, owner.gid)
            os.fchmod(descriptor, mode)
            stream.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def ensure_file(
    path: pathlib.Path, content: str, *, mode: int, owner: users.SystemUser | None = None
) -> None:
    """Have a file with this content; a right one is not touched, so a full disk does not matter."""
    with contextlib.suppress(FileNotFoundError):
        status = path.stat()
        uid = owner.uid if owner is not None else os.geteuid()
        if (
            stat.S_IMODE(status.st_mode) == mode
            and status.st_uid == uid
            and path.read_text(encoding="utf-8") == content
        ):
            return
    write_file(path, content, mode=mode, owner=owner)


def ensure_log(path: pathlib.Path, *, owner: users.SystemUser) -> None:
    """Have a file that its owner alone may append to; what is in it stays."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        if os.fstat(descriptor).st_uid != owner.uid:
            os.fchown(descriptor, owner.uid, owner.gid)
    finally:
        os.close(descriptor)


def ensure_directory(
    path: pathlib.Path, *, mode: int, owner: users.SystemUser | None = None
) -> pathlib.Path:
    """Make a directory (not its parents) or correct its mode and owner; refuses a symbolic link."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=mode)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        status = os.fstat(descriptor)
        wanted = (owner.uid, owner.gid) if owner is not None else (os.geteuid(), os.getegid())
        if os.geteuid() == 0 and (status.st_uid, status.st_gid) != wanted:
            os.fchown(descriptor, *wanted)
        if stat.S_IMODE(status.st_mode) != mode:
            os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)
    return path


def ensure_passable(path: pathlib.Path) -> None:
    """Make a directory that every user may pass, if it is missing; an existing one stays as is."""
    if not path.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o755)


def remove_tree(path: pathlib.Path) -> None:
    """Remove a directory with everything in it; nothing when it is not there."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return


def copy_tree(source: pathlib.Path, target: pathlib.Path, *, owner: users.SystemUser) -> None:
    """Copy a directory of plain files and directories; blocks are shared where the disk can.

    ``target`` must not exist. Everything gets the given owner; modes are kept.
    """
    target.mkdir(mode=0o700)
    with os.scandir(source) as entries:
        for entry in entries:
            destination = target / entry.name
            if entry.is_dir(follow_symlinks=False):
                copy_tree(pathlib.Path(entry.path), destination, owner=owner)
            elif entry.is_file(follow_symlinks=False):
                _copy_file(entry.path, destination, owner=owner)
    status = source.stat()
    if not owner.is_current:
        os.chown(target, owner.uid, owner.gid)
    target.chmod(stat.S_IMODE(status.st_mode))


def _copy_file(source: str, target: pathlib.Path, *, owner: users.SystemUser) -> None:
    with open(source, "rb") as reader, open(target, "xb") as writer:
        status = os.fstat(reader.fileno())
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
        except OSError:
            # most file systems cannot share blocks, none can with another file system
            offset = 0
            while offset < status.st_size:
                copied = os.sendfile(writer.fileno(), reader.fileno(), offset, _COPY_CHUNK_BYTES)
                if copied == 0:
                    break
                offset += copied
        if not owner.is_current:
            os.fchown(writer.fileno(), owner.uid, owner.gid)
        os.fchmod(writer.fileno(), stat.S_IMODE(status.st_mode))


def can_share_blocks(directory: pathlib.Path) -> bool:
    """Tell whether files of a file system can share blocks, so that a copy takes no space."""
    with (
        tempfile.TemporaryFile(dir=directory) as source,
        tempfile.TemporaryFile(dir=directory) as target,
    ):
        source.write(bytes(4096))
        source.flush()
        try:
            fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
        except OSError:
            return False
    return True


def lock_file(path: pathlib.Path) -> int | None:
    """Take an exclusive lock for the life of this process; None when another one has it.

    Returns the descriptor that holds the lock.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def bound_log(path: pathlib.Path, *, max_bytes: int) -> None:
    """Keep a log that others append to below ``max_bytes``: its last half goes to ``<name>.1``.

    The writer must have opened it for appending. Lines written in between may be lost.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return
    if size <= max_bytes:
        return
    with open(path, "r+b") as stream:
        stream.seek(-max_bytes // 2, os.SEEK_END)
        stream.readline()
        tail = stream.read()
        write_file(path.with_name(path.name + ".1"), tail, mode=0o600)
        stream.truncate(0)


def read_tail(path: pathlib.Path, *, max_bytes: int = 16384, since: int = 0) -> str:
    """Return the end of a text file, from offset ``since`` on; empty when there is none."""
    try:
        with open(path, "rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - max_bytes, since if since <= size else 0))
            return stream.read(max_bytes).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def find_closed_ancestor(path: pathlib.Path, user: users.SystemUser) -> pathlib.Path | None:
    """Return the first directory above ``path`` that ``user`` cannot enter, judged by its mode."""
    for directory in reversed(path.parents):
        status = directory.stat()
        bit = stat.S_IXOTH
        if status.st_uid == user.uid:
            bit = stat.S_IXUSR
        elif status.st_gid == user.gid:
            bit = stat.S_IXGRP
        if user.uid != 0 and not status.st_mode & bit:
            return directory
    return None
