"""Objects as files of a directory: the embedded default.

``<directory>/<project>/<container>/objects/`` holds the objects, a directory for each segment of a
name. An object is two files, ``<segment>+o.json`` with everything but the content and
``<segment>+o.<token>.data`` with the content; the first names the second and is replaced by a
rename, so that readers see the old object or the new one. Segments are percent-encoded; one that is
too long for a file's name goes on in directories ``+c``. Nothing of a name reaches the file system
as it is: no ``..``, no slash, no dot at the front.

Writers, which may be several processes, commit under a lock of the container. What a crash leaves
is content that nothing names; it goes when the object is put or deleted again.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import functools
import hashlib
import json
import os
import pathlib
import secrets
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, ParamSpec, TypeVar

from oslo_config import cfg

from trove.common import context, exception
from trove.storage import base

#: Bytes of a segment in one file name; encoded it is three times as long at most.
_CHUNK_BYTES = 60
#: Times that a reader looks again for the content of an object that is being replaced.
_READ_ATTEMPTS = 20
#: Longest path of an object in its container (the kernel's limit is 4096 for all of it), and most
#: segments of a name.
_MAX_PATH_BYTES = 3000
_MAX_SEGMENTS = 200
_MAX_CONTAINER_FILE_NAME = 255
_OBJECT, _DIRECTORY, _CONTINUED = "+o", "+d", "+c"

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _translated(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Have OSError become StorageError."""

    @functools.wraps(function)
    def translated(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return function(*args, **kwargs)
        except OSError as e:
            where = f" ({e.filename})" if e.filename else ""
            raise base.StorageError(reason=f"{os.strerror(e.errno or 0)}{where}") from e

    return translated


def _encode(segment: bytes) -> str:
    """Return a chunk of a segment as part of a file's name; nothing at all is ``%``."""
    text = urllib.parse.quote_from_bytes(segment, safe="") or "%"
    return "%2E" + text[1:] if text.startswith(".") else text


def _decode(text: str) -> bytes:
    return b"" if text == "%" else urllib.parse.unquote_to_bytes(text)


def _chunks(segment: bytes) -> list[bytes]:
    return [segment[i : i + _CHUNK_BYTES] for i in range(0, len(segment), _CHUNK_BYTES)] or [b""]


def _place(name: str) -> pathlib.PurePath:
    """Return where an object lies: its path without the suffix of the two files."""
    *directories, last = (_chunks(segment) for segment in name.encode().split(b"/"))
    parts = []
    for chunks in directories:
        parts += [_encode(chunk) + _CONTINUED for chunk in chunks[:-1]]
        parts.append(_encode(chunks[-1]) + _DIRECTORY)
    parts += [_encode(chunk) + _CONTINUED for chunk in last[:-1]]
    place = pathlib.PurePath(*parts, _encode(last[-1]) + _OBJECT)
    if len(parts) > _MAX_SEGMENTS or len(str(place)) > _MAX_PATH_BYTES:
        raise _NameTooLong(reason="the name of the object is too long for this store")
    return place


class _NameTooLong(exception.BadRequest):
    """No object of this name can be here."""


class FilesystemAccount(base.Account):
    """The directory of one project."""

    def __init__(self, directory: pathlib.Path) -> None:
        """Use a directory, which need not exist yet; its parent must."""
        self._directory = directory

    @_translated
    def put(
        self,
        container: str,
        name: str,
        content: Iterable[bytes],
        *,
        content_type: str = base.BINARY,
        metadata: Mapping[str, str] | None = None,
    ) -> base.StoredObject:
        """Store an object, replacing one of this name; durable when it returns."""
        base.check_names(container, name)
        place = self._place(container, name)
        data = place.with_name(f"{place.name}.{secrets.token_hex(8)}.data")
        try:
            with self._locked(container):
                self._make(place.parent)
                stream = self._create(data)
            with stream:
                size_bytes, etag = _write(stream, content)
            with self._locked(container):
                if not data.exists():
                    raise base.StorageError(reason="the object is being put twice at once")
                stored = base.StoredObject(
                    name=name,
                    size_bytes=size_bytes,
                    etag=etag,
                    modified=self._next_time(container),
                    content_type=content_type,
                    metadata=dict(metadata or {}),
                )
                self._commit(place, data, stored)
        except BaseException:
            self._remove_left(container, data)
            raise
        return stored

    def _remove_left(self, container: str, data: pathlib.Path) -> None:
        """Remove what there is of an object that could not be stored."""
        with contextlib.suppress(OSError):
            data.unlink(missing_ok=True)
            with self._locked(container):
                self._remove_empty(container, data.parent)

    def _commit(self, place: pathlib.Path, data: pathlib.Path, stored: base.StoredObject) -> None:
        """Make ``data`` the content of an object, and remove any other."""
        document = {
            "name": stored.name,
            "data": data.name,
            "size_bytes": stored.size_bytes,
            "etag": stored.etag,
            "modified": stored.modified.isoformat(),
            "content_type": stored.content_type,
            "metadata": dict(stored.metadata),
        }
        self._replace(place.with_name(f"{place.name}.json"), json.dumps(document))
        for other in _contents(place):
            if other != data:
                other.unlink(missing_ok=True)

    @_translated
    def find(self, container: str, name: str) -> base.StoredObject | None:
        """Return an object, None when there is none."""
        base.check_names(container, name)
        try:
            place = self._place(container, name)
        except _NameTooLong:
            return None
        found = _read(place.with_name(f"{place.name}.json"))
        return None if found is None else found[0]

    @_translated
    def open(self, container: str, name: str) -> tuple[base.StoredObject, BinaryIO]:
        """Return an object and its content, to be closed; raises ObjectNotFound."""
        self.get(container, name)
        place = self._place(container, name)
        for _ in range(_READ_ATTEMPTS):
            found = _read(place.with_name(f"{place.name}.json"))
            if found is None:
                raise base.ObjectNotFound(container=container, name=name)
            with contextlib.suppress(FileNotFoundError):
                return found[0], open(place.with_name(found[1]), "rb")
        raise base.StorageError(reason=f"the content of {name} is missing")

    @_translated
    def list(
        self, container: str, *, prefix: str = "", marker: str = "", limit: int = base.MAX_LISTING
    ) -> Sequence[base.StoredObject]:
        """Return the objects after ``marker`` whose names begin with ``prefix``, in order."""
        base.check_names(container)
        found: list[base.StoredObject] = []
        wanted = (prefix.encode(), marker.encode())
        for path in _walk(self._find_objects(container), b"", *wanted) if limit > 0 else ():
            read = _read(path)
            if read is not None:
                found.append(read[0])
                if len(found) >= limit:
                    break
        return found

    @_translated
    def delete(self, container: str, name: str) -> bool:
        """Delete an object; returns whether there was one."""
        if self.find(container, name) is None:
            return False
        place = self._place(container, name)
        with self._locked(container):
            meta = place.with_name(f"{place.name}.json")
            existed = meta.exists()
            meta.unlink(missing_ok=True)
            for data in _contents(place):
                data.unlink(missing_ok=True)
            _sync(place.parent)
            self._remove_empty(container, place.parent)
        return existed

    def _remove_empty(self, container: str, directory: pathlib.Path) -> None:
        """Remove directories of a locked container that have nothing in them, upwards."""
        top = self._objects(container)
        with contextlib.suppress(OSError):
            while directory != top:
                with contextlib.suppress(FileNotFoundError):
                    directory.rmdir()
                directory = directory.parent

    @_translated
    def list_containers(self) -> Sequence[str]:
        """Return the names of all containers, in order."""
        try:
            names = [_decode(path.name) for path in self._directory.iterdir() if path.is_dir()]
        except FileNotFoundError:
            return []
        return [name.decode() for name in sorted(names)]

    @_translated
    def find_container(self, name: str) -> base.Container | None:
        """Return a container, None when there is none."""
        base.check_names(name)
        objects = self._find_objects(name)
        if objects is None:
            return None
        count = size_bytes = 0
        for path in _walk(objects, b"", b"", b""):
            read = _read(path)
            if read is not None:
                count += 1
                size_bytes += read[0].size_bytes
        return base.Container(name=name, count=count, size_bytes=size_bytes)

    # -- files and directories -----

    def _container(self, name: str) -> pathlib.Path:
        encoded = _encode(name.encode())
        if len(encoded) > _MAX_CONTAINER_FILE_NAME:
            raise _NameTooLong(reason="the name of the container is too long for this store")
        return self._directory / encoded

    def _place(self, container: str, name: str) -> pathlib.Path:
        return self._objects(container) / _place(name)

    def _objects(self, container: str) -> pathlib.Path:
        return self._container(container) / "objects"

    def _find_objects(self, container: str) -> pathlib.Path | None:
        """Return where the objects of a container are, None when there is no such container."""
        with contextlib.suppress(_NameTooLong):
            objects = self._objects(container)
            if objects.is_dir():
                return objects
        return None

    @contextlib.contextmanager
    def _locked(self, container: str) -> Iterator[None]:
        """Be the only writer of a container; makes it when it is missing."""
        self._make(self._objects(container))
        stream = self._create(self._container(container) / "lock", exclusive=False)
        with stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def _next_time(self, container: str) -> datetime.datetime:
        """Return a time later than that of every object of a locked container."""
        path = self._container(container) / "last_modified"
        now = datetime.datetime.now(datetime.UTC)
        with contextlib.suppress(FileNotFoundError, ValueError):
            last = datetime.datetime.fromisoformat(path.read_text(encoding="ascii"))
            now = max(now, last + datetime.timedelta(microseconds=1))
        self._replace(path, now.isoformat())
        return now

    def _make(self, directory: pathlib.Path) -> None:
        """Make a directory of the account with those above it, durably."""
        if directory.is_dir():
            return
        if directory != self._directory:
            self._make(directory.parent)
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
            self._give(directory)
            _sync(directory.parent)

    def _create(self, path: pathlib.Path, *, exclusive: bool = True) -> BinaryIO:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags | (os.O_EXCL if exclusive else 0), 0o600)
        self._give(descriptor)
        return open(descriptor, "wb")

    def _give(self, made: pathlib.Path | int) -> None:
        """Let what root made belong to who owns the account's parent: the service itself."""
        if os.geteuid() == 0:
            owner = self._directory.parent.stat()
            if owner.st_uid != 0:
                os.chown(made, owner.st_uid, owner.st_gid)

    def _replace(self, path: pathlib.Path, text: str) -> None:
        temporary = path.with_name(f"{path.name}.new")
        temporary.unlink(missing_ok=True)
        try:
            with self._create(temporary) as stream:
                stream.write(text.encode())
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync(path.parent)


def _contents(place: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield the contents of an object: the one that is named, and remains."""
    prefix = f"{place.name}."
    for path in place.parent.iterdir():
        if path.name.startswith(prefix) and path.name.endswith(".data"):
            yield path


def _write(stream: BinaryIO, content: Iterable[bytes]) -> tuple[int, str]:
    """Write a content durably; returns its size and its MD5."""
    digest = hashlib.md5(usedforsecurity=False)
    size_bytes = 0
    for chunk in content:
        stream.write(chunk)
        digest.update(chunk)
        size_bytes += len(chunk)
    stream.flush()
    os.fsync(stream.fileno())
    return size_bytes, digest.hexdigest()


def _read(path: pathlib.Path) -> tuple[base.StoredObject, str] | None:
    """Return an object and the name of its content from the file that describes it."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        stored = base.StoredObject(
            name=document["name"],
            size_bytes=document["size_bytes"],
            etag=document["etag"],
            modified=datetime.datetime.fromisoformat(document["modified"]),
            content_type=document["content_type"],
            metadata=document["metadata"],
        )
        return stored, str(document["data"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as e:
        raise base.StorageError(reason=f"{path} is damaged: delete the object") from e


def _walk(
    directory: pathlib.Path | None, above: bytes, prefix: bytes, marker: bytes
) -> Iterator[pathlib.Path]:
    """Yield the descriptions of objects below a directory, in order of the objects' names.

    ``above`` is what all these names begin with.
    """
    entries: list[tuple[bytes, bool, str]] = []
    if directory is None:
        return
    try:
        for entry in os.scandir(directory):
            stem, is_object = entry.name.removesuffix(".json"), entry.name.endswith(".json")
            kind = stem[-2:]
            if is_object and kind == _OBJECT:
                entries.append((_decode(stem[:-2]), False, entry.name))
            elif kind == _DIRECTORY:
                entries.append((_decode(stem[:-2]) + b"/", True, entry.name))
            elif kind == _CONTINUED:
                entries.append((_decode(stem[:-2]), True, entry.name))
    except FileNotFoundError:
        return
    for key, is_directory, file_name in sorted(entries):
        name = above + key
        if is_directory:
            is_wanted = name.startswith(prefix) or prefix.startswith(name)
            if is_wanted and (name > marker or marker.startswith(name)):
                yield from _walk(directory / file_name, name, prefix, marker)
        elif name.startswith(prefix) and name > marker:
            yield directory / file_name


def _sync(directory: pathlib.Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FilesystemStore(base.Store):
    """A directory with a directory for each project."""

    kind = "filesystem"

    def __init__(self, directory: pathlib.Path) -> None:
        """Use a directory; it is made when something is stored."""
        self._directory = directory.absolute()

    @classmethod
    def from_config(cls, conf: cfg.ConfigOpts) -> FilesystemStore:
        """Return the store of ``[storage] filesystem_directory``."""
        return cls(pathlib.Path(conf.storage.filesystem_directory))

    @_translated
    def _place(self, project_id: str) -> pathlib.Path:
        """Return the directory of a project; has the one above it."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self._directory / _encode(project_id.encode())

    def account(
        self, project_id: str, *, caller: context.RequestContext | None = None
    ) -> base.Account:
        """Return the account of a project."""
        return FilesystemAccount(self._place(project_id))

    def grant(
        self,
        project_id: str,
        *,
        container: str,
        prefix: str,
        caller: context.RequestContext | None = None,
        is_read_only: bool = False,
        names: Sequence[str] = (),
    ) -> Mapping[str, Any]:
        """Return the path of the project's directory."""
        return {"directory": str(self._place(project_id))}

    def service_project(self) -> str:
        """Return an id that no project has."""
        return base.SERVICE_PROJECT

    @staticmethod
    def open_grant(grant: Mapping[str, Any]) -> base.Account:
        """Return the account that a grant is for."""
        directory = grant.get("directory")
        if not isinstance(directory, str) or not os.path.isabs(directory):
            raise base.StorageError(reason="the grant names no directory")
        return FilesystemAccount(pathlib.Path(directory))
