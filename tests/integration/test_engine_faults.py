"""Bad days of every real engine: a full disk, no memory, frozen, killed in the middle of a job.

One instance a row, on a file system of its own; the machine must let the tests mount one.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import uuid
from collections.abc import Iterator

import pytest

from tests.fixtures.engine import Guest, passable_directory, template_of
from tests.fixtures.probes import Refused, Session, probe_of
from tests.fixtures.rows import ROWS, Subject
from tests.fixtures.waiting import wait_until
from trove.datastores.spec import Capability
from trove.guestagent import disk_guard, journal, supervisor, tls
from trove.guestagent.system import filesystem
from trove.rpc import payloads

_MIB = 1024 * 1024
_VOLUME_MIB = 600


@contextlib.contextmanager
def small_volume(size_mib: int) -> Iterator[pathlib.Path]:
    """Mount a file system of its own."""
    with passable_directory() as directory:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode=755", "tmpfs", str(directory)],
            capture_output=True,
            check=False,
        )
        if mounted.returncode != 0:
            pytest.skip("no file system can be mounted here (needs root)")
        try:
            yield directory
        finally:
            subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.fixture(scope="module", params=ROWS)
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """Give an instance on a small volume, with a user that kept a value."""
    row = request.param
    with passable_directory() as directory, small_volume(_VOLUME_MIB) as volume:
        guest = Guest(directory=directory, row=row, template=template_of(row), mount_point=volume)
        try:
            made = Subject(guest=guest, probe=probe_of(row))
            guest.start_agent()
            made.prepare()
            made.tenant_user()
            yield made
        finally:
            guest.destroy()


def database_of(subject: Subject) -> str | None:
    return "shop" if subject.can(Capability.DATABASES) else None


@contextlib.contextmanager
def session_of(subject: Subject) -> Iterator[Session]:
    with subject.login("joe", "secret", database=database_of(subject)) as session:
        yield session


def keep(subject: Subject) -> str:
    value = uuid.uuid4().hex
    with session_of(subject) as session:
        session.write(value)
    return value


def kept(subject: Subject) -> str | None:
    with session_of(subject) as session:
        return session.read()


def ballast(subject: Subject) -> pathlib.Path:
    return subject.guest.layout.mount_point / "ballast"


def leave(subject: Subject, left_bytes: int) -> None:
    """Take space of the volume until so much is left, while the engine may write as well."""

    def take() -> bool:
        available = filesystem.disk_use(subject.guest.layout.mount_point).available_bytes
        with ballast(subject).open("ab") as stream, contextlib.suppress(OSError):
            more = max(0, available - left_bytes)
            if more:
                os.posix_fallocate(stream.fileno(), 0, stream.tell() + more)
            return True
        return False

    wait_until(take, what="a disk that is nearly full")


def reserve() -> int:
    return disk_guard.reserve_bytes(_VOLUME_MIB * _MIB)


def may_write(subject: Subject) -> bool:
    try:
        keep(subject)
    except Refused:
        return False
    return True


# -- the disk -----


def _fills(session: Session) -> bool:
    try:
        session.fill(_MIB)
    except Refused:
        return False
    return True


def test_writes_end_before_the_disk_is_full_and_go_on_when_there_is_space(
    subject: Subject,
) -> None:
    guest, value = subject.guest, keep(subject)
    engine = guest.engine()
    leave(subject, 2 * reserve())
    with session_of(subject) as session:
        # what the tenant writes is what fills it
        wait_until(lambda: not _fills(session), what="the end of writes")
    report = guest.wait_status("BLOCKED")
    assert "takes no writes" in str(report.message)
    assert not may_write(subject)
    assert kept(subject) == value
    assert filesystem.disk_use(guest.layout.mount_point).available_bytes > 0
    ballast(subject).unlink()
    report = guest.wait_status("HEALTHY")
    assert report.message is None
    assert may_write(subject)
    assert guest.engine() == engine
    with session_of(subject) as session:
        session.make_room()


def test_the_guard_survives_restarts_of_engine_and_agent(subject: Subject) -> None:
    guest = subject.guest
    keep(subject)
    leave(subject, reserve() // 2)
    guest.wait_status("BLOCKED")
    guest.stop_agent()
    guest.start_agent()
    guest.wait_status("BLOCKED")
    assert not may_write(subject)
    subject.restart()
    assert not may_write(subject)
    guest.wait_status("BLOCKED")
    # there is space again while nobody looks
    guest.stop_agent()
    ballast(subject).unlink()
    assert not may_write(subject)
    guest.start_agent()
    guest.wait_status("HEALTHY")
    assert may_write(subject)


def test_root_may_not_write_to_a_nearly_full_disk_either(subject: Subject) -> None:
    if not subject.probe.root_is_kept_from_writing:
        pytest.skip(f"{subject.guest.manager} cannot keep its superuser from writing")
    database = database_of(subject)
    name = subject.guest.call("enable_root", payloads.EnableRoot(password="r00t-Word")).name
    leave(subject, reserve() // 2)
    subject.guest.wait_status("BLOCKED")
    assert not subject.may_write(name, "r00t-Word", database)
    ballast(subject).unlink()
    subject.guest.wait_status("HEALTHY")
    assert subject.may_write(name, "r00t-Word", database)
    with subject.login(name, "r00t-Word", database=database) as session:
        session.try_admin()
    subject.guest.call("disable_root", payloads.Empty())


def test_deleting_a_database_makes_room(subject: Subject) -> None:
    if not subject.can(Capability.DATABASES):
        pytest.skip(f"{subject.guest.manager} has no databases to delete")
    if not subject.probe.frees_at_once:
        pytest.skip(f"{subject.guest.manager} frees space at its next checkpoint")
    guest = subject.guest
    database = subject.tenant_user("filler", "secret", "large")
    with subject.login("filler", "secret", database=database) as session:
        session.fill(3 * reserve())
    leave(subject, reserve() // 2)
    guest.wait_status("BLOCKED")
    subject.delete_database("large")
    guest.wait_status("HEALTHY")
    ballast(subject).unlink()
    subject.delete_user("filler")


def test_an_engine_killed_on_a_full_disk_is_back_when_there_is_space(subject: Subject) -> None:
    guest, value = subject.guest, keep(subject)
    leave(subject, 0)
    guest.wait_status("BLOCKED")
    killed = guest.engine()
    assert killed is not None
    os.kill(killed.pid, signal.SIGKILL)
    reports = len(guest.conductor.heartbeats)

    def is_told() -> bool:
        last = guest.conductor.heartbeats[reports:]
        return any("disk" in str(report.message) for report in last) and (
            guest.conductor.last is not None
            and guest.conductor.last.service_status in ("CRASHED", "BLOCKED")
            and guest.engine() != killed
        )

    # some start on a full disk and only read, others do not start
    wait_until(is_told, timeout_s=30, what="words of the disk")
    ballast(subject).unlink()
    guest.wait_status("HEALTHY", timeout_s=30)
    assert kept(subject) == value
    assert may_write(subject)


# -- memory -----


@contextlib.contextmanager
def memory_group(pid: int, limit_bytes: int) -> Iterator[None]:
    """Put a process into a control group with little memory; both versions of cgroups(7)."""
    group = _make_group(pid, limit_bytes)
    if group is None:
        pytest.skip("no control group can be made here")
    try:
        yield
    finally:
        wait_until(lambda: _try_remove(group), what="an empty control group")


def _make_group(pid: int, limit_bytes: int) -> pathlib.Path | None:
    name = f"trove-test-{uuid.uuid4().hex[:8]}"
    for root, limit in (
        (pathlib.Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (pathlib.Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = root / name
        try:
            group.mkdir()
            (group / "cgroup.procs").write_text(str(pid))
            (group / limit).write_text(str(limit_bytes))
        except OSError:
            _try_remove(group)
            continue
        return group
    return None


def _try_remove(group: pathlib.Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True


def test_an_engine_killed_for_lack_of_memory_is_told_and_back(subject: Subject) -> None:
    guest, value = subject.guest, keep(subject)
    killed = guest.engine()
    assert killed is not None
    reports = len(guest.conductor.heartbeats)
    resident = int(pathlib.Path(f"/proc/{killed.pid}/statm").read_text().split()[1])

    def is_killed() -> bool:
        with contextlib.suppress(Refused, OSError), session_of(subject) as session:
            session.fill(4 * _MIB)
        return guest.engine() != killed

    # what it has already is counted elsewhere: only what it asks for from now on
    with memory_group(killed.pid, max(2 * _MIB, resident // 64)):
        wait_until(is_killed, timeout_s=30, what="the kernel's kill")

    def is_told() -> bool:
        return any("memory ran out" in str(r.message) for r in guest.conductor.heartbeats[reports:])

    wait_until(is_told, what="words of the memory")
    guest.wait_status("HEALTHY")
    assert kept(subject) == value
    with session_of(subject) as session:
        session.make_room()


# -- time -----


def test_a_frozen_engine_is_blocked_and_recovers(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest, value = subject.guest, keep(subject)
    if guest.row != "mariadb":
        # what 60 s do, in less: one row shows how many pings must fail
        monkeypatch.setattr(supervisor, "_FAILED_PINGS_TO_BLOCK", 1)
    guest.wait_status("HEALTHY")
    engine = guest.engine()
    assert engine is not None
    os.kill(engine.pid, signal.SIGSTOP)
    try:
        guest.wait_status("BLOCKED", timeout_s=60)
    finally:
        os.kill(engine.pid, signal.SIGCONT)
    guest.wait_status("HEALTHY")
    assert guest.engine() == engine
    assert kept(subject) == value


# -- the end of the agent in the middle of a job -----


class _Killed(BaseException):
    """The end of the agent."""


#: The jobs that every engine has part in.
_EVERYWHERE = {("restart", "before"), ("configure", "after")}


@pytest.mark.parametrize("kind", ["restart", "stop", "start", "configure", "resize"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_job_is_done_by_the_next_agent_when_one_dies_in_its_middle(
    subject: Subject, kind: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal has the job as accepted, and what it does is half done or done unsaid."""
    if subject.guest.row != "mariadb" and (kind, when) not in _EVERYWHERE:
        pytest.skip("the agent's part is the same for every engine")
    guest, value = subject.guest, keep(subject)
    sizes = guest.sizes
    payload: payloads.Payload = {
        "restart": payloads.RestartJob(),
        "stop": payloads.StopJob(),
        "start": payloads.StartJob(),
        "configure": payloads.ConfigureJob(**sizes),
        "resize": payloads.ResizeJob(memory_mib=sizes["memory_mib"] + 64, vcpus=1),
    }[kind]
    assert guest.agent is not None
    manager = guest.agent.manager
    done = manager._jobs[kind]
    died: list[str] = []

    def die(job: payloads.Payload) -> None:
        if when == "after":
            done(job)
        died.append(kind)
        raise _Killed

    monkeypatch.setattr(manager, "_jobs", {**manager._jobs, kind: die})
    monkeypatch.setattr("threading.excepthook", lambda *args: None)
    job_id = guest.send(payload)
    wait_until(lambda: died, what="the end of the job's thread")
    assert guest.conductor.outcome_of(job_id) is None
    guest.stop_agent()
    guest.start_agent()
    outcome = wait_until(lambda: guest.conductor.outcome_of(job_id), timeout_s=60)
    assert outcome is not None
    assert outcome.succeeded, outcome.error
    if kind == "stop":
        guest.wait_status("SHUTDOWN")
        assert guest.run(payloads.StartJob()).succeeded
    guest.wait_status("HEALTHY")
    assert kept(subject) == value
    assert journal.Journal(guest.layout.jobs_dir).find_next() is None


def test_tls_is_as_asked_when_the_agent_dies_before_it_notes_so(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject.need(Capability.TLS)
    guest, value = subject.guest, keep(subject)
    guest.wait_status("HEALTHY")
    died: list[bool] = []

    def die(*args: object) -> None:
        died.append(True)
        raise _Killed

    job = subject.tls("enforced")
    with monkeypatch.context() as patch:
        patch.setattr(tls.TlsStore, "save", die)
        patch.setattr("threading.excepthook", lambda *args: None)
        job_id = guest.send(job)
        wait_until(lambda: died, what="the end of the job's thread")
        guest.stop_agent()
    guest.start_agent()
    outcome = wait_until(lambda: guest.conductor.outcome_of(job_id), timeout_s=60)
    assert outcome is not None
    assert outcome.succeeded, outcome.error
    guest.wait_status("HEALTHY")
    store = tls.TlsStore(guest.layout)
    assert (store.setting().mode, store.setting().set_id) == ("enforced", job.set_id)
    # renewed while it is enforced
    subject.apply_tls(subject.tls("enforced"))
    subject.apply_tls(payloads.SslJob(mode="builtin"))
    assert kept(subject) == value
