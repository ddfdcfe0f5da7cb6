"""What S3's object requests look like, whoever sends them: keys and headers.

Metadata go in a parameter of ``Content-Disposition``, with the MD5: headers ``x-amz-meta-*`` would
have to be in the signature of a URL, and the control plane that signs does not know them. Nothing
but the standard library, since guests send these requests too.
"""

from __future__ import annotations

import base64
import datetime
import email.utils
import hashlib
import re
import tempfile
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any, Self

from trove.common import exception
from trove.storage import base, contents

#: Longest key, in bytes of UTF-8.
MOST_KEY_BYTES = 1024
#: Bytes up to which an object that is put is in memory, and not in a temporary file.
_MEMORY_BYTES = 64 * 1024 * 1024
_MD5 = re.compile(r"[0-9a-f]{32}")
_PARAMETER = re.compile(r';\s*trove-(md5|meta)="([^"]*)"')
_ENCRYPTION = "x-amz-server-side-encryption"


class NameTooLong(exception.BadRequest):
    """No object of this name can be in the bucket."""


def check_names(container: str, name: str | None = None) -> None:
    """Raise BadRequest unless a container and an object may be called so.

    ``.`` and ``..`` as segments are refused: clients and proxies resolve them on the way.
    """
    base.check_names(container, name)
    if {".", ".."} & {container, *(name or "").split("/")} or "\0" in f"{container}{name}":
        raise exception.BadRequest(
            reason="a name in S3 must have neither . nor .. between slashes, and no NUL"
        )


def container_root(account_root: str, container: str) -> str:
    """Return what the keys of all objects of a container begin with."""
    check_names(container)
    return f"{account_root}{urllib.parse.quote(container, safe='')}/"


def key_of(account_root: str, container: str, name: str) -> str:
    """Return the key of an object; raises BadRequest."""
    check_names(container, name)
    key = f"{container_root(account_root, container)}{name}"
    if len(key.encode()) > MOST_KEY_BYTES:
        raise NameTooLong(reason="the name of the object is too long for this store")
    return key


def quote(key: str) -> str:
    """Return a key as it is in URLs, and in what is signed."""
    return urllib.parse.quote(key, safe="/~")


def disposition(md5: str, metadata: Mapping[str, str]) -> str:
    """Return the header that carries the MD5 of a content and its metadata."""
    meta = urllib.parse.urlencode(metadata, quote_via=urllib.parse.quote, safe="")
    return f'inline; trove-md5="{md5}"; trove-meta="{meta}"'


def object_of(name: str, headers: Mapping[str, str]) -> base.StoredObject:
    """Return an object by the headers of an answer; raises StorageError."""
    ours = dict(_PARAMETER.findall(headers.get("content-disposition", "")))
    meta = urllib.parse.parse_qsl(ours.get("meta", ""), keep_blank_values=True)
    try:
        return base.StoredObject(
            name=name,
            size_bytes=int(headers["content-length"]),
            etag=etag_of(headers, ours.get("md5")),
            modified=email.utils.parsedate_to_datetime(headers["last-modified"]),
            content_type=contents.content_type_of(headers.get("content-type", base.BINARY)),
            metadata=dict(meta),
        )
    except (KeyError, ValueError) as e:
        raise base.StorageError(reason=f"its answer is not S3's ({e})") from e


def etag_of(headers: Mapping[str, str], md5: str | None) -> str:
    """Return the MD5 of an object by an answer.

    What the store has worked out counts, where it is the MD5; it is another thing for objects of
    several parts and for those that are encrypted with a key of a key manager. ``md5`` is what was
    said when the object was put.
    """
    etag = headers.get("etag", "").strip('"').lower()
    is_md5 = _MD5.fullmatch(etag) and headers.get(_ENCRYPTION, "AES256") == "AES256"
    return etag if is_md5 and f"{_ENCRYPTION}-customer-algorithm" not in headers else md5 or etag


class Spool:
    """A content that was taken whole, to be sent with its length and its MD5; is closed by with."""

    def __init__(self, content: Iterable[bytes]) -> None:
        """Take it; raises whatever taking it raises."""
        self.file: Any = tempfile.SpooledTemporaryFile(max_size=_MEMORY_BYTES)  # noqa: SIM115
        digest = hashlib.md5(usedforsecurity=False)
        try:
            for piece in content:
                self.file.write(piece)
                digest.update(piece)
        except BaseException:
            self.file.close()
            raise
        self.size_bytes: int = self.file.tell()
        self.file.seek(0)
        self.etag = digest.hexdigest()
        self.content_md5 = base64.b64encode(digest.digest()).decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.file.close()


def whole_seconds(time: datetime.datetime, place: int) -> datetime.datetime:
    """Return the time of an object of a listing: of one second, the later in it counts as later."""
    return time.astimezone(datetime.UTC).replace(microsecond=min(place, 999_999))
