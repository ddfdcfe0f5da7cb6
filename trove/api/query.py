"""Parameters of queries: their types and what they may be.

A handler declares what it reads (``expose(query=...)``): by name a schema of the *value*, so that
the API's description shows an integer or a boolean where the URL has text. What is empty counts as
absent; what is not declared is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oslo_utils import strutils

from trove.api.validation import Schema
from trove.common import exception

#: By name, the schema of a parameter.
Parameters = Mapping[str, Mapping[str, Any]]

_MOST_DIGITS = 18


def parse_bool(query: Mapping[str, str], name: str) -> bool:
    """Return a truth value, false when it is absent or empty; raises BadRequest."""
    text = query.get(name, "")
    if not text:
        return False
    try:
        return bool(strutils.bool_from_string(text, strict=True))
    except ValueError:
        raise exception.BadRequest(reason=f"{name} must be true or false") from None


class Reader:
    """Reads of queries what a handler declares."""

    def __init__(self, parameters: Parameters) -> None:
        """Take the declared parameters."""
        self.parameters = parameters
        self._schemas = {name: Schema(document) for name, document in parameters.items()}

    def __call__(self, query: Mapping[str, str]) -> Mapping[str, str]:
        """Return the declared parameters; raises BadRequest when one does not fit its schema."""
        found = {name: text for name, text in query.items() if name in self._schemas}
        for name, text in found.items():
            if text:
                self._schemas[name].check(self._value(query, name, text), root=name)
        return found

    def _value(self, query: Mapping[str, str], name: str, text: str) -> Any:
        match self.parameters[name].get("type"):
            case "boolean":
                return parse_bool(query, name)
            case "integer":
                if not (text.isascii() and text.isdigit()) or len(text) > _MOST_DIGITS:
                    raise exception.BadRequest(reason=f"{name} must be an integer of at least 0")
                return int(text)
            case _:
                return text
