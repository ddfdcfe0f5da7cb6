"""The flow that changes TLS, on fakes: what is recorded, who uses which secret, and crashes."""

from __future__ import annotations

import datetime
import json
import uuid

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.fixtures.control_plane import NOTHING, PROJECT, ControlPlane
from tests.fixtures.crashes import Crash, crashing
from trove import states
from trove.common import exception
from trove.db import instances, models, operations, tls
from trove.drivers.secrets.store import NewSecret
from trove.taskmanager.operations import certificates, create

Task = states.TaskStatus
State = states.OperationState

BUILTIN = tls.Setting()


@pytest.fixture
def instance_id(plane: ControlPlane) -> str:
    made, _ = plane.create()
    plane.settle(plane.runner())
    return made


def keep(plane: ControlPlane) -> str:
    return plane.secrets.store.create(PROJECT, NewSecret(payload=b"bundle")).id


def new_setting(plane: ControlPlane, mode: str = "basic") -> tls.Setting:
    return tls.Setting(
        mode=mode,
        set_id=str(uuid.uuid4()),
        container_ref=f"http://k/v1/secrets/{keep(plane)}",
        project_id=PROJECT,
        certificate_pem="pem",
    )


def begin(
    plane: ControlPlane, instance_id: str, setting: tls.Setting, *, task: Task = Task.NONE
) -> str:
    """Accept a change, as the service does."""
    operation_id = models.new_id()
    secret = json.dumps({"key_pem": "key", "ca_pem": "ca"}).encode()
    now = plane.clock.now()
    with plane.database.writer() as session:
        assert instances.change_task(session, instance_id, expect=task, to=Task.UPDATING, now=now)
        return operations.create(
            session,
            operation_id=operation_id,
            kind=operations.UPDATE_SSL,
            resource_id=instance_id,
            lock_key=operations.instance_lock(instance_id),
            deadline=now + datetime.timedelta(seconds=plane.conf.taskmanager.tls_timeout_s),
            now=now,
            project_id=PROJECT,
            data={"setting": setting.to_document(), "task": task.value},
            secret_wrapped=plane.key_ring.wrap(secret, purpose=f"operation:{operation_id}"),
        )


def change(plane: ControlPlane, instance_id: str, setting: tls.Setting) -> str:
    operation_id = begin(plane, instance_id, setting)
    plane.settle(plane.runner())
    return operation_id


def stored(plane: ControlPlane, instance_id: str) -> tls.Tls:
    with plane.database.reader() as session:
        return tls.get(session, instance_id)


def users(plane: ControlPlane, setting: tls.Setting) -> list[str]:
    found = plane.secrets.store.get(PROJECT, str(setting.container_ref))
    return [each.resource_id for each in found.consumers]


def jobs(plane: ControlPlane) -> list[str]:
    return [kind for _, kind, _ in plane.guests.ran]


def test_a_bundle_is_put_in_force_recorded_and_registered(
    plane: ControlPlane, instance_id: str
) -> None:
    first, second = new_setting(plane), new_setting(plane, "mtls")
    operation_id = change(plane, instance_id, first)
    assert plane.operation(operation_id).state is State.SUCCEEDED
    assert plane.operation(operation_id).secret_wrapped is None
    assert plane.instance(instance_id).task is Task.NONE
    assert users(plane, first) == [instance_id]
    payload = plane.guests.payloads["ssl"].payload
    assert (payload["mode"], payload["set_id"], payload["key_pem"]) == (
        "basic",
        first.set_id,
        "key",
    )
    change(plane, instance_id, second)
    now = stored(plane, instance_id)
    assert (now.current, now.previous) == (second, first)
    assert (users(plane, first), users(plane, second)) == ([], [instance_id])
    assert plane.guests.payloads["ssl"].payload["keep"] == [first.set_id]


def test_disabling_and_going_back_move_the_registration(
    plane: ControlPlane, instance_id: str
) -> None:
    setting = new_setting(plane)
    change(plane, instance_id, setting)
    change(plane, instance_id, BUILTIN)
    assert stored(plane, instance_id).current == BUILTIN
    assert users(plane, setting) == []
    previous = stored(plane, instance_id).previous
    assert previous == setting
    change(plane, instance_id, setting)
    assert users(plane, setting) == [instance_id]
    assert stored(plane, instance_id).previous == BUILTIN


def test_a_guest_that_refuses_leaves_everything_as_it_was(
    plane: ControlPlane, instance_id: str
) -> None:
    first, second = new_setting(plane), new_setting(plane)
    change(plane, instance_id, first)
    plane.guests.failing["ssl"] = "a TLS connection failed"
    operation_id = change(plane, instance_id, second)
    assert plane.operation(operation_id).state is State.FAILED
    instance = plane.instance(instance_id)
    assert instance.task is Task.NONE
    assert "a TLS connection failed" in str(instance.fault_message)
    assert stored(plane, instance_id).current == first
    assert (users(plane, first), users(plane, second)) == ([instance_id], [])
    assert jobs(plane).count("ssl") == 2


def test_a_restart_that_was_required_is_required_still(
    plane: ControlPlane, instance_id: str
) -> None:
    required = Task.RESTART_REQUIRED
    now = plane.clock.now()
    with plane.database.writer() as session:
        instances.change_task(session, instance_id, expect=Task.NONE, to=required, now=now)
    for failing in ({}, {"ssl": "no"}):
        plane.guests.failing.update(failing)
        begin(plane, instance_id, new_setting(plane), task=Task.RESTART_REQUIRED)
        plane.settle(plane.runner())
        assert plane.instance(instance_id).task is Task.RESTART_REQUIRED


def test_a_silent_guest_ends_the_change_and_is_not_waited_for_without_end(
    plane: ControlPlane, instance_id: str
) -> None:
    setting = new_setting(plane)
    plane.guests.is_silent = True
    operation_id = change(plane, instance_id, setting)
    assert plane.operation(operation_id).state is State.FAILED
    assert plane.instance(instance_id).task is Task.NONE
    assert users(plane, setting) == []


def test_a_change_that_is_cancelled_after_the_guest_took_it_is_taken_back(
    plane: ControlPlane, instance_id: str
) -> None:
    setting = new_setting(plane)
    operation_id = begin(plane, instance_id, setting)
    with pytest.raises(Crash):
        plane.settle(plane.runner(crashing(certificates.FLOW, "release_former", before=True)))
    with plane.database.writer() as session:
        operations.request_cancel(
            session, mode=operations.UNDO, operation_id=operation_id, now=plane.clock.now()
        )
    plane.manual_clock.advance(31)
    plane.settle(plane.runner())
    assert jobs(plane).count("ssl") == 2
    assert plane.guests.payloads["ssl"].payload["mode"] == "builtin"
    assert stored(plane, instance_id).current == BUILTIN
    assert users(plane, setting) == []


@pytest.mark.parametrize(
    "before", [pytest.param(True, id="before"), pytest.param(False, id="after")]
)
@pytest.mark.parametrize("step", [step.name for step in certificates.FLOW.steps])
def test_a_change_survives_a_crash(
    plane: ControlPlane, instance_id: str, step: str, before: bool
) -> None:
    first, second = new_setting(plane), new_setting(plane)
    change(plane, instance_id, first)
    operation_id = begin(plane, instance_id, second)
    with pytest.raises(Crash):
        plane.settle(plane.runner(crashing(certificates.FLOW, step, before=before)))
    plane.manual_clock.advance(plane.conf.taskmanager.lease_s + 1)
    plane.settle(plane.runner())
    assert plane.operation(operation_id).state is State.SUCCEEDED
    assert (stored(plane, instance_id).current, stored(plane, instance_id).previous) == (
        second,
        first,
    )
    assert (users(plane, first), users(plane, second)) == ([], [instance_id])
    assert jobs(plane).count("ssl") == 2


def test_a_key_manager_that_stumbles_is_asked_again_and_one_that_is_down_holds_nothing_up(
    plane: ControlPlane, instance_id: str
) -> None:
    down = exception.DriverUnavailable(service="key manager", reason="down")
    plane.secrets.injector.fail("add_consumer", down)
    setting = new_setting(plane)
    change(plane, instance_id, setting)
    assert users(plane, setting) == [instance_id]
    plane.secrets.injector.fail("remove_consumer", down)
    change(plane, instance_id, BUILTIN)
    assert users(plane, setting) == []
    change(plane, instance_id, setting)
    plane.secrets.injector.fail("remove_consumer", down, times=1000)
    plane.delete(instance_id)
    plane.settle(plane.runner())
    assert plane.instance(instance_id).is_deleted
    assert plane.leftovers() == NOTHING


def test_an_instance_that_is_deleted_uses_no_secret_any_more(
    plane: ControlPlane, instance_id: str
) -> None:
    setting = new_setting(plane)
    change(plane, instance_id, setting)
    plane.delete(instance_id)
    plane.settle(plane.runner())
    assert users(plane, setting) == []


def make_request() -> tuple[ec.EllipticCurvePrivateKey, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = builder.sign(key, hashes.SHA256())
    return key, request.public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize("before", [True, False])
def test_the_instances_own_certificate_is_recorded_as_the_guest_got_it(
    plane: ControlPlane, before: bool
) -> None:
    key, csr = make_request()
    plane.compute.on_start = lambda made: plane.guests.hello(made, csr)
    made, _ = plane.create()
    with pytest.raises(Crash):
        plane.settle(plane.runner(crashing(create.FLOW, "prepare", before=before)))
    plane.manual_clock.advance(31)
    plane.settle(plane.runner())
    pem = stored(plane, made).builtin_pem
    assert pem == plane.guests.payloads["prepare"].payload["certificate_pem"]
    assert x509.load_pem_x509_certificate(str(pem).encode()).public_key() == key.public_key()
