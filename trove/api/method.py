"""What every handler has in common: authorise, validate, call, render.

A handler is a method of a :class:`trove.api.routing.Resource`::

    @method.expose("instance:create", body=schemas.CREATE, response=schemas.DETAIL)
    def post(self, call: Call) -> Json: ...

The decorator enforces the rule once, validates the query, parses and validates the body, and writes
what the handler returns as JSON (None: an empty body). The metadata stays on the handler as
``route``; :mod:`trove.api.openapi` describes the API by it. The document
of a GET has a weak ETag of its text; who has it already and says so is answered 304.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import orjson
import pecan
import webob

from trove.api import edge, notices, validation
from trove.api.query import Parameters, Reader
from trove.api.urls import Urls
from trove.common.context import RequestContext

Json = Mapping[str, Any] | None

CONTEXT = "trove.context"
URLS = "trove.urls"


@dataclasses.dataclass(slots=True, kw_only=True)
class Call:
    """One request, as handlers see it."""

    context: RequestContext | None
    urls: Urls
    query: Mapping[str, str]
    body: Any = None

    @property
    def caller(self) -> RequestContext:
        """The authenticated caller; handlers of public routes must not ask."""
        if self.context is None:
            raise RuntimeError("a public route asked for the caller")
        return self.context


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RouteInfo:
    """What a handler was declared with."""

    rule: str | None
    status: int
    body: validation.Schema | None
    response: validation.Schema | None
    body_required: bool
    notice: notices.Choice | None
    query: Parameters
    errors: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Rendered:
    """A document that is JSON already."""

    body: bytes


def expose(
    rule: str | None,
    *,
    status: int = 200,
    body: validation.Schema | None = None,
    response: validation.Schema | None = None,
    body_required: bool = True,
    notice: notices.Choice | None = None,
    query: Parameters | None = None,
    errors: tuple[int, ...] = (),
) -> Callable[[Callable[..., Json]], Callable[..., webob.Response]]:
    """Make a handler of a method that takes (self, call, *path arguments).

    ``rule`` None: public, or the handler authorises by itself. ``response`` is what tests check
    the answer against. ``notice`` is what others are told of it. ``query`` has the parameters that
    the handler reads, ``errors`` the statuses it may answer beside those of its like (see
    :func:`trove.api.openapi.list_statuses`).
    """
    info = RouteInfo(
        rule=rule,
        status=status,
        body=body,
        response=response,
        body_required=body_required,
        notice=notice,
        query=query or {},
        errors=errors,
    )
    read_query = Reader(info.query)

    def decorate(function: Callable[..., Json]) -> Callable[..., webob.Response]:
        @functools.wraps(function)
        def handler(
            self: Any, req: webob.Request, resp: webob.Response, *arguments: str
        ) -> webob.Response:
            environ = req.environ
            call = Call(
                context=environ.get(CONTEXT),
                urls=environ[URLS],
                query={},
            )
            if rule is not None:
                call.caller.authorize(rule)
            call.query = read_query(environ[edge.QUERY])
            if body is not None:
                call.body = validation.parse_body(
                    environ[edge.BODY],
                    environ[edge.CONTENT_TYPE],
                    schema=body,
                    required=body_required,
                )
            told = notices.choose(notice, call.body)
            if told is None:
                return _write(status, function(self, call, *arguments), environ)
            traits = told.traits(call.body, *arguments)
            with notices.Telling(environ[notices.NOTICES], call.caller, told, traits) as telling:
                telling.answer = function(self, call, *arguments)
            return _write(status, telling.answer, environ)

        # pecan looks at the signature of what it calls, not of what that wraps
        del handler.__wrapped__
        exposed = pecan.expose()(handler)
        exposed.route = info
        return exposed

    return decorate


def _write(status: int, content: Any, environ: Mapping[str, Any]) -> webob.Response:
    if isinstance(content, Rendered):
        body = content.body
    else:
        body = b"" if content is None else _encode(content)
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    if content is not None and environ["REQUEST_METHOD"] == "GET":
        tag = f'W/"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
        wanted = environ.get("HTTP_IF_NONE_MATCH")
        if wanted is not None and _names(wanted, tag):
            return _respond(304, b"", [headers[0], ("ETag", tag)])
        headers.append(("ETag", tag))
    return _respond(status, body, headers)


def _encode(content: Json) -> bytes:
    """Return a document as bytes; a list of a hundred instances is mostly this."""
    try:
        return orjson.dumps(content)
    except TypeError:
        # integers beyond 64 bits
        return json.dumps(content).encode()


def _respond(status: int, body: bytes, headers: list[tuple[str, str]]) -> webob.Response:
    line = f"{status} {HTTPStatus(status).phrase}"
    return webob.Response(body=body, status=line, headerlist=headers)


def _names(wanted: str, tag: str) -> bool:
    """Tell whether an ``If-None-Match`` names a tag; the weak comparison is the one for it."""
    own = tag.removeprefix("W/")
    return any(each.strip().removeprefix("W/") in ("*", own) for each in wanted.split(","))
