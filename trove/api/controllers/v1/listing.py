"""What the query of a list of instances asks for; keys that no list knows are ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trove.api.schemas import instances as schemas
from trove.api.validation import Schema
from trove.common import exception
from trove.db.instance_lists import STATUSES, Order

#: What a list can be sorted by, and whether the largest comes first unless the query says.
_SORT_KEYS: Mapping[str, bool] = {"created": True, "updated": True, "name": False}
_TEXTS = ("name", "datastore", "datastore_version", "flavor_id")
_TAG = Schema(schemas.TAG)
_MOST_TAGS = 64
_LONGEST = 255


def filters(query: Mapping[str, str]) -> dict[str, Any]:
    """Return the filters that are set; raises BadRequest. Empty ones count as absent."""
    found: dict[str, Any] = {}
    for name in _TEXTS:
        if text := query.get(name):
            if len(text) > _LONGEST:
                raise exception.BadRequest(reason=f"{name} is longer than {_LONGEST} characters")
            found[name] = text
    if status := query.get("status"):
        if status.upper() not in STATUSES:
            known = ", ".join(sorted(STATUSES))
            raise exception.BadRequest(reason=f"status must be one of {known}")
        found["status"] = status.upper()
    for key, name in (("tags", "tags"), ("tags-any", "tags_any")):
        if text := query.get(key):
            found[name] = _tags(key, text)
    return found


def _tags(key: str, text: str) -> tuple[str, ...]:
    tags = tuple(dict.fromkeys(text.split(",")))
    if len(tags) > _MOST_TAGS:
        raise exception.BadRequest(reason=f"{key} names more than {_MOST_TAGS} tags")
    for tag in tags:
        _TAG.check(tag, root=key)
    return tags


def order(query: Mapping[str, str]) -> Order | None:
    """Return the order that is asked for, or None; raises BadRequest."""
    key, direction = query.get("sort_key") or "", (query.get("sort_dir") or "").lower()
    if not key and not direction:
        return None
    key = key or "created"
    if key not in _SORT_KEYS:
        raise exception.BadRequest(reason=f"sort_key must be one of {', '.join(_SORT_KEYS)}")
    if direction not in ("", "asc", "desc"):
        raise exception.BadRequest(reason="sort_dir must be asc or desc")
    is_descending = direction == "desc" if direction else _SORT_KEYS[key]
    return Order(key=key, is_descending=is_descending)
