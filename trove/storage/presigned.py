"""S3 as a guest sees it: URLs that were signed for it, each for one object and one method.

A guest has no credential. Its grant holds the signatures for the objects that it wanted next; for
others it asks the control plane again. Nothing can be listed.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from trove.storage import base, contents, plain_http, s3_objects, signed

#: What a guest may do with each object.
METHODS = ("GET", "HEAD", "PUT", "DELETE")
READING = ("GET", "HEAD")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Grant(signed.Grant):
    """What a guest may reach.

    ``path`` is that of the URL of the container with a slash at its end, ``query`` what all signed
    URLs share, and ``signatures`` are by the object's name without the prefix, and by method.
    """

    store: ClassVar[str] = "S3"
    texts: ClassVar[tuple[str, ...]] = (*signed.Grant.texts, "path", "query")

    path: str
    query: str
    signatures: Mapping[str, Mapping[str, str]] = dataclasses.field(repr=False)

    @classmethod
    def is_signed(cls, wire: Mapping[str, Any]) -> bool:
        """Tell whether there are signatures by names."""
        signatures = wire.get("signatures")
        return isinstance(signatures, dict) and all(
            isinstance(each, dict) for each in signatures.values()
        )


class PresignedAccount(signed.SignedAccount):
    """The objects that a grant has signatures for."""

    refused = "the signed URL has expired, or the service's key does not open the bucket any more"

    def __init__(self, grant: Grant) -> None:
        """Take the grant; connects for each request."""
        super().__init__(grant.container, grant.prefix)
        self._grant = grant

    def reaches(self, container: str, name: str) -> bool:
        """Tell whether an object was signed."""
        prefix = self._grant.prefix
        return (
            container == self._grant.container
            and name.startswith(prefix)
            and name.removeprefix(prefix) in self._grant.signatures
        )

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
        headers = {"Content-Type": content_type}
        with contextlib.ExitStack() as stack:
            sized: contents.Whole | s3_objects.Spool
            if isinstance(content, contents.Whole):
                sized, body = content, iter(content)
            else:
                sized = stack.enter_context(s3_objects.Spool(content))
                body = sized.file
            headers |= {
                "Content-Disposition": s3_objects.disposition(sized.etag, metadata or {}),
                "Content-Length": str(sized.size_bytes),
                # what comes otherwise is refused
                "Content-MD5": sized.content_md5,
            }
            with self._request("PUT", name, headers, body) as answer:
                self._require(answer, 200, 201)
                if s3_objects.etag_of(answer.headers, sized.etag) != sized.etag:
                    raise base.StorageError(reason=f"not all of object {name} was stored")
        return self.get(container, name)

    def delete(self, container: str, name: str) -> bool:
        """Delete an object; returns whether there was one."""
        if self.find(container, name) is None:
            return False
        with self._request("DELETE", name) as answer:
            self._require(answer, 204, 200, signed.GONE)
        return True

    def _names(self, container: str, name: str) -> None:
        s3_objects.check_names(container, name)

    def _object(self, name: str, headers: Mapping[str, str]) -> base.StoredObject:
        return s3_objects.object_of(name, headers)

    def _request(
        self, method: str, name: str, headers: Mapping[str, str] | None = None, body: Any = None
    ) -> plain_http.Answer:
        grant = self._grant
        methods = grant.signatures.get(name.removeprefix(grant.prefix))
        if methods is None:
            raise base.StorageError(reason=f"this guest has no signed URL for object {name}")
        if method not in methods:
            raise signed.read_only()
        target = f"{grant.path}{s3_objects.quote(name)}?{grant.query}"
        return plain_http.send(
            method,
            grant.url,
            f"{target}&X-Amz-Signature={methods[method]}",
            headers=headers,
            body=body,
            ca_pem=grant.ca_pem,
        )


def open_grant(grant: Mapping[str, Any]) -> base.Account:
    """Return the account that a grant is for; raises StorageError."""
    return PresignedAccount(Grant.from_wire(grant))
