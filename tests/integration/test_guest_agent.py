"""The guest agent with a real MariaDB: its whole life, and its bad days."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import signal
import socket
import ssl
import subprocess
import uuid
from collections.abc import Iterator

import pymysql
import pytest

from tests.fixtures.engine import (
    ENGINES,
    Authority,
    Guest,
    guest,
    mariadb_template,
    needs_mariadb,
    passable_directory,
)
from tests.fixtures.waiting import wait_until
from trove.guestagent import journal
from trove.guestagent.datastores import base
from trove.guestagent.datastores.mysql import configuration
from trove.guestagent.datastores.mysql import service as mysql_service
from trove.guestagent.system import filesystem, process
from trove.rpc import payloads

__all__ = ["guest", "mariadb_template"]

pytestmark = needs_mariadb

ALICE = payloads.User(name="alice", password="p'w\"1\\", databases=("app",))
APP = payloads.Database(name="app", character_set="utf8mb4", collate="utf8mb4_bin")


@pytest.fixture
def running(guest: Guest) -> Guest:
    """An instance with a database, a user, and an agent."""
    guest.start_agent()
    guest.prepare(databases=(APP,), users=(ALICE,))
    guest.wait_status("HEALTHY")
    return guest


def _write(guest: Guest, value: str) -> None:
    assert ALICE.password is not None
    with guest.connect("alice", ALICE.password, database="app", autocommit=True) as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE TABLE IF NOT EXISTS t (value VARCHAR(100))")
        cursor.execute("INSERT INTO t VALUES (%s)", (value,))


def _read(guest: Guest) -> list[str]:
    assert ALICE.password is not None
    with guest.connect("alice", ALICE.password, database="app") as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT value FROM t")
        return [value for (value,) in cursor.fetchall()]


def _engine(guest: Guest) -> process.Identity:
    identity = guest.engine()
    assert identity is not None
    return identity


# -- the good days -----


def test_the_agent_tells_what_it_and_its_engine_use(running: Guest) -> None:
    found = running.call("diagnostics", payloads.Empty())
    assert found.agent.threads >= 1
    assert found.engine is not None
    assert found.engine.version.startswith("10.")
    assert found.engine.vm_rss_kib > 10_000
    hardware = running.call("hwinfo", payloads.Empty())
    assert hardware.memory_mib > 0
    assert hardware.cpus >= 1


def test_prepared_instance_serves_its_user_over_the_network(running: Guest) -> None:
    _write(running, "hello")
    assert _read(running) == ["hello"]
    report = running.wait_status("HEALTHY")
    assert report.engine_version
    assert report.engine_version.startswith("10.")
    assert report.disk_used_bytes
    assert report.disk_total_bytes == 1 << 30


def test_engine_runs_unprivileged_in_a_session_of_its_own_with_a_bare_environment(
    running: Guest,
) -> None:
    pid = _engine(running).pid
    status = dict(
        line.split(":\t", 1)
        for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    user = running.layout.engine_user
    assert status["Uid"].split()[0] == str(user.uid)
    assert user.uid != 0 or os.geteuid() != 0
    assert os.getsid(pid) == pid
    environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert {entry.partition(b"=")[0] for entry in environment if entry} <= {
        b"PATH",
        b"LC_ALL",
        b"TZ",
    }


def test_secrets_are_readable_by_nobody_else(running: Guest) -> None:
    layout = running.layout
    for folder in (layout.agent_dir, layout.tls_dir, layout.secret_dir):
        assert folder.stat().st_mode & 0o077 == 0
    for path in (layout.agent_dir / "os_admin.password", layout.secret_dir / "init.sql"):
        assert path.stat().st_mode & 0o777 == 0o600
    everything = [p for p in running.directory.rglob("*") if p.is_file()]
    password = ALICE.password
    assert password is not None
    needle = json.dumps(password)[1:-1].encode()
    assert not [
        p for p in everything if needle in p.read_bytes() or password.encode() in p.read_bytes()
    ]
    pid = _engine(running).pid
    admin = (layout.agent_dir / "os_admin.password").read_bytes()
    assert admin not in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()


def test_restart_job_makes_a_new_process_and_keeps_the_data(running: Guest) -> None:
    _write(running, "kept")
    before = _engine(running)
    assert running.run(payloads.RestartJob()).succeeded
    after = _engine(running)
    assert before != after
    assert _read(running) == ["kept"]


def test_stop_job_stops_cleanly_and_a_new_agent_keeps_it_stopped(running: Guest) -> None:
    assert running.run(payloads.StopJob()).succeeded
    assert running.engine() is None
    running.wait_status("SHUTDOWN")
    running.stop_agent()
    running.start_agent()
    running.wait_status("SHUTDOWN")
    assert running.engine() is None


def test_tls_is_offered_with_a_certificate_that_the_authority_signed(guest: Guest) -> None:
    authority = Authority()
    guest.start_agent()
    hello = wait_until(lambda: guest.conductor.hellos and guest.conductor.hellos[0])
    assert hello
    assert hello.csr_pem
    guest.prepare(
        databases=(APP,),
        users=(ALICE,),
        certificate_pem=authority.sign(hello.csr_pem, address=guest.address),
        ca_pem=authority.pem,
    )
    assert ALICE.password is not None
    context = ssl.create_default_context(cadata=authority.pem)
    with guest.connect("alice", ALICE.password, ssl=context) as connection:
        cursor = connection.cursor()
        cursor.execute("SHOW STATUS LIKE 'Ssl_version'")
        row = cursor.fetchone()
        assert row is not None
        assert row[1].startswith("TLSv1.")
    with guest.connect("alice", ALICE.password) as connection:
        assert connection.open  # TLS is offered, not required
    stranger = ssl.create_default_context(cadata=Authority().pem)
    with pytest.raises(pymysql.err.OperationalError, match="certificate verify failed"):
        guest.connect("alice", ALICE.password, ssl=stranger)


def test_certificate_for_another_key_is_refused(guest: Guest) -> None:
    authority = Authority()
    guest.start_agent()
    job = payloads.PrepareJob(
        memory_mib=256, vcpus=1, certificate_pem=authority.pem, ca_pem=authority.pem
    )
    outcome = guest.run(job)
    assert not outcome.succeeded
    assert "another key" in (outcome.error or "")


# -- jobs -----


def test_job_delivered_again_is_reported_again_and_not_done_again(running: Guest) -> None:
    job_id = running.send(payloads.RestartJob())
    wait_until(lambda: running.conductor.outcome_of(job_id))
    process_after_first = _engine(running)
    running.conductor.outcomes.clear()
    running.send(payloads.RestartJob(), job_id=job_id)
    outcome = wait_until(lambda: running.conductor.outcome_of(job_id))
    assert outcome
    assert outcome.succeeded
    assert _engine(running) == process_after_first


def test_outcome_survives_an_outage_of_the_broker_and_a_restart_of_the_agent(
    running: Guest,
) -> None:
    running.conductor.is_down = True
    job_id = running.send(payloads.RestartJob())
    assert running.agent is not None
    wait_until(running.agent.journal.unreported)
    running.stop_agent()
    running.start_agent()
    running.conductor.is_down = False
    outcome = wait_until(lambda: running.conductor.outcome_of(job_id))
    assert outcome
    assert outcome.succeeded
    assert outcome.heartbeat.boot == 2


def test_unknown_job_fails_with_words(running: Guest) -> None:
    assert running.agent is not None
    running.agent.manager.on_job(payloads.Job(job_id="j-1", kind="brew-coffee"))
    outcome = wait_until(lambda: running.conductor.outcome_of("j-1"))
    assert outcome
    assert not outcome.succeeded
    assert "brew-coffee" in (outcome.error or "")


# -- the bad days -----


def test_killed_engine_is_restarted_with_its_data(running: Guest) -> None:
    _write(running, "survives")
    before = _engine(running)
    os.kill(before.pid, signal.SIGKILL)
    wait_until(lambda: running.engine() not in (None, before))
    running.wait_status("HEALTHY")
    assert _read(running) == ["survives"]
    crashes = [h for h in running.conductor.heartbeats if h.service_status == "CRASHED"]
    assert crashes
    assert "killed by signal 9" in (crashes[0].message or "")


def test_new_agent_adopts_the_engine_of_the_old_one(running: Guest) -> None:
    before = _engine(running)
    running.stop_agent()
    assert _engine(running) == before
    running.start_agent()
    running.wait_status("HEALTHY")
    assert _engine(running) == before
    # the adopted engine is watched as well as an own one
    os.kill(before.pid, signal.SIGKILL)
    wait_until(lambda: running.engine() not in (None, before))
    running.wait_status("HEALTHY")


@pytest.mark.parametrize(
    "content", [None, "garbage", '{"pid": 1, "start_ticks": 1, "boot_id": ""}']
)
def test_engine_is_adopted_without_a_true_pid_file(running: Guest, content: str | None) -> None:
    before = _engine(running)
    running.stop_agent()
    running.layout.pid_file.unlink()
    if content is not None:
        running.layout.pid_file.write_text(content)
    running.start_agent()
    running.wait_status("HEALTHY")
    assert _engine(running) == before


def test_power_off_stops_cleanly_and_the_next_start_runs_again(running: Guest) -> None:
    _write(running, "reboot")
    assert running.agent is not None
    running.agent.power_off()
    assert running.engine() is None
    assert "Shutdown complete" in running.layout.log.read_text()
    last = running.conductor.last
    assert last is not None
    assert last.service_status == "SHUTDOWN"
    running.agent = None
    running.start_agent()
    running.wait_status("HEALTHY")
    assert _read(running) == ["reboot"]


def test_hostile_sql_mode_does_not_change_what_is_quoted(running: Guest) -> None:
    running.call("enable_root", payloads.EnableRoot(password="tenant"))
    with running.connect("root", "tenant", autocommit=True) as connection:
        connection.cursor().execute("SET GLOBAL sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'")
    evil = payloads.User(name="x\\' OR 1=1 -- ", host="%", password="\\'; DROP DATABASE app; -- ")
    evil = payloads.User(name=evil.name.strip(), password=(evil.password or "").strip())
    running.call("create_users", payloads.Users(users=(evil,)))
    names = [u.name for u in running.call("list_users", payloads.Page(limit=10)).users]
    assert evil.name in names
    databases = running.call("list_databases", payloads.Page(limit=10)).databases
    assert [d.name for d in databases] == ["app"]


def test_port_already_taken_is_said_and_cured_by_itself(guest: Guest) -> None:
    with socket.create_server((guest.address, guest.port)):
        guest.start_agent()
        job = payloads.PrepareJob(memory_mib=256, vcpus=1)
        outcome = guest.run(job)
        assert not outcome.succeeded
        assert f"port {guest.port} of {guest.address} is taken" in (outcome.error or "")
        last = guest.conductor.last
        assert last is not None
        assert last.service_status == "FAILED"
        assert "is taken" in (last.message or "")
    assert guest.run(job).succeeded
    guest.wait_status("HEALTHY")


def test_missing_engine_program_is_said(guest: Guest) -> None:
    guest.basedir = str(guest.directory / "nowhere")
    guest.start_agent()
    outcome = guest.run(payloads.PrepareJob(memory_mib=256, vcpus=1))
    assert not outcome.succeeded
    assert "mariadbd is missing" in (outcome.error or "")
    assert "mariadb-server" in (outcome.error or "")


def test_instance_is_made_without_a_template(guest: Guest) -> None:
    guest.template = None
    guest.start_agent()
    guest.prepare(databases=(APP,), users=(ALICE,))
    _write(guest, "x")


@pytest.fixture
def small_volume() -> Iterator[pathlib.Path]:
    """A file system of 100 MiB; only root can mount one."""
    with passable_directory() as directory:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=100m,mode=755", "tmpfs", str(directory)],
            capture_output=True,
            check=False,
        )
        if mounted.returncode != 0:
            pytest.skip("no file system can be mounted here (needs root)")
        try:
            yield directory
        finally:
            subprocess.run(["umount", "-l", str(directory)], check=True)


def test_full_disk_fails_the_prepare_with_a_remedy(
    guest: Guest, small_volume: pathlib.Path
) -> None:
    (small_volume / "ballast").write_bytes(b"x" * (80 << 20))
    guest.mount_point = small_volume
    guest.start_agent()
    outcome = guest.run(payloads.PrepareJob(memory_mib=256, vcpus=1))
    assert not outcome.succeeded
    assert "disk is full" in (outcome.error or "").lower()
    assert "larger" in (outcome.error or "")
    assert not (small_volume / "data").exists()
    assert not (small_volume / "data.new").exists()


def test_nearly_full_disk_is_told_in_the_heartbeat(
    guest: Guest, small_volume: pathlib.Path
) -> None:
    guest.mount_point = small_volume
    guest.start_agent()
    guest.prepare()
    left = filesystem.disk_use(small_volume).available_bytes
    (small_volume / "ballast").write_bytes(b"x" * (left - (1 << 20)))
    report = wait_until(
        lambda: (last := guest.conductor.last) and "full" in (last.message or "") and last
    )
    assert report
    assert report.disk_used_bytes
    assert report.disk_total_bytes == 100 << 20


class _Crash(BaseException):
    """The end of the agent, in the middle of something."""


_STAGES = [
    (filesystem, "copy_tree"),
    (filesystem, "ensure_directory"),
    (mysql_service.MysqlService, "_install_certificates"),
    (configuration, "render"),
    (mysql_service.MysqlService, "_write_init_file"),
    (filesystem, "sync_directory"),
]


def _install_and_start(engine: base.Service, job: payloads.PrepareJob) -> None:
    engine.install(job)
    engine.command()


@pytest.mark.parametrize(("owner", "name"), _STAGES, ids=[name for _, name in _STAGES])
@pytest.mark.parametrize("when", ["before", "after"])
def test_install_interrupted_anywhere_is_completed_by_the_next(
    guest: Guest, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, when: str
) -> None:
    """The same directories, a fresh process each time: only what is on disk counts."""
    job = payloads.PrepareJob(memory_mib=256, vcpus=1, volume_size_gib=1)
    datastore = ENGINES["mariadb"].maker(guest.environment())
    original = getattr(owner, name)

    def crash(*args: object, **kwargs: object) -> object:
        if when == "after":
            original(*args, **kwargs)
        raise _Crash

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, crash)
        with pytest.raises(_Crash):
            _install_and_start(datastore.service, job)
    guest.start_agent()
    guest.prepare(databases=(APP,), users=(ALICE,))
    _write(guest, "complete")
    assert not (guest.layout.mount_point / "data.new").exists()
    assert not (guest.layout.mount_point / "data.ready").exists()


def test_prepare_interrupted_by_the_end_of_the_agent_is_done_by_the_next(guest: Guest) -> None:
    job = payloads.PrepareJob(memory_mib=256, vcpus=1, databases=(APP,), users=(ALICE,))
    job_id = str(uuid.uuid4())
    environment = guest.environment()
    # what the journal holds when an agent was killed after accepting the job
    entry = payloads.Job(job_id=job_id, kind=job.KIND, payload=job.to_wire())
    assert journal.Journal(environment.layout.jobs_dir).add(entry)
    guest.start_agent()
    outcome = wait_until(lambda: guest.conductor.outcome_of(job_id))
    assert outcome
    assert outcome.succeeded
    _write(guest, "done")


def test_prepare_again_with_a_new_job_changes_nothing_that_is_there(running: Guest) -> None:
    _write(running, "precious")
    running.prepare(databases=(APP,), users=(ALICE,))
    assert _read(running) == ["precious"]


def test_copy_made_before_a_reboot_is_not_trusted(guest: Guest) -> None:
    environment = guest.environment()
    datastore = ENGINES["mariadb"].maker(environment)
    datastore.service.anticipate()
    ready = guest.layout.mount_point / "data.ready"
    assert ready.is_dir()
    (ready / "ibdata1").write_bytes(b"torn by the power cut")
    environment.store.save("ready_copy", {"machine_boot": "another"})
    guest.start_agent()
    guest.prepare(databases=(APP,), users=(ALICE,))
    _write(guest, "sound")


def test_stop_cuts_a_start_short_that_cannot_succeed(guest: Guest) -> None:
    with socket.create_server((guest.address, guest.port)):
        guest.start_agent()
        guest.prepare_files()
        assert guest.agent is not None
        # what the agent does not own takes its port: the start is tried again and again
        restart = guest.send(payloads.RestartJob())
        stop = guest.send(payloads.StopJob())
        stopped = wait_until(lambda: guest.conductor.outcome_of(stop), timeout_s=20)
        assert stopped
        assert stopped.succeeded
        failed = guest.conductor.outcome_of(restart)
        assert failed is not None
        assert not failed.succeeded


def test_full_disk_does_not_keep_the_engine_from_stopping_or_starting(
    running: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: pathlib.Path, *args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    assert running.agent is not None
    supervisor = running.agent.supervisor
    monkeypatch.setattr(filesystem, "write_file", full)
    supervisor.ensure_stopped(30)
    assert running.engine() is None
    supervisor.ensure_running(30)
    assert running.engine() is not None
    monkeypatch.undo()
