"""Keys: generation, wrapping under the operator's key-encryption keys, secret values.

All encryption is AES-256-GCM with a fresh 96-bit nonce and associated data that binds the
ciphertext to what it is for. There is no default key anywhere.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Sequence
from typing import final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from trove.common import exception

KEY_BYTES = 32
_NONCE_BYTES = 12


class DecryptionFailed(exception.TroveError):
    """The ciphertext was not made with this key for this purpose."""

    msg_fmt = "Decryption failed."
    code = "trove.decryption_failed"


def generate_key() -> bytes:
    """Return a new 256-bit key from the system's random source."""
    return secrets.token_bytes(KEY_BYTES)


def encode_key(key: bytes) -> str:
    """Return a key in the form used in configuration files (base64)."""
    return base64.b64encode(key).decode("ascii")


def decode_key(text: str) -> bytes:
    """Read a key from its configuration form.

    Raises ConfigurationError when it is not base64 of 32 bytes; the message does not show it.
    """
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise exception.ConfigurationError(
            reason="a key must be base64 of 32 bytes; make one with 'trove-manage key generate'"
        )
    return key


def encrypt(key: bytes, plaintext: bytes, *, associated_data: bytes) -> bytes:
    """Return nonce + ciphertext + tag of ``plaintext`` under a 32-byte key."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, associated_data)


def decrypt(key: bytes, blob: bytes, *, associated_data: bytes) -> bytes:
    """Return what :func:`encrypt` was given; raises DecryptionFailed for anything else."""
    if len(blob) < _NONCE_BYTES:
        raise DecryptionFailed()
    try:
        return AESGCM(key).decrypt(blob[:_NONCE_BYTES], blob[_NONCE_BYTES:], associated_data)
    except InvalidTag:
        raise DecryptionFailed() from None


@final
class KeyRing:
    """The operator's key-encryption keys: the first encrypts, all decrypt (for rotation)."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """Take the keys, newest first; raises ConfigurationError when there is none."""
        if not keys:
            raise exception.ConfigurationError(
                reason="[guest] key_encryption_keys is not set; make a key with"
                " 'trove-manage key generate' and put it in the configuration of every control"
                " process"
            )
        self._keys = tuple(keys)

    def __repr__(self) -> str:
        """Say how many keys there are, never which."""
        return f"<KeyRing of {len(self._keys)}>"

    @classmethod
    def from_config(cls, values: Sequence[str]) -> KeyRing:
        """Make a ring from the values of ``[guest] key_encryption_keys``."""
        return cls([decode_key(value) for value in values])

    def wrap(self, plaintext: bytes, *, purpose: str) -> bytes:
        """Encrypt for ``purpose``, e.g. ``instance-key:<id>``; the same purpose must unwrap it."""
        return encrypt(self._keys[0], plaintext, associated_data=purpose.encode())

    def derive(self, purpose: str) -> bytes:
        """Return a key for ``purpose``, always the same, that tells nothing of the first key."""
        return HKDF(
            algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=purpose.encode()
        ).derive(self._keys[0])

    def unwrap(self, blob: bytes, *, purpose: str) -> bytes:
        """Decrypt what was wrapped for ``purpose``; raises DecryptionFailed."""
        for key in self._keys:
            try:
                return decrypt(key, blob, associated_data=purpose.encode())
            except DecryptionFailed:
                continue
        raise DecryptionFailed()


def generate_password(length: int = 32) -> str:
    """Return a random password of ``length`` letters and digits."""
    alphabet = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"
    return "".join(secrets.choice(alphabet) for _ in range(length))
