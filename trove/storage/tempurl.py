"""Swift as a guest sees it: signed URLs for names with one prefix, for some minutes.

A guest has no credential and asks for no token. Its grant holds a signature for each method of
Swift's TempURL middleware; with it objects can be put, read and deleted by name, but not listed.
Metadata are stored twice, since a TempURL shows none but those whose names begin with ``public-``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from trove.storage import base, contents, plain_http, signed, swift_objects

#: What a guest may do; reading covers HEAD.
METHODS = ("GET", "PUT", "DELETE")
READING = ("GET",)
#: Most bytes of one object, as Swift has it.
_MOST_BYTES = 5 * 1024**3


def sign(key: str, method: str, *, path: str, expires: int) -> str:
    """Return the signature for all objects whose path begins with ``path``, as Swift has it."""
    text = f"{method}\n{expires}\nprefix:{path}"
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Grant(signed.Grant):
    """What a guest may reach: ``account_path`` is that of the URL, such as /v1/AUTH_123."""

    store: ClassVar[str] = "Swift"
    texts: ClassVar[tuple[str, ...]] = (*signed.Grant.texts, "account_path")

    account_path: str
    expires: int
    signatures: Mapping[str, str] = dataclasses.field(repr=False)

    @classmethod
    def is_signed(cls, wire: Mapping[str, Any]) -> bool:
        """Tell whether there are a time and signatures by methods."""
        signatures = wire.get("signatures")
        return (
            isinstance(wire.get("expires"), int)
            and isinstance(signatures, dict)
            and all(isinstance(signatures.get(method), str) for method in READING)
        )


class TempUrlAccount(signed.SignedAccount):
    """The objects of one container whose names begin with the prefix of a grant."""

    refused = "the signed URL has expired, or its key is not the container's any more"

    def __init__(self, grant: Grant) -> None:
        """Take the grant; connects for each request."""
        super().__init__(grant.container, grant.prefix)
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
        if not isinstance(content, contents.Whole):
            pieces = contents.Content(content)
            first = pieces.take(swift_objects.DIRECT_BYTES)
            if not pieces.is_over():
                self._put_unsized(name, headers, pieces, first)
                return self.get(container, name)
            content = contents.Whole(first)
        headers |= {"ETag": content.etag, "Content-Length": str(content.size_bytes)}
        # piece by piece, since the timeout is for each
        if self._send(name, headers, iter(content)) != content.etag:
            raise _incomplete(name)
        return self.get(container, name)

    def _put_unsized(
        self, name: str, headers: Mapping[str, str], pieces: contents.Content, first: bytes
    ) -> None:
        """Store what does not say how much there is of it; ``first`` was taken already."""
        headers = {**headers, "Transfer-Encoding": "chunked"}
        told = self._send(name, headers, pieces.pieces(first, _MOST_BYTES - len(first)))
        if told != pieces.etag or not pieces.is_over():
            raise _incomplete(name)

    def _send(self, name: str, headers: Mapping[str, str], pieces: Iterator[bytes]) -> str:
        """Put an object; return its MD5 as Swift says."""
        with self._request("PUT", name, headers, pieces) as answer:
            self._require(answer, 201)
            return answer.headers.get("etag", "").strip('"')

    def delete(self, container: str, name: str) -> bool:
        """Delete an object; returns whether there was one."""
        self._check(container, name)
        with self._request("DELETE", name) as answer:
            if answer.status == signed.GONE:
                return False
            self._require(answer, 204)
            return True

    def _names(self, container: str, name: str) -> None:
        swift_objects.check_names(container, name)

    def _object(self, name: str, headers: Mapping[str, str]) -> base.StoredObject:
        return swift_objects.object_of(name, headers)

    def _request(
        self, method: str, name: str, headers: Mapping[str, str] | None = None, body: Any = None
    ) -> plain_http.Answer:
        grant = self._grant
        signature = grant.signatures.get("GET" if method == "HEAD" else method)
        if signature is None:
            raise signed.read_only()
        query = urllib.parse.urlencode(
            {
                "temp_url_sig": signature,
                "temp_url_expires": grant.expires,
                "temp_url_prefix": grant.prefix,
            }
        )
        account = urllib.parse.quote(grant.account_path)
        target = f"{account}{swift_objects.quote(grant.container, name)}?{query}"
        return plain_http.send(
            method, grant.url, target, headers=headers, body=body, ca_pem=grant.ca_pem
        )


def _incomplete(name: str) -> base.StorageError:
    return base.StorageError(reason=f"not all of object {name} was stored")


def open_grant(grant: Mapping[str, Any]) -> base.Account:
    """Return the account that a grant is for; raises StorageError."""
    return TempUrlAccount(Grant.from_wire(grant))
