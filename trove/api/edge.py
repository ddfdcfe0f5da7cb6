"""The outermost layer of the API: request ids, faults, paths, bodies.

Every response, errors included, has a request id and a content type. The path is split into
segments while it is still percent-encoded and each segment is then decoded exactly once, so that a
name with an encoded slash, dot or per cent stays one segment; repeated and trailing slashes do not
count. Query and body have been read (bounded) into the environ: nobody below parses the one or
reads ``wsgi.input``.
"""

from __future__ import annotations

import io
import re
import urllib.parse
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from oslo_context import context as oslo_context

from trove.api import faults
from trove.common import exception

REQUEST_ID = "openstack.request_id"
GLOBAL_REQUEST_ID = "openstack.global_request_id"
SEGMENTS = "trove.segments"
QUERY = "trove.query"
BODY = "trove.body"
CONTENT_TYPE = "trove.content_type"

_REQUEST_ID_FORM = re.compile(r"req-[a-f0-9]{8}(-[a-f0-9]{4}){3}-[a-f0-9]{12}\Z")
_QUOTED_SLASH = re.compile("(?i)%2f")
_JSON = ("Content-Type", "application/json")
#: How much of a body that is too large is read, in largest bodies; beyond it is cut off.
_MOST_DISCARDED = 16
_DISCARD_BYTES = 65536


class Edge:
    """WSGI middleware: see the module."""

    def __init__(self, app: WSGIApplication, *, max_body_bytes: int) -> None:
        """Wrap ``app``."""
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._most_discarded = _MOST_DISCARDED * max_body_bytes

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request; the only catch-all of the API."""
        request_id: str = oslo_context.generate_request_id()
        environ[REQUEST_ID] = request_id
        from_caller = environ.get("HTTP_X_OPENSTACK_REQUEST_ID", "")
        if _REQUEST_ID_FORM.match(from_caller):
            environ[GLOBAL_REQUEST_ID] = from_caller

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            names = {name.lower() for name, _ in headers}
            if "content-type" not in names:
                headers.append(_JSON)
            headers.append(("x-openstack-request-id", request_id))
            return start_response(status, headers, exc_info)

        try:
            self._prepare(environ)
            return self._app(environ, start)
        except Exception as e:  # noqa: BLE001 - the WSGI border: faults.translate logs it
            fault = faults.translate(e, request_id)
            headers = [*fault.headers, ("Content-Length", str(len(fault.body)))]
            start(fault.status_line, headers)
            return [fault.body]

    def _prepare(self, environ: WSGIEnvironment) -> None:
        environ[SEGMENTS] = [decode_segment(segment) for segment in split_path(environ)]
        environ[QUERY] = parse_query(environ.get("QUERY_STRING", ""))
        environ["QUERY_STRING"] = ""
        environ[BODY] = self._read_body(environ)
        environ[CONTENT_TYPE] = environ.pop("CONTENT_TYPE", "")
        environ["CONTENT_LENGTH"] = "0"
        environ["wsgi.input"] = io.BytesIO()

    def _read_body(self, environ: WSGIEnvironment) -> bytes:
        announced = environ.get("CONTENT_LENGTH") or ""
        if not announced.isascii() or (announced and not announced.isdigit()):
            raise exception.BadRequest(reason="Content-Length is not a number")
        too_large = faults.BodyTooLarge(maximum=self._max_body_bytes)
        if announced:
            if len(announced) > 18 or int(announced) > self._max_body_bytes:
                # of what is larger still the rest would be cut off all the same
                if len(announced) < 18 and int(announced) <= self._most_discarded:
                    self._discard(environ["wsgi.input"])
                raise too_large
            return bytes(environ["wsgi.input"].read(int(announced)))
        if not environ.get("wsgi.input_terminated"):
            return b""
        body = bytes(environ["wsgi.input"].read(self._max_body_bytes + 1))
        if len(body) > self._max_body_bytes:
            self._discard(environ["wsgi.input"])
            raise too_large
        return body

    def _discard(self, stream: Any) -> None:
        """Read on for a while: whose request is cut off while it is sent gets no answer to it."""
        left = self._most_discarded
        try:
            while left > 0 and (chunk := stream.read(min(left, _DISCARD_BYTES))):
                left -= len(chunk)
        except OSError:
            # the rest does not come: the answer need not wait for it
            return


def split_path(environ: WSGIEnvironment) -> list[str]:
    """Return the non-empty segments of the path below SCRIPT_NAME, still percent-encoded."""
    return [segment for segment in raw_path(environ).split("/") if segment]


def raw_path(environ: WSGIEnvironment) -> str:
    """Return the path below SCRIPT_NAME, still percent-encoded.

    Servers decode PATH_INFO, some but for ``%2F``; the raw path is in REQUEST_URI where the server
    tells it (cheroot, uWSGI, mod_wsgi). It is used when it agrees with PATH_INFO.
    """
    path = environ.get("PATH_INFO", "")
    raw = environ.get("REQUEST_URI", "").partition("?")[0]
    if "://" in raw:
        raw = "/" + raw.partition("://")[2].partition("/")[2]
    script_name = environ.get("SCRIPT_NAME", "")
    if script_name and raw.startswith(script_name) and _agrees(raw[len(script_name) :], path):
        raw = raw[len(script_name) :]
    elif not _agrees(raw, path) and not _agrees(_behind_host(raw), path):
        raw = urllib.parse.quote(path.encode("latin-1"))
    return raw


def _behind_host(raw: str) -> str:
    """Return what cheroot makes of a path with two slashes at the front: a host and a path."""
    return "/" + raw[2:].partition("/")[2] if raw.startswith("//") else raw


def _agrees(raw: str, path: str) -> bool:
    if "%" not in raw:
        return raw == path
    if urllib.parse.unquote(raw, "latin-1") == path:
        return True
    parts = (urllib.parse.unquote(part, "latin-1") for part in _QUOTED_SLASH.split(raw))
    return "%2F" in path.upper() and "%2F".join(parts) == path


def decode_segment(segment: str) -> str:
    """Percent-decode one segment, once; raises BadRequest when it is not UTF-8."""
    if "%" not in segment:
        return segment
    try:
        return urllib.parse.unquote(segment, errors="strict")
    except UnicodeDecodeError:
        raise exception.BadRequest(reason="the path is not UTF-8") from None


def parse_query(query_string: str) -> dict[str, str]:
    """Return the parameters of a query; of a repeated one the last. Raises BadRequest."""
    if not query_string:
        return {}
    try:
        pairs = urllib.parse.parse_qsl(query_string, keep_blank_values=True, errors="strict")
    except ValueError:
        raise exception.BadRequest(reason="the query is not UTF-8") from None
    return dict(pairs)
