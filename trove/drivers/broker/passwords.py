"""Passwords as RabbitMQ stores them."""

from __future__ import annotations

import base64
import hashlib
import secrets

#: What the broker calls it.
HASHING_ALGORITHM = "rabbit_password_hashing_sha256"
_SALT_BYTES = 4


def password_hash(password: str) -> str:
    """Return RabbitMQ's salted SHA-256 form (https://www.rabbitmq.com/docs/passwords)."""
    salt = secrets.token_bytes(_SALT_BYTES)
    digest = hashlib.sha256(salt + password.encode()).digest()
    return base64.b64encode(salt + digest).decode("ascii")
