"""Swift as a guest sees it: signed URLs for names with one prefix, for some minutes.

A guest has no credential and asks for no token. Its grant holds a signature for each method of
Swift's TempURL middleware; with it objects can be put, read and deleted by name, but not listed.
Metadata are stored twice, since a TempURL shows none but those whose names begin with ``public-``.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import hmac
import http.client
import io
import ssl
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO

from trove.storage import base, swift_objects

#: What a guest may do; reading covers HEAD.
METHODS = ("GET", "PUT", "DELETE")
READING = ("GET",)
_TIMEOUT_S = 30.0
_BLOCK_BYTES = 64 * 1024
#: Most bytes of one object, as Swift has it.
_MOST_BYTES = 5 * 1024**3
_GONE = 404


def sign(key: str, method: str, *, path: str, expires: int) -> str:
    """Return the signature for all objects whose path begins with ``path``, as Swift has it."""
    text = f"{method}\n{expires}\nprefix:{path}"
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a guest may reach: ``account_path`` is that of the URL, such as /v1/AUTH_123."""

    url: str
    account_path: str
    container: str
    prefix: str
    expires: int
    signatures: Mapping[str, str] = dataclasses.field(repr=False)
    ca_pem: str | None = None

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Grant:
        """Read a grant; raises StorageError for what is none."""
        texts = ("url", "account_path", "container", "prefix")
        signatures = wire.get("signatures")
        is_one = (
            all(isinstance(wire.get(name), str) for name in texts)
            and isinstance(wire.get("expires"), int)
            and isinstance(signatures, dict)
            and all(isinstance(signatures.get(method), str) for method in READING)
            and isinstance(wire.get("ca_pem"), str | None)
            and urllib.parse.urlsplit(wire["url"]).scheme in ("http", "https")
        )
        if not is_one:
            raise base.StorageError(reason="the grant is none for Swift")
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: wire[name] for name in names if name in wire})

    def to_wire(self) -> dict[str, Any]:
        """Return JSON types."""
        return dataclasses.asdict(self)


class TempUrlAccount(base.Account):
    """The objects of one container whose names begin with the prefix of a grant."""

    can_list = False

    def __init__(self, grant: Grant) -> None:
        """Take the grant; connects for each request."""
        self._grant = grant

    def put(
        self,
        container: str,
        name: str,
        content: Iterable[bytes],
        *,
        content_type: str = base.BINARY,
        metadata: Mapping[str, str] | None = None,
    ) -> base.StoredObject:
        """Store an object of at most 5 GiB, replacing one of this name."""
        self._check(container, name)
        headers = {
            "Content-Type": content_type,
            **swift_objects.metadata_headers(metadata or {}, is_public=True),
        }
        pieces = swift_objects.Content(content)
        first = pieces.take(swift_objects.DIRECT_BYTES)
        if pieces.is_over():
            headers |= {"ETag": pieces.etag, "Content-Length": str(len(first))}
            # read block by block, since the timeout is for each
            sent: Any = io.BytesIO(first)
        else:
            headers["Transfer-Encoding"] = "chunked"
            sent = pieces.pieces(first, _MOST_BYTES - len(first))
        with self._request("PUT", name, headers, sent) as answer:
            answer.require(201)
            if answer.headers.get("etag", "").strip('"') != pieces.etag or not pieces.is_over():
                raise base.StorageError(reason=f"not all of object {name} was stored")
        return self.get(container, name)

    def find(self, container: str, name: str) -> base.StoredObject | None:
        """Return an object, None when there is none."""
        self._check(container, name)
        with self._request("HEAD", name) as answer:
            if answer.status == _GONE:
                return None
            answer.require(200)
            return swift_objects.object_of(name, answer.headers)

    def open(self, container: str, name: str) -> tuple[base.StoredObject, BinaryIO]:
        """Return an object and its content, to be closed; raises ObjectNotFound."""
        self._check(container, name)
        answer = self._request("GET", name)
        try:
            if answer.status == _GONE:
                raise base.ObjectNotFound(container=container, name=name)
            answer.require(200)
            found = swift_objects.object_of(name, answer.headers)
        except BaseException:
            answer.close()
            raise
        return found, swift_objects.body(answer.read, answer.close, found.size_bytes)

    def delete(self, container: str, name: str) -> bool:
        """Delete an object; returns whether there was one."""
        self._check(container, name)
        with self._request("DELETE", name) as answer:
            if answer.status == _GONE:
                return False
            answer.require(204)
            return True

    def list(
        self,
        container: str,
        *,
        prefix: str = "",
        marker: str = "",
        limit: int = base.MAX_LISTING,
    ) -> Sequence[base.StoredObject]:
        """Refuse: no signature is for a container."""
        raise base.StorageError(reason="a guest cannot list objects")

    def list_containers(self) -> Sequence[str]:
        """Refuse: no signature is for an account."""
        raise base.StorageError(reason="a guest cannot list containers")

    def find_container(self, name: str) -> base.Container | None:
        """Refuse: no signature is for a container."""
        raise base.StorageError(reason="a guest cannot look at containers")

    def _check(self, container: str, name: str) -> None:
        swift_objects.check_names(container, name)
        if container != self._grant.container or not name.startswith(self._grant.prefix):
            raise base.StorageError(
                reason=f"object {name} is not below what this guest was given:"
                f" {self._grant.container}/{self._grant.prefix}"
            )

    def _request(
        self, method: str, name: str, headers: Mapping[str, str] | None = None, body: Any = None
    ) -> _Answer:
        grant = self._grant
        signature = grant.signatures.get("GET" if method == "HEAD" else method)
        if signature is None:
            raise base.StorageError(reason="this guest was given objects to read only")
        split = urllib.parse.urlsplit(grant.url)
        query = urllib.parse.urlencode(
            {
                "temp_url_sig": signature,
                "temp_url_expires": grant.expires,
                "temp_url_prefix": grant.prefix,
            }
        )
        account = urllib.parse.quote(grant.account_path)
        target = f"{account}{swift_objects.quote(grant.container, name)}?{query}"
        connection = _connect(split, grant.ca_pem)
        try:
            connection.request(
                method,
                target,
                body=body,
                headers=dict(headers or {}),
                encode_chunked="Transfer-Encoding" in (headers or {}),
            )
            return _Answer(connection, connection.getresponse())
        except (OSError, http.client.HTTPException) as e:
            connection.close()
            raise _broken(e) from e
        except BaseException:
            connection.close()
            raise


def _connect(split: urllib.parse.SplitResult, ca_pem: str | None) -> http.client.HTTPConnection:
    host = split.hostname or ""
    if split.scheme == "http":
        return http.client.HTTPConnection(
            host, split.port, timeout=_TIMEOUT_S, blocksize=_BLOCK_BYTES
        )
    return http.client.HTTPSConnection(
        host,
        split.port,
        timeout=_TIMEOUT_S,
        blocksize=_BLOCK_BYTES,
        context=_tls_context(ca_pem),
    )


@functools.lru_cache(maxsize=4)
def _tls_context(ca_pem: str | None) -> ssl.SSLContext:
    """Return what servers are checked by; reading the system's authorities takes long."""
    return ssl.create_default_context(cadata=ca_pem)


def _broken(error: Exception) -> base.StorageError:
    return base.StorageError(reason=f"it cannot be reached ({type(error).__name__}: {error})")


class _Answer:
    """What Swift said; closes its connection."""

    def __init__(
        self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse
    ) -> None:
        self._connection = connection
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = {k.lower(): v for k, v in response.getheaders()}

    def __enter__(self) -> _Answer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def read(self, most: int) -> bytes:
        """Read some of the body; raises StorageError."""
        try:
            return self._response.read(most)
        except (OSError, http.client.HTTPException) as e:
            raise _broken(e) from e

    def close(self) -> None:
        """Close the connection."""
        self._response.close()
        self._connection.close()

    def require(self, status: int) -> None:
        """Raise StorageError for any other status."""
        if self.status == status:
            return
        reason = f"it answered {self.status}"
        if self.status in (401, 403):
            reason = "the signed URL has expired, or its key is not the container's any more"
        request = self.headers.get("x-trans-id")
        raise base.StorageError(reason=f"{reason} (request {request})" if request else reason)


def open_grant(grant: Mapping[str, Any]) -> base.Account:
    """Return the account that a grant is for; raises StorageError."""
    return TempUrlAccount(Grant.from_wire(grant))
