"""Backups of Redis and Valkey on real servers: made, restored, checked, refused."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import resource
import threading
from collections.abc import Iterator

import pytest

from tests.fixtures import keeping
from tests.fixtures.engine import is_available
from tests.fixtures.probes_redis import RedisSession, execute
from tests.fixtures.rows import Subject, running
from tests.fixtures.waiting import wait_until
from trove.common import exception
from trove.datastores.spec import Capability
from trove.guestagent.datastores import base
from trove.guestagent.datastores.redis import backup, users
from trove.guestagent.system import filesystem, process
from trove.rpc import payloads

ROWS = [
    pytest.param(
        row, marks=pytest.mark.skipif(not is_available(row), reason=f"{row} is not installed")
    )
    for row in ("redis", "valkey")
]


@pytest.fixture(scope="module", params=ROWS)
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """Give a running instance."""
    with running(request.param) as made:
        yield made


@pytest.fixture
def clean(subject: Subject) -> Iterator[Subject]:
    """Give the instance without users and keys."""
    subject.clean()
    execute(subject.guest, "FLUSHALL")
    filesystem.remove_tree(subject.guest.layout.mount_point / "data.new")
    yield subject
    subject.guest.call("disable_root", payloads.Empty())


def part(subject: Subject) -> backup.RedisBackup:
    assert subject.guest.datastore is not None
    found = subject.guest.datastore.backup
    assert isinstance(found, backup.RedisBackup)
    return found


def recovery(full: base.Kept) -> base.Recovery:
    return base.Recovery(chain=[full])


def damaged(full: base.Kept, data: bytes) -> base.Kept:
    return keeping.kept(data, dict(full.facts))


def made(subject: Subject, full: base.Kept, name: str = "data.new") -> pathlib.Path:
    """Restore beside the data; returns where."""
    work = subject.guest.layout.mount_point / name
    filesystem.remove_tree(work)
    part(subject).restore(recovery(full), work)
    return work


def swap(subject: Subject, directory: pathlib.Path, *, aside: str) -> None:
    """Have the server run on another directory; what it ran on goes aside."""
    data = subject.guest.layout.data_dir
    assert subject.guest.run(payloads.StopJob()).succeeded
    data.rename(data.with_name(aside))
    directory.rename(data)
    outcome = subject.guest.run(payloads.StartJob())
    assert outcome.succeeded, outcome.error


def fill(subject: Subject, count: int = 50) -> None:
    for number in range(count):
        execute(subject.guest, "SET", f"key:{number}", "v" * 100)


def test_a_restored_server_has_keys_users_and_the_superuser(clean: Subject) -> None:
    guest = clean.guest
    fill(clean)
    execute(guest, "SET", "soon", "x", "PX", "60000")
    clean.add(payloads.User(name="joe", password="secret", databases=("key:*",)))
    guest.call("enable_root", payloads.EnableRoot(password="r00t-Word"))
    full = keeping.keep(part(clean).open_full())
    assert full.facts["engine"] == guest.manager
    assert full.facts["keys"] == {"0": 51}
    assert "secret" not in str(full.facts)
    execute(guest, "FLUSHALL")
    guest.call("disable_root", payloads.Empty())
    clean.change("joe", new_password="another")
    clean.add(payloads.User(name="late", password="secret"))

    work = made(clean, full)
    swap(clean, work, aside="data.former")
    assert execute(guest, "DBSIZE") == 51
    assert execute(guest, "PTTL", "soon") > 0
    with clean.login("joe", "secret") as session:
        assert isinstance(session, RedisSession)
        assert session.execute("GET", "key:7") == "v" * 100
    assert clean.is_let_in("default", "r00t-Word")
    if clean.can(Capability.TLS):
        assert clean.is_let_in("joe", "secret", ca=clean.authority.pem)
    assert [user.name for user in clean.users()] == ["joe"]
    assert not (guest.layout.data_dir / users.RESTORED).exists()
    # it goes on as any other: its writes outlive a restart
    execute(guest, "SET", "after", "1")
    clean.restart()
    assert execute(guest, "DBSIZE") == 52
    assert execute(guest, "CONFIG GET", "appendonly") == {"appendonly": "yes"}

    # and the former one comes back with its own users
    swap(clean, guest.layout.data_dir.with_name("data.former"), aside="data.gone")
    assert execute(guest, "DBSIZE") == 0
    assert clean.is_let_in("joe", "another")
    assert [user.name for user in clean.users()] == ["joe", "late"]
    assert not clean.is_let_in("default", "r00t-Word")
    filesystem.remove_tree(guest.layout.data_dir.with_name("data.gone"))


def test_a_restored_server_is_checked_by_the_engines_own_means(clean: Subject) -> None:
    fill(clean)
    execute(clean.guest, "EVAL", "redis.call('SELECT', '3') redis.call('SET', 'a', '1')", "0")
    full = keeping.keep(part(clean).open_full())
    work = made(clean, full)
    found = part(clean).verify(work)
    assert found["check"].endswith("-check-rdb")
    assert (found["objects"], found["loaded"]) == (51, True)
    assert found["keys"] == {"0": 50, "3": 1}
    filesystem.remove_tree(work)


def test_every_damage_is_told(clean: Subject) -> None:
    fill(clean)
    full = keeping.keep(part(clean).open_full())
    data = keeping.data_of(full)
    head = data.index(b"REDIS") if b"REDIS" in data else data.index(b"VALKEY")
    middle = head + (len(data) - head) // 2
    for wrong in (
        b"",
        data[:5],
        data[: head - 2],
        data[:-9],
        data[:middle],
        data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        b"x" + data,
        data[:12] + b"}" + data[13:],
    ):
        with pytest.raises(exception.GuestError):
            made(clean, damaged(full, wrong))
    # behind the tool's back, after it was restored
    work = made(clean, full)
    path = work / "appendonlydir" / "appendonly.aof.1.base.rdb"
    snapshot = path.read_bytes()
    path.write_bytes(snapshot[:-30] + bytes([snapshot[-30] ^ 64]) + snapshot[-29:])
    with pytest.raises(exception.GuestError, match="damaged"):
        part(clean).verify(work)
    filesystem.remove_tree(work)


def test_a_stream_that_ends_early_is_no_backup(clean: Subject) -> None:
    fill(clean)
    with part(clean).open_full() as stream:
        stream.read(100)
        with pytest.raises(exception.GuestError, match="not whole"):
            stream.finish()
        snapshot = clean.guest.layout.data_dir / "dump.rdb"
        os.truncate(snapshot, snapshot.stat().st_size - 20)
        keeping.drain(stream)
        with pytest.raises(exception.GuestError, match="not whole"):
            stream.finish()


def test_a_save_that_ran_already_is_not_taken_for_the_backups_own(clean: Subject) -> None:
    guest = clean.guest
    fill(clean)
    # each key takes the child a while
    execute(guest, "CONFIG SET", "rdb-key-save-delay", "20000")
    try:
        execute(guest, "BGSAVE")
        execute(guest, "SET", "since", "1")
        found: list[base.Kept] = []
        thread = threading.Thread(
            target=lambda: found.append(keeping.keep(part(clean).open_full()))
        )
        thread.start()
        wait_until(lambda: thread.is_alive())
        execute(guest, "CONFIG SET", "rdb-key-save-delay", "0")
        thread.join(30)
    finally:
        execute(guest, "CONFIG SET", "rdb-key-save-delay", "0")
    assert part(clean).verify(made(clean, found[0]))["keys"] == {"0": 51}


def test_a_save_that_fails_is_told(clean: Subject) -> None:
    guest = clean.guest
    data = guest.layout.data_dir
    data.chmod(0o500)
    try:
        with pytest.raises(exception.GuestError, match="could not write a snapshot"):
            part(clean).open_full()
    finally:
        data.chmod(0o700)
    keeping.keep(part(clean).open_full())


def test_a_fork_that_fails_is_told(clean: Subject) -> None:
    identity = clean.guest.engine()
    assert identity is not None
    user = clean.guest.layout.engine_user

    def limit(processes: str) -> None:
        # its own user may, root without its capabilities may not
        argv = ["prlimit", f"--pid={identity.pid}", f"--nproc={processes}:"]
        result = process.run(argv, timeout_s=10, user=user)
        assert result.return_code == 0, result.output

    limit("0")
    try:
        with pytest.raises(exception.GuestError, match="could not"):
            part(clean).open_full()
    finally:
        # what it was started with is what this process has
        limit(str(resource.getrlimit(resource.RLIMIT_NPROC)[1]).replace("-1", "unlimited"))
    keeping.keep(part(clean).open_full())


def test_what_an_agent_that_was_killed_left_is_in_nobodys_way(clean: Subject) -> None:
    full = keeping.keep(part(clean).open_full())
    work = made(clean, full)
    program = str(part(clean)._server.find_server())
    left = process.spawn(
        process.Command(
            argv=(program, "--port", "0", "--dir", str(work)),
            marker=str(work),
            user=clean.guest.layout.engine_user,
            log=clean.guest.directory / "left.log",
            directory=work,
        )
    )
    with contextlib.closing(left):
        # it shows its arguments once it is the program
        wait_until(lambda: process.has_argument(left.identity.pid, str(work)))
        made(clean, full)
        assert left.has_ended()


def test_what_does_not_belong_here_is_refused(clean: Subject) -> None:
    full = keeping.keep(part(clean).open_full())
    other = {"redis": "valkey", "valkey": "redis"}[clean.guest.manager]
    with pytest.raises(exception.GuestError, match=other):
        part(clean).check({**full.facts, "engine": other})
    with pytest.raises(exception.GuestError, match="newer"):
        part(clean).check({**full.facts, "version": "99.0.0"})
    part(clean).check({**full.facts, "version": "6.2.1"})
    with pytest.raises(exception.GuestError, match="full"):
        part(clean).open_increment(full.facts)
    work = clean.guest.layout.mount_point / "data.new"
    wrong = dataclasses.replace(recovery(full), target=base.Target(time_s=1.0))
    with pytest.raises(exception.GuestError, match="full backups only"):
        part(clean).restore(wrong, work)
    assert not work.exists()
    assert clean.guest.datastore is not None
    with pytest.raises(exception.NotImplementedByEngine, match="point in time"):
        clean.guest.datastore.archive.start()


def test_a_list_of_users_that_the_server_put_there_does_not_count(clean: Subject) -> None:
    guest = clean.guest
    if guest.layout.engine_user.is_current:
        pytest.skip("the server runs as the agent's own user here")
    clean.add(payloads.User(name="joe", password="secret"))
    planted = guest.layout.data_dir / users.RESTORED
    planted.write_text('{"users": [], "root": null}')
    os.chown(planted, guest.layout.engine_user.uid, guest.layout.engine_user.gid)
    clean.restart()
    assert [user.name for user in clean.users()] == ["joe"]
    planted.unlink()
