"""What pg_basebackup writes to its output: a tar archive with the manifest of the copy as its last
file. Read as it comes, whatever the pieces are.

Only what the server writes is known (POSIX.1-1988 with names of at most 100 bytes, plain files and
directories): anything else is refused, above all what would lie outside of the directory.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import json
import os
import pathlib
import re
from typing import Any

from trove.common import exception
from trove.guestagent.system import users

_BLOCK_BYTES = 512
#: Two empty blocks end an archive.
_END_BYTES = 2 * _BLOCK_BYTES
_DIRECTORY = b"5"
_FILES = (b"0", b"\0")

MANIFEST = "backup_manifest"
_LOG = "pg_wal/"
#: More than what stands behind the list of files in a manifest.
_TAIL_BYTES = 16384
_CHECKSUM = re.compile(rb'"Manifest-Checksum": "([0-9a-f]{64})"\}\s*\Z')
_RANGES = re.compile(rb'"WAL-Ranges": (\[[^\]]*\])')


def _damaged(what: str) -> exception.GuestError:
    return exception.GuestError(reason=f"the copy of the database is damaged: {what}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A file or a directory of an archive."""

    path: str
    size: int
    is_directory: bool


class Sink(abc.ABC):
    """What takes the members of an archive, one after the other."""

    @abc.abstractmethod
    def begin(self, member: Member) -> None:
        """Take what follows for the content of a member."""

    @abc.abstractmethod
    def take(self, data: memoryview) -> None:
        """Take some content of the member."""

    @abc.abstractmethod
    def end(self) -> None:
        """Note that the member is complete."""


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        # too large for eight digits of base 8
        return int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
    return int(field.strip(b" \0") or b"0", 8)


def _member(header: bytes) -> Member:
    try:
        checksum = _number(header[148:156])
        size = _number(header[124:136])
    except ValueError:
        raise _damaged("a header is none") from None
    if sum(header[:148]) + sum(header[156:]) + 8 * ord(" ") != checksum:
        raise _damaged("a header is damaged")
    path, kind, prefix = _text(header[:100]), header[156:157], _text(header[345:500])
    if prefix:
        path = f"{prefix}/{path}"
    is_directory = kind == _DIRECTORY
    path = path.rstrip("/") if is_directory else path
    if not is_directory and kind not in _FILES:
        raise exception.GuestError(
            reason="the copy holds a link or a device: tablespaces cannot be backed up"
        )
    if path.startswith("/") or any(part in ("", "..") for part in path.split("/")):
        raise _damaged("a name leads outside of it")
    if path == ".":
        path = ""
    return Member(path=path, size=0 if is_directory else size, is_directory=is_directory)


class Scanner:
    """Takes an archive apart."""

    def __init__(self, sink: Sink) -> None:
        """Take where its members go."""
        self._sink = sink
        self._header = bytearray()
        self._member: Member | None = None
        self._left = 0
        self._padding = 0
        self._empty_bytes = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the archive; raises GuestError."""
        view = memoryview(data)
        while view:
            if self._left:
                part = view[: self._left]
                self._sink.take(part)
                self._left -= len(part)
                view = view[len(part) :]
                if not self._left:
                    self._end()
            elif self._padding:
                skipped = min(self._padding, len(view))
                self._padding -= skipped
                view = view[skipped:]
            else:
                part = view[: _BLOCK_BYTES - len(self._header)]
                self._header += part
                view = view[len(part) :]
                if len(self._header) == _BLOCK_BYTES:
                    header = bytes(self._header)
                    self._header.clear()
                    self._begin(header)

    def _begin(self, header: bytes) -> None:
        if not any(header):
            self._empty_bytes += _BLOCK_BYTES
            return
        if self._empty_bytes:
            raise _damaged("something stands behind its end")
        member = self._member = _member(header)
        self._sink.begin(member)
        self._left = member.size
        self._padding = -member.size % _BLOCK_BYTES
        if not member.size:
            self._end()

    def _end(self) -> None:
        self._member = None
        self._sink.end()

    def finish(self) -> None:
        """Raise GuestError unless the archive is complete."""
        is_between = not (self._left or self._padding or self._header)
        if not is_between or self._empty_bytes < _END_BYTES:
            raise _damaged("it ends too early")


class Manifest:
    """The manifest of a copy, proven by its own checksum; only its end is kept in memory."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._hash = hashlib.sha256()
        self._tail = b""

    def take(self, data: bytes) -> None:
        """Take some of its text."""
        text = self._tail + data
        cut = max(0, len(text) - _TAIL_BYTES)
        self._hash.update(text[:cut])
        self._tail = text[cut:]

    def finish(self) -> tuple[str, list[dict[str, Any]]]:
        """Return its checksum and the ranges of the log that the copy needs; raises GuestError."""
        found = _CHECKSUM.search(self._tail)
        ranges = _RANGES.search(self._tail)
        if found is None or ranges is None:
            raise _damaged("it has no complete manifest")
        self._hash.update(self._tail[: found.start()])
        if self._hash.hexdigest() != found[1].decode():
            raise _damaged("its manifest is not what was written")
        return found[1].decode(), json.loads(ranges[1])


class Watch(Sink):
    """Looks at an archive on its way: what ends it, and what its manifest says."""

    def __init__(self, keep: Any = None) -> None:
        """``keep`` is called with the text of the manifest, piece by piece."""
        self.manifest = Manifest()
        self.has_manifest = False
        self.files = 0
        self._keep = keep
        self._is_manifest = False

    def begin(self, member: Member) -> None:
        """See what it is."""
        if self.has_manifest:
            raise _damaged("something stands behind its manifest")
        self._is_manifest = member.path == MANIFEST
        self.files += not member.is_directory

    def take(self, data: memoryview) -> None:
        """Keep the manifest."""
        if self._is_manifest:
            text = bytes(data)
            self.manifest.take(text)
            if self._keep is not None:
                self._keep(text)

    def end(self) -> None:
        """Note the manifest."""
        self.has_manifest = self.has_manifest or self._is_manifest
        self._is_manifest = False


class Directory(Sink):
    """Writes an archive into a directory that it makes, and proves every file of it."""

    def __init__(self, target: pathlib.Path, *, owner: users.SystemUser) -> None:
        """Take the directory, which does not exist, and who shall own everything."""
        self._target = target
        self._owner = owner
        self._file: int | None = None
        self._path = ""
        self._hash = hashlib.sha256()
        self._size = 0
        self._found: dict[str, tuple[int, bytes]] = {}
        self._manifest = bytearray()
        self._make_directory(target)

    @property
    def manifest(self) -> bytes:
        """The text of the manifest."""
        return bytes(self._manifest)

    def _make_directory(self, path: pathlib.Path) -> None:
        path.mkdir(mode=0o700)
        if not self._owner.is_current:
            os.chown(path, self._owner.uid, self._owner.gid)

    def begin(self, member: Member) -> None:
        """Make the directory or the file."""
        self._path, self._hash, self._size = member.path, hashlib.sha256(), 0
        path = self._target / member.path
        if member.is_directory:
            if not path.is_dir():
                self._make_directory(path)
            return
        if member.path == MANIFEST:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._file = os.open(path, flags, 0o600)
        except (FileExistsError, FileNotFoundError, NotADirectoryError):
            raise _damaged(f"the file {member.path} has no place in it") from None
        if not self._owner.is_current:
            os.fchown(self._file, self._owner.uid, self._owner.gid)

    def take(self, data: memoryview) -> None:
        """Write some of the file."""
        if self._path == MANIFEST:
            self._manifest += data
            return
        assert self._file is not None  # noqa: S101 (for the type checker)
        self._hash.update(data)
        self._size += len(data)
        while data:
            data = data[os.write(self._file, data) :]

    def end(self) -> None:
        """Close the file and remember what it holds."""
        if self._file is not None:
            self.close()
            # the log is not in the manifest: its records are proven when they are replayed
            if not self._path.startswith(_LOG):
                self._found[self._path] = (self._size, self._hash.digest())

    def close(self) -> None:
        """Close the file that is being written."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def check(self) -> str:
        """Raise GuestError unless all is there that the manifest says; returns its checksum."""
        manifest = Manifest()
        manifest.take(self.manifest)
        checksum, _ = manifest.finish()
        for entry in json.loads(self._manifest)["Files"]:
            path = entry.get("Path")
            if path is None:
                path = bytes.fromhex(entry["Encoded-Path"]).decode("utf-8", "surrogateescape")
            if path.startswith(_LOG):
                continue
            found = self._found.pop(path, None)
            if found is None:
                raise _damaged(f"the file {path} is missing")
            if entry.get("Checksum-Algorithm") != "SHA256":
                raise _damaged(f"nothing proves the file {path}")
            if found != (entry["Size"], bytes.fromhex(entry["Checksum"])):
                raise _damaged(f"the file {path} is not what was copied")
        if self._found:
            raise _damaged(f"the file {next(iter(self._found))} does not belong to it")
        return checksum
