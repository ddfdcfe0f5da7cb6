"""trove-standalone on its own: up, status, down, from every state that a crash can leave."""

from __future__ import annotations

import ipaddress
import json
import os
import pathlib
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import yaml

from tests.fixtures.stack import free_port, status_of
from tests.fixtures.waiting import wait_until
from trove.drivers.compute import processes

BIN = pathlib.Path(sys.executable).parent
ROLES = ("supervisor", "broker", "api", "conductor", "taskmanager")


@pytest.fixture(scope="module")
def root() -> Iterator[pathlib.Path]:
    """Give a short directory that other users can pass through; ends what runs in it."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="trove-"))
    path.chmod(0o755)
    yield path
    if (path / "s" / "standalone.json").exists():
        _run(path, "down", "--purge")
    shutil.rmtree(path)


def _run(root: pathlib.Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "trove-standalone"), args[0], "--state-dir", str(root / "s"), *args[1:]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
    )


def _ok(root: pathlib.Path, *args: str) -> str:
    done = _run(root, *args)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _status(root: pathlib.Path) -> dict[str, Any]:
    return status_of(root / "s")


def _processes(root: pathlib.Path) -> dict[str, list[int]]:
    return dict(_status(root)["processes"])


def _up(root: pathlib.Path) -> dict[str, list[int]]:
    """Bring the service up and return its processes."""
    _ok(root, "up", "--port", str(_port(root)))
    status = _status(root)
    assert status["up"], status
    return dict(status["processes"])


def _port(root: pathlib.Path) -> int:
    marker = root / "s" / "standalone.json"
    return int(json.loads(marker.read_text())["port"]) if marker.exists() else free_port()


def test_a_taken_port_is_named_with_what_to_do_and_nothing_is_made(root: pathlib.Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = _run(root, "up", "--port", str(port))
    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert "--port" in done.stderr
    assert not (root / "s").exists()


def test_a_directory_with_other_things_is_refused(root: pathlib.Path) -> None:
    (root / "s").mkdir()
    (root / "s" / "thesis.tex").write_text("years of work")
    done = _run(root, "up", "--port", str(free_port()))
    assert done.returncode == 1
    assert "--state-dir" in done.stderr
    assert _run(root, "down", "--purge").returncode == 0
    assert (root / "s" / "thesis.tex").read_text() == "years of work"
    shutil.rmtree(root / "s")


def test_up_is_repeatable_and_its_secrets_are_private(root: pathlib.Path) -> None:
    before = _up(root)
    assert _up(root) == before
    for name in ("trove.conf", "clouds.yaml", "htpasswd", "ca-key.pem", "trove.db"):
        assert stat.S_IMODE((root / "s" / name).stat().st_mode) == 0o600, name
    for path in (root / "s" / "log").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_everything_listens_on_loopback_only(root: pathlib.Path) -> None:
    pids = [pid for role in _up(root).values() for pid in role]
    family = {child.pid for pid in pids for child in psutil.Process(pid).children(recursive=True)}
    listening = [
        connection.laddr.ip
        for pid in {*pids, *family}
        for connection in psutil.Process(pid).net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert all(ipaddress.ip_address(address).is_loopback for address in listening)


def test_the_clients_file_opens_the_api_for_user_and_admin(root: pathlib.Path) -> None:
    _up(root)
    clouds = yaml.safe_load((root / "s" / "clouds.yaml").read_text())["clouds"]
    assert set(clouds) == {"trove", "trove-admin"}
    for cloud in clouds:
        done = subprocess.run(
            [str(BIN / "openstack"), "--os-cloud", cloud, "database", "flavor", "list"],
            env=os.environ | {"OS_CLIENT_CONFIG_FILE": str(root / "s" / "clouds.yaml")},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert "db.tiny" in done.stdout


@pytest.mark.parametrize("role", ["api", "conductor", "taskmanager", "broker"])
def test_a_killed_process_is_started_again(root: pathlib.Path, role: str) -> None:
    before = _up(root)
    for pid in before[role]:
        os.kill(pid, signal.SIGKILL)
    after = wait_until(
        lambda: (
            (status := _status(root))["up"]
            and not set(status["processes"][role]) & set(before[role])
            and status["processes"]
        ),
        timeout_s=60,
        what=f"{role} back",
    )
    assert after["supervisor"] == before["supervisor"]


def test_up_comes_right_after_the_supervisor_was_killed(root: pathlib.Path) -> None:
    before = _up(root)
    os.kill(before["supervisor"][0], signal.SIGKILL)
    after = _up(root)
    assert not {pid for pids in before.values() for pid in pids} & {
        pid for pids in after.values() for pid in pids
    }
    assert not [pid for pids in before.values() for pid in pids if processes.Process.find(pid)]


def test_up_comes_right_after_everything_was_killed_at_once(root: pathlib.Path) -> None:
    for pids in _up(root).values():
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    _up(root)


def test_down_is_repeatable_and_leaves_no_process(root: pathlib.Path) -> None:
    pids = [pid for pids in _up(root).values() for pid in pids]
    for _ in range(2):
        _ok(root, "down")
        assert not [pid for pid in pids if processes.Process.find(pid)]
    done = _run(root, "status")
    assert done.returncode == 3
    assert "not up" in done.stdout
    for process in psutil.process_iter(["cmdline", "environ"]):
        assert str(root) not in " ".join(process.info["cmdline"] or ())


def test_another_port_can_be_chosen_later(root: pathlib.Path) -> None:
    _ok(root, "down")
    port = free_port()
    _ok(root, "up", "--port", str(port))
    assert f":{port}" in _status(root)["endpoint"]
    assert f":{port}/" in (root / "s" / "clouds.yaml").read_text()
    done = _run(root, "up", "--port", str(port + 1))
    assert done.returncode == 1
    assert "down" in done.stderr


def test_purge_removes_everything(root: pathlib.Path) -> None:
    _up(root)
    _ok(root, "down", "--purge")
    assert not (root / "s").exists()
