"""Servers as processes: started once, adopted, ended without a rest."""

from __future__ import annotations

import json
import os
import pathlib
import pwd
import signal
import stat
import tempfile
import threading
import uuid

import pytest
from oslo_config import cfg

from tests.fixtures.local import add_image, server_spec
from tests.fixtures.waiting import wait_until
from trove import states
from trove.common import concurrency, exception
from trove.drivers.compute import cgroups, local, processes
from trove.drivers.compute.local import LocalCompute
from trove.drivers.volume.local import LocalVolume

MEMORY_LIMITS = ("memory.max", "memory.limit_in_bytes")
CPU_LIMITS = ("cpu.max", "cpu.cfs_quota_us")
ACTIVE, SHUTOFF = states.ServerStatus.ACTIVE, states.ServerStatus.SHUTOFF


def _directory(conf: cfg.ConfigOpts, instance_id: str) -> pathlib.Path:
    return pathlib.Path(conf.local.state_dir) / "servers" / instance_id


def _pids(conf: cfg.ConfigOpts, instance_id: str) -> set[int]:
    return {process.pid for process in processes.using_path(_directory(conf, instance_id))}


def _create(conf: cfg.ConfigOpts, **changes: object) -> str:
    """Make a server and wait until its engine runs; returns the instance's id."""
    spec = server_spec(**changes)
    LocalCompute(conf).create_server(spec)
    wait_until(lambda: (_directory(conf, spec.instance_id) / "engine").exists(), timeout_s=20)
    wait_until(lambda: len(_pids(conf, spec.instance_id)) == 2, timeout_s=20)
    return spec.instance_id


def _status(conf: cfg.ConfigOpts, instance_id: str) -> states.ServerStatus | None:
    server = LocalCompute(conf).find_server(instance_id)
    return server.status if server else None


def _delete(conf: cfg.ConfigOpts, instance_id: str) -> None:
    def gone() -> bool:
        LocalCompute(conf).delete_server(instance_id)
        return LocalCompute(conf).find_server(instance_id) is None

    wait_until(gone, timeout_s=20)


def test_a_server_runs_apart_from_whoever_made_it(agent_conf: cfg.ConfigOpts) -> None:
    instance_id = _create(agent_conf)
    assert _status(agent_conf, instance_id) is ACTIVE
    agent = min(_pids(agent_conf, instance_id))
    fields = pathlib.Path(f"/proc/{agent}/stat").read_text().rpartition(")")[2].split()
    assert int(fields[1]) != os.getpid()
    assert os.getsid(agent) != os.getsid(0)
    assert [server.id for server in LocalCompute(agent_conf).list_servers()] == [instance_id]


def test_what_is_written_for_the_agent_is_private_and_complete(agent_conf: cfg.ConfigOpts) -> None:
    instance_id = _create(agent_conf, volume_id="v1")
    directory = _directory(agent_conf, instance_id)
    for name in ("guest.conf", "local.conf", "instance.key", "server.json"):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600
    text = (directory / "local.conf").read_text()
    for line in (
        f"key_file = {directory}/instance.key",
        f"mount_point = {agent_conf.local.state_dir}/volumes/v1",
        "bind_address = 127.50.0.1",
    ):
        assert line in text


def test_asking_twice_or_from_many_taskmanagers_starts_one_agent(
    agent_conf: cfg.ConfigOpts,
) -> None:
    spec = server_spec()
    drivers = [LocalCompute(agent_conf) for _ in range(6)]
    threads = [threading.Thread(target=driver.create_server, args=(spec,)) for driver in drivers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    drivers[0].create_server(spec)
    drivers[1].start_server(spec.instance_id)
    wait_until(lambda: len(_pids(agent_conf, spec.instance_id)) == 2, timeout_s=20)


def test_stop_ends_agent_and_engine_and_start_brings_them_back(agent_conf: cfg.ConfigOpts) -> None:
    instance_id = _create(agent_conf)
    driver = LocalCompute(agent_conf)
    driver.stop_server(instance_id)
    wait_until(lambda: not _pids(agent_conf, instance_id))
    assert _status(agent_conf, instance_id) is SHUTOFF
    driver.stop_server(instance_id)
    driver.start_server(instance_id)
    wait_until(lambda: len(_pids(agent_conf, instance_id)) == 2)
    assert _status(agent_conf, instance_id) is ACTIVE


def test_a_killed_agent_is_seen_and_its_engine_can_be_stopped(agent_conf: cfg.ConfigOpts) -> None:
    instance_id = _create(agent_conf)
    engine = int((_directory(agent_conf, instance_id) / "engine").read_text())
    (agent,) = _pids(agent_conf, instance_id) - {engine}
    os.kill(agent, signal.SIGKILL)
    wait_until(lambda: _status(agent_conf, instance_id) is SHUTOFF)
    assert _pids(agent_conf, instance_id) == {engine}
    LocalCompute(agent_conf).stop_server(instance_id)
    wait_until(lambda: not _pids(agent_conf, instance_id))


def test_reboot_starts_the_agent_after_the_old_one_has_ended(agent_conf: cfg.ConfigOpts) -> None:
    instance_id = _create(agent_conf)
    before = _pids(agent_conf, instance_id)
    LocalCompute(agent_conf).reboot_server(instance_id)
    wait_until(
        lambda: (
            len(_pids(agent_conf, instance_id) - before) == 2
            and not _pids(agent_conf, instance_id) & before
        )
    )
    assert _status(agent_conf, instance_id) is ACTIVE


def test_delete_leaves_nothing_and_may_be_repeated(agent_conf: cfg.ConfigOpts) -> None:
    instance_id = _create(agent_conf)
    _delete(agent_conf, instance_id)
    assert not _pids(agent_conf, instance_id)
    assert not _directory(agent_conf, instance_id).exists()
    LocalCompute(agent_conf).delete_server(instance_id)
    assert LocalCompute(agent_conf).list_servers() == []


def test_delete_removes_the_socket_directory_that_the_agent_made_elsewhere(
    agent_conf: cfg.ConfigOpts, tmp_path: pathlib.Path
) -> None:
    near = pathlib.Path(tempfile.mkdtemp(prefix="trove-", dir="/tmp"))
    for path, is_removed in ((near, True), (tmp_path, False)):
        instance_id = _create(agent_conf)
        agent_dir = _directory(agent_conf, instance_id) / "agent"
        agent_dir.mkdir()
        (agent_dir / "run_dir.json").write_text(json.dumps({"path": str(path)}))
        _delete(agent_conf, instance_id)
        assert path.exists() is not is_removed


def test_delete_kills_what_does_not_end_within_its_grace(agent_conf: cfg.ConfigOpts) -> None:
    instance_id = _create(agent_conf)
    (_directory(agent_conf, instance_id) / "stubborn").touch()
    clock = concurrency.ManualClock()
    driver = LocalCompute(agent_conf, clock=clock)
    driver.delete_server(instance_id)
    driver.delete_server(instance_id)
    assert len(_pids(agent_conf, instance_id)) == 2
    with pytest.raises(exception.DriverError, match="being deleted"):
        driver.reboot_server(instance_id)
    clock.advance(local.KILL_GRACE_S)
    driver.delete_server(instance_id)
    wait_until(lambda: not _pids(agent_conf, instance_id))
    driver.delete_server(instance_id)
    assert driver.find_server(instance_id) is None


def test_a_pid_of_another_process_or_boot_is_not_the_agent(agent_conf: cfg.ConfigOpts) -> None:
    instance_id = _create(agent_conf)
    LocalCompute(agent_conf).stop_server(instance_id)
    wait_until(lambda: not _pids(agent_conf, instance_id))
    me = processes.Process.find(os.getpid())
    assert me is not None
    pid_file = _directory(agent_conf, instance_id) / "agent.pid"
    for ticks, boot in ((me.start_ticks + 1, me.boot), (me.start_ticks, "another boot")):
        pid_file.write_text(f'{{"pid": {me.pid}, "start_ticks": {ticks}, "boot": "{boot}"}}')
        assert _status(agent_conf, instance_id) is SHUTOFF


def test_last_words_of_an_agent_that_crashed_are_its_fault(agent_conf: cfg.ConfigOpts) -> None:
    instance_id = _create(agent_conf)
    LocalCompute(agent_conf).stop_server(instance_id)
    wait_until(lambda: not _pids(agent_conf, instance_id))
    (_directory(agent_conf, instance_id) / "broken").touch()
    LocalCompute(agent_conf).start_server(instance_id)

    def fault() -> str | None:
        server = LocalCompute(agent_conf).find_server(instance_id)
        return server.fault if server and server.status is SHUTOFF else None

    assert "no such option" in (wait_until(fault) or "")


def test_a_missing_agent_program_is_said_at_once(agent_conf: cfg.ConfigOpts) -> None:
    agent_conf.set_override("agent_command", "no-such-agent", group="local")
    with pytest.raises(exception.DriverError, match=r"'no-such-agent'.*agent_command"):
        LocalCompute(agent_conf).create_server(server_spec())
    agent_conf.set_override("agent_command", "/etc/passwd", group="local")
    with pytest.raises(exception.DriverError, match="'/etc/passwd'"):
        LocalCompute(agent_conf).create_server(server_spec())


def test_a_start_that_was_killed_may_be_tried_again(
    agent_conf: cfg.ConfigOpts, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = tmp_path / "launcher.py"
    killed.write_text("import os\nos.kill(os.getpid(), 9)\n")
    driver = LocalCompute(agent_conf)
    with monkeypatch.context() as patched:
        patched.setattr(local.agent_launcher, "__file__", str(killed))
        with pytest.raises(exception.DriverUnavailable, match="killed by signal 9") as caught:
            driver.create_server(server_spec(instance_id="i1"))
    assert caught.value.retryable
    driver.create_server(server_spec(instance_id="i1"))
    wait_until(lambda: (_directory(agent_conf, "i1") / "engine").exists())


def test_an_image_or_engine_that_is_gone_is_said_before_anything_is_made(
    agent_conf: cfg.ConfigOpts,
) -> None:
    driver = LocalCompute(agent_conf)
    with pytest.raises(exception.ImageNotFound):
        driver.create_server(server_spec(image_id="gone"))
    add_image(agent_conf, program="/nonexistent/sbin/mariadbd")
    with pytest.raises(exception.DriverError, match=r"/nonexistent.*install mariadb-server again"):
        driver.create_server(server_spec())
    assert driver.list_servers() == []


def test_agents_are_told_where_the_engine_of_the_image_is(agent_conf: cfg.ConfigOpts) -> None:
    add_image(agent_conf, program="/bin/sh")
    directory = _directory(agent_conf, _create(agent_conf))
    assert "basedir = /\n" in (directory / "local.conf").read_text()


def test_flavors_come_in_order_of_memory(conf: cfg.ConfigOpts) -> None:
    conf.set_override("flavors", ["9:big:4096:2", "1:small:512:1"], group="local")
    driver = LocalCompute(conf)
    assert [flavor.id for flavor in driver.list_flavors()] == ["1", "9"]
    assert driver.get_flavor("9").ram_mib == 4096
    with pytest.raises(exception.FlavorNotFound):
        driver.get_flavor("2")


@pytest.mark.parametrize(
    "lines", [["1:a:512"], ["1:a:x:1"], ["1:a:8:1"], ["1:a:512:0"], [":a:512:1"], ["1:a:64:1"] * 2]
)
def test_bad_flavors_stop_the_start(conf: cfg.ConfigOpts, lines: list[str]) -> None:
    conf.set_override("flavors", lines, group="local")
    with pytest.raises(exception.ConfigurationError, match="flavors"):
        LocalCompute(conf)


def test_agent_and_engine_live_in_the_cgroup_with_the_limits_of_the_flavor(
    agent_conf: cfg.ConfigOpts,
) -> None:
    try:
        parents = cgroups.find_parents(has_cpu=True)
    except cgroups.NotPossible as e:
        pytest.skip(f"this machine allows no cgroups: {e}")
    agent_conf.set_override("use_cgroups", True, group="local")
    agent_conf.set_override("max_cpus", 0.5, group="local")
    instance_id = _create(agent_conf)
    groups = {controller: parent / instance_id for controller, parent in parents.items()}
    try:
        for group in groups.values():
            listed = {int(line) for line in (group / "cgroup.procs").read_text().split()}
            assert listed == _pids(agent_conf, instance_id)
        assert (groups["pids"] / "pids.max").read_text().strip() == "4096"
        memory = groups["memory"]
        limit = next(filter(pathlib.Path.exists, map(memory.joinpath, MEMORY_LIMITS)))
        assert int(limit.read_text()) == 256 * 1024 * 1024
        if "cpu" in groups:
            cpu = groups["cpu"]
            limit = next(filter(pathlib.Path.exists, map(cpu.joinpath, CPU_LIMITS)))
            assert limit.read_text().split()[0] == "50000"
    finally:
        _delete(agent_conf, instance_id)
    assert not any(group.exists() for group in groups.values())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have agents run as another user")
def test_an_agent_of_another_user_has_its_own_directories_and_nothing_else(
    agent_conf: cfg.ConfigOpts,
) -> None:
    user = pwd.getpwnam("nobody")
    text = 'cat ../guest.conf ../local.conf ../instance.key > read; touch ../x; exec tail -f "$2"'
    agent_conf.set_override("agent_command", f"/bin/sh -c '{text}' agent", group="local")
    agent_conf.set_override("agent_user", user.pw_name, group="local")
    volume = LocalVolume(agent_conf)
    spec = server_spec(instance_id=(made := str(uuid.uuid4())), volume_id=made)
    volume.create_volume(
        instance_id=spec.instance_id, size_gib=1, volume_type=None, project_id="p1"
    )
    compute = LocalCompute(agent_conf)
    compute.create_server(spec)
    directory = _directory(agent_conf, spec.instance_id)
    data = pathlib.Path(agent_conf.local.state_dir) / "volumes" / spec.instance_id
    try:
        wait_until(lambda: (directory / "own" / "read").exists(), timeout_s=20)
        (pid,) = wait_until(lambda: _pids(agent_conf, spec.instance_id), timeout_s=20) or ()
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert fields["Uid"].split() == [str(user.pw_uid)] * 4
        assert fields["Gid"].split() == [str(user.pw_gid)] * 4
        assert (fields["Groups"].strip(), fields["NoNewPrivs"]) == ("", "1")
        limits = pathlib.Path(f"/proc/{pid}/limits").read_text()
        assert "Max core file size        0 " in limits
        for path in (directory / "own", data):
            found = path.stat()
            assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (user.pw_uid, 0o700)
        assert not (directory / "x").exists()
        assert (directory / "agent.pid").stat().st_uid == 0
        # the program of the tests is maybe not for everybody
        agent_conf.set_override("agent_command", "/bin/false", group="local")
        with pytest.raises(exception.DriverError, match="by the user nobody"):
            LocalCompute(agent_conf).check_agent()
    finally:
        _delete(agent_conf, spec.instance_id)
    assert not _pids(agent_conf, spec.instance_id)


def test_agents_cannot_be_made_to_run_as_users_that_there_are_not(
    agent_conf: cfg.ConfigOpts,
) -> None:
    agent_conf.set_override("agent_user", "no-such-user", group="local")
    with pytest.raises(exception.ConfigurationError, match="useradd --system"):
        LocalCompute(agent_conf)


def test_without_cgroups_the_log_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*, has_cpu: bool) -> None:
        raise cgroups.NotPossible("no group belongs to this user")

    monkeypatch.setattr(cgroups, "find_parents", refuse)
    groups = cgroups.Cgroups()
    assert groups.create("i1", cgroups.Limits(memory_mib=64, processes=10)) == []
    groups.delete("i1")
    assert "without limits" in caplog.text
    assert "no group belongs to this user" in caplog.text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("memory.events", "low 0\noom 3\noom_kill 2\noom_group_kill 0\n"),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
    ],
)
def test_what_was_killed_for_want_of_memory_is_counted(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    parents = dict.fromkeys(("memory", "pids"), tmp_path)
    monkeypatch.setattr(cgroups, "find_parents", lambda has_cpu: parents)
    groups = cgroups.Cgroups()
    assert groups.count_killed("i1") == 0
    (tmp_path / "i1").mkdir()
    (tmp_path / "i1" / name).write_text(text)
    assert groups.count_killed("i1") == 2


def test_version_2_groups_are_made_in_the_highest_group_that_is_ours(
    tmp_path: pathlib.Path,
) -> None:
    root = tmp_path / "cgroup"
    own = root / "user.slice" / "user.service" / "app"
    own.mkdir(parents=True)
    for group in (root, *own.parents[:2], own):
        (group / "cgroup.procs").touch()
        (group / "cgroup.subtree_control").touch()
        (group / "cgroup.controllers").write_text("cpu memory pids")
    (own.parent / "trove").mkdir()
    (own.parent / "trove" / "cgroup.subtree_control").touch()
    root.joinpath("cgroup.procs").unlink()
    own.parents[1].joinpath("cgroup.procs").unlink()
    proc = tmp_path / "proc" / "self"
    proc.mkdir(parents=True)
    (proc / "mounts").write_text(f"cgroup2 {root} cgroup2 rw 0 0\n")
    (proc / "cgroup").write_text("0::/user.slice/user.service/app\n")
    parents = cgroups.find_parents(proc.parent)
    assert set(parents.values()) == {own.parent / "trove"}
    assert (own.parent / "cgroup.subtree_control").read_text() == "+memory +pids"
