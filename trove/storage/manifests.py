"""What a backup is made of: the object that is stored last, and makes its segments a backup.

The guest writes it and reads it again; the control plane reads it to tell a backup from its objects
alone. Reading is strict: what was not written by :meth:`Manifest.to_json` is refused. ``mac``
proves that who wrote it had the backup's data key.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from trove import states
from trove.common import exception

#: Name of the object, below the backup's prefix.
MANIFEST_NAME = "manifest.json"
FORMAT = 1
#: Longest manifest that is read: that of some millions of segments.
MOST_BYTES = 1 << 28

_ATTEMPT = re.compile(r"[0-9a-f]{16}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ManifestError(exception.TroveError):
    """It is no manifest, or not the one of this backup."""

    msg_fmt = "The manifest of the backup is refused: {reason}"
    code = "trove.manifest"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """An object with a part of the backup; ``name`` is below the backup's prefix."""

    name: str
    size: int
    sha256: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveStart:
    """Where the log goes on from a backup: at this piece of this epoch."""

    epoch: str
    sequence: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A backup. ``facts`` are the engine's, ``about`` the control plane's.

    ``wrapped_key`` is base64 of the data key, wrapped by the operator's key for the purpose
    ``backup:<backup_id>``. ``mac`` is empty until :meth:`signed`.
    """

    backup_id: str
    attempt: str
    kind: states.BackupKind
    manager: str
    engine_version: str
    facts: Mapping[str, Any]
    began: datetime.datetime
    completed: datetime.datetime
    data_bytes: int
    stored_bytes: int
    segments: tuple[Segment, ...]
    wrapped_key: str
    parent_id: str | None = None
    archive: ArchiveStart | None = None
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    mac: str = ""

    def to_json(self) -> bytes:
        """Return the content of the object: always the same for the same manifest."""
        return _encode(self._document() | {"mac": self.mac})

    @property
    def sha256(self) -> str:
        """The digest of the object, in hex."""
        return hashlib.sha256(self.to_json()).hexdigest()

    @classmethod
    def from_json(cls, content: bytes) -> Manifest:
        """Read the content of the object; raises ManifestError."""
        if len(content) > MOST_BYTES:
            raise ManifestError(reason="it is too large")
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            raise ManifestError(reason="it is not JSON") from None
        try:
            manifest = _read(document)
            is_as_written = manifest.to_json() == content
        except (KeyError, TypeError, ValueError, RecursionError) as e:
            raise ManifestError(reason=f"it is damaged ({type(e).__name__}: {e})") from None
        if not is_as_written:
            raise ManifestError(reason="it is not as it was written")
        return manifest

    def signed(self, key: bytes) -> Manifest:
        """Return the manifest with the MAC by the backup's data key."""
        return dataclasses.replace(self, mac=self._mac(key))

    def check(self, key: bytes) -> None:
        """Raise ManifestError unless it was written by who had this data key."""
        if not hmac.compare_digest(self.mac, self._mac(key)):
            raise ManifestError(reason="it was changed, or this is not the key of the backup")

    def _mac(self, key: bytes) -> str:
        derived = HKDF(
            algorithm=hashes.SHA256(), length=32, salt=None, info=b"trove backup manifest"
        ).derive(key)
        return hmac.new(derived, _encode(self._document()), hashlib.sha256).hexdigest()

    def _document(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "backup_id": self.backup_id,
            "attempt": self.attempt,
            "kind": self.kind.value,
            "parent_id": self.parent_id,
            "manager": self.manager,
            "engine_version": self.engine_version,
            "about": dict(self.about),
            "facts": dict(self.facts),
            "archive": None if self.archive is None else dataclasses.asdict(self.archive),
            "began": self.began.isoformat(),
            "completed": self.completed.isoformat(),
            "data_bytes": self.data_bytes,
            "stored_bytes": self.stored_bytes,
            "segments": [
                {"name": each.name, "size": each.size, "sha256": each.sha256}
                for each in self.segments
            ],
            "wrapped_key": self.wrapped_key,
        }


def segment_name(attempt: str, number: int) -> str:
    """Return the name of a segment, below the backup's prefix."""
    return f"{attempt}/{number:08d}"


def _encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, allow_nan=False).encode()


def _read(document: Any) -> Manifest:
    """Return the manifest of a JSON document; KeyError, TypeError or ValueError say it is none."""
    if not isinstance(document, dict):
        raise TypeError("it is no object")
    if document["format"] != FORMAT:
        raise ValueError(f"format {str(document['format'])[:20]} is not known here")
    attempt = _matching(document, "attempt", _ATTEMPT)
    segments = tuple(
        Segment(
            name=_text(each, "name"),
            size=_count(each, "size"),
            sha256=_matching(each, "sha256", _SHA256),
        )
        for each in document["segments"]
    )
    if not segments:
        raise ValueError("there are no segments")
    for number, segment in enumerate(segments):
        if segment.name != segment_name(attempt, number) or not segment.size:
            raise ValueError(f"segment {number} is not in its place")
    stored_bytes = _count(document, "stored_bytes")
    if stored_bytes != sum(segment.size for segment in segments):
        raise ValueError("its segments are not as large as it says")
    wrapped_key = _text(document, "wrapped_key")
    try:
        base64.b64decode(wrapped_key, validate=True)
    except binascii.Error:
        raise ValueError("wrapped_key is not base64") from None
    archive = document["archive"]
    parent_id = document["parent_id"]
    return Manifest(
        backup_id=_text(document, "backup_id"),
        attempt=attempt,
        kind=states.BackupKind(document["kind"]),
        parent_id=None if parent_id is None else _text(document, "parent_id"),
        manager=_text(document, "manager"),
        engine_version=_text(document, "engine_version"),
        about=_object(document, "about"),
        facts=_object(document, "facts"),
        archive=None
        if archive is None
        else ArchiveStart(epoch=_text(archive, "epoch"), sequence=_count(archive, "sequence")),
        began=_time(document, "began"),
        completed=_time(document, "completed"),
        data_bytes=_count(document, "data_bytes"),
        stored_bytes=stored_bytes,
        segments=segments,
        wrapped_key=wrapped_key,
        mac=_matching(document, "mac", _SHA256),
    )


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is no text")
    return value


def _matching(document: Mapping[str, Any], name: str, pattern: re.Pattern[str]) -> str:
    value = _text(document, name)
    if pattern.fullmatch(value) is None:
        raise ValueError(f"{name} is none")
    return value


def _count(document: Mapping[str, Any], name: str) -> int:
    value = document[name]
    if type(value) is not int or value < 0:
        raise TypeError(f"{name} is no count")
    return value


def _object(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = document[name]
    if not isinstance(value, dict):
        raise TypeError(f"{name} is no object")
    return value


def _time(document: Mapping[str, Any], name: str) -> datetime.datetime:
    value = datetime.datetime.fromisoformat(_text(document, name))
    if value.utcoffset() != datetime.timedelta(0):
        raise ValueError(f"{name} is not UTC")
    return value
