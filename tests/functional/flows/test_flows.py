"""What the flows do on good days and when something fails."""

import configparser
import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.fixtures.control_plane import NOTHING, ONE_OF_EACH, ControlPlane
from tests.fixtures.crashes import Crash, crashing
from trove import states
from trove.common import exception
from trove.db import base, guest_jobs, instances, operations, quotas
from trove.drivers.compute.base import Server, ServerSpec
from trove.taskmanager.operations import channel, create, engine

Task = states.TaskStatus
State = states.OperationState


def make_active(plane: ControlPlane) -> str:
    instance_id, _ = plane.create()
    plane.settle(plane.runner())
    assert plane.instance(instance_id).task is Task.NONE
    return instance_id


def make_csr() -> tuple[str, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    signed = request.sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode(), key


# -- create -----


def test_create_ends_active_with_everything_recorded(plane: ControlPlane) -> None:
    instance_id, operation_id = plane.create()
    plane.settle(plane.runner())
    instance = plane.instance(instance_id)
    assert states.api_status(instance.task, instance.server_status) == "ACTIVE"
    assert instance.heartbeat.service_status is states.ServiceStatus.HEALTHY
    server = plane.compute.find_server(instance_id)
    volume = plane.volume.find_volume(instance_id)
    port = plane.network.find_port(instance_id)
    assert server is not None
    assert volume is not None
    assert port is not None
    assert (instance.server_id, instance.volume_id, instance.port_id) == (
        server.id,
        volume.id,
        port.id,
    )
    assert instance.addresses == [
        {"address": port.address, "type": "private", "network": port.network_id}
    ]
    operation = plane.operation(operation_id)
    assert (operation.state, operation.progress) == (State.SUCCEEDED, 100)
    assert operation.secret_wrapped is None
    assert [step for step, event in plane.journal(operation_id) if event == "done"] == [
        step.name for step in create.FLOW.steps
    ]


def test_a_server_that_a_driver_half_made_is_made(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance_id, _ = plane.create()
    find, make = plane.compute.find_server, plane.compute.create_server
    asked: list[str] = []
    half = Server(id="half", instance_id=instance_id, status=states.ServerStatus.BUILD)

    def create_server(spec: ServerSpec) -> Server:
        asked.append(spec.instance_id)
        return make(spec)

    monkeypatch.setattr(plane.compute, "create_server", create_server)
    monkeypatch.setattr(
        plane.compute, "find_server", lambda wanted: find(wanted) if asked else half
    )
    plane.settle(plane.runner())
    assert asked == [instance_id]
    assert plane.instance(instance_id).task is Task.NONE


def test_the_agent_gets_its_configuration_and_its_key(plane: ControlPlane) -> None:
    instance_id = make_active(plane)
    spec = plane.compute.spec_of(instance_id)
    assert next(iter(spec.files)) == "guest.conf"
    parser = configparser.RawConfigParser()
    parser.read_string(spec.files["guest.conf"])
    assert parser["guestagent"]["instance_id"] == instance_id
    assert parser["guestagent"]["datastore_manager"] == "mariadb"
    # a dollar sign is doubled for oslo.config
    password = channel.account_password(b"i" * 32)
    assert parser["guest"]["transport_url"] == (
        f"rabbit://trove-guest-{instance_id}-0:{password}@fake$$:5672/guests"
    )
    assert spec.files["instance.key"].strip() == "aWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWk="
    assert "aWlp" not in repr(spec)


def test_prepare_carries_sizes_databases_users_and_a_certificate(plane: ControlPlane) -> None:
    csr, key = make_csr()
    plane.compute.on_start = lambda instance_id: plane.guests.hello(instance_id, csr)
    instance_id = make_active(plane)
    payload = plane.guests.payloads["prepare"].payload
    assert (payload["memory_mib"], payload["volume_size_gib"], payload["server_id"]) == (256, 1, 7)
    assert [database["name"] for database in payload["databases"]] == ["a"]
    assert [(user["name"], user["password"]) for user in payload["users"]] == [("joe", "s3")]
    certificate = x509.load_pem_x509_certificate(payload["certificate_pem"].encode())
    assert certificate.public_key() == key.public_key()
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    address = plane.instance(instance_id).addresses[0]["address"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == [address]
    hostname = str(plane.instance(instance_id).hostname)
    assert names.get_values_for_type(x509.DNSName) == [instance_id, hostname]
    assert payload["ca_pem"] == plane.secrets.get_ca_certificate()


PERMANENT = exception.DriverError(service="cloud", reason="no capacity")
FAILURES = [
    ("network", "create_management_port", Task.BUILDING_ERROR_PORT),
    ("network", "create_port", Task.BUILDING_ERROR_PORT),
    ("dns", "set_records", Task.BUILDING_ERROR_DNS),
    ("volume", "create_volume", Task.BUILDING_ERROR_VOLUME),
    ("compute", "create_server", Task.BUILDING_ERROR_SERVER),
    ("secrets", "sign_server_certificate", Task.BUILDING_ERROR_TIMEOUT_GA),
]


@pytest.mark.parametrize("lose_reply", [False, True], ids=["refused", "reply-lost"])
@pytest.mark.parametrize(("driver", "method", "task"), FAILURES, ids=[f[1] for f in FAILURES])
def test_a_failed_create_leaves_nothing_but_a_fault(
    plane: ControlPlane, driver: str, method: str, task: Task, lose_reply: bool
) -> None:
    plane.compute.on_start = lambda instance_id: plane.guests.hello(instance_id, make_csr()[0])
    plane.compute.looks_to_delete = 2
    getattr(plane, driver).injector.fail(method, PERMANENT, lose_reply=lose_reply)
    instance_id, operation_id = plane.create()
    plane.settle(plane.runner())
    instance = plane.instance(instance_id)
    assert instance.task is task
    assert states.api_status(instance.task, instance.server_status) == "ERROR"
    assert "no capacity" in str(instance.fault_message)
    assert "delete it" in str(instance.fault_message)
    assert plane.leftovers() == NOTHING
    assert (instance.server_id, instance.volume_id, instance.port_id) == (None, None, None)
    operation = plane.operation(operation_id)
    assert (operation.state, operation.lock_key, operation.secret_wrapped) == (
        State.FAILED,
        None,
        None,
    )
    # the quota is the user's until the record is deleted
    assert plane.usage()[quotas.INSTANCES] == 1
    plane.delete(instance_id)
    plane.settle(plane.runner())
    assert plane.instance(instance_id).is_deleted
    assert plane.usage() == dict.fromkeys(quotas.RESOURCES, 0)


def test_what_may_pass_is_tried_again_with_growing_pauses(plane: ControlPlane) -> None:
    plane.volume.injector.fail(
        "create_volume", exception.DriverUnavailable(service="volume", reason="503"), times=4
    )
    began = plane.clock.now()
    instance_id, operation_id = plane.create()
    plane.settle(plane.runner())
    assert plane.instance(instance_id).task is Task.NONE
    assert plane.journal(operation_id).count(("create_volume", "retried")) == 4
    assert 3 <= (plane.clock.now() - began).total_seconds() <= 20


def test_what_never_passes_is_given_up_and_undone(plane: ControlPlane) -> None:
    plane.volume.injector.fail(
        "create_volume", exception.DriverUnavailable(service="volume", reason="503"), times=1000
    )
    instance_id, _ = plane.create()
    plane.settle(plane.runner())
    assert plane.instance(instance_id).task is Task.BUILDING_ERROR_VOLUME
    assert plane.leftovers() == NOTHING


def test_undo_that_fails_is_tried_until_it_is_done(plane: ControlPlane) -> None:
    plane.guests.failing["prepare"] = "disk full"
    # no error is final when something must be removed
    plane.compute.injector.fail("delete_server", PERMANENT, times=30)
    plane.network.injector.fail("delete_port", PERMANENT, times=3)
    instance_id, operation_id = plane.create()
    plane.settle(plane.runner())
    assert plane.operation(operation_id).state is State.FAILED
    assert "disk full" in str(plane.instance(instance_id).fault_message)
    assert plane.leftovers() == NOTHING


def test_an_agent_that_never_comes_fails_the_create_in_time(plane: ControlPlane) -> None:
    plane.guests.is_silent = True
    began = plane.clock.now()
    instance_id, _ = plane.create()
    plane.settle(plane.runner())
    instance = plane.instance(instance_id)
    assert instance.task is Task.BUILDING_ERROR_TIMEOUT_GA
    assert "900 s" in str(instance.fault_message)
    assert plane.clock.now() - began <= datetime.timedelta(seconds=905)
    assert plane.leftovers() == NOTHING


def test_a_server_that_fails_while_its_agent_is_awaited_tells_why(plane: ControlPlane) -> None:
    plane.guests.is_silent = True
    instance_id, _ = plane.create()
    runner = plane.runner()
    plane.settle(runner, until=lambda: plane.instance(instance_id).server_id is not None)
    plane.compute.set_status(instance_id, states.ServerStatus.ERROR, fault="engine is missing")
    began = plane.clock.now()
    plane.settle(runner)
    assert "engine is missing" in str(plane.instance(instance_id).fault_message)
    assert plane.clock.now() - began < datetime.timedelta(seconds=30)
    assert plane.leftovers() == NOTHING


def test_a_server_that_vanishes_while_its_agent_is_awaited_fails_the_create(
    plane: ControlPlane,
) -> None:
    plane.guests.is_silent = True
    instance_id, _ = plane.create()
    runner = plane.runner()
    plane.settle(runner, until=lambda: plane.instance(instance_id).server_id is not None)
    plane.compute.delete_server(str(plane.instance(instance_id).server_id))
    plane.settle(runner)
    assert "gone" in str(plane.instance(instance_id).fault_message)
    assert plane.leftovers() == NOTHING


@pytest.mark.parametrize("step", ["await_agent", "secure_channel"])
def test_an_agent_that_died_is_started_again(plane: ControlPlane, step: str) -> None:
    plane.guests.is_silent = step == "await_agent"
    plane.guests.lose_casts = 1000
    instance_id, operation_id = plane.create()
    runner = plane.runner()
    plane.settle(runner, until=lambda: plane.operation(operation_id).wake_on is not None)
    assert plane.operation(operation_id).step == step
    plane.compute.set_status(instance_id, states.ServerStatus.SHUTOFF)
    plane.guests.is_silent = False
    plane.guests.lose_casts = 0
    plane.settle(runner)
    assert plane.instance(instance_id).task is Task.NONE
    server = plane.compute.find_server(instance_id)
    assert server is not None
    assert server.status is states.ServerStatus.ACTIVE


def test_a_version_without_image_and_an_unknown_flavor_are_told(plane: ControlPlane) -> None:
    plane.compute.injector.fail("get_flavor", exception.FlavorNotFound(flavor_id="1"))
    instance_id, _ = plane.create()
    plane.settle(plane.runner())
    instance = plane.instance(instance_id)
    assert instance.task is Task.BUILDING_ERROR_SERVER
    assert "Flavor 1 cannot be found" in str(instance.fault_message)


def test_an_unknown_error_is_told_without_its_text(
    plane: ControlPlane, caplog: pytest.LogCaptureFixture
) -> None:
    plane.network.injector.fail("create_port", ValueError("hunter2"))
    instance_id, operation_id = plane.create()
    plane.settle(plane.runner())
    instance = plane.instance(instance_id)
    assert instance.task is Task.BUILDING_ERROR_PORT
    assert "internal error" in str(instance.fault_message)
    assert "hunter2" not in f"{instance.fault_message}{instance.fault_details}"
    assert "hunter2" not in str(plane.operation(operation_id).error)
    assert "ValueError" in str(instance.fault_details)


# -- messages -----


def test_lost_jobs_are_sent_again_and_run_once(plane: ControlPlane) -> None:
    plane.guests.lose_casts = 3
    instance_id = make_active(plane)
    jobs = {sent[2] for sent in plane.guests.sent if sent[1] == "prepare"}
    assert len(jobs) == 1
    assert len(plane.guests.sent) >= 4
    assert plane.guests.ran == [(instance_id, "prepare", jobs.pop())]


def test_duplicate_and_late_outcomes_change_nothing(plane: ControlPlane) -> None:
    plane.guests.deliveries = 3
    instance_id = make_active(plane)
    plane.guests.failing["prepare"] = "late lie"
    plane.guests.deliver(instance_id, plane.guests.payloads["prepare"])
    plane.settle(plane.runner())
    with plane.database.reader() as session:
        job = guest_jobs.find(session, plane.guests.ran[0][2])
    assert job is not None
    assert job.succeeded
    assert plane.instance(instance_id).fault_message is None
    assert len(plane.guests.ran) == 1


def test_an_outcome_counts_only_for_the_instance_that_reports_it(plane: ControlPlane) -> None:
    plane.guests.is_silent = True
    instance_id, operation_id = plane.create()
    runner = plane.runner()
    plane.settle(runner, until=lambda: bool(plane.operation(operation_id).wake_on))
    plane.guests.is_silent = False
    plane.guests.lose_casts = 1
    plane.guests.hello(instance_id)
    plane.settle(runner, until=lambda: bool(plane.guests.sent))
    other, _ = plane.create()
    with plane.database.writer() as session:
        assert not guest_jobs.record_outcome(
            session,
            plane.guests.sent[0][2],
            instance_id=other,
            succeeded=True,
            result={},
            error=None,
            error_code=None,
            now=plane.clock.now(),
        )


def test_a_broker_that_is_down_for_minutes_loses_no_operation(plane: ControlPlane) -> None:
    instance_id, operation_id = plane.create()
    plane.guests.is_broker_down = True
    runner = plane.runner()
    began = plane.clock.now()
    up_again = began + datetime.timedelta(seconds=400)
    plane.settle(runner, until=lambda: plane.clock.now() > up_again)
    assert plane.operation(operation_id).state is State.RUNNING
    plane.guests.is_broker_down = False
    plane.settle(runner)
    assert plane.instance(instance_id).task is Task.NONE


# -- delete -----


@pytest.mark.parametrize("step", [step.name for step in create.FLOW.steps])
def test_delete_during_create_supersedes_it_at_every_step(plane: ControlPlane, step: str) -> None:
    instance_id, create_id = plane.create()

    class DeletedMeanwhile(engine.Step):
        name = step
        inner = next(each for each in create.FLOW.steps if each.name == step)
        is_armed = True

        def run(self, ctx: engine.Context) -> engine.Wait | None:
            outcome = self.inner.run(ctx)
            if self.is_armed:
                self.is_armed = False
                plane.delete(instance_id)
            return outcome

        def undo(self, ctx: engine.Context) -> engine.Wait | None:
            return self.inner.undo(ctx)

    steps = tuple(DeletedMeanwhile() if each.name == step else each for each in create.FLOW.steps)
    flow = engine.Flow(kind=create.FLOW.kind, steps=steps, on_failed=create.on_failed)
    others = [each for each in crashing(create.FLOW, "") if each.kind != flow.kind]
    plane.settle(plane.runner([flow, *others]))
    assert plane.instance(instance_id).is_deleted
    assert plane.leftovers() == NOTHING
    assert not plane.operation(create_id).state.is_active
    assert plane.usage() == dict.fromkeys(quotas.RESOURCES, 0)


def test_delete_during_the_undo_of_a_create_takes_over(plane: ControlPlane) -> None:
    plane.guests.failing["prepare"] = "broken"
    plane.compute.injector.fail("delete_server", PERMANENT, times=20)
    instance_id, create_id = plane.create()
    runner = plane.runner()
    plane.settle(runner, until=lambda: plane.operation(create_id).state is State.UNDOING)
    plane.delete(instance_id)
    plane.settle(runner)
    assert plane.instance(instance_id).is_deleted
    assert plane.operation(create_id).state is State.CANCELLED
    assert plane.leftovers() == NOTHING


def test_delete_stops_the_engine_of_a_live_agent_first(plane: ControlPlane) -> None:
    instance_id = make_active(plane)
    plane.delete(instance_id)
    plane.settle(plane.runner())
    assert [ran[1] for ran in plane.guests.ran] == ["prepare", "stop"]
    assert plane.instance(instance_id).is_deleted


def test_delete_waits_for_an_engine_that_does_not_stop_only_so_long(plane: ControlPlane) -> None:
    instance_id = make_active(plane)
    plane.guests.lose_casts = 1000
    began = plane.clock.now()
    plane.delete(instance_id)
    plane.settle(plane.runner())
    assert plane.instance(instance_id).is_deleted
    assert plane.clock.now() - began <= datetime.timedelta(seconds=33)


def test_delete_does_not_wait_for_a_silent_agent(plane: ControlPlane) -> None:
    instance_id = make_active(plane)
    plane.manual_clock.advance(3 * plane.conf.guest.heartbeat_interval_s + 1)
    began = plane.clock.now()
    plane.delete(instance_id)
    plane.settle(plane.runner())
    assert plane.instance(instance_id).is_deleted
    assert plane.clock.now() == began
    assert [sent[1] for sent in plane.guests.sent] == ["rekey", "prepare"]


@pytest.mark.parametrize(
    ("driver", "method"),
    [("compute", "delete_server"), ("volume", "delete_volume"), ("network", "delete_port")],
)
def test_delete_never_gives_up_and_tells_what_holds_it_up(
    plane: ControlPlane, driver: str, method: str
) -> None:
    instance_id = make_active(plane)
    getattr(plane, driver).injector.fail(method, PERMANENT, times=60)
    operation_id = plane.delete(instance_id)
    runner = plane.runner()
    plane.settle(runner, until=lambda: plane.operation(operation_id).attempts > 5)
    instance = plane.instance(instance_id)
    assert instance.task is Task.DELETING
    assert "no capacity" in str(instance.fault_message)
    assert plane.usage()[quotas.INSTANCES] == 1
    plane.settle(runner)
    # long after the deadline
    assert plane.clock.now() > plane.operation(operation_id).deadline
    assert plane.instance(instance_id).is_deleted
    assert plane.leftovers() == NOTHING
    assert plane.usage() == dict.fromkeys(quotas.RESOURCES, 0)


def test_delete_works_when_nothing_was_ever_made(plane: ControlPlane) -> None:
    instance_id, _ = plane.create()
    plane.delete(instance_id)
    plane.settle(plane.runner())
    assert plane.instance(instance_id).is_deleted
    assert plane.usage() == dict.fromkeys(quotas.RESOURCES, 0)


# -- restart and recover -----


def test_restart_ends_idle_and_clears_an_old_fault(plane: ControlPlane) -> None:
    instance_id = make_active(plane)
    with plane.database.writer() as session:
        instances.set_fault(
            session, instance_id, message="old", details=None, now=plane.clock.now()
        )
    plane.restart(instance_id)
    plane.settle(plane.runner())
    instance = plane.instance(instance_id)
    assert (instance.task, instance.fault_message) == (Task.NONE, None)
    assert states.api_status(instance.task, instance.server_status) == "ACTIVE"


def test_a_failed_restart_ends_idle_with_the_guests_words(plane: ControlPlane) -> None:
    instance_id = make_active(plane)
    plane.guests.failing["restart"] = "my.cnf is wrong\nat line 3"
    operation_id = plane.restart(instance_id)
    plane.settle(plane.runner())
    instance = plane.instance(instance_id)
    assert instance.task is Task.NONE
    assert "my.cnf is wrong at line 3" in str(instance.fault_message)
    assert plane.operation(operation_id).state is State.FAILED
    assert plane.leftovers() == ONE_OF_EACH


def test_a_restart_that_gets_no_answer_ends_at_its_deadline(plane: ControlPlane) -> None:
    instance_id = make_active(plane)
    plane.guests.lose_casts = 10_000
    began = plane.clock.now()
    plane.restart(instance_id)
    plane.settle(plane.runner())
    assert plane.instance(instance_id).task is Task.NONE
    assert "300 s" in str(plane.instance(instance_id).fault_message)
    assert plane.clock.now() - began < datetime.timedelta(seconds=305)


def test_an_operator_cancels_a_create_and_it_is_undone(plane: ControlPlane) -> None:
    plane.guests.is_silent = True
    instance_id, operation_id = plane.create()
    runner = plane.runner()
    plane.settle(runner, until=lambda: plane.operation(operation_id).step == "await_agent")
    with plane.database.writer() as session:
        operations.request_cancel(
            session,
            operation_id=operation_id,
            mode=operations.UNDO,
            now=plane.clock.now(),
        )
    began = plane.clock.now()
    plane.settle(runner)
    assert plane.operation(operation_id).state is State.CANCELLED
    assert plane.leftovers() == NOTHING
    assert "Cancelled" in str(plane.instance(instance_id).fault_message)
    assert plane.clock.now() - began < datetime.timedelta(seconds=5)


# -- other versions, other task managers -----


def test_an_unknown_kind_fails_with_a_clear_error(plane: ControlPlane) -> None:
    instance_id = make_active(plane)
    with plane.database.writer() as session:
        operation_id = operations.create(
            session,
            kind="teleport_instance",
            step="dematerialize",
            resource_id=instance_id,
            lock_key=operations.instance_lock(instance_id),
            deadline=plane.clock.now() + datetime.timedelta(seconds=300),
            now=plane.clock.now(),
            project_id="p",
        )
    plane.settle(plane.runner())
    operation = plane.operation(operation_id)
    assert operation.state is State.FAILED
    assert "teleport_instance" in str(operation.error)
    assert operation.lock_key is None


def test_an_unknown_step_is_undone_as_a_failure(plane: ControlPlane) -> None:
    instance_id, operation_id = plane.create()
    with pytest.raises(Crash):
        plane.settle(plane.runner(crashing(create.FLOW, "create_server", before=True)))
    plane.manual_clock.advance(31)
    other = engine.Flow(
        kind=create.FLOW.kind,
        steps=tuple(each for each in create.FLOW.steps if each.name != "create_server"),
        on_failed=create.on_failed,
    )
    plane.settle(plane.runner([other]))
    operation = plane.operation(operation_id)
    assert operation.state is State.FAILED
    assert "create_server" in str(operation.error)
    assert plane.leftovers() == NOTHING
    assert plane.instance(instance_id).task.is_error


def test_create_restart_and_delete_on_every_backend(plane_on_both: ControlPlane) -> None:
    plane = plane_on_both
    instance_id = make_active(plane)
    plane.restart(instance_id)
    plane.settle(plane.runner())
    assert plane.instance(instance_id).task is Task.NONE
    plane.delete(instance_id)
    plane.settle(plane.runner())
    assert plane.instance(instance_id).is_deleted
    assert plane.leftovers() == NOTHING


def test_a_database_that_fails_in_a_step_costs_neither_the_operation_nor_a_lease(
    plane: ControlPlane,
) -> None:
    instance_id, _ = plane.create()
    plane.network.injector.fail("create_port", base.DatabaseError("gone away"))
    runner = plane.runner()
    with pytest.raises(base.DatabaseError):
        plane.settle(runner)
    assert plane.due() == []
    # what each sweep begins with
    runner.give_back()
    plane.settle(runner)
    assert plane.instance(instance_id).task is Task.NONE
