"""A store in the memory of the test, which can be damaged and have bad days."""

from __future__ import annotations

import datetime
import hashlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, BinaryIO

import pytest

from tests.unit.guestagent.backup import making
from trove.guestagent.backup import place as places
from trove.rpc import payloads
from trove.storage import base, factory

_EPOCH = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
_BOX = "backups"
PREFIX = f"i/{making.BACKUP}/"


class MemoryAccount(base.Account):
    """The objects of one container; ``before`` is called for all that is asked of it."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.before: Callable[[str, str], None] = lambda action, name: None
        #: Changes what put says of an object, and what is kept of it.
        self.say: Callable[[base.StoredObject], base.StoredObject] = lambda stored: stored
        self.keep: Callable[[str, bytes], bytes | None] = lambda name, content: content
        self.opened: list[Mapping[str, Any]] = []

    def open_grant(self, grant: Mapping[str, Any]) -> base.Account:
        self.opened.append(grant)
        return self

    def put(
        self,
        container: str,
        name: str,
        content: Iterable[bytes],
        *,
        content_type: str = base.BINARY,
        metadata: Mapping[str, str] | None = None,
    ) -> base.StoredObject:
        self.before("put", name)
        sent = b"".join(content)
        kept = self.keep(name, sent)
        if kept is not None:
            self.objects[name] = kept
        return self.say(_describe(name, sent))

    def find(self, container: str, name: str) -> base.StoredObject | None:
        self.before("find", name)
        content = self.objects.get(name)
        return None if content is None else _describe(name, content)

    def open(self, container: str, name: str) -> tuple[base.StoredObject, BinaryIO]:
        self.before("open", name)
        if name not in self.objects:
            raise base.ObjectNotFound(container=container, name=name)
        content = self.objects[name]
        return _describe(name, content), io.BytesIO(content)

    def delete(self, container: str, name: str) -> bool:
        self.before("delete", name)
        return self.objects.pop(name, None) is not None

    def list(
        self, container: str, *, prefix: str = "", marker: str = "", limit: int = base.MAX_LISTING
    ) -> Sequence[base.StoredObject]:
        raise NotImplementedError

    def list_containers(self) -> Sequence[str]:
        raise NotImplementedError

    def find_container(self, name: str) -> base.Container | None:
        raise NotImplementedError


def _describe(name: str, content: bytes) -> base.StoredObject:
    etag = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return base.StoredObject(name=name, size_bytes=len(content), etag=etag, modified=_EPOCH)


def memory_storage(number: int = 0, *, valid_s: float | None = None) -> payloads.ObjectStorage:
    """Return a grant for the store in memory."""
    return payloads.ObjectStorage(
        kind="memory",
        account="p",
        container=_BOX,
        prefix=PREFIX,
        grant={"number": number},
        valid_s=valid_s,
    )


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> MemoryAccount:
    """Give an empty store that grants of the kind "memory" open."""
    made = MemoryAccount()
    monkeypatch.setitem(factory._OWN_GRANTS, "memory", made.open_grant)  # type: ignore[attr-defined]
    return made


def memory_place(*, patience_s: float = 0.0, **kwargs: Any) -> places.Place:
    """Return a place in the store in memory."""
    return places.Place(memory_storage(), patience_s=patience_s, first_pause_s=0.001, **kwargs)


def fail(times: int | None, *actions: str) -> Callable[[str, str], None]:
    """Return a bad day: the store fails so often at these actions, None: always."""
    left = [times]

    def before(action: str, name: str) -> None:
        if action in actions and (left[0] is None or left[0] > 0):
            if left[0] is not None:
                left[0] -= 1
            raise base.StorageError(reason="it answered 503")

    return before


__all__ = ["PREFIX", "MemoryAccount", "account", "fail", "memory_place", "memory_storage"]
