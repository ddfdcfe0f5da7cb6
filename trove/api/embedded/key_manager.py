"""A key manager for clients that know Barbican: secrets are stored, listed, read, deleted.

It shows the store of the secrets driver in the form of Barbican's API
(https://docs.openstack.org/api-ref/key-manager/), each secret to the members of its own project and
to nobody else, not even to administrators of other projects. There are secrets and their consumers,
no containers, orders or access lists.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from oslo_log import log

from trove.api import edge, embedded, faults, method, query, validation
from trove.common import context, exception
from trove.drivers.secrets.store import Consumer, NewSecret, Secret, SecretStore

LOG = log.getLogger(__name__)

_READ, _WRITE, _DELETE = "key_manager:read", "key_manager:write", "key_manager:delete"
_PAGE = 10
_LARGEST_PAGE = 100
_MOST_BYTES = 256 * 1024
_TEXT, _BYTES = "text/plain", "application/octet-stream"
#: What only clients care for, and what each may be.
_ATTRIBUTES: Mapping[str, Any] = {
    "algorithm": {"type": ["string", "null"], "maxLength": 255},
    "bit_length": {"type": ["integer", "null"], "minimum": 1, "maximum": 2**31 - 1},
    "mode": {"type": ["string", "null"], "maxLength": 255},
    "secret_type": {
        "enum": [
            *("opaque", "symmetric", "public", "private", "passphrase", "certificate"),
            None,
        ]
    },
    "expiration": {"type": "null"},
}
_SECRET = validation.Schema(
    {
        "type": "object",
        "required": ["payload", "payload_content_type"],
        "properties": {
            "name": {"type": ["string", "null"], "maxLength": 255},
            "payload": {"type": "string", "minLength": 1},
            "payload_content_type": {
                "type": "string",
                "pattern": r"^(text/plain(; ?charset=utf-8)?|application/octet-stream)$",
                "x-reason": f"must be {_TEXT} or {_BYTES}",
            },
            "payload_content_encoding": {"enum": ["base64", None]},
            **_ATTRIBUTES,
        },
    }
)
_NAME = {"type": "string", "minLength": 1, "maxLength": 255}
_CONSUMER = validation.Schema(
    {
        "type": "object",
        "required": ["service", "resource_type", "resource_id"],
        "properties": {"service": _NAME, "resource_type": _NAME, "resource_id": _NAME},
    }
)

#: Status and content: JSON, bytes with their type, or nothing.
_Answer = tuple[HTTPStatus, Mapping[str, Any] | tuple[str, bytes] | None]


class _Call:
    """One request."""

    def __init__(self, environ: WSGIEnvironment) -> None:
        self.method: str = environ["REQUEST_METHOD"]
        self.caller: context.RequestContext = environ[method.CONTEXT]
        self.project_id = str(self.caller.project_id)
        self.segments: list[str] = environ[edge.SEGMENTS][1:]
        self.query: Mapping[str, str] = environ[edge.QUERY]
        self.base = f"{environ[method.URLS].base}/{embedded.KEY_MANAGER}"
        version = environ.get("HTTP_OPENSTACK_API_VERSION", "").split()
        self.knows_force = version[-1:] not in ([], ["1.0"], ["1.1"])
        self._body: bytes = environ[edge.BODY]
        self._content_type: str = environ[edge.CONTENT_TYPE]

    def body(self, schema: validation.Schema) -> dict[str, Any]:
        return validation.parse_body(self._body, self._content_type, schema=schema)

    def number(self, name: str, *, default: int, largest: int) -> int:
        text = self.query.get(name) or str(default)
        if not (text.isascii() and text.isdigit()) or len(text) > 9:
            raise exception.BadRequest(reason=f"{name} must be a number")
        return min(int(text), largest)

    def page(self, collection: str, items: list[Any], total: int) -> _Answer:
        return HTTPStatus.OK, {collection: items, "total": total}


class KeyManager:
    """The WSGI application below ``/key-manager``."""

    def __init__(self, store: SecretStore) -> None:
        """Take the store."""
        self._store = store

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        try:
            status, content = self._serve(_Call(environ))
        except exception.TroveError as e:
            status, content = _refusal(e)
        if isinstance(content, tuple):
            content_type, body = content
        else:
            content_type = "application/json"
            body = b"" if content is None else json.dumps(content).encode()
        headers = [
            ("Content-Type", content_type),
            ("Content-Length", str(len(body))),
            ("OpenStack-API-Version", "key-manager 1.2"),
        ]
        start_response(f"{status.value} {status.phrase}", headers)
        return [body]

    def _serve(self, call: _Call) -> _Answer:
        if call.segments in ([], ["v1"]):
            return self._versions(call)
        if call.segments[:2] != ["v1", "secrets"] or len(call.segments) > 4:
            raise faults.RouteNotFound()
        kind = (*call.segments[3:], "secret" if call.segments[2:] else "secrets")[0]
        handlers = self._handlers().get(kind)
        if handlers is None:
            raise faults.RouteNotFound()
        handler = handlers.get(call.method)
        if handler is None:
            raise faults.MethodNotAllowed(allow=", ".join(handlers))
        rule, function = handler
        call.caller.authorize(rule)
        return function(call)

    def _handlers(self) -> Mapping[str, Mapping[str, tuple[str, Callable[[_Call], _Answer]]]]:
        return {
            "secrets": {"GET": (_READ, self._list), "POST": (_WRITE, self._create)},
            "secret": {"GET": (_READ, self._show), "DELETE": (_DELETE, self._delete)},
            "payload": {"GET": (_READ, self._payload)},
            "consumers": {
                "GET": (_READ, self._list_consumers),
                "POST": (_WRITE, self._add_consumer),
                "DELETE": (_WRITE, self._remove_consumer),
            },
        }

    def _versions(self, call: _Call) -> _Answer:
        if call.method != "GET":
            raise faults.MethodNotAllowed(allow="GET")
        version = {
            "id": "v1",
            "status": "CURRENT",
            "min_version": "1.0",
            "max_version": "1.2",
            "links": [{"rel": "self", "href": f"{call.base}/v1/"}],
        }
        if call.segments:
            return HTTPStatus.OK, {"version": version}
        return HTTPStatus.MULTIPLE_CHOICES, {"versions": [version]}

    # -- secrets -----

    def _list(self, call: _Call) -> _Answer:
        secrets, total = self._store.list_page(
            call.project_id,
            limit=call.number("limit", default=_PAGE, largest=_LARGEST_PAGE),
            offset=call.number("offset", default=0, largest=10**9),
            name=call.query.get("name") or None,
        )
        return call.page("secrets", [_describe(each, call) for each in secrets], total)

    def _create(self, call: _Call) -> _Answer:
        body = call.body(_SECRET)
        content_type = _TEXT if body["payload_content_type"].startswith(_TEXT) else _BYTES
        secret = self._store.create(
            call.project_id,
            NewSecret(
                payload=_payload(body, content_type),
                content_type=content_type,
                name=body.get("name"),
                creator_id=call.caller.user_id,
                attributes={key: body[key] for key in _ATTRIBUTES if body.get(key) is not None},
            ),
        )
        LOG.info("secret %s: stored", secret.id)
        return HTTPStatus.CREATED, {"secret_ref": _ref(secret, call)}

    def _show(self, call: _Call) -> _Answer:
        return HTTPStatus.OK, _describe(self._store.get(call.project_id, call.segments[2]), call)

    def _payload(self, call: _Call) -> _Answer:
        secret = self._store.get(call.project_id, call.segments[2])
        payload = self._store.get_payload(call.project_id, secret.id)
        content_type = f"{_TEXT}; charset=utf-8" if secret.content_type == _TEXT else _BYTES
        return HTTPStatus.OK, (content_type, payload)

    def _delete(self, call: _Call) -> _Answer:
        # before microversion 1.2 clients look for consumers themselves
        force = not call.knows_force or query.parse_bool(call.query, "force")
        self._store.delete(call.project_id, call.segments[2], force=force)
        LOG.info("secret %s: deleted", call.segments[2])
        return HTTPStatus.NO_CONTENT, None

    # -- consumers -----

    def _list_consumers(self, call: _Call) -> _Answer:
        secret = self._store.get(call.project_id, call.segments[2])
        limit = call.number("limit", default=_PAGE, largest=_LARGEST_PAGE)
        offset = call.number("offset", default=0, largest=10**9)
        page = secret.consumers[offset : offset + limit]
        items = [_consumer(each) for each in page]
        return call.page("consumers", items, len(secret.consumers))

    def _add_consumer(self, call: _Call) -> _Answer:
        consumer = _parse_consumer(call.body(_CONSUMER))
        secret = self._store.add_consumer(call.project_id, call.segments[2], consumer)
        return HTTPStatus.OK, _describe(secret, call)

    def _remove_consumer(self, call: _Call) -> _Answer:
        consumer = _parse_consumer(call.body(_CONSUMER))
        secret = self._store.get(call.project_id, call.segments[2])
        if consumer not in secret.consumers:
            raise exception.NotFound("The secret has no such consumer.")
        secret = self._store.remove_consumer(call.project_id, secret.id, consumer)
        return HTTPStatus.OK, _describe(secret, call)


def _payload(body: Mapping[str, Any], content_type: str) -> bytes:
    text: str = body["payload"]
    is_encoded = body.get("payload_content_encoding") == "base64"
    if is_encoded != (content_type == _BYTES):
        raise exception.BadRequest(
            reason=f"payload_content_encoding must be base64 for {_BYTES}, and absent for text"
        )
    payload = text.encode("utf-8")
    if is_encoded:
        try:
            payload = base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError):
            raise exception.BadRequest(reason="payload is not base64") from None
    if not 0 < len(payload) <= _MOST_BYTES:
        raise exception.BadRequest(reason=f"a payload has 1 to {_MOST_BYTES} bytes")
    return payload


def _parse_consumer(body: Mapping[str, str]) -> Consumer:
    return Consumer(
        service=body["service"],
        resource_type=body["resource_type"],
        resource_id=body["resource_id"],
    )


def _consumer(consumer: Consumer) -> dict[str, str]:
    return {
        "service": consumer.service,
        "resource_type": consumer.resource_type,
        "resource_id": consumer.resource_id,
    }


def _ref(secret: Secret, call: _Call) -> str:
    return f"{call.base}/v1/secrets/{secret.id}"


def _describe(secret: Secret, call: _Call) -> dict[str, Any]:
    created = secret.created.strftime("%Y-%m-%dT%H:%M:%S")
    return {
        "secret_ref": _ref(secret, call),
        "name": secret.name or secret.id,
        "status": "ACTIVE",
        "content_types": {"default": secret.content_type},
        "creator_id": secret.creator_id,
        "created": created,
        "updated": created,
        **dict.fromkeys(_ATTRIBUTES),
        "secret_type": "opaque",
        **secret.attributes,
        "consumers": [_consumer(each) for each in secret.consumers],
    }


def _refusal(error: exception.TroveError) -> _Answer:
    """Return an error as Barbican tells it."""
    status = HTTPStatus(faults.status_of(error))
    message = error.message
    if status is HTTPStatus.INTERNAL_SERVER_ERROR:
        LOG.error("the key manager failed: %s", error)
        message = "The server has encountered an error."
    return status, {"code": status.value, "title": status.phrase, "description": message}


def make(store: SecretStore) -> embedded.Mount:
    """Return where the key manager is mounted."""
    app: WSGIApplication = KeyManager(store)
    return embedded.Mount(segment=embedded.KEY_MANAGER, app=app)
