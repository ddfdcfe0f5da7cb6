"""How a flow gives the agent of a new server a key and an account of its own."""

from __future__ import annotations

import datetime
import logging

import pytest

from tests.fixtures.actions import ADMIN, make_actions
from tests.fixtures.control_plane import NOTHING, ControlPlane
from tests.fixtures.crashes import Crash, crashing
from trove import states
from trove.common import crypto, exception
from trove.db import guest_keys
from trove.rpc import payloads
from trove.taskmanager.operations import channel, create, rebuild

Task = states.TaskStatus
State = states.OperationState


def keys_of(plane: ControlPlane, instance_id: str) -> guest_keys.Keys:
    with plane.database.reader() as session:
        wrapped = guest_keys.find_wrapped(session, instance_id)
    assert wrapped is not None
    return guest_keys.unwrap(plane.key_ring, instance_id, wrapped)


def make_active(plane: ControlPlane) -> str:
    instance_id, _ = plane.create()
    plane.settle(plane.runner())
    assert plane.instance(instance_id).task is Task.NONE
    return instance_id


def rebuild_it(plane: ControlPlane, instance_id: str) -> None:
    actions = make_actions(plane)
    image = plane.tools.drivers.image.import_image(
        manager="mariadb", name="other", file=None, image_id=None
    )
    actions.service.rebuild(ADMIN, instance_id, image.id)


def assert_secured(plane: ControlPlane, instance_id: str, *, generation: int = 1) -> None:
    """The key is not the one of the server's files, and the account is the key's alone."""
    keys = keys_of(plane, instance_id)
    assert (keys.generation, keys.next, keys.is_bootstrap) == (generation, None, False)
    password = channel.account_password(keys.current)
    assert plane.broker.accounts == {(instance_id, generation): password}
    files = plane.compute.spec_of(instance_id).files
    assert password not in files["guest.conf"]
    assert crypto.encode_key(keys.current) != files["instance.key"].strip()


def test_key_and_account_of_the_servers_files_are_replaced(plane: ControlPlane) -> None:
    instance_id, operation_id = plane.create()
    plane.settle(plane.runner(), until=lambda: bool(plane.guests.ran))
    # before the agent is told anything that is worth knowing
    assert plane.guests.rekeyed == {instance_id: 1}
    plane.settle(plane.runner())
    assert plane.operation(operation_id).state is State.SUCCEEDED
    assert_secured(plane, instance_id)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    "step", ["create_server", "await_agent", "secure_channel", "prepare", "remove_first_account"]
)
def test_whoever_dies_there_is_one_key_and_one_account(
    plane: ControlPlane, step: str, before: bool
) -> None:
    instance_id, _ = plane.create()
    with pytest.raises(Crash):
        plane.settle(plane.runner(crashing(create.FLOW, step, before=before)))
    plane.manual_clock.advance(plane.conf.taskmanager.lease_s + 1)
    plane.settle(plane.runner())
    assert_secured(plane, instance_id)
    assert plane.guests.rekeyed == {instance_id: 1}
    plane.delete(instance_id)
    plane.settle(plane.runner())
    assert plane.broker.accounts == {}
    instance = plane.instance(instance_id)
    assert (instance.key_wrapped, instance.next_key_wrapped) == (None, None)


@pytest.mark.parametrize("lose_reply", [True, False])
@pytest.mark.parametrize("method", ["ensure_account", "remove_accounts"])
def test_a_broker_that_fails_is_asked_again(
    plane: ControlPlane, method: str, lose_reply: bool
) -> None:
    lost = exception.DriverUnavailable(service="broker", reason="connection reset")
    plane.broker.injector.fail(method, lost, times=2, lose_reply=lose_reply)
    assert_secured(plane, make_active(plane))


def test_lost_and_repeated_jobs_change_the_key_once(plane: ControlPlane) -> None:
    plane.guests.lose_casts, plane.guests.deliveries = 2, 3
    instance_id = make_active(plane)
    assert_secured(plane, instance_id)
    assert plane.guests.rekeyed == {instance_id: 1}


def test_an_offered_key_stays_until_it_is_taken(plane: ControlPlane) -> None:
    """The agent may have it already, though its report was lost."""
    plane.guests.is_broker_down = True
    instance_id, _ = plane.create()
    seen = set()
    runner = plane.runner()
    for _ in range(3):
        plane.settle(runner, until=lambda: bool(keys_of(plane, instance_id).next))
        seen.add(keys_of(plane, instance_id).next)
        plane.manual_clock.advance(60)
        for operation_id in plane.due():
            runner.drive(operation_id)
    assert len(seen) == 1
    plane.guests.is_broker_down = False
    plane.settle(runner)
    assert keys_of(plane, instance_id).current in seen
    assert_secured(plane, instance_id)


def test_an_old_agent_goes_on_with_its_first_key_and_the_log_says_so(
    plane: ControlPlane, caplog: pytest.LogCaptureFixture
) -> None:
    plane.guests.is_old = True
    with caplog.at_level(logging.WARNING):
        instance_id = make_active(plane)
    keys = keys_of(plane, instance_id)
    assert (keys.current, keys.next, keys.is_bootstrap) == (b"i" * 32, None, False)
    assert set(plane.broker.accounts) == {(instance_id, 0)}
    assert "too old to replace the key" in caplog.text


def test_an_agent_that_cannot_keep_its_key_fails_the_create(plane: ControlPlane) -> None:
    plane.guests.failing[payloads.RekeyJob.KIND] = "the disk is full"
    instance_id, operation_id = plane.create()
    plane.settle(plane.runner())
    assert plane.operation(operation_id).state is State.FAILED
    assert "the disk is full" in str(plane.instance(instance_id).fault_message)
    assert plane.leftovers() == NOTHING
    assert plane.broker.accounts == {}


def test_success_that_is_told_with_the_old_key_is_not_believed(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        plane.guests,
        "_rekey",
        lambda instance_id, job: plane.guests._report(instance_id, job, None, plane.clock.now()),
    )
    instance_id, operation_id = plane.create()
    plane.settle(plane.runner())
    assert plane.operation(operation_id).state is State.FAILED
    assert plane.guests.ran == []
    assert plane.broker.accounts == {}
    assert plane.leftovers() == NOTHING
    assert plane.instance(instance_id).fault_message


@pytest.mark.parametrize("step", ["make_server", "await_agent", "secure_channel", "prepare"])
def test_a_server_made_anew_gets_a_new_first_key_and_account(
    plane: ControlPlane, step: str
) -> None:
    instance_id = make_active(plane)
    before = plane.compute.spec_of(instance_id).files
    rebuild_it(plane, instance_id)
    with pytest.raises(Crash):
        plane.settle(plane.runner(crashing(rebuild.FLOW, step)))
    plane.manual_clock.advance(plane.conf.taskmanager.lease_s + 1)
    plane.settle(plane.runner())
    assert plane.instance(instance_id).fault_message is None
    after = plane.compute.spec_of(instance_id).files
    assert after["instance.key"] != before["instance.key"]
    assert after["guest.conf"] != before["guest.conf"]
    assert_secured(plane, instance_id, generation=3)


def test_a_server_that_is_brought_back_is_secured_too(plane: ControlPlane) -> None:
    instance_id = make_active(plane)
    plane.guests.failing["prepare"] = "no space left"
    rebuild_it(plane, instance_id)
    plane.settle(plane.runner())
    assert "no space left" in str(plane.instance(instance_id).fault_message)
    keys = keys_of(plane, instance_id)
    assert not keys.is_bootstrap
    assert plane.broker.accounts == {
        (instance_id, keys.generation): channel.account_password(keys.current)
    }


def test_accounts_that_belong_to_nobody_are_removed(plane: ControlPlane) -> None:
    instance_id = make_active(plane)
    plane.delete(instance_id)
    plane.settle(plane.runner())
    plane.broker.ensure_account(instance_id, 7, "left over")
    reconciler = plane.reconciler()
    for _ in range(3):
        reconciler.run()
        plane.manual_clock.advance(datetime.timedelta(minutes=1).total_seconds())
    plane.settle(plane.runner())
    assert plane.broker.accounts == {}
