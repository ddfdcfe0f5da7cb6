"""The table from exceptions to HTTP."""

from __future__ import annotations

import inspect
import json

import pytest
from oslo_db import exception as db_exception

from trove.api import faults, validation
from trove.common import exception

#: Errors that only a mistake of this service can let through to a client.
_INTERNAL = {
    exception.TroveError,
    exception.ConfigurationError,
    exception.DriverError,
    exception.AddressPoolExhausted,
    exception.ImageNotFound,
}


def _all_errors() -> list[type[exception.TroveError]]:
    found = dict(inspect.getmembers(exception, inspect.isclass))
    own = dict(inspect.getmembers(faults, inspect.isclass))
    return [each for each in (found | own).values() if issubclass(each, exception.TroveError)]


@pytest.mark.parametrize("error", _all_errors())
def test_every_error_has_a_status_of_its_own(error: type[exception.TroveError]) -> None:
    status = faults.status_of(error("told"))
    assert (status == 500) == (error in _INTERNAL)


@pytest.mark.parametrize("error", _all_errors())
def test_codes_are_unique(error: type[exception.TroveError]) -> None:
    same = [other for other in _all_errors() if other.code == error.code]
    assert same == [error]


@pytest.mark.parametrize(
    ("error", "status", "name"),
    [
        (exception.AlreadyExists(kind="user", name="x"), 400, "badRequest"),
        (exception.ValidationFailed(reason="x"), 400, "badRequest"),
        (exception.GuestError(reason="x"), 400, "badRequest"),
        (exception.Unauthorized(), 401, "unauthorized"),
        (exception.PolicyForbidden(rule="x"), 403, "forbidden"),
        (exception.InstanceNotFound(instance_id="x"), 404, "itemNotFound"),
        (faults.RouteNotFound(), 404, "itemNotFound"),
        (faults.MethodNotAllowed(allow="GET"), 405, "badMethod"),
        (exception.Conflict(reason="x"), 409, "conflict"),
        (exception.InstanceProtected(instance_id="x"), 409, "conflict"),
        (exception.QuotaExceeded(resources=["ram"]), 413, "overLimit"),
        (exception.VolumeTooLarge(size_gib=2, maximum_gib=1), 413, "overLimit"),
        (exception.RateLimited(retry_after_s=1), 413, "overLimit"),
        (faults.BodyTooLarge(maximum=1), 413, "overLimit"),
        (faults.UnsupportedMediaType(), 415, "badMediaType"),
        (exception.UnprocessableEntity(reason="x"), 422, "unprocessableEntity"),
        (exception.InstanceNotReady(instance_id="x", status="y"), 422, "unprocessableEntity"),
        (exception.NotAvailable(feature="x"), 501, "notImplemented"),
        (
            exception.NotImplementedByEngine(datastore="x", operation="y"),
            501,
            "notImplemented",
        ),
        (exception.MessagingUnavailable(), 503, "serviceUnavailable"),
        (exception.GuestTimeout(instance_id="x"), 504, "gatewayTimeout"),
        (ZeroDivisionError("internal"), 500, "instanceFault"),
        (exception.DriverError(service="x", reason="internal"), 500, "instanceFault"),
    ],
)
def test_faults_have_status_and_name(error: Exception, status: int, name: str) -> None:
    fault = faults.translate(error, "req-1")
    assert fault.status == status
    assert fault.body.startswith(f'{{"{name}": {{"code": {status}, "message": "'.encode())
    assert status != 500 or (b"internal" not in fault.body and b"req-1" in fault.body)


def test_every_code_is_described_with_its_fault() -> None:
    described = faults.list_errors()
    codes = {each.code for each in described}
    assert codes >= {e.code for e in _all_errors() if faults.status_of(e("told")) != 500}
    assert {faults.MALFORMED, faults.UNEXPECTED, faults.DATABASE_UNAVAILABLE} <= codes
    assert len(codes) == len(described)
    assert all(each.meaning.endswith(".") for each in described)
    # whatever is accepted, the answer is JSON
    assert {each.name for each in described} == {*faults.FAULT_NAMES.values()} - {"notAcceptable"}


_RAISED: dict[str, BaseException] = {
    faults.UNEXPECTED: ZeroDivisionError(),
    faults.DATABASE_UNAVAILABLE: db_exception.DBConnectionError(),
    **{e.code: e("told", retry_after_s=3, allow="GET") for e in _all_errors()},
}


@pytest.mark.parametrize(
    "described",
    # others are errors of modules of their own, whose tests answer them
    [each for each in faults.list_errors() if each.code in _RAISED],
    ids=lambda each: str(each.code),
)
def test_bodies_have_the_fault_and_the_code(described: faults.Described) -> None:
    body = json.loads(faults.translate(_RAISED[described.code], "req-1").body)
    assert body[described.name]["code"] == described.status
    assert body[described.name]["error_code"] == described.code


def test_a_violated_schema_names_the_place() -> None:
    schema = validation.Schema({"properties": {"a": {"items": {"type": "integer"}}}})
    with pytest.raises(exception.ValidationFailed) as caught:
        schema.check({"a": [1, "x"]})
    fault = json.loads(faults.translate(caught.value, "req-1").body)["badRequest"]
    assert fault["path"] == "a.1"


def test_messages_are_bounded() -> None:
    fault = faults.translate(exception.BadRequest(reason="x" * 100_000), "req-1")
    assert len(fault.body) < 2000
