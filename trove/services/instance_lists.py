"""Pages of instances in an order, with markers that name the place where a page ended.

In the plain order of ids the marker is an id, which is just compared. In any other order it is
what was sorted by and the id, as JSON; the id alone, which some clients take from the last item,
is looked up.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from typing import Any

from trove.common import exception
from trove.db import instance_lists, instance_views

_TIMES = frozenset({"created", "updated"})
_LONGEST_OFFSET = 9


def read_page(
    session: Any,
    kind: type[instance_views.View],
    filters: instance_lists.Filters,
    *,
    order: instance_lists.Order,
    limit: int,
    marker: str | None,
    takes_offsets: bool = False,
) -> tuple[Sequence[instance_views.View], str | None]:
    """Return a page and the marker of the next one; raises BadRequest for a senseless marker.

    ``takes_offsets``: a number as marker skips that many instances. A page of no items has no
    next one.
    """
    after, offset = None, 0
    if marker is not None:
        if takes_offsets and marker.isascii() and marker.isdigit():
            offset = int(marker[:_LONGEST_OFFSET])
        else:
            after = _parse(session, filters, order, marker)
    views, end = instance_lists.list_page(
        session, kind, filters, order=order, limit=limit, after=after, offset=offset
    )
    return views, None if end is None else _marker(end, order)


def _marker(end: instance_lists.Position, order: instance_lists.Order) -> str:
    if order.key == "id":
        return end.id
    return json.dumps([end.value.isoformat() if order.key in _TIMES else end.value, end.id])


def _parse(
    session: Any, filters: instance_lists.Filters, order: instance_lists.Order, marker: str
) -> instance_lists.Position:
    if order.key == "id":
        return instance_lists.Position(value=None, id=marker)
    if not marker.startswith("["):
        found = instance_lists.find_position(session, order, marker, project_id=filters.project_id)
        if found is None:
            raise exception.BadRequest(reason="marker: there is no such instance")
        return found
    try:
        value, instance_id = json.loads(marker)
        return instance_lists.Position(value=_value(order, value), id=_text(instance_id))
    except (ValueError, TypeError):
        raise exception.BadRequest(
            reason="marker: it belongs to a list in another order, or to none"
        ) from None


def _value(order: instance_lists.Order, text: Any) -> Any:
    if order.key not in _TIMES:
        return _text(text)
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without zone")
    return moment


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value
