"""Releases of agents as operations, on fakes: the new one reports, or the old one is back."""

from __future__ import annotations

import datetime
import json
import pathlib
import threading
from typing import Any

import pytest

from tests.fixtures.control_plane import PROJECT, ControlPlane
from tests.fixtures.crashes import Crash, crashing
from tests.fixtures.waiting import wait_until
from tests.fixtures.wheels import make_bundle, make_wheel
from trove import states
from trove.cmd import manage, manage_guests
from trove.db import heartbeats, instances, operations
from trove.rpc import bundles, payloads
from trove.storage.filesystem import FilesystemStore
from trove.taskmanager.operations import engine, upgrade_agent

State = states.OperationState
_DATA = {
    "version": "1.0.0",
    "sha256": "0" * 64,
    "size_bytes": 7,
    "container": "b",
    "name": "1.0.0-0",
    "trial_s": 30.0,
}


@pytest.fixture
def store(plane: ControlPlane, tmp_path: pathlib.Path) -> FilesystemStore:
    plane.conf.set_override("driver", "filesystem", group="storage")
    plane.conf.set_override("filesystem_directory", str(tmp_path / "objects"), group="storage")
    return FilesystemStore(tmp_path / "objects")


def _begin(plane: ControlPlane, store: FilesystemStore, instance_id: str) -> str:
    now = plane.clock.now()
    with plane.database.writer() as session:
        return operations.create(
            session,
            kind=operations.UPGRADE_AGENT,
            resource_id=instance_id,
            lock_key=operations.instance_lock(instance_id),
            deadline=now + datetime.timedelta(hours=1),
            now=now,
            project_id=PROJECT,
            data=_DATA | {"project_id": store.service_project()},
        )


def _report(plane: ControlPlane, instance_id: str, version: str) -> None:
    """Have an agent of a version say hello."""
    with plane.database.reader() as session:
        boot = instances.get_instance(session, instance_id).heartbeat.boot
    with plane.database.writer() as session:
        heartbeats.store(
            session,
            [
                heartbeats.Report(
                    instance_id=instance_id,
                    boot=boot + 1,
                    sequence=1,
                    service_status=states.ServiceStatus.HEALTHY,
                    agent_version=version,
                    received=plane.clock.now(),
                )
            ],
        )
        operations.signal(session, resource_id=instance_id, event="hello", now=plane.clock.now())


def _settle_installed(plane: ControlPlane, operation_id: str) -> None:
    """Go on until the release is installed and is waited for."""
    plane.settle(plane.runner(), until=lambda: plane.operation(operation_id).wake_on == "hello")


def _made(plane: ControlPlane) -> str:
    instance_id, _ = plane.create()
    plane.settle(plane.runner())
    return instance_id


def test_release_that_reports_ends_the_operation(
    plane: ControlPlane, store: FilesystemStore
) -> None:
    instance_id = _made(plane)
    operation_id = _begin(plane, store, instance_id)
    _settle_installed(plane, operation_id)
    job = next(
        job for job in plane.guests.payloads.values() if job.kind == payloads.UpgradeAgentJob.KIND
    )
    wanted = payloads.UpgradeAgentJob.from_wire(job.payload)
    assert (wanted.version, wanted.kind, wanted.name) == ("1.0.0", "filesystem", "1.0.0-0")
    _report(plane, instance_id, "1.0.0")
    plane.settle(plane.runner())
    assert plane.operation(operation_id).state is State.SUCCEEDED


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("step", [each.name for each in upgrade_agent.FLOW.steps])
def test_upgrade_survives_a_crash(
    plane: ControlPlane, store: FilesystemStore, step: str, before: bool
) -> None:
    instance_id = _made(plane)
    operation_id = _begin(plane, store, instance_id)

    def finish(runner: engine.Runner) -> None:
        plane.settle(runner, until=lambda: plane.operation(operation_id).wake_on == "hello")
        _report(plane, instance_id, "1.0.0")
        plane.settle(runner)

    with pytest.raises(Crash):
        finish(plane.runner(crashing(upgrade_agent.FLOW, step, before=before)))
    plane.manual_clock.advance(plane.conf.taskmanager.lease_s + 1)
    finish(plane.runner())
    assert plane.operation(operation_id).state is State.SUCCEEDED
    ran = [kind for _, kind, _ in plane.guests.ran]
    assert ran.count(payloads.UpgradeAgentJob.KIND) == 1


def test_agent_that_went_back_is_told(plane: ControlPlane, store: FilesystemStore) -> None:
    instance_id = _made(plane)
    operation_id = _begin(plane, store, instance_id)
    _settle_installed(plane, operation_id)
    _report(plane, instance_id, "0.9.0")
    plane.settle(plane.runner())
    ended = plane.operation(operation_id)
    assert ended.state is State.FAILED
    assert "went back to 0.9.0" in str(ended.error)


def test_agent_that_is_silent_is_told(plane: ControlPlane, store: FilesystemStore) -> None:
    operation_id = _begin(plane, store, _made(plane))
    plane.settle(plane.runner())
    assert "Neither release 1.0.0" in str(plane.operation(operation_id).error)


def test_release_that_is_refused_or_cannot_be_fetched_is_told(
    plane: ControlPlane, store: FilesystemStore
) -> None:
    instance_id = _made(plane)
    plane.guests.failing[payloads.UpgradeAgentJob.KIND] = "it is signed by none of the keys"
    operation_id = _begin(plane, store, instance_id)
    plane.settle(plane.runner())
    assert "signed by none" in str(plane.operation(operation_id).error)
    plane.conf.clear_override("driver", group="storage")
    operation_id = _begin(plane, store, instance_id)
    plane.settle(plane.runner())
    assert "[storage] driver" in str(plane.operation(operation_id).error)


@pytest.fixture
def command(plane: ControlPlane, tmp_path: pathlib.Path, store: FilesystemStore) -> list[str]:
    """Give trove-manage on the database of the control plane, with a key that is trusted."""
    assert manage.main(["guest", "bundle-key", "--output", str(tmp_path / "key.pem")]) == 0
    key = (tmp_path / "key.pem").read_text()
    config = tmp_path / "trove.conf"
    config.write_text(
        f"[database]\nconnection = {plane.conf.database.connection}\n"
        f"[storage]\ndriver = filesystem\nfilesystem_directory = {tmp_path}/objects\n"
        f"[guestagent]\nbundle_public_keys = {bundles.public_key_of(bundles.load_key(key))}\n"
    )
    return ["--config-file", str(config), "guest"]


def test_operator_upgrades_agents_by_a_signed_bundle(
    plane: ControlPlane,
    command: list[str],
    store: FilesystemStore,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(manage_guests.output, "open_database", lambda conf: plane.database)
    busy, free = _made(plane), _made(plane)
    _begin(plane, store, busy)
    key = (tmp_path / "key.pem").read_text()
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
    bundle = make_bundle(tmp_path, "30.0.0", key)
    capsys.readouterr()
    upgrade = [*command, "upgrade", "--bundle", str(bundle), "--json"]
    assert manage.main([*upgrade, "--all"]) == 0
    rows = {row["instance"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows[busy]["operation"] is None
    assert "another operation" in rows[busy]["problem"]
    operation = plane.operation(rows[free]["operation"])
    assert operation.data["version"] == "30.0.0"
    kept = store.account(store.service_project()).get(
        operation.data["container"], operation.data["name"]
    )
    assert kept.size_bytes == bundle.stat().st_size == operation.data["size_bytes"]
    for which in (["--datastore", "nothing"], ["--instance", free]):
        assert manage.main([*upgrade, *which]) == 0
    assert manage.main([*upgrade, "--instance", "unknown"]) == 1
    bundle.write_bytes(bundle.read_bytes()[:-20000])
    assert manage.main([*upgrade, "--all"]) == 1
    assert "refused" in capsys.readouterr().err
    other = make_bundle(tmp_path, "31.0.0", bundles.generate_key())
    assert manage.main([*command, "upgrade", "--bundle", str(other), "--all"]) == 1
    assert "signed by none" in capsys.readouterr().err


def test_batches_end_with_the_first_failure(
    plane: ControlPlane,
    command: list[str],
    store: FilesystemStore,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(manage_guests.output, "open_database", lambda conf: plane.database)
    monkeypatch.setattr(manage_guests, "_LOOK_S", 0.02)
    monkeypatch.setattr(manage_guests, "_CLOCK", plane.clock)
    # the next batch begins once the clock of this one stands still: else it would run out of time
    settled = threading.Semaphore(0)
    read = manage_guests._read

    def read_when_settled(database: Any, operation_id: str) -> operations.Operation:
        operation = read(database, operation_id)
        if not operation.state.is_active:
            assert settled.acquire(timeout=60)
        return operation

    monkeypatch.setattr(manage_guests, "_read", read_when_settled)
    instance_ids = [_made(plane) for _ in range(3)]
    bundle = make_bundle(tmp_path, "30.0.0", (tmp_path / "key.pem").read_text())
    capsys.readouterr()
    upgrade = [*command, "upgrade", "--bundle", str(bundle), "--json", "--all", "--batch", "1"]
    ended: list[int] = []
    operator = threading.Thread(target=lambda: ended.append(manage.main(upgrade)), daemon=True)
    operator.start()

    def begun() -> list[operations.Operation]:
        with plane.database.reader() as session:
            return [
                each
                for instance_id in instance_ids
                for each in operations.list_operations(session, resource_id=instance_id, limit=9)
                if each.kind == operations.UPGRADE_AGENT and each.state.is_active
            ]

    done: list[str] = []
    for version in ("30.0.0", "1.0.0"):
        wait_until(begun, timeout_s=20, what="an upgrade")
        (operation,) = begun()
        assert operation.resource_id not in done
        _settle_installed(plane, operation.id)
        _report(plane, operation.resource_id, version)
        plane.settle(plane.runner())
        done.append(operation.resource_id)
        settled.release()
    operator.join(20)
    assert ended == [1]
    assert not begun()
    captured = capsys.readouterr()
    # what the runner says of the failure stands before it
    table = json.loads(captured.out[captured.out.index("[\n") :])
    rows = {row["instance"]: row for row in table}
    (left,) = set(instance_ids) - set(done)
    assert rows[done[0]]["problem"] is None
    assert "went back" in rows[done[1]]["problem"]
    assert (rows[left]["operation"], rows[left]["problem"]) == (
        None,
        "left alone: one before it failed",
    )
    assert "1 failed, 1 were left alone" in captured.err
    assert manage.main([*upgrade[:-1], "0"]) == 1


def test_bundle_is_made_of_a_wheel_and_pip(
    command: list[str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = make_wheel(tmp_path, "30.0.0")
    key, target = str(tmp_path / "key.pem"), str(tmp_path / "x.bundle")
    make = [*command, "bundle", "--output", target, "--key", key]
    assert manage.main([*make, "--trove", str(wheel)]) == 0
    assert "30.0.0, 2 wheels" in capsys.readouterr().out
    public = bundles.public_key_of(bundles.load_key((tmp_path / "key.pem").read_text()))
    manifest = bundles.read(tmp_path / "x.bundle", [public])
    assert manifest.shares_base
    assert manifest.machine is None
    assert manage.main([*make, "--key", str(wheel), "--trove", str(wheel)]) == 1
    # a key is never overwritten
    assert manage.main([*command, "bundle-key", "--output", key]) == 1
