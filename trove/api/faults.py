"""Errors on the wire: one table from exception types to HTTP, and the border that catches all.

Every error body is ``{"<name>": {"code": <status>, "message": <text>, "error_code": <code>}}``. The
error code is that of the exception, for programs; a schema that is violated adds the ``path``
of what violates it. An exception that is not of this project becomes a 500 that shows nothing but
the request id.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from oslo_db import exception as db_exception
from oslo_log import log

from trove.common import exception
from trove.db import base

LOG = log.getLogger(__name__)


class RouteNotFound(exception.NotFound):
    """No such path."""

    msg_fmt = "The resource could not be found."
    code = "trove.route_not_found"


class MethodNotAllowed(exception.TroveError):
    """The path exists, the method does not; ``allow`` lists those that do."""

    msg_fmt = "The method is not allowed here; allowed: {allow}."
    code = "trove.method_not_allowed"


class UnsupportedMediaType(exception.TroveError):
    """The body is not sent as JSON."""

    msg_fmt = "The body must be sent as application/json in UTF-8."
    code = "trove.unsupported_media_type"


class BodyTooLarge(exception.TroveError):
    """The body is above the configured maximum."""

    msg_fmt = "The body of a request must not be larger than {maximum} bytes."
    code = "trove.body_too_large"


class DatabaseFull(exception.ServiceUnavailable):
    """The SQL backend can store nothing."""

    msg_fmt = (
        "Service unavailable: the disk of the service's own database is full; the operator must"
        " free some space."
    )
    code = "trove.database_full"


#: By exception type; the nearest ancestor in the table counts.
_STATUS: Mapping[type[BaseException], int] = {
    exception.BadRequest: 400,
    exception.GuestError: 400,
    exception.Unauthorized: 401,
    exception.Forbidden: 403,
    exception.NotFound: 404,
    MethodNotAllowed: 405,
    exception.Conflict: 409,
    exception.QuotaExceeded: 413,
    exception.VolumeTooLarge: 413,
    exception.RateLimited: 413,
    BodyTooLarge: 413,
    UnsupportedMediaType: 415,
    exception.InstanceNotReady: 422,
    exception.UnprocessableEntity: 422,
    exception.NotImplementedByEngine: 501,
    exception.NotAvailable: 501,
    exception.ServiceUnavailable: 503,
    exception.DriverUnavailable: 503,
    exception.GuestTimeout: 504,
    db_exception.DBConnectionError: 503,
}

#: By status.
FAULT_NAMES: Mapping[int, str] = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    406: "notAcceptable",
    409: "conflict",
    413: "overLimit",
    415: "badMediaType",
    422: "unprocessableEntity",
    500: "instanceFault",
    501: "notImplemented",
    503: "serviceUnavailable",
    504: "gatewayTimeout",
}

#: The fault of what the HTTP server itself refuses, and has no name in the table.
MALFORMED_FAULT = "badRequest"

#: Codes of what has no exception of this project.
MALFORMED = "trove.malformed_request"
UNEXPECTED = "trove.unexpected"
DATABASE_UNAVAILABLE = "trove.database_unavailable"

_LONGEST_MESSAGE = 1000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An error as it goes to the client."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def status_line(self) -> str:
        """Return e.g. ``"404 Not Found"``."""
        return f"{self.status} {HTTPStatus(self.status).phrase}"


def status_of(error: BaseException) -> int:
    """Return the HTTP status of an exception, by type."""
    return _status_of_type(type(error))


def _status_of_type(error: type[BaseException]) -> int:
    for ancestor in error.__mro__:
        if ancestor in _STATUS:
            return _STATUS[ancestor]
    return 500


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A code of an error, for people."""

    status: int
    name: str
    code: str
    meaning: str


def list_errors() -> list[Described]:
    """Return every code that a client may see, by status and code."""
    found = {
        (400, MALFORMED): "What was sent is not HTTP as this server takes it; may also be a 414.",
        (500, UNEXPECTED): "A defect: tell the operator the request id.",
        (503, DATABASE_UNAVAILABLE): "The SQL backend cannot be reached.",
    }
    for error in _subclasses(exception.TroveError):
        status = _status_of_type(error)
        if status != 500:
            # a code belongs to the first class that has it
            found.setdefault((status, error.code), (error.__doc__ or "").partition("\n")[0])
    return [
        Described(status=status, name=FAULT_NAMES[status], code=code, meaning=meaning)
        for (status, code), meaning in sorted(found.items())
    ]


def _subclasses(error: type[exception.TroveError]) -> Iterator[type[exception.TroveError]]:
    for each in error.__subclasses__():
        yield each
        yield from _subclasses(each)


def refuse(status: int, message: str) -> bytes:
    """Return the body of what the HTTP server refuses before the application sees it."""
    content = {"code": status, "message": message, "error_code": MALFORMED}
    return json.dumps({FAULT_NAMES.get(status, MALFORMED_FAULT): content}).encode()


def translate(error: BaseException, request_id: str) -> Fault:
    """Return what the client is told; logs what only the operator may know."""
    if isinstance(error, base.BackendFailed) and error.is_full:
        LOG.error("the disk of the SQL backend is full")
        error = DatabaseFull()
    status = status_of(error)
    headers: list[tuple[str, str]] = []
    if isinstance(error, exception.TroveError) and status != 500:
        message, code = error.message, error.code
    elif status == 503:
        LOG.error("database unavailable: %s", type(error).__name__)
        message = "Service unavailable: the database cannot be reached."
        code = DATABASE_UNAVAILABLE
    else:
        LOG.error("unexpected error", exc_info=error)
        message = (
            "The server has encountered an error; please tell the operator the request id"
            f" {request_id}."
        )
        code = UNEXPECTED
    content: dict[str, Any] = {
        "code": status,
        "message": message[:_LONGEST_MESSAGE],
        "error_code": code,
    }
    if isinstance(error, MethodNotAllowed):
        headers.append(("Allow", str(error.kwargs["allow"])))
    elif isinstance(error, exception.Unauthorized) and "challenge" in error.kwargs:
        headers.append(("WWW-Authenticate", str(error.kwargs["challenge"])))
    elif isinstance(error, exception.RateLimited):
        retry_after = str(error.kwargs["retry_after_s"])
        headers.append(("Retry-After", retry_after))
        content |= {"details": str(error.kwargs.get("details", "")), "retryAfter": retry_after}
    elif isinstance(error, exception.ValidationFailed) and "path" in error.kwargs:
        content["path"] = str(error.kwargs["path"])[:_LONGEST_MESSAGE]
    elif isinstance(error, BodyTooLarge):
        headers.append(("Connection", "close"))
    body = json.dumps({FAULT_NAMES[status]: content}).encode()
    return Fault(status=status, headers=tuple(headers), body=body)
