"""A store of secrets, per project, for where there is no key manager: what a driver keeps itself.

Payloads are wrapped by the operator's key-encryption keys before they reach :class:`Shelf`, which
is all that tells a store in files from one in memory. Another project's secret does not exist.
"""

from __future__ import annotations

import abc
import base64
import contextlib
import dataclasses
import datetime
import json
import re
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trove.common import concurrency, crypto, exception
from trove.drivers import local_state

_REFERENCE = re.compile(
    r"(?:.*/secrets/)?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:/payload)?/?\Z", re.DOTALL
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    """What uses a secret."""

    service: str
    resource_type: str
    resource_id: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NewSecret:
    """A secret to keep; ``attributes`` are those that nobody but clients cares for."""

    payload: bytes = dataclasses.field(repr=False)
    content_type: str = "application/octet-stream"
    name: str | None = None
    creator_id: str | None = None
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A secret, without its payload."""

    id: str
    project_id: str
    name: str | None
    content_type: str
    creator_id: str | None
    created: datetime.datetime
    attributes: Mapping[str, Any]
    consumers: tuple[Consumer, ...]


def secret_id_of(ref: str) -> str:
    """Return the id in a reference: a URL that ends in /secrets/<id>, or an id.

    Raises SecretNotFound for anything else.
    """
    found = _REFERENCE.match(ref.lower())
    if found is None:
        raise exception.SecretNotFound(ref=ref[:200])
    return found.group(1)


class Shelf(abc.ABC):
    """Records by project and id; JSON objects, replaced as a whole."""

    @abc.abstractmethod
    def read(self, project_id: str, secret_id: str) -> dict[str, Any] | None:
        """Return a record, or None."""

    @abc.abstractmethod
    def write(self, project_id: str, secret_id: str, record: Mapping[str, Any]) -> None:
        """Replace a record."""

    @abc.abstractmethod
    def remove(self, project_id: str, secret_id: str) -> None:
        """Remove a record, if there is one."""

    @abc.abstractmethod
    def ids(self, project_id: str) -> Sequence[str]:
        """Return the ids of a project's records."""

    @abc.abstractmethod
    def lock(self, secret_id: str) -> contextlib.AbstractContextManager[None]:
        """Hold off other changes of a record."""


class MemoryShelf(Shelf):
    """Records in this process."""

    def __init__(self) -> None:
        """Begin empty."""
        self._records: dict[tuple[str, str], dict[str, Any]] = {}
        self._lock = threading.Lock()

    def read(self, project_id: str, secret_id: str) -> dict[str, Any] | None:
        """Return a record, or None."""
        return self._records.get((project_id, secret_id))

    def write(self, project_id: str, secret_id: str, record: Mapping[str, Any]) -> None:
        """Replace a record."""
        self._records[project_id, secret_id] = dict(record)

    def remove(self, project_id: str, secret_id: str) -> None:
        """Remove a record, if there is one."""
        self._records.pop((project_id, secret_id), None)

    def ids(self, project_id: str) -> Sequence[str]:
        """Return the ids of a project's records."""
        return [secret_id for owner, secret_id in self._records if owner == project_id]

    @contextlib.contextmanager
    def lock(self, secret_id: str) -> Iterator[None]:
        """Hold off other changes."""
        with self._lock:
            yield


class FileShelf(Shelf):
    """Records as files (0600) of the state directory, in a directory a project."""

    def __init__(self, state: local_state.LocalState) -> None:
        """Use a state directory; nothing is made before it is needed."""
        self._state = state

    def _directory(self, project_id: str) -> str:
        # a project's id may hold anything
        name = base64.urlsafe_b64encode(project_id.encode()).decode().rstrip("=")
        return f"secrets/p{name[:200]}"

    def read(self, project_id: str, secret_id: str) -> dict[str, Any] | None:
        """Return a record, or None."""
        path = self._state.root / self._directory(project_id) / f"{secret_id}.json"
        record = local_state.read_json(path)
        return record if record is not None and record.get("project_id") == project_id else None

    def write(self, project_id: str, secret_id: str, record: Mapping[str, Any]) -> None:
        """Replace a record."""
        self._state.directory("secrets")
        path = self._state.directory(self._directory(project_id)) / f"{secret_id}.json"
        with local_state.told(path):
            local_state.replace(path, json.dumps(record))

    def remove(self, project_id: str, secret_id: str) -> None:
        """Remove a record, if there is one."""
        path = self._state.root / self._directory(project_id) / f"{secret_id}.json"
        with local_state.told(path):
            path.unlink(missing_ok=True)

    def ids(self, project_id: str) -> Sequence[str]:
        """Return the ids of a project's records."""
        found = local_state.names(self._state.root / self._directory(project_id))
        return [name.removesuffix(".json") for name in found if name.endswith(".json")]

    def lock(self, secret_id: str) -> contextlib.AbstractContextManager[None]:
        """Hold off other changes, of other processes too."""
        return self._state.lock(f"secret:{secret_id}")


class SecretStore:
    """Secrets of projects and who uses them."""

    def __init__(self, shelf: Shelf, *, key_ring: crypto.KeyRing, clock: concurrency.Clock) -> None:
        """Take where records go and what wraps them."""
        self._shelf = shelf
        self._key_ring = key_ring
        self._clock = clock

    def create(self, project_id: str, new: NewSecret) -> Secret:
        """Keep a secret."""
        secret_id = str(uuid.uuid4())
        wrapped = self._key_ring.wrap(new.payload, purpose=_purpose(project_id, secret_id))
        record: dict[str, Any] = {
            "project_id": project_id,
            "name": new.name,
            "content_type": new.content_type,
            "creator_id": new.creator_id,
            "created": self._clock.now().isoformat(),
            "attributes": dict(new.attributes),
            "consumers": [],
            "payload": base64.b64encode(wrapped).decode("ascii"),
        }
        self._shelf.write(project_id, secret_id, record)
        return _secret(secret_id, record)

    def get(self, project_id: str, ref: str) -> Secret:
        """Return a secret of the project by reference or id; raises SecretNotFound."""
        secret_id = secret_id_of(ref)
        return _secret(secret_id, self._record(project_id, secret_id))

    def get_payload(self, project_id: str, ref: str) -> bytes:
        """Return the payload; raises SecretNotFound, DriverError."""
        secret_id = secret_id_of(ref)
        record = self._record(project_id, secret_id)
        try:
            return self._key_ring.unwrap(
                base64.b64decode(record["payload"]), purpose=_purpose(project_id, secret_id)
            )
        except crypto.DecryptionFailed:
            raise exception.DriverError(
                service="Secret store",
                reason=f"secret {secret_id} was wrapped by a key that is not in [guest]"
                " key_encryption_keys any more",
            ) from None

    def list_page(
        self, project_id: str, *, limit: int, offset: int = 0, name: str | None = None
    ) -> tuple[Sequence[Secret], int]:
        """Return some of a project's secrets, oldest first, and how many there are."""
        secrets = []
        for secret_id in self._shelf.ids(project_id):
            record = self._shelf.read(project_id, secret_id)
            if record is not None and name in (None, record["name"]):
                secrets.append(_secret(secret_id, record))
        secrets.sort(key=lambda secret: (secret.created, secret.id))
        return secrets[offset : offset + limit], len(secrets)

    def delete(self, project_id: str, ref: str, *, force: bool = True) -> None:
        """Remove a secret; raises SecretNotFound, and SecretInUse unless ``force``."""
        secret_id = secret_id_of(ref)
        with self._shelf.lock(secret_id):
            record = self._record(project_id, secret_id)
            if record["consumers"] and not force:
                raise exception.SecretInUse(ref=secret_id)
            self._shelf.remove(project_id, secret_id)

    def add_consumer(self, project_id: str, ref: str, consumer: Consumer) -> Secret:
        """Note that something uses a secret, once; raises SecretNotFound."""
        return self._change_consumers(project_id, ref, consumer, is_used=True)

    def remove_consumer(self, project_id: str, ref: str, consumer: Consumer) -> Secret:
        """Note that something uses a secret no more; raises SecretNotFound."""
        return self._change_consumers(project_id, ref, consumer, is_used=False)

    def _change_consumers(
        self, project_id: str, ref: str, consumer: Consumer, *, is_used: bool
    ) -> Secret:
        secret_id = secret_id_of(ref)
        entry = dataclasses.asdict(consumer)
        with self._shelf.lock(secret_id):
            record = dict(self._record(project_id, secret_id))
            others = [each for each in record["consumers"] if each != entry]
            record["consumers"] = [*others, entry] if is_used else others
            self._shelf.write(project_id, secret_id, record)
        return _secret(secret_id, record)

    def _record(self, project_id: str, secret_id: str) -> Mapping[str, Any]:
        record = self._shelf.read(project_id, secret_id)
        if record is None:
            raise exception.SecretNotFound(ref=secret_id)
        return record


def _purpose(project_id: str, secret_id: str) -> str:
    return f"secret:{project_id}:{secret_id}"


def _secret(secret_id: str, record: Mapping[str, Any]) -> Secret:
    return Secret(
        id=secret_id,
        project_id=record["project_id"],
        name=record["name"],
        content_type=record["content_type"],
        creator_id=record["creator_id"],
        created=datetime.datetime.fromisoformat(record["created"]),
        attributes=record["attributes"],
        consumers=tuple(Consumer(**entry) for entry in record["consumers"]),
    )
