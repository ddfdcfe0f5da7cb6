"""Who calls: the three strategies, and the checks every authenticated request passes.

Authentication comes before routing and before a body is parsed; then the project of the path must
be the caller's own, for administrators too.
"""

from __future__ import annotations

import abc
import base64
import binascii
import dataclasses
import hashlib
import hmac
import importlib
import ipaddress
import os
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import bcrypt
from oslo_config import cfg
from oslo_log import log

from trove.api import edge, faults, method, ratelimit, urls
from trove.common import context, exception
from trove.policies import Authorizer

LOG = log.getLogger(__name__)

_IMPLIED_ROLES: Mapping[str, tuple[str, ...]] = {
    "admin": ("admin", "manager", "member", "reader"),
    "manager": ("manager", "member", "reader"),
    "member": ("member", "reader"),
}
_MOST_REMEMBERED = 1000


def expand_roles(roles: Iterable[str]) -> list[str]:
    """Return roles with those they imply, as Keystone would."""
    return sorted({each for role in roles for each in _IMPLIED_ROLES.get(role, (role,))})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """An authenticated caller."""

    user_id: str
    project_id: str
    roles: tuple[str, ...]
    user_name: str | None = None
    project_name: str | None = None
    user_domain_id: str | None = None
    project_domain_id: str | None = None
    system_scope: str | None = None
    auth_token: str | None = dataclasses.field(repr=False, default=None)


class Strategy(abc.ABC):
    """A way to find out who calls."""

    @abc.abstractmethod
    def identify(self, environ: WSGIEnvironment) -> Identity:
        """Return the caller; raises Unauthorized."""

    def wrap(self, app: WSGIApplication) -> WSGIApplication:
        """Return ``app`` below what must run before :meth:`identify`."""
        return app


_REACHED = "trove.token_checked"
_KEYSTONE_DOWN = (
    "the identity service cannot validate tokens now; if it lasts, the operator checks Keystone"
    " and [keystone_authtoken]"
)


def _mark_reached(app: WSGIApplication) -> WSGIApplication:
    """Return ``app``, leaving a mark in the environment when it is called."""

    def marked(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ[_REACHED] = True
        return app(environ, start_response)

    return marked


class Keystone(Strategy):
    """Tokens, validated by keystonemiddleware, which strips forged identity headers."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Take the configuration with [keystone_authtoken]."""
        self._conf = conf
        self._uri = ""

    def wrap(self, app: WSGIApplication) -> WSGIApplication:
        """Put auth_token in front; it leaves the refusal to :meth:`identify`."""
        # 12 MB that only this strategy needs
        auth_token = importlib.import_module("keystonemiddleware.auth_token")
        keystone_errors = importlib.import_module("keystoneauth1.exceptions")
        protocol: WSGIApplication = auth_token.AuthProtocol(
            _mark_reached(app), {"oslo_config_config": self._conf, "delay_auth_decision": True}
        )
        self._uri = self._conf.keystone_authtoken.www_authenticate_uri or ""

        def validated(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            try:
                answer = protocol(environ, start_response)
            except keystone_errors.ClientException as e:
                LOG.error("Keystone cannot validate tokens: %s", e)
                raise exception.ServiceUnavailable(reason=_KEYSTONE_DOWN) from e
            if _REACHED not in environ:
                # with delay_auth_decision it answers by itself only when Keystone cannot be asked
                raise exception.ServiceUnavailable(reason=_KEYSTONE_DOWN)
            return answer

        return validated

    def identify(self, environ: WSGIEnvironment) -> Identity:
        """Return the caller of a valid token; raises Unauthorized."""
        get = environ.get
        project_id, user_id = get("HTTP_X_PROJECT_ID"), get("HTTP_X_USER_ID")
        if get("HTTP_X_IDENTITY_STATUS") != "Confirmed" or not project_id or not user_id:
            raise exception.Unauthorized(challenge=f'Keystone uri="{self._uri}"')
        roles = [role.strip() for role in get("HTTP_X_ROLES", "").split(",")]
        return Identity(
            user_id=user_id,
            project_id=project_id,
            roles=tuple(role for role in roles if role),
            user_name=get("HTTP_X_USER_NAME"),
            project_name=get("HTTP_X_PROJECT_NAME"),
            user_domain_id=get("HTTP_X_USER_DOMAIN_ID"),
            project_domain_id=get("HTTP_X_PROJECT_DOMAIN_ID"),
            system_scope=get("HTTP_OPENSTACK_SYSTEM_SCOPE"),
            auth_token=get("HTTP_X_AUTH_TOKEN"),
        )


class NoAuth(Strategy):
    """For tests: believes X-Project-Id, X-User-Id and X-Roles. Only on a loopback address."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Raise ConfigurationError unless the API listens on loopback."""
        host = conf.api.bind_host
        if host != "localhost" and not _is_loopback(host):
            raise exception.ConfigurationError(
                reason=f"[api] auth_strategy is noauth and bind_host is {host}: without"
                " authentication the API serves a loopback address only"
            )

    def identify(self, environ: WSGIEnvironment) -> Identity:
        """Return who the headers say; raises Unauthorized without a project."""
        project_id = environ.get("HTTP_X_PROJECT_ID")
        if not project_id:
            raise exception.Unauthorized(challenge="None")
        roles = [role.strip() for role in environ.get("HTTP_X_ROLES", "").split(",")]
        return Identity(
            user_id=environ.get("HTTP_X_USER_ID") or "nobody",
            project_id=project_id,
            roles=tuple(expand_roles(role for role in roles if role)),
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Account:
    identity: Identity
    password_hash: bytes = dataclasses.field(repr=False)


class HttpBasic(Strategy):
    """Names and passwords from a file of bcrypt hashes, read again whenever it changes.

    A password that was right is remembered as a keyed digest, so that bcrypt's cost is paid once
    and not with every request; the key lives in this process only.
    """

    _CHALLENGE = 'Basic realm="trove", charset="UTF-8"'

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Read the file; raises ConfigurationError when it cannot be used."""
        self._path = conf.api.http_basic_auth_user_file
        self._key = secrets.token_bytes(32)
        self._nobody = bcrypt.hashpw(secrets.token_bytes(16), bcrypt.gensalt(rounds=10))
        self._lock = threading.Lock()
        self._remembered: dict[bytes, Identity] = {}
        self._accounts: Mapping[str, _Account] = {}
        self._stamp: tuple[int, int, int] | None = None
        self._read(self._stat())

    def identify(self, environ: WSGIEnvironment) -> Identity:
        """Return the caller with the right password; raises Unauthorized."""
        name, password = self._credentials(environ.get("HTTP_AUTHORIZATION", ""))
        identity = self.check(name, password)
        if identity is None:
            raise exception.Unauthorized(challenge=self._CHALLENGE)
        return identity

    def check(self, name: str, password: bytes) -> Identity | None:
        """Return the user of a name and its right password, else None."""
        self._refresh()
        digest = hmac.digest(
            self._key, b"%d:%b%b" % (len(name.encode()), name.encode(), password), hashlib.sha256
        )
        known = self._remembered.get(digest)
        if known is not None:
            return known
        account = self._accounts.get(name)
        # an unknown name costs the same time as a wrong password
        expected = account.password_hash if account is not None else self._nobody
        if not _matches(password, expected) or account is None:
            return None
        with self._lock:
            if self._accounts.get(name) is account:
                if len(self._remembered) >= _MOST_REMEMBERED:
                    self._remembered.clear()
                self._remembered[digest] = account.identity
        return account.identity

    def find(self, name: str) -> Identity | None:
        """Return the user of a name, or None."""
        self._refresh()
        account = self._accounts.get(name)
        return account.identity if account is not None else None

    def projects(self) -> frozenset[str]:
        """Return the ids of all projects that users are in."""
        self._refresh()
        return frozenset(account.identity.project_id for account in self._accounts.values())

    def fingerprint(self, name: str) -> str:
        """Return what changes with the password of a user and does not tell it."""
        account = self._accounts.get(name)
        return "" if account is None else hashlib.sha256(account.password_hash).hexdigest()

    def _credentials(self, header: str) -> tuple[str, bytes]:
        scheme, _, encoded = header.partition(" ")
        try:
            if scheme.lower() != "basic":
                raise ValueError(scheme)
            decoded = base64.b64decode(encoded.strip(), validate=True)
            name, colon, password = decoded.partition(b":")
            if not colon:
                raise ValueError("no colon")
            return name.decode("utf-8"), password
        except (binascii.Error, ValueError):
            raise exception.Unauthorized(challenge=self._CHALLENGE) from None

    def _stat(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _refresh(self) -> None:
        stamp = self._stat()
        if stamp == self._stamp:
            return
        try:
            self._read(stamp)
        except exception.ConfigurationError as e:
            LOG.error("keeping the users known so far: %s", e)
            self._stamp = stamp

    def _read(self, stamp: tuple[int, int, int] | None) -> None:
        accounts = _read_accounts(self._path)
        with self._lock:
            self._accounts = accounts
            self._remembered = {}
            self._stamp = stamp


def _read_accounts(path: str) -> Mapping[str, _Account]:
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise exception.ConfigurationError(
            reason=f"[api] http_basic_auth_user_file {path} cannot be read: {type(e).__name__}"
        ) from None
    accounts = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.strip().split(":")
        if len(fields) != 4 or not all(fields[:3]) or not fields[1].startswith("$2"):
            raise exception.ConfigurationError(
                reason=f"{path}, line {number}: not name:bcrypt-hash:project-id:roles"
            )
        name, password_hash, project_id, roles = fields
        accounts[name] = _Account(
            identity=Identity(
                user_id=name,
                user_name=name,
                project_id=project_id,
                roles=tuple(expand_roles(role for role in roles.split(",") if role)),
            ),
            password_hash=password_hash.encode(),
        )
    return accounts


def _matches(password: bytes, expected: bytes) -> bool:
    try:
        return bcrypt.checkpw(password, expected)
    except ValueError:
        # longer than bcrypt's 72 bytes, or a hash that is none
        return False


def make_strategy(conf: cfg.ConfigOpts) -> Strategy:
    """Return the configured strategy; raises ConfigurationError."""
    strategies: Mapping[str, Callable[[cfg.ConfigOpts], Strategy]] = {
        "keystone": Keystone,
        "http_basic": HttpBasic,
        "noauth": NoAuth,
    }
    return strategies[conf.api.auth_strategy](conf)


def check_project(segments: list[str], identity: Identity) -> None:
    """Raise RouteNotFound for another version, Forbidden for another project than the caller's."""
    if segments[0] != urls.VERSION:
        raise faults.RouteNotFound()
    if segments[1] != identity.project_id:
        raise exception.Forbidden(
            reason="the project in the URL is not the project of the credentials"
        )


class Gate:
    """WSGI middleware: authenticate, check the path, count, make the context."""

    def __init__(
        self,
        app: WSGIApplication,
        *,
        strategy: Strategy,
        authorizer: Authorizer,
        limiter: ratelimit.RateLimiter,
        check_path: Callable[[list[str], Identity], None] | None = None,
    ) -> None:
        """Wrap ``app``; ``check_path`` raises when a path is not for the caller."""
        self._app = app
        self._check_path = check_path or check_project
        self._strategy = strategy
        self._authorizer = authorizer
        self._limiter = limiter

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Let a request through; raises Unauthorized, Forbidden, RateLimited."""
        identity = self._strategy.identify(environ)
        self._check_path(environ[edge.SEGMENTS], identity)
        self._limiter.check(environ["REQUEST_METHOD"], identity.project_id)
        roles = list(identity.roles)
        environ[method.CONTEXT] = context.RequestContext(
            authorizer=self._authorizer,
            user_id=identity.user_id,
            user_name=identity.user_name,
            project_id=identity.project_id,
            project_name=identity.project_name,
            user_domain_id=identity.user_domain_id,
            project_domain_id=identity.project_domain_id,
            system_scope=identity.system_scope,
            auth_token=identity.auth_token,
            roles=roles,
            is_admin=self._authorizer.is_admin(identity.project_id, roles),
            request_id=environ[edge.REQUEST_ID],
            global_request_id=environ.get(edge.GLOBAL_REQUEST_ID),
            client_ip=environ.get("REMOTE_ADDR"),
            server_ip=environ.get("SERVER_NAME"),
        )
        return self._app(environ, start_response)
