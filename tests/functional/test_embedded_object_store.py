"""The embedded object store, asked by swiftclient and troveclient as people have them."""

from __future__ import annotations

import http.client
import pathlib
import urllib.parse
from collections.abc import Iterator
from typing import Any

import bcrypt
import pytest
from keystoneauth1 import session
from keystoneauth1.identity import generic
from swiftclient import client as swift
from troveclient import exceptions as trove_exceptions
from troveclient.v1 import client as trove

from tests.fixtures import api as api_fixture
from tests.fixtures import s3, served
from tests.fixtures.swift import swift as swift_server
from trove.db import base
from trove.storage import base as storage
from trove.storage.filesystem import FilesystemStore

__all__ = ["swift_server"]

# what swiftclient makes of its own dependency
pytestmark = [
    pytest.mark.filterwarnings("ignore:Using the 'tenant_:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:keystoneclient"),
]

_BOX = "database_logs"
_USERS = {"ann": ("project-a", "member"), "rea": ("project-a", "reader"), "bob": ("b", "admin")}
_STORE = "/object-store/v1/AUTH_project-a"


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> storage.Store:
    if getattr(request, "param", "filesystem") == "s3":
        return s3.make_store(request.getfixturevalue("swift_server").s3, tmp_path)
    return FilesystemStore(tmp_path / "objects")


@pytest.fixture
def account(store: storage.Store) -> storage.Account:
    return store.account("project-a")


@pytest.fixture
def api(
    sqlite_database: base.Database, store: storage.Store, tmp_path: pathlib.Path
) -> api_fixture.Api:
    hashed = {name: bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode() for name in _USERS}
    (tmp_path / "htpasswd").write_text(
        "".join(f"{n}:{hashed[n]}:{project}:{role}\n" for n, (project, role) in _USERS.items())
    )
    made = api_fixture.make_api(
        sqlite_database,
        auth_strategy="http_basic",
        http_basic_auth_user_file=str(tmp_path / "htpasswd"),
        embedded_services=True,
        objects=store,
    )
    made.add_datastore()
    return made


@pytest.fixture
def url(api: api_fixture.Api) -> Iterator[str]:
    with served.serve(api.wsgi) as url:
        yield url


def _swift(url: str, user: str = "ann") -> swift.Connection:
    project, _ = _USERS[user]
    return swift.Connection(
        f"{url}/identity/v3",
        user,
        "secret",
        auth_version="3",
        retries=0,
        os_options={
            "project_name": project,
            "user_domain_name": "Default",
            "project_domain_name": "Default",
        },
    )


@pytest.fixture
def client(url: str) -> Iterator[swift.Connection]:
    made = _swift(url)
    yield made
    made.close()


def _status(call: Any, *arguments: Any, **options: Any) -> int:
    with pytest.raises(swift.ClientException) as caught:
        call(*arguments, **options)
    status: int = caught.value.http_status
    return status


def _raw(
    url: str, path: str, method: str = "GET", **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Send a path as it is, with the credentials of ann."""
    parsed = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parsed.hostname or "", parsed.port, timeout=30)
    try:
        sent = {"Authorization": "Basic YW5uOnNlY3JldA==", **headers}
        connection.request(method, path, headers=sent)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("store", ["filesystem", "s3"], indirect=True)
def test_object_is_read_whole_and_in_parts(
    client: swift.Connection, account: storage.Account
) -> None:
    content = bytes(range(256)) * 1000
    account.put(_BOX, "a/b", [content], content_type=storage.TEXT, metadata={"lines": "7"})
    headers, read = client.get_object(_BOX, "a/b")
    assert read == content
    assert headers["x-object-meta-lines"] == "7"
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert headers["etag"] == account.get(_BOX, "a/b").etag
    assert headers["accept-ranges"] == "bytes"
    head = client.head_object(_BOX, "a/b")
    assert head["content-length"] == str(len(content))
    for asked, found in (
        ("bytes=0-9", content[:10]),
        ("bytes=10-", content[10:]),
        ("bytes=-5", content[-5:]),
        ("bytes=255990-999999", content[255990:]),
        ("bytes=-9999999", content),
    ):
        part_headers, part = client.get_object(_BOX, "a/b", headers={"Range": asked})
        assert part == found
        assert part_headers["content-range"].endswith(f"/{len(content)}")
    for ignored in ("bytes=", "bytes=-", "lines=1-2", "bytes=0-1,3-4", "bytes=5-2"):
        assert client.get_object(_BOX, "a/b", headers={"Range": ignored})[1] == content
    for beyond in ("bytes=256000-", "bytes=-0", "bytes=" + "9" * 18 + "-"):
        assert _status(client.get_object, _BOX, "a/b", headers={"Range": beyond}) == 416


def test_empty_object_and_objects_of_chunks_are_streamed(
    client: swift.Connection, account: storage.Account
) -> None:
    account.put(_BOX, "empty", [])
    assert client.get_object(_BOX, "empty")[1] == b""
    account.put(_BOX, "large", [b"x" * 300_000])
    _, body = client.get_object(_BOX, "large", resp_chunk_size=65536)
    assert b"".join(body) == b"x" * 300_000


def test_containers_and_objects_are_listed_with_prefix_marker_limit_and_delimiter(
    client: swift.Connection, account: storage.Account
) -> None:
    assert client.get_account()[1] == []
    for name in ("a", "a/1", "a/2", "a/b/3", "b", "c/4"):
        account.put(_BOX, name, [name.encode()])
    account.put("second", "x", [b""])
    headers, containers = client.get_account()
    assert [each["name"] for each in containers] == [_BOX, "second"]
    assert headers["x-account-container-count"] == "2"
    assert client.head_container(_BOX)["x-container-object-count"] == "6"
    assert client.head_account()["x-account-object-count"] == "7"

    def listed(**options: Any) -> list[str]:
        found = client.get_container(_BOX, **options)[1]
        return [each.get("name") or each["subdir"] for each in found]

    assert listed() == ["a", "a/1", "a/2", "a/b/3", "b", "c/4"]
    assert listed(prefix="a/") == ["a/1", "a/2", "a/b/3"]
    assert listed(marker="a/2", limit=2) == ["a/b/3", "b"]
    assert listed(end_marker="a/2") == ["a", "a/1"]
    assert listed(delimiter="/") == ["a", "a/", "b", "c/"]
    assert listed(delimiter="/", limit=2) == ["a", "a/"]
    assert listed(delimiter="/", marker="a/") == ["b", "c/"]
    assert listed(delimiter="/", prefix="a/") == ["a/1", "a/2", "a/b/"]
    assert listed(full_listing=True, limit=1) == ["a", "a/1", "a/2", "a/b/3", "b", "c/4"]
    (item, *_) = client.get_container(_BOX)[1]
    assert item["hash"] == account.get(_BOX, "a").etag
    assert (item["bytes"], item["content_type"]) == (1, "application/octet-stream")
    assert len(item["last_modified"]) == len("2026-05-01T12:00:00.123456")
    assert _status(client.get_container, _BOX, limit=10001) == 412


def test_listing_is_plain_text_unless_asked_otherwise(url: str, account: storage.Account) -> None:
    account.put(_BOX, "é", [b"x"])
    status, headers, body = _raw(url, f"{_STORE}/{_BOX}")
    assert (status, body.decode()) == (200, "é\n")
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert _raw(url, f"{_STORE}/{_BOX}?prefix=x")[0] == 204
    assert _raw(url, f"{_STORE}/{_BOX}", Accept="application/json")[2].startswith(b"[{")
    assert _raw(url, f"{_STORE}/{_BOX}/?format=json&prefix=x")[2] == b"[]"
    assert _raw(url, f"{_STORE}/{_BOX}?format=xml")[0] == 406
    assert _raw(url, f"{_STORE}/{_BOX}?limit=abc")[0] == 200


def test_owner_deletes_and_readers_do_not(
    url: str, client: swift.Connection, account: storage.Account
) -> None:
    account.put(_BOX, "x", [b"1"])
    reader = _swift(url, "rea")
    assert reader.get_object(_BOX, "x")[1] == b"1"
    assert _status(reader.delete_object, _BOX, "x") == 403
    reader.close()
    client.delete_object(_BOX, "x")
    assert _status(client.delete_object, _BOX, "x") == 404
    assert account.list(_BOX) == []


def test_account_is_closed_to_every_other_project_administrators_included(
    url: str, account: storage.Account
) -> None:
    account.put(_BOX, "secret", [b"1"])
    other = _swift(url, "bob")
    storage_url, token = other.get_auth()
    assert storage_url.endswith("/AUTH_b")
    foreign = storage_url.removesuffix("AUTH_b") + "AUTH_project-a"
    for path in (foreign, f"{foreign}/", storage_url.removesuffix("AUTH_b") + "AUTH_"):
        assert _status(swift.get_account, path, token) == 403
        assert _status(swift.get_object, path, token, _BOX, "secret") == 403
        assert _status(swift.delete_object, path, token, _BOX, "secret") == 403
    for trick in ("../AUTH_project-a", "..%2FAUTH_project-a", "%2e%2e/AUTH_project-a"):
        for path in (f"/AUTH_b/{trick}/{_BOX}/secret", f"/{trick}/{_BOX}/secret"):
            status, _, body = _raw(
                url, f"/object-store/v1{path}", **{"X-Auth-Token": token, "Authorization": ""}
            )
            assert status in (403, 404)
            assert body != b"1"
    other.close()
    assert _raw(url, f"{_STORE}/{_BOX}/secret", Authorization="")[0] == 401
    assert _raw(url, f"{_STORE}/{_BOX}/secret", Authorization="Basic eHg6eHg=")[0] == 401
    assert account.get(_BOX, "secret")


def test_errors_are_the_text_that_swift_answers(url: str, account: storage.Account) -> None:
    account.put(_BOX, "x", [b"1"])
    for path, expected in (
        (f"{_STORE}/{_BOX}/nothing", 404),
        (f"{_STORE}/nothing", 404),
        (f"{_STORE}/nothing/x", 404),
        (f"{_STORE}/{'c' * 300}", 404),
        (f"{_STORE}/{_BOX}/{'n' * 1025}", 404),
        (f"{_STORE}/{_BOX}/{'a/' * 512}", 404),
        (f"{_STORE}//x", 412),
        ("/object-store", 404),
        ("/object-store/v1", 404),
        ("/object-store/v2/AUTH_project-a", 404),
        ("/object-store/v1/AUTH_other", 403),
        ("/object-store/v1/project-a", 403),
    ):
        status, headers, body = _raw(url, path)
        assert (path, status) == (path, expected)
        assert headers["Content-Type"] == "text/html; charset=UTF-8"
        assert body.startswith(b"<html><h1>")
        assert headers["X-Trans-Id"].startswith("tx-req-")
    for method in ("PUT", "POST", "DELETE", "COPY", "PATCH"):
        status, headers, _ = _raw(url, f"{_STORE}/{_BOX}", method)
        assert (method, status, headers["Allow"]) == (method, 405, "GET, HEAD")
    assert _raw(url, f"{_STORE}/{_BOX}/x", "PUT")[0] == 405
    status, headers, body = _raw(url, f"{_STORE}/{_BOX}/nothing", "HEAD")
    assert (status, body) == (404, b"")


_NAMES = (
    "a//b",
    "a/",
    "/a",
    "//",
    "a%2Fb",
    "%",
    "%00",
    "a?b#c&d=e",
    "a b\tc\nd\re",
    "\x00\x01\x7f",
    "é\u2028\U0001f600",
    "\\..\\x",
    "+o.json",
    "n" * 1024,
    "".join(chr(number) for number in range(1, 256)),
)


def test_names_of_every_kind_are_names_and_nothing_else(
    client: swift.Connection, account: storage.Account
) -> None:
    for name in _NAMES:
        account.put(_BOX, name, [b"content"])
        assert client.get_object(_BOX, name)[1] == b"content"
        assert client.head_object(_BOX, name)["content-length"] == "7"
        listed = client.get_container(_BOX, prefix=name)[1]
        assert name in [each["name"] for each in listed]
    assert [each["name"] for each in client.get_container(_BOX)[1]] == sorted(_NAMES)
    for name in _NAMES:
        client.delete_object(_BOX, name)
    assert client.get_container(_BOX)[1] == []


@pytest.mark.parametrize("name", [".", "..", "../../../../etc/passwd", "a/../b", "../secret"])
def test_dots_lead_nowhere(
    url: str, store: FilesystemStore, account: storage.Account, name: str
) -> None:
    """HTTP libraries take them out, so that they are asked for by hand."""
    store.account("project-b").put(_BOX, "secret", [b"other"])
    for path in (name, name.replace(".", "%2E"), name.replace("/", "%2F")):
        assert _raw(url, f"{_STORE}/{_BOX}/{path}")[0] == 404
    account.put(_BOX, name, [b"content"])
    for path in (name, name.replace(".", "%2E"), name.replace("/", "%2F")):
        assert _raw(url, f"{_STORE}/{_BOX}/{path}")[2] == b"content"
    assert _raw(url, f"{_STORE}/{_BOX}/{name}", "DELETE")[0] == 204


def test_guest_cannot_write_headers_of_its_own(
    url: str, client: swift.Connection, account: storage.Account
) -> None:
    account.put(
        _BOX,
        "x",
        [b"1"],
        content_type="text/html\r\nSet-Cookie: a=b",
        metadata={"a": "1\r\nSet-Cookie: c=d", "b\r\nX: y": "2", "ü": "3", "u": "ü"},
    )
    _, headers, _ = _raw(url, f"{_STORE}/{_BOX}/x")
    assert "Set-Cookie" not in headers
    assert "X" not in headers
    assert headers["Content-Type"] == "application/octet-stream"
    assert client.head_object(_BOX, "x")["x-object-meta-u"] == "ü"


def test_store_that_fails_is_unavailable_and_says_no_more(
    url: str, account: storage.Account, tmp_path: pathlib.Path
) -> None:
    account.put(_BOX, "x", [b"1"])
    (described,) = tmp_path.rglob("*.json")
    described.write_text("{")
    status, _, body = _raw(url, f"{_STORE}/{_BOX}/x")
    assert status == 503
    assert str(tmp_path).encode() not in body


# -- what people do -----


@pytest.fixture
def database_client(url: str) -> trove.Client:
    plugin = generic.Password(
        auth_url=f"{url}/identity/v3",
        username="ann",
        password="secret",
        project_name="project-a",
        user_domain_name="Default",
        project_domain_name="Default",
    )
    # as the openstack client does
    return trove.Client(auth=plugin, session=session.Session(auth=plugin), region_name="RegionOne")


@pytest.fixture
def instance(api: api_fixture.Api) -> str:
    headers = {"Authorization": "Basic YW5uOnNlY3JldA=="}
    return api.create_instance(active=True, headers=headers)


def test_log_is_tailed_and_saved_by_the_unmodified_client(
    api: api_fixture.Api,
    database_client: trove.Client,
    instance: str,
    tmp_path: pathlib.Path,
) -> None:
    instances = database_client.instances
    log = api.guest.engine(instance).logs.find("general")
    for piece in range(4):
        log.pending += [f"piece {piece} line {number} é\n" for number in range(10)]
        published = instances.log_action(instance, "general", publish=True)
    assert (published.container, published.pending) == (_BOX, 0)
    # the client makes its own connection to the object store, from how it has signed in
    tail = "".join(instances.log_generator(instance, "general", lines=15)())
    assert tail.splitlines() == [
        *(f"piece 2 line {number} é" for number in range(5, 10)),
        *(f"piece 3 line {number} é" for number in range(10)),
    ]
    assert (
        len("".join(instances.log_generator(instance, "general", lines=500)()).splitlines()) == 40
    )
    target = tmp_path / "saved.log"
    shown = instances.get(instance)
    assert instances.log_save(shown, "general", filename=str(target)) == str(target)
    assert target.read_text().count("\n") == 40


def test_client_is_told_that_nothing_is_published(
    database_client: trove.Client, client: swift.Connection, instance: str
) -> None:
    generator = database_client.instances.log_generator(instance, "general", swift=client)
    with pytest.raises(trove_exceptions.GuestLogNotFoundError):
        list(generator())
    logs = database_client.instances.log_list(instance)
    assert [(each.name, each.container) for each in logs] == [
        ("general", "None"),
        ("slow_query", "None"),
        ("audit", "None"),
    ]


def test_store_is_not_there_without_the_switch(
    sqlite_database: base.Database, store: FilesystemStore
) -> None:
    api = api_fixture.make_api(sqlite_database, objects=store)
    headers = {"X-Project-Id": "project-a"}
    api.raw("GET", f"{_STORE}/{_BOX}", headers=headers, status=404)
