"""An object store for clients that know Swift: published logs are read and deleted here.

It shows the accounts of :mod:`trove.storage` in the form of Swift's API
(https://docs.openstack.org/api-ref/object-store/), each to its own project and to nobody else, not
even to administrators of other projects. Nothing is uploaded here: guests store by themselves.
"""

from __future__ import annotations

import dataclasses
import datetime
import email.utils
import html
import json
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, BinaryIO
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from oslo_log import log

from trove.api import edge, embedded, method
from trove.common import context, exception
from trove.storage import base as storage

LOG = log.getLogger(__name__)

_READ, _DELETE = "object_store:read", "object_store:delete"
_CHUNK_BYTES = 64 * 1024
_PAGE = 1000
#: Greater than any name that goes on: the longest name is made of it alone.
_LAST = "\U0010ffff" * (storage.MAX_OBJECT_NAME_BYTES // 4)
_METADATA_KEY = re.compile(r"^[A-Za-z0-9-]{1,128}$")
_CONTENT_TYPE = re.compile(r"^[\w.+-]+/[\w.+-]+(; ?[\w-]+=[\w.-]+)?$", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_RANGE = re.compile(r"^bytes=(\d{0,18})-(\d{0,18})$", re.ASCII)
_TEXT = "text/plain; charset=utf-8"
_JSON = "application/json; charset=utf-8"
_TEXTS: Mapping[HTTPStatus, str] = {
    HTTPStatus.FORBIDDEN: "Access was denied to this resource.",
    HTTPStatus.NOT_FOUND: "The resource could not be found.",
    HTTPStatus.METHOD_NOT_ALLOWED: "The method is not allowed for this resource.",
    HTTPStatus.NOT_ACCEPTABLE: "The resource is not available in a format acceptable to your"
    " browser.",
    HTTPStatus.PRECONDITION_FAILED: "A precondition for this request was not met.",
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: "The Range requested is not available.",
    HTTPStatus.SERVICE_UNAVAILABLE: "The server is currently unavailable. Please try again at a"
    " later time.",
}


class Refused(Exception):
    """An answer of Swift's that is an error."""

    def __init__(
        self, status: HTTPStatus, text: str | None = None, *headers: tuple[str, str]
    ) -> None:
        """Take the status, what to say if not the usual, and more headers."""
        super().__init__(status.phrase)
        self.status = status
        self.text = text or _TEXTS[status]
        self.headers = headers


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    status: HTTPStatus
    headers: list[tuple[str, str]]
    body: Iterable[bytes] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    method: str
    account: storage.Account
    container: str
    name: str
    query: Mapping[str, str]
    accept: str
    range: str


class ObjectStore:
    """The WSGI application below ``/object-store``."""

    def __init__(self, store: storage.Store) -> None:
        """Take the store."""
        self._store = store

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        try:
            answer = self._serve(environ)
        except exception.Forbidden:
            answer = _error(Refused(HTTPStatus.FORBIDDEN))
        except Refused as e:
            answer = _error(e)
        except storage.StorageError as e:
            LOG.error("the object store failed: %s", e)
            answer = _error(Refused(HTTPStatus.SERVICE_UNAVAILABLE))
        answer.headers.append(("X-Trans-Id", f"tx-{environ[edge.REQUEST_ID]}"))
        start_response(f"{answer.status.value} {answer.status.phrase}", answer.headers)
        if environ["REQUEST_METHOD"] == "HEAD":
            _close(answer.body)
            return []
        return answer.body

    def _serve(self, environ: WSGIEnvironment) -> _Answer:
        caller: context.RequestContext = environ[method.CONTEXT]
        # a name is all that follows, with its slashes and however they are encoded
        path = urllib.parse.unquote(edge.raw_path(environ)).lstrip("/")
        _, _, rest = path.partition("/")
        version, account, container, name = (*rest.split("/", 3), "", "", "", "")[:4]
        if version != "v1" or not account:
            raise Refused(HTTPStatus.NOT_FOUND)
        if account != f"AUTH_{caller.project_id}":
            raise Refused(HTTPStatus.FORBIDDEN)
        if name and not container:
            raise Refused(HTTPStatus.PRECONDITION_FAILED, "Bad URL")
        http_method = environ["REQUEST_METHOD"]
        allowed = ["GET", "HEAD", "DELETE"] if name else ["GET", "HEAD"]
        if http_method not in allowed:
            raise Refused(
                HTTPStatus.METHOD_NOT_ALLOWED, None, ("Allow", ", ".join(sorted(allowed)))
            )
        caller.authorize(_DELETE if http_method == "DELETE" else _READ)
        request = _Request(
            method=http_method,
            account=self._store.account(str(caller.project_id)),
            container=container,
            name=name,
            query=environ[edge.QUERY],
            accept=environ.get("HTTP_ACCEPT", ""),
            range=environ.get("HTTP_RANGE", ""),
        )
        try:
            if name:
                return _delete(request) if http_method == "DELETE" else _object(request)
            return _container(request) if container else _account(request)
        except (exception.BadRequest, exception.NotFound):
            # no object can have such a name, so there is none
            raise Refused(HTTPStatus.NOT_FOUND) from None


def _error(refused: Refused) -> _Answer:
    phrase, text = refused.status.phrase, html.escape(refused.text)
    body = f"<html><h1>{phrase}</h1><p>{text}</p></html>".encode()
    headers = [
        ("Content-Type", "text/html; charset=UTF-8"),
        ("Content-Length", str(len(body))),
        *refused.headers,
    ]
    return _Answer(status=refused.status, headers=headers, body=[body])


# -- accounts and containers -----


def _account(request: _Request) -> _Answer:
    """List containers."""
    format_ = _format(request)
    names = [
        name
        for name in request.account.list_containers()
        if name.startswith(request.query.get("prefix", ""))
        and name > request.query.get("marker", "")
        and (not request.query.get("end_marker") or name < request.query["end_marker"])
    ]
    found = [request.account.find_container(name) for name in names[: _limit(request.query)]]
    containers = [each for each in found if each is not None]
    headers = [
        ("X-Account-Container-Count", str(len(containers))),
        ("X-Account-Object-Count", str(sum(each.count for each in containers))),
        ("X-Account-Bytes-Used", str(sum(each.size_bytes for each in containers))),
    ]
    items = [
        {"name": each.name, "count": each.count, "bytes": each.size_bytes} for each in containers
    ]
    return _listing(request, format_, headers, items)


def _container(request: _Request) -> _Answer:
    """List objects."""
    format_ = _format(request)
    found = request.account.find_container(request.container)
    if found is None:
        raise Refused(HTTPStatus.NOT_FOUND)
    headers = [
        ("X-Container-Object-Count", str(found.count)),
        ("X-Container-Bytes-Used", str(found.size_bytes)),
        ("Accept-Ranges", "bytes"),
    ]
    items = [] if request.method == "HEAD" else list(_objects(request))
    return _listing(request, format_, headers, items)


def _objects(request: _Request) -> Iterator[dict[str, Any]]:
    """Yield what a listing shows: objects, and with a delimiter what they are below of."""
    query = request.query
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    marker, end_marker = query.get("marker", ""), query.get("end_marker", "")
    left, cursor = _limit(query), marker
    while left > 0:
        size = min(left, _PAGE)
        page = request.account.list(request.container, prefix=prefix, marker=cursor, limit=size)
        for each in page:
            if end_marker and each.name >= end_marker:
                return
            cursor = each.name
            at = each.name.find(delimiter, len(prefix)) if delimiter else -1
            if at < 0:
                yield _describe(each)
                left -= 1
                continue
            below = each.name[: at + len(delimiter)]
            if below != marker:
                yield {"subdir": below}
                left -= 1
            cursor = below + _LAST
            break
        else:
            if len(page) < size:
                return


def _describe(each: storage.StoredObject) -> dict[str, Any]:
    modified = each.modified.astimezone(datetime.UTC)
    return {
        "name": each.name,
        "hash": each.etag,
        "bytes": each.size_bytes,
        "content_type": each.content_type,
        "last_modified": modified.strftime("%Y-%m-%dT%H:%M:%S.%f"),
    }


def _limit(query: Mapping[str, str]) -> int:
    limit = query.get("limit", "")
    if not (limit.isascii() and limit.isdigit()):
        return storage.MAX_LISTING
    if len(limit) > 9 or int(limit) > storage.MAX_LISTING:
        raise Refused(HTTPStatus.PRECONDITION_FAILED, f"Maximum limit is {storage.MAX_LISTING}")
    return int(limit)


def _format(request: _Request) -> str:
    """Return in which format a listing is wanted: as asked in the query, else in the header."""
    wanted = request.query.get("format", "")
    if not wanted:
        accepted = [each.partition(";")[0].strip() for each in request.accept.split(",")]
        wanted = "json" if accepted[:1] == ["application/json"] else "plain"
    if wanted not in ("json", "plain"):
        raise Refused(HTTPStatus.NOT_ACCEPTABLE)
    return wanted


def _listing(
    request: _Request, format_: str, headers: list[tuple[str, str]], items: list[dict[str, Any]]
) -> _Answer:
    if request.method == "HEAD":
        headers += [("Content-Type", _TEXT), ("Content-Length", "0")]
        return _Answer(status=HTTPStatus.NO_CONTENT, headers=headers)
    if format_ == "json":
        body = json.dumps(items).encode()
        headers.append(("Content-Type", _JSON))
    else:
        body = "".join(f"{each.get('name', each.get('subdir'))}\n" for each in items).encode()
        headers.append(("Content-Type", _TEXT))
    headers.append(("Content-Length", str(len(body))))
    status = HTTPStatus.OK if body else HTTPStatus.NO_CONTENT
    return _Answer(status=status, headers=headers, body=[body])


# -- objects -----


def _object(request: _Request) -> _Answer:
    """Show an object, all of it or a range."""
    stored, content = request.account.open(request.container, request.name)
    headers = [
        ("Content-Type", _safe_content_type(stored.content_type)),
        ("Etag", stored.etag),
        ("Last-Modified", email.utils.format_datetime(_whole_seconds(stored), usegmt=True)),
        ("X-Timestamp", f"{stored.modified.timestamp():.5f}"),
        ("Accept-Ranges", "bytes"),
        *_metadata(stored),
    ]
    try:
        wanted = _parse_range(request.range, stored.size_bytes)
    except Refused:
        content.close()
        raise
    if wanted is None:
        headers.append(("Content-Length", str(stored.size_bytes)))
        body = _read(content, 0, stored.size_bytes)
        return _Answer(status=HTTPStatus.OK, headers=headers, body=body)
    first, last = wanted
    headers += [
        ("Content-Length", str(last - first + 1)),
        ("Content-Range", f"bytes {first}-{last}/{stored.size_bytes}"),
    ]
    body = _read(content, first, last - first + 1)
    return _Answer(status=HTTPStatus.PARTIAL_CONTENT, headers=headers, body=body)


class _Content(Iterator[bytes]):
    """A part of a file as the body of an answer; the server closes it."""

    def __init__(self, content: BinaryIO, start: int, size: int) -> None:
        self._content = content
        self._left = size
        if content.seekable():
            content.seek(start)
        else:
            # it comes from another machine
            while start and (skipped := content.read(min(start, _CHUNK_BYTES))):
                start -= len(skipped)

    def __next__(self) -> bytes:
        chunk = self._content.read(min(self._left, _CHUNK_BYTES))
        if not chunk:
            self.close()
            raise StopIteration
        self._left -= len(chunk)
        return chunk

    def close(self) -> None:
        """Close the file."""
        self._content.close()
        self._left = 0


def _read(content: BinaryIO, start: int, size: int) -> _Content:
    return _Content(content, start, size)


def _close(body: Iterable[bytes]) -> None:
    if isinstance(body, _Content):
        body.close()


def _parse_range(text: str, size: int) -> tuple[int, int] | None:
    """Return the first and the last byte of a range; None for all, as for several ranges.

    Raises Refused when there is nothing of it.
    """
    found = _RANGE.match(text.strip())
    if found is None or found.group(1) == found.group(2) == "":
        return None
    first_text, last_text = found.groups()
    if not first_text:
        first, last = max(0, size - int(last_text)), size - 1
        is_empty = int(last_text) == 0
    else:
        first, last = int(first_text), min(size - 1, int(last_text or size))
        if last_text and int(last_text) < first:
            return None
        is_empty = False
    if is_empty or first >= size:
        raise Refused(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, None, ("Content-Range", f"bytes */{size}")
        )
    return first, last


def _whole_seconds(stored: storage.StoredObject) -> datetime.datetime:
    """Return the time in the header's precision, rounded up so that nothing is newer than it."""
    modified = stored.modified.astimezone(datetime.UTC)
    if modified.microsecond:
        modified = modified.replace(microsecond=0) + datetime.timedelta(seconds=1)
    return modified


def _metadata(stored: storage.StoredObject) -> Iterator[tuple[str, str]]:
    """Yield the object's own headers; what guests put there may not end a header."""
    for key, value in stored.metadata.items():
        if _METADATA_KEY.match(key):
            text = _CONTROL.sub(" ", str(value))
            # bytes of UTF-8, as WSGI has them
            yield f"X-Object-Meta-{key.title()}", text.encode("utf-8", "replace").decode("latin-1")


def _safe_content_type(content_type: str) -> str:
    return content_type if _CONTENT_TYPE.match(content_type) else storage.BINARY


def _delete(request: _Request) -> _Answer:
    """Delete an object."""
    if not request.account.delete(request.container, request.name):
        raise Refused(HTTPStatus.NOT_FOUND)
    headers = [("Content-Type", "text/html; charset=UTF-8"), ("Content-Length", "0")]
    return _Answer(status=HTTPStatus.NO_CONTENT, headers=headers)


def make(store: storage.Store) -> embedded.Mount:
    """Return where the service is mounted."""
    app: WSGIApplication = ObjectStore(store)
    return embedded.Mount(segment=embedded.OBJECT_STORE, app=app)
