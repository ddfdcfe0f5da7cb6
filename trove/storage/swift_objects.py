"""What Swift's object requests look like, whoever sends them: paths and headers.

Nothing but the standard library, since guests send them too.
"""

from __future__ import annotations

import datetime
import urllib.parse
from collections.abc import Mapping

from trove.common import exception
from trove.storage import base, contents

#: Bytes up to which an object is put in one request whose length and digest Swift checks.
DIRECT_BYTES = 8 * 1024 * 1024
_META = "x-object-meta-"
#: Part of the names of metadata that Swift shows to holders of a TempURL, too.
_PUBLIC = "public-"
_CONTENT_MD5 = "trove-md5"
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def check_names(container: str, name: str | None = None) -> None:
    """Raise BadRequest unless a container and an object may be called so.

    ``.`` and ``..`` as segments are refused: clients and proxies resolve them on the way.
    """
    base.check_names(container, name)
    if {".", ".."} & {container, *(name or "").split("/")} or "\0" in f"{container}{name}":
        raise exception.BadRequest(
            reason="a name in Swift must have neither . nor .. between slashes, and no NUL"
        )


def quote(container: str, name: str | None = None) -> str:
    """Return the end of an object's or a container's URL, with the slash in front."""
    text = f"/{urllib.parse.quote(container, safe='')}"
    return text if name is None else f"{text}/{urllib.parse.quote(name, safe='/')}"


def metadata_headers(metadata: Mapping[str, str], *, is_public: bool = False) -> dict[str, str]:
    """Return the headers that carry metadata; what is not printable ASCII is percent-encoded.

    With ``is_public`` the metadata are visible through a TempURL as well.
    """
    headers = {}
    for key, value in metadata.items():
        encoded = urllib.parse.quote(value, safe=_PRINTABLE)
        name = urllib.parse.quote(key, safe="")
        headers[f"{_META}{name}"] = encoded
        if is_public:
            headers[f"{_META}{_PUBLIC}{name}"] = encoded
    return headers


def md5_header(digest: str) -> dict[str, str]:
    """Return the header that keeps the MD5 of an object in segments."""
    return {f"{_META}{_CONTENT_MD5}": digest}


def object_of(name: str, headers: Mapping[str, str]) -> base.StoredObject:
    """Return an object by the headers of an answer; raises StorageError."""
    lowered = {key.lower(): value for key, value in headers.items()}
    metadata = {
        urllib.parse.unquote(key.removeprefix(_META)): urllib.parse.unquote(value)
        for key, value in lowered.items()
        if key.startswith(_META)
    }
    etag = metadata.pop(_CONTENT_MD5, None) or lowered.get("etag", "").strip('"')
    public = {key: metadata.pop(key) for key in list(metadata) if key.startswith(_PUBLIC)}
    for key, value in public.items():
        metadata.setdefault(key.removeprefix(_PUBLIC), value)
    try:
        microseconds = round(float(lowered["x-timestamp"]) * 1_000_000)
        return base.StoredObject(
            name=name,
            size_bytes=int(lowered["content-length"]),
            etag=etag,
            modified=_EPOCH + datetime.timedelta(microseconds=microseconds),
            content_type=contents.content_type_of(lowered.get("content-type", base.BINARY)),
            metadata=metadata,
        )
    except (KeyError, ValueError) as e:
        raise base.StorageError(reason=f"its answer is not Swift's ({e})") from e


def is_large(headers: Mapping[str, str]) -> bool:
    """Tell whether an object is one of several segments."""
    return any(
        key.lower() == "x-static-large-object" and value.lower() == "true"
        for key, value in headers.items()
    )
