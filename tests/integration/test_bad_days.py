"""Bad input and bad days on a running service: a clear error early, and nothing half-made.

One trove-standalone with four addresses; what is wrong is told by the API, or by a fault of the
instance that names cause and remedy.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import signal
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

import bcrypt
import psutil
import pymysql
import pytest

from tests.fixtures import full_disk
from tests.fixtures.rest import Rest, create_body, left_over, processes_of
from tests.fixtures.stack import NO_RATES, CommandFailed, Stack, destroy_stack, make_stack
from tests.fixtures.waiting import wait_until
from trove.cmd import standalone_broker, standalone_processes, standalone_state
from trove.db import base, quotas

_POOL = [f"127.201.7.{last}" for last in (4, 5, 6, 7)]
_OPTIONS = {
    "api": {**NO_RATES, "max_accepted_volume_size_gib": 1_000_000},
    "quota": {"max_volumes_per_tenant": 950_000},
    "local": {"address_pool": f"{_POOL[0]}/30"},
}
_UNKNOWN_ID = "5b2a3f39-7a4c-4c9b-8a55-1d9d3b1f0c11"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    made = make_stack(_OPTIONS)
    yield made
    destroy_stack(made)


@pytest.fixture(scope="module")
def rest(stack: Stack) -> Rest:
    return stack.rest()


@pytest.fixture(scope="module")
def instance_id(rest: Rest) -> str:
    """Give one healthy instance with a database and a user."""
    made = rest.create(
        "healthy",
        databases=[{"name": "shop"}],
        users=[{"name": "ann", "password": "s3cret-Word", "databases": [{"name": "shop"}]}],
    )
    rest.wait_active(made)
    return made


@pytest.fixture(scope="module")
def stranger(stack: Stack) -> Rest:
    """Give a user of another project, added to the users' file of the running service."""
    hashed = bcrypt.hashpw(b"strange-Pw", bcrypt.gensalt(4)).decode()
    with (stack.state_dir / "htpasswd").open("a") as file:
        file.write(f"eve:{hashed}:other:member\n")
    return Rest(port=stack.port, user="eve", password="strange-Pw", project="other")


def _usage(stack: Stack, project: str = "demo") -> dict[str, int]:
    database = base.Database(f"sqlite:///{stack.state_dir / 'trove.db'}")
    try:
        with database.reader() as session:
            return quotas.get_usage(session, project)
    finally:
        database.dispose()


def _records(rest: Rest) -> set[str]:
    listed = rest("GET", "/instances?limit=1000", status=200).json
    return {each["id"] for each in listed["instances"]}


@pytest.fixture
def nothing_made(stack: Stack, rest: Rest, instance_id: str) -> Iterator[None]:
    """Hold a test to leave instances, directories and quota as they were."""
    volumes = stack.state_dir / "volumes"
    before = (_records(rest), _usage(stack), sorted(os.listdir(volumes)))
    yield
    assert (_records(rest), _usage(stack), sorted(os.listdir(volumes))) == before


# -- requests that make no sense -----


@pytest.mark.usefixtures("nothing_made")
@pytest.mark.parametrize(
    ("values", "status", "words"),
    [
        ({"datastore": {"type": "oracle"}}, 404, "oracle"),
        ({"datastore": {"type": "mariadb", "version": "0.1"}}, 400, "0.1"),
        ({"datastore": {"type": _UNKNOWN_ID}}, 404, _UNKNOWN_ID),
        ({"flavorRef": "77"}, 400, "77"),
        ({"flavorRef": "../../etc"}, 400, ""),
        ({"flavorRef": ""}, 400, "flavor"),
        ({"volume": {"size": 0}}, 400, "at least 1"),
        ({"volume": {"size": -1}}, 400, "at least 1"),
        ({"volume": {"size": "0"}}, 400, "at least 1"),
        ({"volume": {"size": 1.5}}, 400, "size"),
        ({"volume": {}}, 400, "size"),
        ({"volume": None}, 400, "size"),
        ({"volume": {"size": 1_000_001}}, 413, "1000000"),
        ({"volume": {"size": 10**30}}, 413, "1000000"),
        ({"volume": {"size": 960_000}}, 413, "Quota exceeded"),
        ({"name": "x" * 300}, 400, "255"),
        ({"name": ""}, 400, "name"),
        ({"name": "nul\0nul"}, 400, "name"),
        ({"name": None}, 400, "name"),
        ({"databases": [{"name": "mysql"}]}, 400, "reserved"),
        ({"databases": [{"name": "Information_Schema"}]}, 400, "reserved"),
        ({"databases": [{"name": "d" * 300}]}, 400, "255"),
        ({"databases": [{"name": "d" * 65}]}, 400, "64"),
        ({"databases": [{"name": "a\0b"}]}, 400, "control"),
        ({"databases": [{"name": "a"}, {"name": "a"}]}, 400, "twice"),
        ({"databases": [{"name": "a", "character_set": "klingon"}]}, 400, "character set"),
        ({"users": [{"name": "root", "password": "x"}]}, 400, "reserved"),
        ({"users": [{"name": "os_admin", "password": "x"}]}, 400, "reserved"),
        ({"users": [{"name": "u" * 300, "password": "x"}]}, 400, "255"),
        ({"users": [{"name": "u\0", "password": "x"}]}, 400, "control"),
        ({"users": [{"name": "u", "password": "a\0b"}]}, 400, "control"),
        ({"users": [{"name": "u", "password": ""}]}, 400, "password"),
        ({"users": [{"name": "u", "password": "x", "host": "a b;--"}]}, 400, "host"),
        ({"users": [{"name": "u", "password": "x", "databases": [{"name": "no"}]}]}, 400, "no"),
        ({"region_name": "Atlantis"}, 400, "Atlantis"),
        ({"nics": [{"net-id": "../../x"}]}, 400, "UUID"),
        ({"replica_of": _UNKNOWN_ID}, 404, _UNKNOWN_ID),
        ({"restorePoint": {"backupRef": _UNKNOWN_ID}}, 404, _UNKNOWN_ID),
    ],
)
def test_a_create_that_makes_no_sense_is_refused_by_the_api(
    rest: Rest, values: dict[str, Any], status: int, words: str
) -> None:
    answer = rest("POST", "/instances", create_body("bad", **values))
    assert answer.status == status, answer.text
    assert words in answer.message
    assert answer.took_s < 2


@pytest.mark.usefixtures("nothing_made")
@pytest.mark.parametrize(
    "body", [b"", b"{", b"hello", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 50_000, b"{}" * 2]
)
def test_a_body_that_is_no_json_object_is_refused(
    rest: Rest, instance_id: str, body: bytes
) -> None:
    headers = {"Content-Type": "application/json"}
    one = f"/instances/{instance_id}"
    for path in ("/instances", f"{one}/action", f"{one}/databases", f"{one}/users"):
        answer = rest("POST", path, body, headers=headers, status=400)
        assert "body" in answer.message
    wrong_type = {"Content-Type": "text/plain"}
    rest("POST", "/instances", b"name=x", headers=wrong_type, status=415)
    rest("POST", "/instances", b" " * 1_100_000, headers=headers, status=413)


@pytest.mark.usefixtures("nothing_made")
@pytest.mark.parametrize(
    "text",
    ["%00", "..%2f..%2fetc%2fpasswd", "%27%20OR%201=1%20--", "a" * 5000, "%ff%fe", "%F0%9F%98%80"],
)
def test_an_id_that_is_none_is_not_found(rest: Rest, instance_id: str, text: str) -> None:
    for path in (f"/instances/{text}", f"/datastores/{text}", f"/flavors/{text}"):
        assert rest("GET", path).status in (400, 404)
    assert rest("DELETE", f"/instances/{text}").status in (400, 404)
    one = f"/instances/{instance_id}"
    for path in (f"{one}/databases/{text}", f"{one}/users/{text}"):
        assert rest("DELETE", path).status in (400, 404)
    assert rest.raw("GET", "/v1.0/demo/../../etc/passwd").status in (403, 404)


#: Names that would do harm if they were put into a statement or a path as they are.
_MALICIOUS = (
    "a`; DROP DATABASE shop; --",
    "a' OR '1'='1",
    'a"b',
    "a\\b",
    "a%",
    "a_b",
    "x; DROP USER ann",
    "héllo",
)


def _connect(rest: Rest, instance_id: str, user: str, password: str) -> Any:
    address = rest.show(instance_id)["addresses"][0]["address"]
    return pymysql.connect(host=address, user=user, password=password, connect_timeout=5)


@pytest.mark.parametrize("name", _MALICIOUS)
def test_an_odd_name_is_refused_or_is_that_very_name(
    rest: Rest, instance_id: str, name: str
) -> None:
    """Whatever the rules of the engine allow is quoted: nothing else comes of it."""
    one = f"/instances/{instance_id}"
    before = rest("GET", f"{one}/databases", status=200).json["databases"]
    made = rest("POST", f"{one}/databases", {"databases": [{"name": name}]})
    assert made.status in (202, 400), made.text
    databases = rest("GET", f"{one}/databases", status=200).json["databases"]
    added = [each["name"] for each in databases if each not in before]
    assert added == ([name] if made.status == 202 else [])

    # PyMySQL sends passwords as Latin-1
    password = name.encode("ascii", "ignore").decode()
    user = {"name": name, "password": password, "databases": [{"name": "shop"}]}
    created = rest("POST", f"{one}/users", {"users": [user]})
    assert created.status in (202, 400), created.text
    users = [each["name"] for each in rest("GET", f"{one}/users", status=200).json["users"]]
    assert users == (sorted(["ann", name]) if created.status == 202 else ["ann"])
    if created.status == 202:
        with (
            _connect(rest, instance_id, name, password) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("SHOW DATABASES")
            assert {row[0] for row in cursor.fetchall()} == {"shop", "information_schema"}

    quoted = "".join(f"%{byte:02x}" for byte in name.encode())
    for each, status in (("databases", made.status), ("users", created.status)):
        answer = rest("DELETE", f"{one}/{each}/{quoted}")
        assert (answer.status == 202) == (status == 202), answer.text
    assert rest("GET", f"{one}/databases", status=200).json["databases"] == before


# -- other people's instances -----


def test_another_project_sees_and_touches_nothing(
    rest: Rest, stranger: Rest, instance_id: str
) -> None:
    wait_until(lambda: stranger("GET", "/instances").status == 200, timeout_s=5)
    for path in ("/instances", "/instances/detail"):
        assert stranger("GET", path, status=200).json["instances"] == []
    one = f"/instances/{instance_id}"
    requests: list[tuple[str, str, Any]] = [
        ("GET", one, None),
        ("DELETE", one, None),
        ("POST", f"{one}/action", {"restart": {}}),
        ("GET", f"{one}/databases", None),
        ("POST", f"{one}/databases", {"databases": [{"name": "mine"}]}),
        ("DELETE", f"{one}/databases/shop", None),
        ("GET", f"{one}/users", None),
        ("GET", f"{one}/users/ann", None),
        ("GET", f"{one}/users/ann/databases", None),
        ("PUT", f"{one}/users/ann/databases", {"databases": [{"name": "shop"}]}),
        ("DELETE", f"{one}/users/ann/databases/shop", None),
        ("PUT", f"{one}/users/ann", {"user": {"password": "mine"}}),
        ("PUT", f"{one}/users", {"users": [{"name": "ann", "password": "mine"}]}),
        ("POST", f"{one}/users", {"users": [{"name": "eve", "password": "mine"}]}),
        ("DELETE", f"{one}/users/ann", None),
        ("GET", f"{one}/root", None),
        ("POST", f"{one}/root", None),
        ("DELETE", f"{one}/root", None),
    ]
    for method, path, body in requests:
        foreign = stranger(method, path, body)
        assert foreign.status == 404, f"{method} {path}: {foreign.text}"
        # exactly what an id that never was gets
        unknown = stranger(method, path.replace(instance_id, _UNKNOWN_ID), body)
        assert unknown.message == foreign.message.replace(instance_id, _UNKNOWN_ID)
        assert stranger.raw(method, f"/v1.0/demo{path}", body).status == 403
    assert rest.show(instance_id)["status"] == "ACTIVE"
    with _connect(rest, instance_id, "ann", "s3cret-Word"):
        pass


def test_a_wrong_password_or_none_is_unauthorized(rest: Rest, instance_id: str) -> None:
    for headers in ({"Authorization": "Basic eA=="}, {"Authorization": "Bearer x"}):
        answer = rest("GET", f"/instances/{instance_id}", headers=headers, status=401)
        assert answer.headers["WWW-Authenticate"].startswith("Basic")


# -- what runs out, and what is missing -----


def _expect_no_trace(stack: Stack, rest: Rest, instance_id: str, before: dict[str, int]) -> None:
    """Assert that a failed instance is a record alone, and that its delete gives the quota back."""
    assert left_over(stack.state_dir, instance_id) == []
    assert _usage(stack)["instances"] == before["instances"] + 1
    rest.delete(instance_id)
    rest.wait_gone(instance_id, timeout_s=20)
    assert _usage(stack) == before


def _binds(listener: socket.socket, address: tuple[str, int]) -> bool:
    with contextlib.suppress(OSError):
        listener.bind(address)
        return True
    return False


@contextlib.contextmanager
def _listening(addresses: list[str], port: int = 3306) -> Iterator[None]:
    with contextlib.ExitStack() as held:
        for address in addresses:
            listener = held.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # a process that was killed gives its ports back a moment after it is not seen any more
            wait_until(functools.partial(_binds, listener, (address, port)), timeout_s=5)
            listener.listen()
        yield


def _free(rest: Rest) -> list[str]:
    listed = rest("GET", "/instances/detail", status=200).json["instances"]
    taken = {each["address"] for one in listed for each in one.get("addresses", ())}
    return [address for address in _POOL if address not in taken]


def test_a_taken_port_is_passed_over_and_a_used_up_pool_is_told(
    stack: Stack, rest: Rest, instance_id: str
) -> None:
    before = _usage(stack)
    free = _free(rest)
    assert len(free) == 3
    with _listening(free[:2]):
        passed = rest.create("passed-over")
        assert rest.wait_active(passed)["addresses"][0]["address"] == free[2]
        full = rest.create("pool-used-up")
        message = rest.wait_error(full, timeout_s=20)
        assert "No free address" in message
        assert "delete instances" in message
        assert "address_pool" in message
        rest.delete(passed)
        rest.wait_gone(passed)
        assert left_over(stack.state_dir, passed) == []
    with _listening(free[2:]):
        pass
    _expect_no_trace(stack, rest, full, before)


def test_a_port_taken_behind_the_driver_s_back_is_told_and_mended(
    stack: Stack, rest: Rest, instance_id: str
) -> None:
    """Somebody takes the port after the address was given: the engine starts when it is free."""
    address = rest.show(instance_id)["addresses"][0]["address"]
    (agent,) = processes_of(instance_id, "trove-guestagent")
    (engine,) = processes_of(instance_id, "mariadbd")
    with contextlib.ExitStack() as taken:
        agent.suspend()
        try:
            engine.kill()
            taken.enter_context(_listening([address]))
        finally:
            agent.resume()
        taken_by = f"port 3306 of {address} is taken by another program: stop it"
        wait_until(
            lambda: taken_by in rest.show(instance_id).get("fault", {}).get("message", ""),
            timeout_s=20,
            what="the trouble to show",
        )
        answer = rest("GET", f"/instances/{instance_id}/databases", status=422)
        assert taken_by in answer.message
        # asking for a restart does not help, and says the same
        rest.restart(instance_id)
        wait_until(lambda: rest.show(instance_id)["status"] != "REBOOT", timeout_s=30)
        assert taken_by in rest.show(instance_id)["fault"]["message"]
    rest.wait_active(instance_id, timeout_s=90)
    rest.restart(instance_id)
    assert "fault" not in rest.wait_active(instance_id)
    with _connect(rest, instance_id, "ann", "s3cret-Word"):
        pass


def test_a_volume_larger_than_the_disk_is_told(stack: Stack, rest: Rest, instance_id: str) -> None:
    before = _usage(stack)
    made = rest.create("too-large", volume={"size": 900_000})
    message = rest.wait_error(made, timeout_s=20)
    assert "900000 GiB" in message
    assert "free some, or ask for a smaller volume" in message
    _expect_no_trace(stack, rest, made, before)


@contextlib.contextmanager
def _full_disk(path: pathlib.Path) -> Iterator[None]:
    with full_disk.mounted(path, "size=64k,nr_inodes=3,mode=0711"):
        full_disk.fill(path)
        yield


@pytest.mark.parametrize("directory", ["ports", "servers", "volumes"])
def test_a_full_disk_is_told_and_leaves_nothing(
    stack: Stack, rest: Rest, instance_id: str, directory: str
) -> None:
    before = _usage(stack)
    with _full_disk(stack.state_dir / directory):
        made = rest.create(f"full-{directory}")
        message = rest.wait_error(made, timeout_s=20)
        assert "no space is left" in message or "free some" in message
        assert left_over(stack.state_dir, made) == []
    _expect_no_trace(stack, rest, made, before)
    rest.wait_active(instance_id, timeout_s=30)


def test_an_engine_that_is_gone_is_told_and_leaves_nothing(
    stack: Stack, rest: Rest, instance_id: str
) -> None:
    before = _usage(stack)
    importing = ("image", "import", "--datastore", "mariadb", "--datastore-version", "gone")
    stack.manage(*importing, "--image-id", "gone")
    record = stack.state_dir / "images" / "gone" / "image.json"
    text = record.read_text()
    record.write_text(text.replace("/mariadbd", "/mariadbd-gone"))
    made = rest.create("no-engine", datastore={"type": "mariadb", "version": "gone"})
    message = rest.wait_error(made, timeout_s=20)
    assert "/mariadbd-gone" in message
    assert "install mariadb-server" in message
    assert "trove-manage image import" in message
    _expect_no_trace(stack, rest, made, before)
    with pytest.raises(CommandFailed, match="apt-get install"):
        stack.manage(*importing, "--file", "/nonexistent/mariadbd")
    # mended, it works without more ado
    record.write_text(text)
    made = rest.create("engine-again", datastore={"type": "mariadb", "version": "gone"})
    rest.wait_active(made)
    rest.delete(made)
    rest.wait_gone(made)


def test_an_image_that_is_gone_is_told_and_leaves_nothing(
    stack: Stack, rest: Rest, instance_id: str
) -> None:
    before = _usage(stack)
    images = stack.state_dir / "images"
    images.rename(stack.state_dir / "moved")
    try:
        made = rest.create("no-image")
        message = rest.wait_error(made, timeout_s=20)
        assert "trove-manage image import" in message
        _expect_no_trace(stack, rest, made, before)
    finally:
        (stack.state_dir / "moved").rename(images)


# -- the broker -----


@pytest.fixture
def no_broker(stack: Stack) -> Iterator[psutil.Process]:
    """Kill the broker, and hold who would start it again; give that process."""
    state = standalone_state.StandaloneState(root=stack.state_dir)
    keeper = psutil.Process(stack_pid(state, "broker"))
    keeper.suspend()
    try:
        for pid in standalone_broker.node_pids(state.broker_dir):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        yield keeper
    finally:
        keeper.resume()
    wait_until(lambda: standalone_broker.node_pids(state.broker_dir), timeout_s=30)


def stack_pid(state: standalone_state.StandaloneState, role: str) -> int:
    process = standalone_processes.find(state, role)
    assert process is not None
    return process.pid


def test_without_a_broker_the_api_answers_and_what_it_accepts_is_done_later(
    rest: Rest, instance_id: str, no_broker: psutil.Process
) -> None:
    one = f"/instances/{instance_id}"
    for path in ("/instances", one, "/datastores", "/flavors", f"{one}/root"):
        assert rest("GET", path, status=200).took_s < 1
    for method, path, body in (
        ("GET", f"{one}/databases", None),
        ("POST", f"{one}/databases", {"databases": [{"name": "late"}]}),
        ("GET", f"{one}/users", None),
        ("POST", f"{one}/root", None),
    ):
        answer = rest(method, path, body, status=503)
        assert "message broker cannot be reached" in answer.message
        assert "transport_url" in answer.message
        assert answer.took_s < 5
    accepted = rest("POST", "/instances", create_body("patient"), status=200)
    assert accepted.took_s < 2.5
    doomed = rest("POST", "/instances", create_body("doomed"), status=200).json["instance"]["id"]
    assert rest("DELETE", f"/instances/{doomed}", status=202).took_s < 2.5
    patient = accepted.json["instance"]["id"]
    assert rest.show(patient)["status"] == "BUILD"
    no_broker.resume()
    rest.wait_active(patient, timeout_s=60)
    rest.wait_gone(doomed, timeout_s=30)
    listed = rest("GET", f"{one}/databases", status=200).json["databases"]
    assert [each["name"] for each in listed] == ["shop"]
    rest.delete(patient)
    rest.wait_gone(patient)


def test_a_service_whose_own_disk_is_full_says_so_and_goes_on_once_it_is_not() -> None:
    """Its SQLite file, its logs and its broker share the disk with everything else."""
    with tempfile.TemporaryDirectory(prefix="trove-full-") as directory:
        root = pathlib.Path(directory)
        with full_disk.mounted(root, "size=400m,mode=0755"):
            stack = make_stack(_OPTIONS, state_dir=root)
            try:
                _on_a_full_disk(stack)
            finally:
                destroy_stack(stack)


def _on_a_full_disk(stack: Stack) -> None:
    rest = stack.rest()
    before = _usage(stack)
    full_disk.fill(stack.state_dir)
    for path in ("/instances", "/datastores", "/flavors"):
        assert rest("GET", path, status=200).took_s < 2
    answer = rest("POST", "/instances", create_body("no-room"))
    assert answer.status == 503, answer.text
    assert "disk" in answer.message
    assert answer.took_s < 5
    full_disk.free(stack.state_dir)
    assert _records(rest) == set()
    assert _usage(stack) == before
    # 400 MB are no room for a database, and the driver says so: everything works again
    made = rest.create("after")
    assert "free some" in rest.wait_error(made, timeout_s=30)
    rest.delete(made)
    rest.wait_gone(made, timeout_s=30)
    assert left_over(stack.state_dir, made) == []
