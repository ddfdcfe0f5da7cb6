"""What Swift alone does, shown on a real one: rights, signed URLs, segments, logs for clients."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import time
import types
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import swiftclient
from troveclient.v1 import instances as troveclient_instances

from tests.fixtures.swift import PROJECT, Swift, swift
from tests.fixtures.tokens import make_token
from trove.common import concurrency, context, exception
from trove.guestagent.logs import publisher, stream
from trove.rpc import payloads
from trove.storage import base, tempurl
from trove.storage.swift import SwiftStore

__all__ = ["swift"]

_BOX = "database_logs"


@pytest.fixture
def project() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def store(swift: Swift, tmp_path: pathlib.Path) -> SwiftStore:
    return swift.make_store(tmp_path)


def _caller(project: str, *roles: str) -> context.RequestContext:
    token = make_token(project_id=project, user_id="ann", roles=roles or ("member",))
    return context.RequestContext(project_id=project, auth_token=token, overwrite=False)


def _client(swift: Swift, project: str) -> swiftclient.Connection:
    """Return a user's own client."""
    token = make_token(project_id=project, user_id="ann")
    return swiftclient.Connection(
        preauthurl=f"{swift.url}/v1/AUTH_{project}", preauthtoken=token, retries=0
    )


def _large() -> Iterator[bytes]:
    for number in range(20):
        yield bytes([number]) * (1 << 17)


def test_large_object_is_put_in_segments_that_go_with_it(store: SwiftStore, project: str) -> None:
    account = store.account(project)
    put = account.put("b", "big", _large(), metadata={"kind": "full"})
    assert put.size_bytes == 20 << 17
    assert put.etag == hashlib.md5(b"".join(_large()), usedforsecurity=False).hexdigest()
    assert put.metadata == {"kind": "full"}
    segments = account.list("b_segments")
    assert [each.size_bytes >> 19 for each in segments] == [2, 2, 1]
    (listed,) = account.list("b")
    assert (listed.name, listed.size_bytes) == ("big", 20 << 17)
    found, content = account.open("b", "big")
    with content:
        assert content.read() == b"".join(_large())
    assert found == put
    account.put("b", "big", _large())
    replaced = {each.name for each in account.list("b_segments")}
    assert len(replaced) == 3
    assert not replaced & {each.name for each in segments}
    account.put("b", "big", [b"small"])
    assert account.list("b_segments") == []
    account.put("b", "big", _large())
    assert account.delete("b", "big")
    assert account.list("b_segments") == []


def test_content_that_breaks_off_is_no_whole_object(store: SwiftStore, project: str) -> None:
    account = store.account(project)
    account.put("b", "big", _large())
    account.delete("b_segments", account.list("b_segments")[-1].name)

    def read() -> None:
        _, content = account.open("b", "big")
        with content:
            content.read()

    with pytest.raises(base.StorageError):
        read()


def test_service_without_the_role_reaches_its_callers_objects_only(
    swift: Swift, tmp_path: pathlib.Path, project: str
) -> None:
    store = SwiftStore(swift.make_conf(tmp_path, roles=["member"]))
    with pytest.raises(base.StorageError, match=r"403 \(request tx.*reseller admin"):
        store.account(project).put(_BOX, "x", [b""])
    caller = _caller(project)
    store.account(project, caller=caller).put(_BOX, "x", [b"mine"])
    # the rights of a caller do not reach beyond the caller's project
    with pytest.raises(base.StorageError, match="403"):
        store.account(uuid.uuid4().hex, caller=caller).list(_BOX)
    with pytest.raises(base.StorageError, match="403"):
        store.account(project, caller=_caller(project, "reader")).put(_BOX, "x", [b""])
    granted = tempurl.open_grant(store.grant(project, container=_BOX, prefix="x", caller=caller))
    assert granted.get(_BOX, "x").size_bytes == 4


def test_grant_is_for_names_below_its_prefix(store: SwiftStore, project: str) -> None:
    account = store.account(project)
    for name in ("i1/log", "i2/log"):
        account.put(_BOX, name, [b"x"])
    grant = dict(store.grant(project, container=_BOX, prefix="i1/"))
    granted = tempurl.open_grant(grant)
    assert granted.get(_BOX, "i1/log").size_bytes == 1
    with pytest.raises(base.StorageError, match="not below"):
        granted.get(_BOX, "i2/log")
    assert not granted.can_list
    for ask in (lambda: granted.list(_BOX), granted.list_containers):
        with pytest.raises(base.StorageError):
            ask()
    # what a guest makes of its grant: Swift itself refuses
    for changed in (
        {"prefix": "i2/"},
        {"prefix": ""},
        {"container": "other"},
        {"expires": grant["expires"] + 1},
        {"signatures": {**grant["signatures"], "GET": grant["signatures"]["PUT"]}},
        {"account_path": "/v1/AUTH_service"},
    ):
        forged = tempurl.open_grant(grant | changed)
        name = "i2/log" if changed.get("prefix") is not None else "i1/log"
        with pytest.raises(base.StorageError, match="expired"):
            forged.open(str(changed.get("container", _BOX)), name)


def test_grant_ends(store: SwiftStore, project: str) -> None:
    account = store.account(project)
    account.put(_BOX, "i/log", [b"x"])
    expires = int(time.time()) - 1
    grant = dict(store.grant(project, container=_BOX, prefix="i/"))
    key = store._ring.derive(f"temp-url:{project}:{_BOX}").hex()
    path = f"/v1/AUTH_{project}/{_BOX}/i/"
    grant |= {
        "expires": expires,
        "signatures": {
            method: tempurl.sign(key, method, path=path, expires=expires)
            for method in tempurl.METHODS
        },
    }
    with pytest.raises(base.StorageError, match="expired"):
        tempurl.open_grant(grant).get(_BOX, "i/log")


def test_grant_leaves_a_users_own_key_and_holds_no_credential(
    swift: Swift, store: SwiftStore, project: str
) -> None:
    client = _client(swift, project)
    client.put_container(_BOX, {"X-Container-Meta-Temp-URL-Key": "mine"})
    grant = store.grant(project, container=_BOX, prefix="i/")
    assert client.head_container(_BOX)["x-container-meta-temp-url-key"] == "mine"
    token = store._conf.service_credentials.token
    key = client.head_container(_BOX)["x-container-meta-temp-url-key-2"]
    assert token not in str(grant)
    assert key not in str(grant)
    assert str(grant["signatures"]) not in repr(tempurl.Grant.from_wire(grant))


def test_guests_read_what_the_service_keeps_and_cannot_change_it(store: SwiftStore) -> None:
    own = store.service_project()
    assert own == PROJECT
    name = f"bundle-{uuid.uuid4()}"
    store.account(own).put("bundles", name, [b"whole"])
    grant = dict(store.grant(own, container="bundles", prefix=name, is_read_only=True))
    assert list(grant["signatures"]) == ["GET"]
    granted = tempurl.open_grant(grant)
    _, content = granted.open("bundles", name)
    with content:
        assert content.read() == b"whole"
    with pytest.raises(base.StorageError, match="read only"):
        granted.put("bundles", name, [b"forged"])
    reading = grant["signatures"]["GET"]
    forged = tempurl.open_grant(grant | {"signatures": dict.fromkeys(tempurl.METHODS, reading)})
    for change in (
        lambda: forged.put("bundles", name, [b"forged"]),
        lambda: forged.delete("bundles", name),
    ):
        with pytest.raises(base.StorageError, match="expired"):
            change()
    assert store.account(own).get("bundles", name).size_bytes == 5


@pytest.mark.parametrize("change", [{"url": "file:///etc"}, {"signatures": {}}, {"expires": "1"}])
def test_what_is_no_grant_opens_nothing(change: dict[str, Any]) -> None:
    grant = {
        "url": "http://127.0.0.1:1",
        "account_path": "/v1/AUTH_p",
        "container": "c",
        "prefix": "p",
        "expires": 1,
        "signatures": dict.fromkeys(tempurl.METHODS, "0"),
        "ca_pem": None,
    }
    account = tempurl.open_grant(grant)
    with pytest.raises(base.StorageError, match="cannot be reached"):
        account.find("c", "p")
    with pytest.raises(base.StorageError, match="none for Swift"):
        tempurl.open_grant(grant | change)


def test_store_that_is_down_is_told(swift: Swift, tmp_path: pathlib.Path) -> None:
    down = dataclasses.replace(swift, url="http://127.0.0.1:1").make_store(tmp_path)
    with pytest.raises(base.StorageError, match="cannot be reached"):
        down.account("p").find("c", "x")
    with pytest.raises(base.StorageError, match="cannot be reached"):
        down.grant("p", container="c", prefix="x")


def test_id_that_is_none_names_no_account(store: SwiftStore) -> None:
    for project in ("", "a/b", "../x", "a%2fb"):
        with pytest.raises(exception.BadRequest):
            store.account(project)


def test_clients_read_what_a_guest_published_with_their_own_token(
    swift: Swift,
    store: SwiftStore,
    project: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prefix = "i/mariadb-general/"
    active = tmp_path / "general.log"
    lines = stream.Stream(active, tmp_path / "pieces", reopen=lambda: None)
    guest = publisher.Publisher("general", lines, clock=concurrency.SystemClock())
    where = payloads.LogStorage(
        kind="swift", account=project, container=_BOX, prefix=prefix, grant={}
    )
    grant = store.grant(project, container=_BOX, prefix=prefix.rstrip("/"), caller=_caller(project))
    account = tempurl.open_grant(grant)
    for text in ("one\ntwo\n", "three\n"):
        with active.open("a") as file:
            file.write(text)
        guest.publish(account, where, time.monotonic() + 60)
    api = troveclient_instances.Instances(None)
    shown = {"container": _BOX, "prefix": prefix, "metafile": base.metafile(prefix)}
    monkeypatch.setattr(api, "log_show", lambda *args: types.SimpleNamespace(**shown))
    read = api.log_generator("i", "general", lines=0, swift=_client(swift, project))
    assert "".join(read()) == "one\ntwo\nthree\n"
    tail = api.log_generator("i", "general", lines=1, swift=_client(swift, project))
    assert "".join(tail()) == "three\n"
    # who discards has deleted the objects before the guest is asked
    for each in store.account(project).list(_BOX, prefix=prefix):
        store.account(project).delete(_BOX, each.name)
    guest.discard(account, where, time.monotonic() + 60)
    assert store.account(project).list(_BOX) == []
    assert lines.record.published_bytes == 0
