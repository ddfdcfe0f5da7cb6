"""What every object store promises, asked of each: one suite, a row for each implementation."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import pathlib
import threading
import uuid
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures import s3
from tests.fixtures.ceph import ceph, is_wanted
from tests.fixtures.cloud.fixtures import real_cloud_name
from tests.fixtures.swift import Swift, empty, make_cloud_store, swift
from trove.common import exception
from trove.storage import base, contents, factory, filesystem
from trove.storage.s3 import S3Store
from trove.storage.swift import SwiftStore

__all__ = ["ceph", "swift"]

_BOX = "box"


@dataclasses.dataclass(kw_only=True)
class Stored:
    """A store, and a way to make it anew as another process would."""

    store: base.Store
    again: Callable[[], base.Store]

    @property
    def account(self) -> base.Account:
        """The account of one project."""
        return self.store.account("project-a")


def _find_kinds() -> list[str]:
    """Name all implementations: of a cloud, or in a Ceph, where one is asked for."""
    kinds = {"filesystem": True, "swift": True, "s3": True}
    kinds |= {"ceph": is_wanted(), "cloud": bool(real_cloud_name())}
    return [kind for kind, is_there in kinds.items() if is_there]


@pytest.fixture(params=_find_kinds())
def stored(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Stored]:
    if request.param == "filesystem":

        def make() -> base.Store:
            return filesystem.FilesystemStore(tmp_path / "objects")

        yield Stored(store=make(), again=make)
        return
    if request.param in ("s3", "ceph"):
        is_ceph = request.param == "ceph"
        endpoint = request.getfixturevalue("ceph" if is_ceph else "swift")
        bucket = s3.make_store(endpoint if is_ceph else endpoint.s3, tmp_path)
        yield Stored(store=bucket, again=lambda: S3Store(bucket._conf))
        return
    prefix = f"AUTH_{uuid.uuid4().hex}"
    is_cloud = request.param == "cloud"
    if is_cloud:
        store = make_cloud_store(tmp_path, prefix=prefix)
    else:
        real: Swift = request.getfixturevalue("swift")
        store = real.make_store(tmp_path, prefix=prefix)
    yield Stored(store=store, again=lambda: SwiftStore(store._conf))
    if is_cloud:
        empty(store, "project-a", "project-b")


@pytest.fixture
def account(stored: Stored) -> base.Account:
    return stored.account


def _read(account: base.Account, name: str, container: str = _BOX) -> bytes:
    _, stream = account.open(container, name)
    with stream:
        return stream.read()


def _names(account: base.Account, **options: object) -> list[str]:
    return [each.name for each in account.list(_BOX, **options)]  # type: ignore[arg-type]


def test_object_comes_back_as_it_was_put_in_another_process_too(stored: Stored) -> None:
    put = stored.account.put(
        _BOX,
        "a/b.log",
        [b"one\n", b"two"],
        content_type=base.TEXT,
        metadata={"lines": "2", "wörd": "é"},
    )
    assert put.size_bytes == 7
    assert put.etag == hashlib.md5(b"one\ntwo", usedforsecurity=False).hexdigest()
    again = stored.again().account("project-a")
    assert again.get(_BOX, "a/b.log") == put
    (listed,) = again.list(_BOX)
    told = {"metadata": put.metadata, "content_type": put.content_type}
    if not stored.store.has_fine_times:
        told["modified"] = put.modified
    assert dataclasses.replace(listed, **told) == put  # type: ignore[arg-type]
    opened, stream = again.open(_BOX, "a/b.log")
    with stream:
        assert (opened, stream.read()) == (put, b"one\ntwo")


def test_what_is_not_there_is_not_found(account: base.Account) -> None:
    assert account.find(_BOX, "x") is None
    assert account.list(_BOX) == []
    assert account.list_containers() == []
    assert account.find_container(_BOX) is None
    assert not account.delete(_BOX, "x")
    account.put(_BOX, "x/y", [b""])
    for name in ("x", "x/", "x/y/", "x/y/z", "/x/y", "X/Y"):
        assert account.find(_BOX, name) is None
        assert not account.delete(_BOX, name)
        with pytest.raises(base.ObjectNotFound):
            account.get(_BOX, name)
        with pytest.raises(base.ObjectNotFound):
            account.open(_BOX, name)


def test_object_is_replaced_whole_and_who_reads_the_old_one_goes_on(stored: Stored) -> None:
    account = stored.account
    first = account.put(_BOX, "x", [b"old" * 1000], metadata={"a": "1"})
    _, stream = account.open(_BOX, "x")
    with stream:
        second = account.put(_BOX, "x", [b"new"])
        assert stream.read() == b"old" * 1000
    assert second.metadata == {}
    assert second.modified > first.modified or not stored.store.has_fine_times
    assert _read(account, "x") == b"new"
    assert account.find_container(_BOX) == base.Container(name=_BOX, count=1, size_bytes=3)


def test_deleted_object_is_gone_and_its_neighbours_are_not(account: base.Account) -> None:
    for name in ("a", "a/b", "a/b/c", "ab"):
        account.put(_BOX, name, [name.encode()])
    assert account.delete(_BOX, "a/b")
    assert _names(account) == ["a", "a/b/c", "ab"]
    assert account.delete(_BOX, "a/b/c")
    assert account.delete(_BOX, "a")
    assert _names(account) == ["ab"]
    assert _read(account, "ab") == b"ab"


def test_listing_goes_by_prefix_marker_and_limit_in_order_of_bytes(account: base.Account) -> None:
    names = ["a", "a!", "a.b", "a/", "a/b", "a/c", "a0", "b", "é", "z", "\U0001f600"]
    for name in reversed(names):
        account.put(_BOX, name, [b"x"])
    ordered = sorted(names, key=str.encode)
    assert _names(account) == ordered
    assert _names(account, prefix="a/") == ["a/", "a/b", "a/c"]
    assert _names(account, prefix="a/b") == ["a/b"]
    assert _names(account, prefix="nothing") == []
    assert _names(account, marker="a/b") == ordered[ordered.index("a/b") + 1 :]
    assert _names(account, marker="a/bb", prefix="a/") == ["a/c"]
    assert _names(account, marker="\U0010ffff") == []
    for limit in (0, 1, len(names), len(names) + 1):
        assert _names(account, limit=limit) == ordered[:limit]
    paged: list[str] = []
    while page := _names(account, marker=paged[-1] if paged else "", limit=3):
        paged += page
    assert paged == ordered


def test_times_grow_with_every_object_so_that_the_order_is_told(stored: Stored) -> None:
    account = stored.account
    times = [account.put(_BOX, f"{9 - i}", [b"x"]).modified for i in range(5)]
    assert times == sorted(set(times) if stored.store.has_fine_times else times)


def test_times_of_what_is_put_in_the_order_of_its_names_tell_this_order(stored: Stored) -> None:
    account = stored.account
    for i in range(5):
        account.put(_BOX, f"log-{i}", [b"x"])
    latest = sorted(account.list(_BOX), key=lambda each: each.modified, reverse=True)
    assert [each.name for each in latest] == [f"log-{i}" for i in reversed(range(5))]


def test_one_project_reaches_nothing_of_another(stored: Stored) -> None:
    stored.account.put(_BOX, "secret", [b"x"])
    for project in (
        "project-b",
        "../project-a",
        "project-a/../project-a",
        ".",
        "..",
        "",
        "PROJECT-A",
    ):
        try:
            other = stored.store.account(project)
        except exception.BadRequest:
            # a cloud's store knows the ids of a cloud's projects only
            continue
        assert other.list_containers() == []
        assert other.list(_BOX) == []
        assert other.find(_BOX, "secret") is None
        assert not other.delete(_BOX, "secret")
    for container, name in (("..", "project-a/box/secret"), (".", f"../project-a/{_BOX}/secret")):
        with contextlib.suppress(exception.BadRequest):
            assert stored.store.account("project-b").find(container, name) is None
    with contextlib.suppress(exception.BadRequest):
        stored.store.account("..").put("..", "../../escaped", [b"x"])
    assert stored.account.list_containers() == [_BOX]
    assert _read(stored.account, "secret") == b"x"


def test_grant_opens_one_account_and_no_other(stored: Stored) -> None:
    stored.account.put(_BOX, "x", [b"mine"])
    names = ("", "y", "/.././x", "n" * 1024)
    grant = stored.store.grant("project-a", container=_BOX, prefix="x", names=names)
    granted = factory.open_grant(stored.store.kind, grant)
    assert granted.reaches(_BOX, "x")
    assert _read(granted, "x") == b"mine"
    put = granted.put(_BOX, "xy", [b"from the guest"], metadata={"end": "7"})
    assert granted.find(_BOX, "xy") == put
    assert put.metadata == {"end": "7"}
    assert stored.account.get(_BOX, "xy") == put
    assert _read(stored.account, "xy") == b"from the guest"
    assert granted.delete(_BOX, "xy")
    assert not granted.delete(_BOX, "xy")
    assert stored.account.find(_BOX, "xy") is None
    other = factory.open_grant(
        stored.store.kind,
        stored.store.grant("project-b", container=_BOX, prefix="x", names=names),
    )
    assert other.find(_BOX, "x") is None


@pytest.mark.parametrize("grant", [{}, {"directory": 7}, {"directory": "relative"}])
def test_what_is_no_grant_opens_nothing(grant: dict[str, object]) -> None:
    with pytest.raises(base.StorageError):
        factory.open_grant("filesystem", grant)
    with pytest.raises(base.StorageError, match="kind"):
        factory.open_grant("tape", grant)


@pytest.mark.parametrize(
    ("container", "name"),
    [("", "x"), ("a/b", "x"), ("c" * 257, "x"), ("c", ""), ("c", "n" * 1025), ("c", "\ud800")],
)
def test_names_that_swift_refuses_are_refused(
    account: base.Account, container: str, name: str
) -> None:
    for use in (account.find, account.delete, account.open):
        with pytest.raises(exception.BadRequest):
            use(container, name)
    with pytest.raises(exception.BadRequest):
        account.put(container, name, [b""])


@pytest.mark.parametrize("name", ["/" * 1024, "%" * 1024, "é" * 512, "a/" * 512, "n" * 1024])
def test_longest_names_are_stored_or_refused_and_never_an_accident(
    account: base.Account, name: str
) -> None:
    try:
        account.put(_BOX, name, [b"x"])
    except exception.BadRequest:
        assert account.find(_BOX, name) is None
        assert not account.delete(_BOX, name)
    else:
        assert _names(account) == [name]
        assert _read(account, name) == b"x"
        assert account.delete(_BOX, name)
    assert _names(account) == []
    with pytest.raises(base.ObjectNotFound):
        account.open("c" * 256, name)


def _is_plain(name: str) -> bool:
    """Tell whether every store has to take a name."""
    return name.isprintable() and not {".", ".."} & set(name.split("/"))


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=90)
_PATHS = st.lists(
    st.sampled_from([".", "..", "", "a", "+o", "%", "%2F", "x" * 70, "é" * 40]) | _TEXT
)


_NAMES = {"a/../b", "a/b", "a//b", "/", "x" * 70, "é" * 40, "%2F", "+o", "a b?c#d&e=f"}


def test_names_of_all_kinds_live_side_by_side(stored: Stored) -> None:
    _store_and_read(stored.account, set(_NAMES))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    names=st.sets(_PATHS.map("/".join).filter(lambda n: 0 < len(n.encode()) <= 1000), max_size=5)
)
def test_any_names_live_side_by_side_in_a_directory(
    tmp_path: pathlib.Path, names: set[str]
) -> None:
    _store_and_read(filesystem.FilesystemStore(tmp_path / "objects").account("p"), names)


def _store_and_read(account: base.Account, names: set[str]) -> None:
    refused = set()
    for name in names:
        try:
            account.put(_BOX, name, [name.encode()])
        except exception.BadRequest:
            refused.add(name)
    names -= refused
    assert not any(_is_plain(name) for name in refused)
    try:
        assert _names(account) == sorted(names, key=str.encode)
        for name in names:
            assert _read(account, name) == name.encode()
    finally:
        for name in names:
            assert account.delete(_BOX, name)
    assert _names(account) == []


def test_upload_that_fails_leaves_the_old_object_and_nothing_else(
    stored: Stored, tmp_path: pathlib.Path
) -> None:
    account = stored.account
    account.put(_BOX, "x", [b"old"])
    before = sorted(path.name for path in tmp_path.rglob("*.data"))
    half = b"half" * 700_000

    def broken() -> Iterator[bytes]:
        yield half
        raise ConnectionError

    with pytest.raises((base.StorageError, ConnectionError)):
        account.put(_BOX, "x", broken())
    assert _read(account, "x") == b"old"
    assert sorted(path.name for path in tmp_path.rglob("*.data")) == before
    for box in stored.account.list_containers():
        assert len(stored.account.list(box)) == (box == _BOX)


def test_guest_stores_what_is_in_its_memory_as_a_whole_or_not_at_all(stored: Stored) -> None:
    grant = stored.store.grant("project-a", container=_BOX, prefix="i/", names=("x",))
    granted = factory.open_grant(stored.store.kind, grant)
    content = hashlib.shake_256(b"segment").digest(600_000)
    whole = contents.Whole(content)
    for _ in range(2):
        put = granted.put(_BOX, "i/x", whole)
        assert (put.size_bytes, put.etag) == (len(content), whole.etag)
    assert _read(granted, "i/x") == content
    checks = iter((True, False))

    def check() -> None:
        if not next(checks):
            raise ConnectionError

    with pytest.raises((base.StorageError, ConnectionError)):
        granted.put(_BOX, "i/x", contents.Whole(bytes(600_000), check=check))
    assert _read(granted, "i/x") == content


def test_many_writers_leave_one_whole_object(stored: Stored) -> None:
    problems: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for i in range(3):
                own = stored.again().account("project-a")
                own.put(_BOX, f"n{number}/{i}", [b"x"])
                own.delete(_BOX, f"n{number}/{i - 1}")
                assert own.get(_BOX, "shared").size_bytes == 4000
        except Exception as e:  # noqa: BLE001 - shown by the assertion below
            problems.append(e)

    stored.account.put(_BOX, "shared", [b"x" * 4000])
    threads = [threading.Thread(target=write, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert _names(stored.account) == ["n0/2", "n1/2", "n2/2", "n3/2", "shared"]
    assert len({each.modified for each in stored.account.list(_BOX)}) == 5
