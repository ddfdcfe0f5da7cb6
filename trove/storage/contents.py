"""The content of an object on its way to a store, and the body of an answer on its way back.

Nothing but the standard library, since guests use it too.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

from trove.storage import base

_PIECE_BYTES = 256 * 1024


def content_type_of(text: str) -> str:
    """Return a content type in one form: listings leave out the space before a parameter."""
    return "; ".join(part.strip() for part in text.split(";"))


class Whole(Iterable[bytes]):
    """A content that is in memory as a whole: who sends it need not gather it first.

    It may be sent again and again, and must not change as long as it is.
    """

    def __init__(
        self, content: bytes | memoryview, *, check: Callable[[], object] = lambda: None
    ) -> None:
        """Take it; ``check`` is called before each piece, and may raise."""
        self._content = memoryview(content)
        self._check = check
        self.size_bytes = len(content)
        digest = hashlib.md5(content, usedforsecurity=False)
        self.etag = digest.hexdigest()
        #: As the header of that name has it.
        self.content_md5 = base64.b64encode(digest.digest()).decode()

    def __iter__(self) -> Iterator[bytes]:
        """Yield it in pieces."""
        for start in range(0, self.size_bytes, _PIECE_BYTES):
            self._check()
            yield bytes(self._content[start : start + _PIECE_BYTES])


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
