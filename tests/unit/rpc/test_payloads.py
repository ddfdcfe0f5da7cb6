"""The wire format of the guest channel."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect

import pytest

from trove.rpc import payloads

#: Changes only together with a reason why versions N-1 and N still understand each other: a new
#: field has a default, no field is renamed, removed or retyped.
FINGERPRINT = "16cc5484ab38a029bbed078f3e9d8eabfad4c18e20cade59008df4fc805f732e"


def payload_classes() -> list[type[payloads.Payload]]:
    """Return all payload classes in order of name."""
    return [
        value
        for _, value in sorted(vars(payloads).items())
        if inspect.isclass(value) and issubclass(value, payloads.Payload)
    ]


def wire_format() -> str:
    """Describe all fields of all payloads and the registries that name them."""
    lines = [
        f"{cls.__name__}.{field.name}: {field.type} required={_is_required(field)}"
        for cls in payload_classes()
        for field in dataclasses.fields(cls)
    ]
    lines += [f"call {name} {q.__name__} {a.__name__}" for name, (q, a) in payloads.CALLS.items()]
    lines += [f"job {kind} {cls.__name__}" for kind, cls in payloads.JOBS.items()]
    lines += [
        f"report {name} {q.__name__} {a.__name__}" for name, (q, a) in payloads.REPORTS.items()
    ]
    return "\n".join(sorted(lines))


def _is_required(field: dataclasses.Field[object]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def test_the_wire_format_is_what_older_agents_know() -> None:
    fingerprint = hashlib.sha256(wire_format().encode()).hexdigest()
    assert fingerprint == FINGERPRINT, wire_format()


@pytest.mark.parametrize(
    "payload",
    [
        payloads.Hello(
            heartbeat=payloads.Heartbeat(boot=1, sequence=2, service_status="RUNNING"),
            csr_pem="csr",
        ),
        payloads.PrepareJob(
            memory_mib=256,
            vcpus=1,
            databases=(payloads.Database(name="a", character_set="utf8"),),
            users=(payloads.User(name="u", password="p", databases=("a",)),),
            overrides={"max_connections": 10},
        ),
        payloads.UpdateUser(
            user=payloads.UserRef(name="u"), change=payloads.UserChange(new_name="v")
        ),
        payloads.Ack(now_s=1.5, accepted=False),
    ],
    ids=lambda payload: type(payload).__name__,
)
def test_a_payload_survives_the_wire(payload: payloads.Payload) -> None:
    assert type(payload).from_wire(payload.to_wire()) == payload


def test_keys_of_a_newer_version_are_ignored() -> None:
    wire = payloads.UserRef(name="u").to_wire() | {"from_the_future": [1]}
    assert payloads.UserRef.from_wire(wire) == payloads.UserRef(name="u")


def test_fields_that_an_older_version_does_not_send_have_their_default() -> None:
    wire = {"boot": 1, "sequence": 2, "service_status": "RUNNING"}
    assert payloads.Heartbeat.from_wire(wire).message is None


@pytest.mark.parametrize(
    "wire",
    [
        None,
        [],
        "text",
        {},
        {"boot": 1, "sequence": 2},
        {"boot": "1", "sequence": 2, "service_status": "RUNNING"},
        {"boot": True, "sequence": 2, "service_status": "RUNNING"},
        {"boot": 1.5, "sequence": 2, "service_status": "RUNNING"},
        {"boot": 1, "sequence": 2, "service_status": None},
        {"boot": 1, "sequence": 2, "service_status": ["RUNNING"]},
        {"boot": 1, "sequence": 2, "service_status": "RUNNING", "message": {}},
    ],
)
def test_what_has_not_the_form_of_its_type_is_refused(wire: object) -> None:
    with pytest.raises(payloads.MalformedPayload):
        payloads.Heartbeat.from_wire(wire)


@pytest.mark.parametrize(
    "wire",
    [
        {"databases": "abc"},
        {"databases": [None]},
        {"databases": [{"name": 1}]},
        {"databases": {"name": "a"}},
    ],
)
def test_malformed_items_of_a_list_are_refused(wire: object) -> None:
    with pytest.raises(payloads.MalformedPayload):
        payloads.Databases.from_wire(wire)


@pytest.mark.parametrize("now_s", [True, "1", None, []])
def test_a_number_is_a_number(now_s: object) -> None:
    assert payloads.Ack.from_wire({"now_s": 1}).now_s == 1.0
    with pytest.raises(payloads.MalformedPayload, match="now_s must be of type float"):
        payloads.Ack.from_wire({"now_s": now_s})


def test_no_payload_shows_a_password() -> None:
    secret = "s3cret-password"
    for shown in (
        payloads.User(name="u", password=secret),
        payloads.UserChange(new_password=secret),
        payloads.EnableRoot(password=secret),
        payloads.PrepareJob(memory_mib=1, vcpus=1, root_password=secret),
        payloads.Job(job_id="j", kind="prepare", payload={"root_password": secret}),
    ):
        assert secret not in repr(shown)
