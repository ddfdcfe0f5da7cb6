"""A backup is proven on a host of the operator's; nothing is left there, whoever dies when."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import pytest

from tests.fixtures.control_plane import PROJECT, ControlPlane
from tests.fixtures.crashes import Crash, crashing
from tests.fixtures.restoring import Backed, sent_restoration
from tests.functional.flows.test_crashes import POINTS
from trove import states
from trove.common import context, exception
from trove.db import operations, verifier_hosts
from trove.drivers.compute.fake import FakeCompute
from trove.drivers.image.fake import FakeImage
from trove.drivers.volume.fake import FakeVolume
from trove.rpc import payloads
from trove.taskmanager import proof_keeping, verifier, verifier_watch
from trove.taskmanager.operations import engine, verify_on_host

State = states.OperationState
PASSED = states.Verification.PASSED
ENGINES = {"mariadb": ("10.6.1", "10.11.11")}


class Host:
    """A host with fakes of its own, whose verifier may be killed."""

    def __init__(self, plane: ControlPlane, name: str) -> None:
        """Have the engines installed."""
        self.plane = plane
        self.name = name
        self.compute = FakeCompute()
        self.compute.on_start = plane.guests.hello
        self.compute.looks_to_delete = 1
        self.volume = FakeVolume()
        image = FakeImage()
        for manager, versions in ENGINES.items():
            for version in versions:
                image.import_image(
                    manager=manager, name=version, file=None, image_id=None, version=version
                )
        self.image = image
        drivers = dataclasses.replace(
            plane.tools.drivers, compute=self.compute, volume=self.volume, image=image
        )
        self.tools = dataclasses.replace(plane.tools, drivers=drivers)
        self.is_up = True
        self.verifier = self.make()
        self.runner = self.verifier.runner

    def make(self) -> verifier.Verifier:
        """Return a verifier, as of a process that just started."""
        return verifier.Verifier(self.tools, name=self.name, engines=ENGINES)

    def crash_at(self, step: str, *, direction: str, before: bool) -> None:
        """Have the runner die at a step."""
        flows = crashing(verify_on_host.FLOW, step, direction=direction, before=before)
        self.runner = engine.Runner(self.tools, flows, host=self.name)

    def restart(self) -> None:
        """Start the verifier anew."""
        self.is_up = True
        self.verifier = self.make()
        self.runner = self.verifier.runner

    def tick(self) -> None:
        """Do what the threads of a verifier do."""
        if self.is_up:
            self.verifier.report()
            self.verifier.clean()

    @property
    def left(self) -> int:
        """How much there is on the host."""
        return len(self.compute.list_servers()) + len(self.volume.list_volumes())


class Hosts:
    """A control plane with hosts."""

    def __init__(self, backed: Backed, *names: str) -> None:
        """Have hosts that are heard of."""
        self.backed = backed
        self.plane = backed.plane
        self.hosts = {name: Host(self.plane, name) for name in names}
        self._runner = self.plane.runner()
        self.watch = verifier_watch.VerifierWatch(self.plane.tools, hint=lambda ids: None)
        self.tick()

    def __getitem__(self, name: str) -> Host:
        """Return a host."""
        return self.hosts[name]

    def tick(self) -> None:
        """Do what all threads do from time to time."""
        for host in self.hosts.values():
            host.tick()
        self.watch.run()

    def _runners(self) -> Sequence[tuple[str | None, engine.Runner]]:
        up = [(host.name, host.runner) for host in self.hosts.values() if host.is_up]
        return [(None, self._runner), *up]

    def settle(self, *, until: Callable[[], bool] = lambda: False, most: int = 400) -> None:
        """Have all processes work until nothing is active."""
        for _ in range(most):
            if not self.plane.active() or until():
                return
            is_idle = True
            for name, runner in self._runners():
                with self.plane.database.reader() as session:
                    now = self.plane.clock.now()
                    found = operations.due(session, now=now, limit=10, host=name)
                for operation_id in found:
                    is_idle = False
                    runner.drive(operation_id)
            if is_idle:
                self.plane.manual_clock.advance(5)
                self.tick()
        raise AssertionError(f"not settled: {self.plane.active()}")

    def settle_and_clean(self) -> None:
        """Settle, and let verifiers look for what is left over."""
        self.settle()
        for _ in range(4):
            self.tick()

    def at_work(self, operation_id: str) -> str | None:
        """Return the host of an operation."""
        return self.plane.operation(operation_id).host


@pytest.fixture
def backed(plane: ControlPlane, tmp_path: pathlib.Path) -> Backed:
    plane.conf.set_override("timeout_s", 3600, group="backup")
    plane.conf.set_override("verify_place", "host", group="backup")
    plane.conf.set_override("lost_after_s", 20, group="verifier")
    return Backed(plane, tmp_path)


def last(plane: ControlPlane, *, kind: str = operations.VERIFY_ON_HOST) -> operations.Operation:
    """Return the newest proof."""
    with plane.database.reader() as session:
        return operations.list_operations(session, kind=kind)[0]


def test_a_backup_is_proven_on_the_host_with_the_most_room(backed: Backed) -> None:
    backed.plane.conf.set_override("at_once", 1, group="verifier")
    plane, hosts = backed.plane, Hosts(backed, "a", "b")
    source = backed.make_active()
    backup_ids = [backed.add_backup(source, data_bytes=5 << 29) for _ in range(3)]
    left, usage = plane.leftovers(), plane.usage()
    plane.guests.endless.add(payloads.VerifyBackupJob.KIND)
    begun = [backed.verify(each) for each in backup_ids]

    def are_at_work() -> bool:
        return sum(plane.operation(each).step == "verify" for each in begun) == 2

    hosts.settle(until=are_at_work)
    # one at a time on each
    assert sorted(str(hosts.at_work(each)) for each in begun) == ["None", "a", "b"]
    (first, *_) = [each for each in begun if hosts.at_work(each) == "a"]
    (spec,) = [
        each.spec
        for each in hosts["a"].compute._entries.values()
        if each.server.instance_id == first
    ]
    # the newest engine of the series, and room for what is in the backup
    image = hosts["a"].image.get_image(spec.image_id)
    assert (image.version, spec.flavor.ram_mib) == ("10.11.11", 1024)
    assert hosts["a"].volume.find_volume(first).size_gib == 3  # type: ignore[union-attr]
    # the cloud has nothing to do with it, the project neither
    assert (plane.leftovers(), plane.usage()) == (left, usage)
    plane.guests.endless.clear()
    hosts.settle_and_clean()
    assert {plane.operation(each).state for each in begun} == {State.SUCCEEDED}
    assert {backed.backup(each).verification for each in backup_ids} == {PASSED}
    assert [kind for each, kind, _ in plane.guests.ran if each in begun] == ["verify_backup"] * 3
    assert [host.left for host in hosts.hosts.values()] == [0, 0]
    assert plane.leftovers() == left
    assert all(plane.instance(each).is_deleted for each in begun)
    assert not plane.broker.list_owners() & set(begun)


@pytest.mark.parametrize("before", POINTS)
def test_a_proof_on_a_host_survives_the_death_of_its_verifier(backed: Backed, before: bool) -> None:
    plane, hosts = backed.plane, Hosts(backed, "a")
    backup_id = backed.add_backup(backed.make_active())
    flow_steps = verify_on_host.FLOW.steps
    # those that make or end something; before they act, only what makes something differs
    names = ("start_agent",) if before else ("add_row", "start_agent", "verify", "remove")
    for step in [each for each in flow_steps if each.name in names]:
        operation_id = backed.verify(backup_id)
        hosts["a"].crash_at(step.name, direction="run", before=before)
        with pytest.raises(Crash):
            hosts.settle()
        plane.manual_clock.advance(plane.conf.taskmanager.lease_s + 1)
        hosts["a"].restart()
        hosts.settle()
        assert plane.operation(operation_id).state is State.SUCCEEDED, step.name
        assert backed.backup(backup_id).verification is PASSED
        assert hosts["a"].compute.created.get(operation_id) == 1
        assert hosts["a"].left == 0


@pytest.mark.parametrize("before", POINTS)
def test_a_task_manager_may_die_while_it_chooses_a_host(backed: Backed, before: bool) -> None:
    plane, hosts = backed.plane, Hosts(backed, "a")
    backup_id = backed.add_backup(backed.make_active())
    operation_id = backed.verify(backup_id)
    flows = crashing(verify_on_host.FLOW, "choose_host", before=before)
    with pytest.raises(Crash):
        plane.settle(plane.runner(flows))
    plane.manual_clock.advance(plane.conf.taskmanager.lease_s + 1)
    hosts.settle()
    assert plane.operation(operation_id).state is State.SUCCEEDED
    assert backed.backup(backup_id).verification is PASSED


def test_taking_it_back_survives_the_death_of_the_verifier(backed: Backed) -> None:
    plane, hosts = backed.plane, Hosts(backed, "a")
    backup_id = backed.add_backup(backed.make_active())
    plane.guests.failing["verify_backup"] = "the store fails"
    plane.guests.codes["verify_backup"] = exception.NotProven.code
    for step in verify_on_host.FLOW.steps[2:6:3]:
        operation_id = backed.verify(backup_id)
        hosts["a"].crash_at(step.name, direction="undo", before=False)
        with pytest.raises(Crash):
            hosts.settle()
        plane.manual_clock.advance(plane.conf.taskmanager.lease_s + 1)
        hosts["a"].restart()
        hosts.settle()
        assert plane.operation(operation_id).state is State.FAILED, step.name
        found = backed.backup(backup_id)
        assert (found.verification, found.verification_details["reason"]) == (
            None,
            "the store fails.",
        )
        assert hosts["a"].left == 0


def test_an_agent_that_is_killed_is_started_again(backed: Backed) -> None:
    plane, hosts = backed.plane, Hosts(backed, "a")
    backup_id = backed.add_backup(backed.make_active())
    plane.guests.endless.add(payloads.VerifyBackupJob.KIND)
    operation_id = backed.verify(backup_id)
    hosts.settle(until=lambda: plane.operation(operation_id).step == "verify")
    hosts["a"].compute.set_status(operation_id, states.ServerStatus.SHUTOFF)
    plane.guests.endless.clear()
    hosts.settle_and_clean()
    assert plane.operation(operation_id).state is State.SUCCEEDED
    assert backed.backup(backup_id).verification is PASSED
    assert hosts["a"].left == 0


@pytest.mark.parametrize("step", ["add_row", "verify", "remove"])
def test_the_proof_of_a_host_that_is_gone_goes_on_elsewhere(backed: Backed, step: str) -> None:
    plane, hosts = backed.plane, Hosts(backed, "a")
    backup_id = backed.add_backup(backed.make_active())
    operation_id = backed.verify(backup_id)
    hosts["a"].crash_at(step, direction="run", before=False)
    with pytest.raises(Crash):
        hosts.settle()
    hosts["a"].is_up = False
    hosts.hosts["b"] = Host(plane, "b")
    hosts.settle_and_clean()
    # what was found out before stays
    is_known = step == "remove"
    assert plane.operation(operation_id).state is State.FAILED
    again = last(plane)
    assert (again.id == operation_id) is is_known
    assert again.host == (None if is_known else "b")
    assert backed.backup(backup_id).verification is PASSED
    assert hosts["b"].left == 0
    assert plane.instance(operation_id).is_deleted
    assert not plane.broker.list_owners() & {operation_id, again.id}
    # what is on the host goes when that is back
    assert (hosts["a"].left > 0) is (step not in ("add_row", "remove"))
    hosts["a"].restart()
    for _ in range(4):
        hosts.tick()
    assert hosts["a"].left == 0
    assert sum(each[1] == "verify_backup" for each in plane.guests.ran) <= 2


def test_a_proof_that_every_host_dies_of_ends_with_a_reason(backed: Backed) -> None:
    plane, hosts = backed.plane, Hosts(backed, "a", "b", "c")
    backup_id = backed.add_backup(backed.make_active())
    plane.guests.endless.add(payloads.VerifyBackupJob.KIND)
    backed.verify(backup_id)
    for _ in range(3):
        hosts.settle(until=lambda: last(plane).step == "verify")
        hosts[str(last(plane).host)].is_up = False
        plane.manual_clock.advance(1)
        lost = last(plane).id
        hosts.settle(until=lambda lost=lost: not plane.operation(lost).state.is_active)  # type: ignore[misc]
    assert not plane.active()
    found = backed.backup(backup_id)
    assert found.verification is None
    assert "not heard of" in found.verification_details["reason"]


def test_a_database_that_stood_still_makes_no_host_gone(backed: Backed) -> None:
    plane, hosts = backed.plane, Hosts(backed, "a")
    backup_id = backed.add_backup(backed.make_active())
    plane.guests.endless.add(payloads.VerifyBackupJob.KIND)
    operation_id = backed.verify(backup_id)
    hosts.settle(until=lambda: plane.operation(operation_id).step == "verify")
    plane.manual_clock.advance(3000)
    # whoever comes first looks before the host has told anything
    verifier_watch.VerifierWatch(plane.tools, hint=lambda ids: None).run()
    assert hosts.at_work(operation_id) == "a"
    plane.guests.endless.clear()
    hosts.settle()
    assert plane.operation(operation_id).state is State.SUCCEEDED


@pytest.mark.parametrize("lack", ["hosts", "engine", "program", "room", "memory"])
def test_where_no_host_can_the_reason_is_told_or_a_server_does(
    backed: Backed, lack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane = backed.plane
    hosts = Hosts(backed, *([] if lack == "hosts" else ["a"]))
    values = {"engine_version": "10.11.12"} if lack == "engine" else {}
    backup_id = backed.add_backup(backed.make_active(), **values)
    left = plane.leftovers()
    if lack == "program":
        plane.guests.refuse = lambda instance_id, job: (
            "mariadb-backup is missing" if hosts["a"].compute.find_server(instance_id) else None
        )
        plane.guests.codes["verify_backup"] = exception.NotProvable.code
    if lack == "memory":
        plane.guests.refuse = lambda instance_id, job: (
            "the database is damaged" if hosts["a"].compute.find_server(instance_id) else None
        )
        killed = "programs were killed since they took more than 1024 MiB of memory"
        monkeypatch.setattr(hosts["a"].compute, "find_setback", lambda server_id: killed)
    words = {
        "memory": "On host a programs were killed",
        "hosts": "No host",
        "engine": "10.6.1, 10.11.11",
        "program": "mariadb-backup is missing",
        "room": "1 GiB is free",
    }
    # one before a host was chosen, one after it
    has_server = lack in ("engine", "program")
    for fallback in ("none", "server") if has_server else ("none",):
        plane.conf.set_override("verify_fallback", fallback, group="backup")
        if lack == "room":
            full = exception.DriverError(service="local", reason="1 GiB is free")
            hosts["a"].volume.injector.fail("create_volume", full)
        backed.verify(backup_id)
        if lack == "hosts" and fallback == "none":
            plane.manual_clock.advance(600)
        hosts.settle_and_clean()
        found = backed.backup(backup_id)
        if fallback == "none":
            assert found.verification is None
            assert words[lack] in found.verification_details["reason"]
        assert plane.leftovers() == left
        assert all(host.left == 0 for host in hosts.hosts.values())
    if has_server:
        assert found.verification is PASSED
        assert last(plane, kind=operations.VERIFY_ON_SERVER).state is State.SUCCEEDED


def test_a_backup_that_is_deleted_or_overdue_ends_its_proof(backed: Backed) -> None:
    plane, hosts = backed.plane, Hosts(backed, "a", "b")
    backup_id = backed.add_backup(backed.make_active())
    plane.guests.endless.add(payloads.VerifyBackupJob.KIND)
    operation_id = backed.verify(backup_id)
    hosts.settle(until=lambda: plane.operation(operation_id).step == "verify")
    with plane.database.writer() as session:
        operations.request_cancel(
            session, mode=operations.UNDO, operation_id=operation_id, now=plane.clock.now()
        )
    hosts.settle()
    assert plane.operation(operation_id).state is State.CANCELLED
    operation_id = backed.verify(backup_id)
    hosts.settle(until=lambda: plane.operation(operation_id).step == "verify")
    plane.manual_clock.advance(3600)
    hosts.settle_and_clean()
    assert plane.operation(operation_id).state is State.FAILED
    assert len([each for each in plane.guests.ran if each[1] == "verify_backup"]) == 2
    assert hosts["a"].left + hosts["b"].left == 0


def test_backups_without_an_instance_are_proven(backed: Backed) -> None:
    plane, hosts = backed.plane, Hosts(backed, "a")
    source = backed.make_active()
    backup_ids = [backed.add_backup(source), backed.add_backup(None)]
    plane.delete(source)
    hosts.settle()
    service = plane.proofs()
    caller = context.RequestContext(project_id=PROJECT, user_id="user", overwrite=False)
    for backup_id in backup_ids:
        service.verify(caller, backup_id)
        hosts.settle()
        assert backed.backup(backup_id).verification is PASSED
        sent = sent_restoration(plane, "verify_backup")
        assert [each.backup_id for each in sent.chain] == [backup_id]
    plane.manual_clock.advance(31 * 86400)
    begun: list[str] = []
    proof_keeping.ProofKeeping(plane.tools, hint=begun.extend).run()
    assert [plane.operation(each).kind for each in begun] == [operations.VERIFY_ON_HOST]


def test_hosts_that_are_not_heard_of_for_long_are_forgotten(backed: Backed) -> None:
    plane, hosts = backed.plane, Hosts(backed, "a", "b")
    hosts["a"].is_up = False
    plane.manual_clock.advance(2 * 86400)
    hosts.tick()
    with plane.database.reader() as session:
        assert [each.name for each in verifier_hosts.list_hosts(session)] == ["b"]
