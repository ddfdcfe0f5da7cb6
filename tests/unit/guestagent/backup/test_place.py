"""Objects of a place: found, read within bounds, told apart from a store that fails."""

from __future__ import annotations

import io
from typing import BinaryIO

import pytest

from tests.unit.guestagent.backup.stores import (
    PREFIX,
    MemoryAccount,
    account,
    fail,
    memory_place,
)
from trove.common import exception
from trove.guestagent.backup import place as places
from trove.storage import base as storage

__all__ = ["account"]


def test_what_is_not_there_is_told_from_a_store_that_fails(account: MemoryAccount) -> None:
    place = memory_place()
    assert place.find("a") is None
    assert place.find_content("a", most_bytes=10) is None
    assert not place.delete("a")
    with pytest.raises(exception.GuestError, match=f"backups/{PREFIX}a is missing") as caught:
        place.get("a", most_bytes=10)
    assert not isinstance(caught.value, places.StorageFailed)
    account.before = fail(None, "find", "open", "delete", "put")
    for call in (
        lambda: place.find("a"),
        lambda: place.get("a", most_bytes=10),
        lambda: place.delete("a"),
        lambda: place.put("a", b""),
    ):
        with pytest.raises(places.StorageFailed, match=f"backups/{PREFIX}a: it answered 503"):
            call()


def test_object_that_is_gone_right_after_it_was_put_was_not_put(account: MemoryAccount) -> None:
    def before(action: str, name: str) -> None:
        raise storage.ObjectNotFound(container="backups", name=name)

    account.before = before
    with pytest.raises(places.StorageFailed, match="does not have it"):
        memory_place().put("a", b"content")


def test_object_is_read_up_to_its_size(account: MemoryAccount) -> None:
    place = memory_place()
    stored = place.put("a", memoryview(b"content"))
    assert place.find("a") == stored
    assert place.get("a", most_bytes=7) == b"content"
    with pytest.raises(exception.GuestError, match="7 bytes, more than the 6"):
        place.get("a", most_bytes=6)


@pytest.mark.parametrize("content", [b"", b"conten", b"contents and more"])
def test_answer_of_another_size_is_none(
    account: MemoryAccount, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    place = memory_place()
    stored = place.put("a", b"content")

    def open_(container: str, name: str) -> tuple[storage.StoredObject, BinaryIO]:
        return stored, io.BytesIO(content)

    monkeypatch.setattr(account, "open", open_)
    with pytest.raises(places.StorageFailed, match="of the 7 there are"):
        place.get("a", most_bytes=7)
