"""What Swift's object requests look like, whoever sends them: paths, headers, bodies.

Nothing but the standard library, since guests send them too.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from trove.common import exception
from trove.storage import base

#: Bytes up to which an object is put in one request whose length and digest Swift checks.
DIRECT_BYTES = 8 * 1024 * 1024
_META = "x-object-meta-"
#: Part of the names of metadata that Swift shows to holders of a TempURL, too.
_PUBLIC = "public-"
_CONTENT_MD5 = "trove-md5"
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def check_names(container: str, name: str | None = None) -> None:
    """Raise BadRequest unless a container and an object may be called so.

    ``.`` and ``..`` as segments are refused: clients and proxies resolve them on the way.
    """
    base.check_names(container, name)
    if {".", ".."} & {container, *(name or "").split("/")} or "\0" in f"{container}{name}":
        raise exception.BadRequest(
            reason="a name in Swift must have neither . nor .. between slashes, and no NUL"
        )


def quote(container: str, name: str | None = None) -> str:
    """Return the end of an object's or a container's URL, with the slash in front."""
    text = f"/{urllib.parse.quote(container, safe='')}"
    return text if name is None else f"{text}/{urllib.parse.quote(name, safe='/')}"


def metadata_headers(metadata: Mapping[str, str], *, is_public: bool = False) -> dict[str, str]:
    """Return the headers that carry metadata; what is not printable ASCII is percent-encoded.

    With ``is_public`` the metadata are visible through a TempURL as well.
    """
    headers = {}
    for key, value in metadata.items():
        encoded = urllib.parse.quote(value, safe=_PRINTABLE)
        name = urllib.parse.quote(key, safe="")
        headers[f"{_META}{name}"] = encoded
        if is_public:
            headers[f"{_META}{_PUBLIC}{name}"] = encoded
    return headers


def md5_header(digest: str) -> dict[str, str]:
    """Return the header that keeps the MD5 of an object in segments."""
    return {f"{_META}{_CONTENT_MD5}": digest}


def object_of(name: str, headers: Mapping[str, str]) -> base.StoredObject:
    """Return an object by the headers of an answer; raises StorageError."""
    lowered = {key.lower(): value for key, value in headers.items()}
    metadata = {
        urllib.parse.unquote(key.removeprefix(_META)): urllib.parse.unquote(value)
        for key, value in lowered.items()
        if key.startswith(_META)
    }
    etag = metadata.pop(_CONTENT_MD5, None) or lowered.get("etag", "").strip('"')
    public = {key: metadata.pop(key) for key in list(metadata) if key.startswith(_PUBLIC)}
    for key, value in public.items():
        metadata.setdefault(key.removeprefix(_PUBLIC), value)
    try:
        microseconds = round(float(lowered["x-timestamp"]) * 1_000_000)
        return base.StoredObject(
            name=name,
            size_bytes=int(lowered["content-length"]),
            etag=etag,
            modified=_EPOCH + datetime.timedelta(microseconds=microseconds),
            content_type=content_type_of(lowered.get("content-type", base.BINARY)),
            metadata=metadata,
        )
    except (KeyError, ValueError) as e:
        raise base.StorageError(reason=f"its answer is not Swift's ({e})") from e


def content_type_of(text: str) -> str:
    """Return a content type in one form: listings leave out the space before a parameter."""
    return "; ".join(part.strip() for part in text.split(";"))


def is_large(headers: Mapping[str, str]) -> bool:
    """Tell whether an object is one of several segments."""
    return any(
        key.lower() == "x-static-large-object" and value.lower() == "true"
        for key, value in headers.items()
    )


class Content:
    """The content of an object on its way, in pieces of any size: how much there was, its MD5."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        """Take the chunks; none is asked for yet."""
        self._chunks = iter(chunks)
        self._rest = b""
        self.size_bytes = 0
        self._digest = hashlib.md5(usedforsecurity=False)

    @property
    def etag(self) -> str:
        """The MD5 of what was given out until now."""
        return self._digest.hexdigest()

    def _next(self, most: int) -> bytes:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._rest = bytes(chunk)
        piece, self._rest = self._rest[:most], self._rest[most:]
        self.size_bytes += len(piece)
        self._digest.update(piece)
        return piece

    def take(self, most: int) -> bytes:
        """Return the next bytes, fewer than ``most`` only at the end."""
        taken = io.BytesIO()
        while (left := most - taken.tell()) and (piece := self._next(left)):
            taken.write(piece)
        return taken.getvalue()

    def is_over(self) -> bool:
        """Tell whether all was given out."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return True
            self._rest = bytes(chunk)
        return False

    def pieces(self, first: bytes, most: int) -> Iterator[bytes]:
        """Yield ``first``, which was taken already, and what follows up to ``most`` bytes more."""
        if first:
            yield first
        left = most
        while left and (piece := self._next(left)):
            left -= len(piece)
            yield piece


class _Body(io.RawIOBase):
    """What is left of an answer, to be read once."""

    def __init__(
        self, read: Callable[[int], bytes], close: Callable[[], object], size_bytes: int
    ) -> None:
        super().__init__()
        self._read = read
        self._close = close
        self._left = size_bytes

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read some bytes; raises StorageError when the answer breaks off."""
        piece = self._read(min(len(buffer), self._left)) if self._left else b""
        if not piece and self._left:
            raise base.StorageError(reason="its answer broke off")
        buffer[: len(piece)] = piece
        self._left -= len(piece)
        return len(piece)

    def close(self) -> None:
        """Let go of the connection."""
        if not self.closed:
            self._close()
        super().close()


def body(read: Callable[[int], bytes], close: Callable[[], object], size_bytes: int) -> BinaryIO:
    """Return the content of an answer as a file to be closed.

    ``read`` raises StorageError for what goes wrong.
    """
    return io.BufferedReader(_Body(read, close, size_bytes))
