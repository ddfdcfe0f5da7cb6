"""Pages of lists: ``limit`` and ``marker`` in, ``links`` with the next page out.

Markers that are not plain ids are wrapped in base64url, since clients quote them once too often or
not at all; a marker that does not unwrap is taken as the raw name that some clients send.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from trove.api.urls import Urls
from trove.common import exception

_PREFIX = "m~"
_LONGEST_MARKER = 2000


def parse_limit(query: Mapping[str, str], *, default: int, maximum: int) -> int:
    """Return the size of the page asked for; raises BadRequest. Zero asks for an empty page."""
    text = query.get("limit", "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise exception.BadRequest(reason="limit must be an integer of at least 0")
    return min(int(text), maximum)


def parse_marker(query: Mapping[str, str]) -> str | None:
    """Return the marker asked for, unwrapped, or None; raises BadRequest when it is too long."""
    text = query.get("marker", "")
    if len(text) > _LONGEST_MARKER:
        raise exception.BadRequest(reason="marker is too long")
    if not text.startswith(_PREFIX):
        return text or None
    encoded = text.removeprefix(_PREFIX)
    try:
        return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode("utf-8")
    except (binascii.Error, UnicodeError, ValueError):
        return text


def wrap_marker(marker: str) -> str:
    """Return a marker of unreserved characters only."""
    return _PREFIX + base64.urlsafe_b64encode(marker.encode()).decode("ascii").rstrip("=")


def page(
    collection: str,
    items: Sequence[Mapping[str, Any]],
    *,
    urls: Urls,
    query: Mapping[str, str],
    next_marker: str | None,
) -> dict[str, Any]:
    """Return the body of a list, with ``links`` only when there is a next page.

    ``<collection>_links`` says the same for gophercloud.
    """
    body: dict[str, Any] = {collection: items}
    if next_marker is not None:
        links = [{"rel": "next", "href": urls.next_page(query, next_marker)}]
        body |= {"links": links, f"{collection}_links": links}
    return body
