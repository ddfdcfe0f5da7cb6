"""A real S3: what signed URLs reach and for how long, objects in parts, what is told of trouble."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import pathlib
import socket
import subprocess
import sys
import urllib.parse
from collections.abc import Iterable, Mapping
from concurrent import futures
from typing import Any

import botocore.auth
import pytest

from tests.fixtures import s3
from tests.fixtures.ceph import STRANGER, ceph, endpoint, find_stranger, is_wanted
from tests.fixtures.project import ROOT
from tests.fixtures.swift import swift
from trove.common import concurrency, exception
from trove.storage import base, presigned, s3_objects, stored_backups
from trove.storage.s3 import S3Store

__all__ = ["ceph", "endpoint", "swift"]

_BOX = "database_backups"
_MIB = 1024 * 1024
_NOW = datetime.datetime(2026, 2, 28, 23, 59, 59, 999999, tzinfo=datetime.UTC)


@pytest.fixture
def store(endpoint: s3.Endpoint, tmp_path: pathlib.Path) -> S3Store:
    return s3.make_store(endpoint, tmp_path)


@pytest.fixture
def account(store: S3Store) -> base.Account:
    return store.account("p")


def _open(
    store: S3Store, *names: str, prefix: str = "i/", is_read_only: bool = False, **changed: Any
) -> base.Account:
    grant = store.grant("p", container=_BOX, prefix=prefix, names=names, is_read_only=is_read_only)
    return presigned.open_grant({**grant, **changed})


def _read(account: base.Account, name: str) -> bytes:
    _, stream = account.open(_BOX, name)
    with stream:
        return stream.read()


# -- guests -----


def test_signed_urls_are_for_the_objects_that_were_named(
    store: S3Store, account: base.Account
) -> None:
    account.put(_BOX, "i/b", [b"own"])
    account.put(_BOX, "other/b", [b"secret"])
    granted = _open(store, "b", "c")
    assert _read(granted, "i/b") == b"own"
    assert granted.put(_BOX, "i/c", [b"new"]).size_bytes == 3
    assert [granted.reaches(_BOX, name) for name in ("i/b", "i/d", "other/b")] == [
        True,
        False,
        False,
    ]
    assert not granted.reaches("elsewhere", "i/b")
    for name, reason in (("i/d", "no signed URL for object i/d"), ("other/b", "not below what")):
        for use in (granted.find, granted.open, granted.delete):
            with pytest.raises(base.StorageError, match=reason):
                use(_BOX, name)
    assert not granted.can_list


def test_signature_is_good_for_nothing_but_its_object_and_method(
    store: S3Store, account: base.Account
) -> None:
    account.put(_BOX, "i/b", [b"own"])
    account.put(_BOX, "other/b", [b"secret"])
    store.account("q").put(_BOX, "i/b", [b"secret"])
    grant = dict(store.grant("p", container=_BOX, prefix="i/", names=["b"], is_read_only=True))
    (signature,) = grant["signatures"].values()
    assert set(signature) == {"GET", "HEAD"}
    forged: list[dict[str, Any]] = [
        {"prefix": "other/"},
        {"prefix": "", "signatures": {"other/b": signature}},
        {"path": grant["path"].replace("/p/", "/q/")},
        {"path": grant["path"] + "%2e%2e/" + _BOX + "/"},
        {"query": grant["query"].replace("Expires=900", "Expires=90000")},
        {"signatures": {"b": dict.fromkeys(presigned.METHODS, signature["HEAD"])}},
    ]
    for change in forged:
        name = "other/b" if "prefix" in change else "i/b"
        with pytest.raises(base.StorageError, match="signed URL has expired"):
            presigned.open_grant(grant | change).open(_BOX, name)
    every = dict.fromkeys(presigned.METHODS, signature["GET"])
    writing = presigned.open_grant(grant | {"signatures": {"b": every | signature}})
    for use in (lambda: writing.put(_BOX, "i/b", [b"x"]), lambda: writing.delete(_BOX, "i/b")):
        with pytest.raises(base.StorageError, match="signed URL has expired"):
            use()
    reading = presigned.open_grant(grant)
    with pytest.raises(base.StorageError, match="to read only"):
        reading.put(_BOX, "i/b", [b"x"])
    assert _read(reading, "i/b") == b"own"


def test_any_name_that_can_be_stored_is_signed(store: S3Store, account: base.Account) -> None:
    names = ["é +~(1)*&?=%2F/\U0001f600 ", "a//b"]
    granted = _open(store, *names)
    for name in names:
        put = granted.put(_BOX, f"i/{name}", [name.encode()], metadata={"what": name})
        assert put == account.get(_BOX, f"i/{name}")
        assert _read(granted, f"i/{name}") == name.encode()
        assert _read(account, f"i/{name}") == name.encode()
        assert granted.delete(_BOX, f"i/{name}")
        assert granted.find(_BOX, f"i/{name}") is None
    assert account.list(_BOX) == []


def test_store_refuses_what_is_not_what_was_sent(
    store: S3Store, account: base.Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    granted = _open(store, "b")
    other = base64.b64encode(hashlib.md5(b"other", usedforsecurity=False).digest()).decode()
    make = s3_objects.Spool.__init__

    def spoil(spool: s3_objects.Spool, content: Iterable[bytes]) -> None:
        make(spool, content)
        spool.content_md5 = other

    monkeypatch.setattr(s3_objects.Spool, "__init__", spoil)
    for each in (granted, account):
        with pytest.raises(base.StorageError, match="400"):
            each.put(_BOX, "i/b", [b"content"])
    assert account.find(_BOX, "i/b") is None


@pytest.mark.parametrize("is_virtual", [False, True])
def test_bucket_is_found_by_either_kind_of_address(
    endpoint: s3.Endpoint, tmp_path: pathlib.Path, is_virtual: bool, monkeypatch: Any
) -> None:
    known = socket.getaddrinfo
    port = urllib.parse.urlsplit(endpoint.url).port
    hosts: set[str] = set()

    def find(host: str, to: Any, *args: Any, **kwargs: Any) -> Any:
        # threads that other tests left may look for their servers
        if to == port:
            hosts.add(host)
        return known("127.0.0.1" if host.endswith(s3.DOMAIN) else host, to, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", find)
    conf = s3.make_conf(endpoint, tmp_path)
    url = f"http://{s3.DOMAIN}:{port}"
    conf.set_override("s3_endpoint", url, group="storage")
    conf.set_override("s3_prefix", "a team/of é", group="storage")
    conf.set_override("s3_addressing", "virtual" if is_virtual else "path", group="storage")
    there = S3Store(conf)
    s3.ensure_bucket(there)
    hosts.clear()
    account = there.account("p")
    account.put(_BOX, "i/a", [b"x"])
    assert _open(there, "b").put(_BOX, "i/b", [b"new"]).size_bytes == 3
    assert [each.name for each in account.list(_BOX)] == ["i/a", "i/b"]
    assert account.list_containers() == [_BOX]
    assert hosts == {f"{s3.BUCKET}.{s3.DOMAIN}" if is_virtual else s3.DOMAIN}
    for name in ("i/a", "i/b"):
        assert account.delete(_BOX, name)


def test_signed_url_expires(store: S3Store, account: base.Account) -> None:
    account.put(_BOX, "i/b", [b"own"])
    now = concurrency.SystemClock().now()
    for ago_s, is_good in ((840, True), (910, False)):
        clock = concurrency.ManualClock(now - datetime.timedelta(seconds=ago_s))
        granted = _open(S3Store(store._conf, clock=clock), "b")
        if is_good:
            assert _read(granted, "i/b") == b"own"
            continue
        for use in (granted.find, granted.open, granted.delete):
            with pytest.raises(base.StorageError, match="signed URL has expired"):
                use(_BOX, "i/b")
    assert store.grant_s == 900


def test_grant_without_names_is_for_the_object_that_the_prefix_names(
    store: S3Store, account: base.Account
) -> None:
    account.put(_BOX, "bundle", [b"release"])
    assert _read(_open(store, prefix="bundle", is_read_only=True), "bundle") == b"release"


def test_grant_holds_no_secret_and_opens_without_a_library(
    store: S3Store, account: base.Account
) -> None:
    account.put(_BOX, "i/b", [b"own"])
    grant = store.grant("p", container=_BOX, prefix="i/", names=["b"])
    assert store._conf.storage.s3_secret_key not in json.dumps(grant)
    assert str(grant["signatures"]["b"]["GET"]) not in repr(presigned.Grant.from_wire(grant))
    code = (
        "import json, sys; from trove.storage import factory;"
        "account = factory.open_grant('s3', json.load(sys.stdin));"
        f"print(account.open({_BOX!r}, 'i/b')[1].read().decode(), *sys.modules)"
    )
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        input=json.dumps(grant),
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert told[0] == "own"
    assert not {"botocore", "keystoneauth1", "requests"} & set(told)


@pytest.mark.parametrize(
    "change",
    [
        {"url": "file:///etc/passwd"},
        {"url": None},
        {"signatures": None},
        {"signatures": {"b": "GET"}},
        {"ca_pem": 7},
        {"query": None},
    ],
)
def test_what_is_no_grant_is_refused(store: S3Store, change: Mapping[str, Any]) -> None:
    with pytest.raises(base.StorageError, match="none for S3"):
        _open(store, "b", **change)


@pytest.mark.parametrize("addressing", ["path", "virtual"])
def test_urls_are_those_that_the_library_signs(
    store: S3Store, addressing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = store._conf
    conf.set_override("s3_endpoint", None, group="storage")
    conf.set_override("s3_addressing", addressing, group="storage")
    conf.set_override("s3_region", "eu-central-1", group="storage")
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: _NOW)
    there = S3Store(conf, clock=concurrency.ManualClock(_NOW))
    name = "é +~(1)*&?=/"
    grant = there.grant("p", container=_BOX, prefix="i/", names=[name])
    key = f"{conf.storage.s3_prefix}/p/{_BOX}/i/{name}"
    for method, operation in (("GET", "get_object"), ("PUT", "put_object")):
        theirs = there.client().generate_presigned_url(
            operation, Params={"Bucket": s3.BUCKET, "Key": key}, ExpiresIn=900
        )
        ours = (
            f"{grant['url']}{grant['path']}{s3_objects.quote('i/' + name)}?{grant['query']}"
            f"&X-Amz-Signature={grant['signatures'][name][method]}"
        )
        assert urllib.parse.urlsplit(ours)[:3] == urllib.parse.urlsplit(theirs)[:3]
        assert urllib.parse.parse_qs(ours) == urllib.parse.parse_qs(theirs)


# -- rights -----


def _documented_policy() -> dict[str, Any]:
    """Return what the key has to be allowed, as operators are told."""
    text = (ROOT / "doc/source/admin/storage.rst").read_text(encoding="utf-8")
    block = text.partition(".. code-block:: json")[2].partition("\n``")[0]
    policy: dict[str, Any] = json.loads(block)
    for statement in policy["Statement"]:
        statement["Principal"] = {"AWS": [f"arn:aws:iam:::user/{STRANGER}"]}
    return policy


@pytest.mark.skipif(not is_wanted(), reason="TROVE_TEST_CEPH is not set")
def test_rights_that_are_documented_are_enough_and_that_to_list_is_needed(
    ceph: s3.Endpoint, tmp_path: pathlib.Path
) -> None:
    owner = s3.make_store(ceph, tmp_path).client()
    store = S3Store(s3.make_conf(find_stranger(ceph), tmp_path))
    account = store.account("p")
    with pytest.raises(base.StorageError, match=r"403 AccessDenied .*s3_access_key has to be"):
        account.put(_BOX, "x", [b"x"])
    policy = _documented_policy()
    try:
        owner.put_bucket_policy(Bucket=s3.BUCKET, Policy=json.dumps(policy))
        for name, content in (("i/small", [b"x"]), ("i/large", [b"x" * _MIB] * 6)):
            account.put(_BOX, name, content)
        assert [each.name for each in account.list(_BOX)] == ["i/large", "i/small"]
        granted = _open(store, "new", "none")
        granted.put(_BOX, "i/new", [b"new"])
        for each in (account, granted):
            assert _read(each, "i/new") == b"new"
            assert each.find(_BOX, "i/none") is None
        _expect_aborted_upload(store, owner)
        for name in ("small", "large", "new"):
            assert account.delete(_BOX, f"i/{name}")
        # without the right to list the end of an archive could not be told
        policy["Statement"] = policy["Statement"][1:]
        owner.put_bucket_policy(Bucket=s3.BUCKET, Policy=json.dumps(policy))
        for each in (account, granted):
            with pytest.raises(base.StorageError):
                each.find(_BOX, "i/none")
    finally:
        owner.delete_bucket_policy(Bucket=s3.BUCKET)


# -- large objects -----


def test_object_in_parts_has_the_md5_of_its_content(account: base.Account) -> None:
    content = [bytes([number]) * _MIB for number in range(11)]
    etag = hashlib.md5(b"".join(content), usedforsecurity=False).hexdigest()
    put = account.put(_BOX, "large", content, content_type=base.TEXT, metadata={"a": "b"})
    assert (put.size_bytes, put.etag) == (11 * _MIB, etag)
    assert (put.content_type, put.metadata) == (base.TEXT, {"a": "b"})
    assert _read(account, "large") == b"".join(content)
    assert account.delete(_BOX, "large")


def test_upload_in_parts_that_fails_is_aborted(store: S3Store, account: base.Account) -> None:
    account.put(_BOX, "large", [b"old"])
    _expect_aborted_upload(store, store.client())
    assert _read(account, "large") == b"old"


def _expect_aborted_upload(store: S3Store, owner: Any) -> None:
    def fail(request: Any, **kwargs: Any) -> None:
        if "partNumber=2" in request.url:
            raise ConnectionResetError

    store.client().meta.events.register("before-send.s3.UploadPart", fail)
    with pytest.raises(base.StorageError, match="cannot be reached"):
        store.account("p").put(_BOX, "large", [b"x" * _MIB] * 6)
    assert "Uploads" not in owner.list_multipart_uploads(
        Bucket=s3.BUCKET, Prefix=store._conf.storage.s3_prefix
    )


def test_listing_of_many_pages_is_one(account: base.Account, monkeypatch: Any) -> None:
    monkeypatch.setattr("trove.storage.s3._PAGE", 2)
    for number in range(5):
        account.put(_BOX, f"i/{number}", [b"x" * number])
    assert [each.name for each in account.list(_BOX, marker="i/0")] == ["i/1", "i/2", "i/3", "i/4"]
    assert account.find_container(_BOX) == base.Container(name=_BOX, count=5, size_bytes=10)


@pytest.mark.skipif(not is_wanted(), reason="TROVE_TEST_CEPH is not set")
def test_more_objects_and_containers_than_a_page_has_are_listed(
    ceph: s3.Endpoint, tmp_path: pathlib.Path
) -> None:
    account = s3.make_store(ceph, tmp_path).account("p")
    names = [f"{number:04d} é" for number in range(1005)]

    def put(name: str) -> None:
        account.put(_BOX, f"i/{name}", [b"x"])
        account.put(name, "x", [b"x"])

    with futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(put, names))
    assert [each.name for each in account.list(_BOX)] == [f"i/{name}" for name in names]
    assert [each.name for each in account.list(_BOX, marker="i/1001")] == [
        f"i/{name}" for name in names[1001:]
    ]
    assert len(account.list(_BOX, limit=1001)) == 1001
    assert account.list_containers() == [*names, _BOX]


@pytest.mark.parametrize(
    ("headers", "etag"),
    [
        ({"etag": '"' + "a" * 32 + '"'}, "a" * 32),
        ({"etag": '"' + "A" * 32 + '"', "x-amz-server-side-encryption": "AES256"}, "a" * 32),
        ({"etag": '"' + "a" * 32 + '"', "x-amz-server-side-encryption": "aws:kms"}, "said"),
        (
            {
                "etag": '"' + "a" * 32 + '"',
                "x-amz-server-side-encryption-customer-algorithm": "AES256",
            },
            "said",
        ),
        ({"etag": '"' + "a" * 32 + '-2"'}, "said"),
        ({}, "said"),
    ],
)
def test_what_the_store_worked_out_counts_where_it_is_the_md5(
    headers: dict[str, str], etag: str
) -> None:
    assert s3_objects.etag_of(headers, "said") == etag


# -- trouble -----


@pytest.fixture
def other(store: S3Store) -> S3Store:
    """Give a store whose key is wrong."""
    store._conf.set_override("s3_secret_key", "guessed", group="storage")
    return S3Store(store._conf)


def test_wrong_key_is_told_and_not_shown(other: S3Store) -> None:
    account = other.account("p")
    for use in (
        lambda: account.put(_BOX, "x", [b"x"]),
        lambda: account.find(_BOX, "x"),
        lambda: account.list(_BOX),
        account.list_containers,
    ):
        with pytest.raises(base.StorageError, match=r"403 .*s3_access_key has to be") as caught:
            use()
        assert "guessed" not in str(caught.value)


@pytest.mark.parametrize("off_s", [-1200, 1200])
def test_wrong_clock_is_told(
    store: S3Store, account: base.Account, off_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    account.put(_BOX, "x", [b"x"])
    now = botocore.auth.get_current_datetime
    off = datetime.timedelta(seconds=off_s)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: now() + off)
    there = S3Store(store._conf).account("p")
    for use in (
        lambda: there.put(_BOX, "x", [b"y"]),
        lambda: there.find(_BOX, "x"),
        lambda: there.list(_BOX),
    ):
        with pytest.raises(base.StorageError, match=r"403 .*clocks"):
            use()


def test_logs_for_debugging_tell_no_signature(
    store: S3Store, account: base.Account, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG"):
        account.put(_BOX, "x", [b"content"])
        store.grant("p", container=_BOX, prefix="i/", names=["b"])
    assert "signature" not in caplog.text.lower()


def test_bucket_that_is_not_there_is_told(store: S3Store) -> None:
    store._conf.set_override("s3_bucket", "nowhere", group="storage")
    account = S3Store(store._conf).account("p")
    for use in (
        lambda: account.put(_BOX, "x", [b"x"]),
        lambda: account.open(_BOX, "x"),
        lambda: account.list(_BOX),
    ):
        with pytest.raises(base.StorageError, match="404 NoSuchBucket"):
            use()


def test_store_that_is_down_is_told(store: S3Store) -> None:
    store._conf.set_override("s3_endpoint", "http://127.0.0.1:9", group="storage")
    down = S3Store(store._conf)
    with pytest.raises(base.StorageError, match="cannot be reached"):
        down.account("p").list(_BOX)
    with pytest.raises(base.StorageError, match="cannot be reached"):
        _open(down, "b").find(_BOX, "i/b")


@pytest.mark.parametrize("option", ["s3_bucket", "s3_access_key", "s3_secret_key"])
def test_store_without_bucket_or_key_is_not_made(store: S3Store, option: str) -> None:
    store._conf.set_override(option, None, group="storage")
    with pytest.raises(exception.ConfigurationError, match=option):
        S3Store(store._conf)


def test_secret_and_authorities_may_be_in_files(store: S3Store, tmp_path: pathlib.Path) -> None:
    conf = store._conf
    file = tmp_path / "secret"
    file.write_text(f"{conf.storage.s3_secret_key}\n")
    conf.set_override("s3_secret_key", None, group="storage")
    conf.set_override("s3_secret_key_file", str(file), group="storage")
    authorities = tmp_path / "ca.pem"
    authorities.write_text("PEM")
    conf.set_override("s3_guest_cafile", str(authorities), group="storage")
    made = S3Store(conf)
    assert made.account("p").put(_BOX, "x", [b"x"]).size_bytes == 1
    assert made.grant("p", container=_BOX, prefix="i/")["ca_pem"] == "PEM"
    file.unlink()
    with pytest.raises(exception.ConfigurationError, match="secret cannot be read"):
        S3Store(conf)


def test_what_people_are_told_of_a_backup_finds_it_again(store: S3Store) -> None:
    for project in ("p", store.service_project()):
        told = store.locate(project, container=_BOX, name="i/b/manifest.json")
        assert told.startswith("s3://")
        assert stored_backups.parse_location(told, account_prefix="AUTH_") == (
            stored_backups.Location(account_id=project, container=_BOX, prefix="i/b/")
        )


def test_project_ids_are_parts_of_keys_and_no_paths(store: S3Store) -> None:
    made = store.account("a/b c").put(_BOX, "x", [b"x"])
    assert store.account("a/b c").find(_BOX, "x") == made
    assert store.account("a").list_containers() == []
    keys = store.client().list_objects_v2(Bucket=s3.BUCKET, Prefix=store._conf.storage.s3_prefix)
    assert [each["Key"].partition("/")[2] for each in keys["Contents"]] == [f"a%2Fb%20c/{_BOX}/x"]
    with pytest.raises(exception.BadRequest):
        store.account("..")
