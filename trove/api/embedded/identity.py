"""An identity service for the users of the ``http_basic`` file: Keystone's tokens, version 3.

Clients that know Keystone only (swiftclient, gophercloud, the dashboard, scripts) sign in with name
and password and get a token and a catalog. A token is sealed by the operator's key-encryption key
and stored nowhere; it names a user, a project and when it ends, and it ends earlier when the user's
line in the file changes. Domains are one: "default". The form of requests and answers is that of
Keystone's API reference (https://docs.openstack.org/api-ref/identity/v3/).
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime
import hashlib
import json
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from trove.api import auth, edge, embedded, method, urls
from trove.common import concurrency, crypto, exception

#: How long a token holds.
TOKEN_LIFE_S = 8 * 3600
_PURPOSE = "identity-token"
_DOMAIN = {"id": "default", "name": "Default"}
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


class Refused(Exception):
    """An answer of Keystone's that is an error."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        """Take the status and what to say."""
        super().__init__(message)
        self.status = status
        self.message = message


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What a token says."""

    identity: auth.Identity
    issued: datetime.datetime
    expires: datetime.datetime
    id: str = dataclasses.field(repr=False)


class Tokens:
    """Makes and reads tokens."""

    def __init__(
        self, *, users: auth.HttpBasic, key_ring: crypto.KeyRing, clock: concurrency.Clock
    ) -> None:
        """Take the users and the key to seal with."""
        self._users = users
        self._key_ring = key_ring
        self._clock = clock

    def issue(self, identity: auth.Identity) -> Token:
        """Return a new token of a user who has signed in."""
        now = self._clock.now()
        expires = now + datetime.timedelta(seconds=TOKEN_LIFE_S)
        content = {
            "user": identity.user_id,
            "line": self._line(identity.user_id),
            "issued": now.timestamp(),
            "expires": expires.timestamp(),
        }
        sealed = self._key_ring.wrap(json.dumps(content).encode(), purpose=_PURPOSE)
        token_id = base64.urlsafe_b64encode(sealed).decode()
        return Token(identity=identity, issued=now, expires=expires, id=token_id)

    def read(self, token_id: str) -> Token | None:
        """Return a token that holds, or None."""
        try:
            sealed = base64.urlsafe_b64decode(token_id.encode("ascii"))
            content = json.loads(self._key_ring.unwrap(sealed, purpose=_PURPOSE))
        except (binascii.Error, ValueError, crypto.DecryptionFailed):
            return None
        identity = self._users.find(content["user"])
        if identity is None or content["line"] != self._line(identity.user_id):
            return None
        expires = datetime.datetime.fromtimestamp(content["expires"], datetime.UTC)
        if expires <= self._clock.now():
            return None
        issued = datetime.datetime.fromtimestamp(content["issued"], datetime.UTC)
        return Token(identity=identity, issued=issued, expires=expires, id=token_id)

    def _line(self, name: str) -> str:
        """Return what changes with a user's password, project or roles, and tells none of them."""
        identity, secret = self._users.find(name), self._users.fingerprint(name)
        text = f"{secret}\n{identity}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class TokensOrBasic(auth.Strategy):
    """The ``http_basic`` strategy, for which a token of this service is as good as a password."""

    def __init__(self, basic: auth.HttpBasic, tokens: Tokens) -> None:
        """Take both ways in."""
        self._basic = basic
        self._tokens = tokens

    def identify(self, environ: WSGIEnvironment) -> auth.Identity:
        """Return the caller; raises Unauthorized."""
        token_id = environ.get("HTTP_X_AUTH_TOKEN")
        if not token_id or environ.get("HTTP_AUTHORIZATION"):
            return self._basic.identify(environ)
        token = self._tokens.read(token_id)
        if token is None:
            raise exception.Unauthorized(challenge='Keystone uri="/identity"')
        return dataclasses.replace(token.identity, auth_token=token_id)


class IdentityService:
    """The WSGI application below ``/identity``."""

    def __init__(self, *, users: auth.HttpBasic, tokens: Tokens) -> None:
        """Take the users and their tokens."""
        self._users = users
        self._tokens = tokens

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        headers: list[tuple[str, str]] = []
        try:
            status, content = self._serve(environ, headers)
        except Refused as e:
            status = e.status
            content = {
                "error": {"code": status.value, "message": e.message, "title": status.phrase}
            }
        except exception.Unauthorized:
            status = HTTPStatus.UNAUTHORIZED
            content = {
                "error": {
                    "code": 401,
                    "message": "The request you have made requires authentication.",
                    "title": "Unauthorized",
                }
            }
        body = b"" if content is None else json.dumps(content).encode()
        headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response(f"{status.value} {status.phrase}", headers)
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]

    def _serve(
        self, environ: WSGIEnvironment, headers: list[tuple[str, str]]
    ) -> tuple[HTTPStatus, dict[str, Any] | None]:
        http_method, segments = environ["REQUEST_METHOD"], environ[edge.SEGMENTS][1:]
        base = environ[method.URLS].base
        if http_method == "GET" and segments in ([], ["v3"]):
            version = _version(base)
            if segments:
                return HTTPStatus.OK, {"version": version}
            return HTTPStatus.MULTIPLE_CHOICES, {"versions": {"values": [version]}}
        if segments == ["v3", "auth", "tokens"]:
            return self._tokens_route(environ, headers)
        if http_method == "GET" and segments[:1] == ["v3"]:
            return HTTPStatus.OK, self._read_route(environ, segments[1:])
        raise Refused(HTTPStatus.NOT_FOUND, "The embedded identity service has no such resource.")

    def _tokens_route(
        self, environ: WSGIEnvironment, headers: list[tuple[str, str]]
    ) -> tuple[HTTPStatus, dict[str, Any] | None]:
        http_method, base = environ["REQUEST_METHOD"], environ[method.URLS].base
        if http_method == "POST":
            token = self._tokens.issue(self._sign_in(environ[edge.BODY]))
            headers.append(("X-Subject-Token", token.id))
            return HTTPStatus.CREATED, {"token": _describe(token, base)}
        caller = self._caller(environ)
        if http_method not in ("GET", "HEAD"):
            raise Refused(
                HTTPStatus.FORBIDDEN, "Tokens cannot be revoked here: they end by themselves."
            )
        subject = self._tokens.read(environ.get("HTTP_X_SUBJECT_TOKEN", ""))
        if subject is None or subject.identity.user_id != caller.identity.user_id:
            raise Refused(HTTPStatus.NOT_FOUND, "The subject token is not valid.")
        headers.append(("X-Subject-Token", subject.id))
        return HTTPStatus.OK, {"token": _describe(subject, base)}

    def _read_route(self, environ: WSGIEnvironment, segments: list[str]) -> dict[str, Any]:
        identity = self._caller(environ).identity
        query: Mapping[str, str] = environ[edge.QUERY]
        if segments == ["auth", "catalog"]:
            return {"catalog": _catalog(identity, environ[method.URLS].base)}
        if segments in (["auth", "projects"], ["users", identity.user_id, "projects"]):
            return {"projects": [_project(identity.project_id)]}
        visible = self._users.projects() if "admin" in identity.roles else {identity.project_id}
        if segments == ["projects"]:
            name = query.get("name")
            found = sorted(each for each in visible if name in (None, each))
            return {"projects": [_project(each) for each in found]}
        if len(segments) == 2 and segments[0] == "projects" and segments[1] in visible:
            return {"project": _project(segments[1])}
        raise Refused(
            HTTPStatus.NOT_FOUND, "There is no such resource, or it is not the caller's own."
        )

    def _caller(self, environ: WSGIEnvironment) -> Token:
        token = self._tokens.read(environ.get("HTTP_X_AUTH_TOKEN", ""))
        if token is None:
            raise exception.Unauthorized(challenge="Keystone")
        return token

    def _sign_in(self, body: bytes) -> auth.Identity:
        """Return who a request for a token is from; raises Unauthorized, Refused."""
        try:
            request = json.loads(body)["auth"]
            methods = list(request["identity"]["methods"])
            scope = request.get("scope") or {}
            if methods == ["password"]:
                user = request["identity"]["password"]["user"]
                name, password = user.get("name") or user["id"], user["password"]
                identity = self._users.check(str(name), str(password).encode())
            elif methods == ["token"]:
                held = self._tokens.read(str(request["identity"]["token"]["id"]))
                identity = held.identity if held is not None else None
            else:
                raise Refused(
                    HTTPStatus.BAD_REQUEST, "Sign in by the method password, or token, alone."
                )
            wanted = scope.get("project") if isinstance(scope, dict) else None
            if wanted is not None:
                wanted = wanted.get("id") or wanted["name"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise Refused(
                HTTPStatus.BAD_REQUEST,
                "The body is not a request for a token of version 3 of the identity API.",
            ) from None
        if identity is None or wanted not in (None, identity.project_id):
            raise exception.Unauthorized(challenge="Keystone")
        return identity


def _version(base: str) -> dict[str, Any]:
    return {
        "id": "v3.14",
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": f"{base}/{embedded.IDENTITY}/v3/"}],
        "media-types": [
            {
                "base": "application/json",
                "type": "application/vnd.openstack.identity-v3+json",
            }
        ],
    }


def _project(project_id: str) -> dict[str, Any]:
    return {
        "id": project_id,
        "name": project_id,
        "domain_id": _DOMAIN["id"],
        "enabled": True,
        "links": {},
    }


def _describe(token: Token, base: str) -> dict[str, Any]:
    identity = token.identity
    return {
        "methods": ["password"],
        "user": {
            "id": identity.user_id,
            "name": identity.user_id,
            "domain": _DOMAIN,
            "password_expires_at": None,
        },
        "project": {"id": identity.project_id, "name": identity.project_id, "domain": _DOMAIN},
        "is_domain": False,
        "roles": [{"id": role, "name": role} for role in identity.roles],
        "audit_ids": [hashlib.sha256(token.id.encode()).hexdigest()[:22]],
        "issued_at": token.issued.strftime(_TIME),
        "expires_at": token.expires.strftime(_TIME),
        "catalog": _catalog(identity, base),
    }


def _catalog(identity: auth.Identity, base: str) -> list[dict[str, Any]]:
    project = urllib.parse.quote(identity.project_id, safe="")
    services = (
        ("trove", "database", f"{base}/{urls.VERSION}/{project}"),
        ("keystone", "identity", f"{base}/{embedded.IDENTITY}"),
        ("swift", "object-store", f"{base}/{embedded.OBJECT_STORE}/v1/AUTH_{project}"),
        ("barbican", "key-manager", f"{base}/{embedded.KEY_MANAGER}"),
    )
    return [
        {
            "id": _id(name),
            "name": name,
            "type": kind,
            "endpoints": [
                {
                    "id": _id(name, interface),
                    "interface": interface,
                    "region": "RegionOne",
                    "region_id": "RegionOne",
                    "url": url,
                }
                for interface in ("public", "internal", "admin")
            ],
        }
        for name, kind, url in services
    ]


def _id(*words: str) -> str:
    return uuid.uuid5(uuid.NAMESPACE_URL, "/".join(words)).hex


def make(
    basic: auth.HttpBasic, *, key_ring: crypto.KeyRing, clock: concurrency.Clock
) -> tuple[auth.Strategy, embedded.Mount]:
    """Return the strategy that takes tokens too, and where the service is mounted."""
    tokens = Tokens(users=basic, key_ring=key_ring, clock=clock)
    service: Callable[..., Iterable[bytes]] = IdentityService(users=basic, tokens=tokens)
    app: WSGIApplication = service
    mount = embedded.Mount(segment=embedded.IDENTITY, app=app, needs_caller=False)
    return TokensOrBasic(basic, tokens), mount
