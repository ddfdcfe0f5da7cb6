"""The private RabbitMQ node: kept, taken over, and ended completely."""

from __future__ import annotations

import os
import pathlib
import stat

import psutil
import pytest

from trove.cmd import standalone_broker
from trove.common import exception


def processes_of(state_dir: pathlib.Path) -> list[psutil.Process]:
    """Return all processes that run with this state directory as their home."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME") == str(state_dir):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_node_is_taken_over_after_its_owner_was_killed_and_leaves_nothing(
    tmp_path: pathlib.Path,
) -> None:
    first = standalone_broker.PrivateBroker(tmp_path)
    second = standalone_broker.PrivateBroker(tmp_path)
    assert second.access == first.access
    try:
        first.start()
        left_over = processes_of(tmp_path)
        listening = {
            connection.laddr.ip
            for process in left_over
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening <= {"127.0.0.1", "::1"}
        # the second knows of the first what a process that was killed leaves: its files
        second.start()
        assert second.is_running()
        assert not first.is_running()
        assert set(processes_of(tmp_path)).isdisjoint(left_over)
    finally:
        second.stop()
        first.stop()
    assert processes_of(tmp_path) == []


def test_what_is_secret_is_for_its_owner_alone(tmp_path: pathlib.Path) -> None:
    state_dir = tmp_path / "broker"
    broker = standalone_broker.PrivateBroker(state_dir)
    assert stat.S_IMODE(os.stat(state_dir).st_mode) == 0o700
    for path in state_dir.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert broker.access.control_password not in repr(broker.access)
    assert broker.access.guest_password not in repr(broker.access)
    assert broker.control_url != broker.guest_url


def test_given_ports_are_used_and_kept(tmp_path: pathlib.Path) -> None:
    given = standalone_broker.PrivateBroker(tmp_path, port=15601, dist_port=15602, epmd_port=15603)
    assert ":15601/" in given.control_url
    kept = standalone_broker.PrivateBroker(tmp_path).access
    assert (kept.port, kept.dist_port, kept.epmd_port) == (15601, 15602, 15603)


def test_a_missing_rabbitmq_is_told_with_what_to_install(tmp_path: pathlib.Path) -> None:
    broker = standalone_broker.PrivateBroker(tmp_path, server_program="/nonexistent/server")
    with pytest.raises(exception.ConfigurationError, match="rabbitmq-server"):
        broker.start()


def test_a_node_that_cannot_start_is_told_with_where_to_look(tmp_path: pathlib.Path) -> None:
    broker = standalone_broker.PrivateBroker(tmp_path, server_program="/bin/false")
    with pytest.raises(exception.ServiceUnavailable, match=r"rabbitmq\.log"):
        broker.start(timeout_s=10)
    assert processes_of(tmp_path) == []
