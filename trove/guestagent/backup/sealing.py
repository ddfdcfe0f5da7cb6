"""Sealing: a stream as chunks that cannot be changed, exchanged, moved, left out or added to.

Each chunk is AES-256-GCM by a key of its own stream (HKDF of the data key and what the stream is,
with something random in it: a stream that is made again has another key), so that the number of the
chunk can be the nonce. The associated data are the stream, the number and whether it is the last. A
sealed chunk has :data:`SEALED_BYTES`; only the last may have fewer, down to the tag alone.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from trove.common import crypto, exception

FORMAT = 1
#: Size of a chunk as it is stored, and of what is in it.
SEALED_BYTES = 1024 * 1024
TAG_BYTES = 16
CHUNK_BYTES = SEALED_BYTES - TAG_BYTES
_NONCE_BYTES = 12


class SealBroken(exception.TroveError):
    """The chunk is not the one that was sealed."""

    msg_fmt = "chunk {number} is not what was stored there, or this is not the key"
    code = "trove.seal_broken"


class Cipher:
    """The key of one stream: seals and opens its chunks by their numbers."""

    def __init__(self, key: bytes, stream: str) -> None:
        """Take the data key, and what the stream is; no other stream may be called so."""
        if len(key) != crypto.KEY_BYTES:
            raise ValueError("a data key has 32 bytes")
        derived = HKDF(
            algorithm=hashes.SHA256(), length=crypto.KEY_BYTES, salt=None, info=stream.encode()
        ).derive(key)
        self._aead = AESGCM(derived)
        self._stream = f"trove backup {FORMAT}:{stream}".encode()

    def seal(self, chunk: bytes | bytearray | memoryview, number: int, *, is_last: bool) -> bytes:
        """Return a chunk sealed; no number may be used twice."""
        return self._aead.encrypt(_nonce(number), chunk, self._associated(number, is_last))

    def open(self, sealed: bytes | memoryview, number: int, *, is_last: bool) -> bytes:
        """Return what was sealed; raises SealBroken."""
        try:
            return self._aead.decrypt(_nonce(number), sealed, self._associated(number, is_last))
        except InvalidTag:
            raise SealBroken(number=number) from None

    def _associated(self, number: int, is_last: bool) -> bytes:
        return b"%s:%d:%d" % (self._stream, number, is_last)


def _nonce(number: int) -> bytes:
    return number.to_bytes(_NONCE_BYTES, "big")


class Sealer:
    """Seals a stream as it comes."""

    def __init__(self, cipher: Cipher) -> None:
        """Begin with chunk 0."""
        self._cipher = cipher
        self._number = 0
        self._pending = bytearray()

    def add(self, content: bytes) -> list[bytes]:
        """Take some of the stream; return the chunks that are full and not the last."""
        self._pending += content
        sealed = []
        start, end = 0, len(self._pending)
        with memoryview(self._pending) as view:
            while end - start > CHUNK_BYTES:
                with view[start : start + CHUNK_BYTES] as chunk:
                    sealed.append(self._seal(chunk, is_last=False))
                start += CHUNK_BYTES
        del self._pending[:start]
        return sealed

    def finish(self) -> bytes:
        """Return the last chunk."""
        return self._seal(self._pending, is_last=True)

    def _seal(self, chunk: bytearray | memoryview, *, is_last: bool) -> bytes:
        sealed = self._cipher.seal(chunk, self._number, is_last=is_last)
        self._number += 1
        return sealed
