"""Parameters of queries that are not text."""

from __future__ import annotations

from collections.abc import Mapping

from oslo_utils import strutils

from trove.common import exception


def parse_bool(query: Mapping[str, str], name: str) -> bool:
    """Return a truth value, false when it is absent or empty; raises BadRequest."""
    text = query.get(name, "")
    if not text:
        return False
    try:
        return bool(strutils.bool_from_string(text, strict=True))
    except ValueError:
        raise exception.BadRequest(reason=f"{name} must be true or false") from None
