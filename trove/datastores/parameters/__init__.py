"""Rules of configuration parameters: what tenants may set, and to which values.

A datastore's rules stand in a YAML file beside this module: a mapping from the name of a parameter
to ``type``, ``restart_required``, and as the type has them ``min``, ``max`` and ``unit``, or
``values`` (the only ones) or ``any_of`` (of which a list, separated by commas), and ``spelling``
where an engine minds the case of names. Parameters that are not listed cannot be set: paths, ports,
names and everything else that the service itself relies on.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import importlib.resources
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import yaml

Value = str | int | float | bool

#: What a text may hold: nothing that ends a line, a string or a statement anywhere.
_TEXT = re.compile(r"[A-Za-z0-9_ ,.:+/=%@-]{0,1000}\Z")

#: The library's parser in C, where it was built with it: the same at a tenth of the cost.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class ParameterType(enum.StrEnum):
    """The JSON type that a value must have."""

    INTEGER = "integer"
    FLOAT = "float"
    BOOLEAN = "boolean"
    STRING = "string"


_PYTHON_TYPES: Mapping[ParameterType, type] = {
    ParameterType.INTEGER: int,
    ParameterType.FLOAT: float,
    ParameterType.BOOLEAN: bool,
    ParameterType.STRING: str,
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """What a parameter may be set to; ``values`` and ``any_of`` are compared without case."""

    name: str
    type: ParameterType
    restart_required: bool
    minimum: int | float | None = None
    maximum: int | float | None = None
    values: tuple[str, ...] | None = None
    any_of: tuple[str, ...] | None = None
    #: What a number counts, such as B, kB, ms or s; None for mere numbers.
    unit: str | None = None
    #: How an engine that minds the case spells the name.
    spelling: str | None = None

    def check(self, value: object) -> str | None:
        """Return what is wrong with a value, for people; None when it is good."""
        # to Python true is an integer, to a database it is none
        if type(value) is not _PYTHON_TYPES[self.type]:
            article = "an" if self.type is ParameterType.INTEGER else "a"
            return f"must be {article} {self.type.value}"
        if isinstance(value, str):
            return self._check_text(value)
        if isinstance(value, float) and not math.isfinite(value):
            return "must be a number"
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self._check_range(value)
        return None

    def _check_range(self, value: float) -> str | None:
        if self.minimum is not None and value < self.minimum:
            return f"must be at least {self._in_unit(self.minimum)}"
        if self.maximum is not None and value > self.maximum:
            return f"must be at most {self._in_unit(self.maximum)}"
        return None

    def _in_unit(self, value: float) -> str:
        return str(value) if self.unit is None else f"{value} {self.unit}"

    def _check_text(self, value: str) -> str | None:
        if not is_plain(value) or value != value.strip():
            return "must be made of letters, digits, inner blanks and _ , . : + / = % @ -"
        if self.values is not None and value.lower() not in _lowered(self.values):
            return f"must be one of {', '.join(self.values)}"
        if self.any_of is not None and value:
            known = _lowered(self.any_of)
            if any(word.strip().lower() not in known for word in value.split(",")):
                return f"must be a list, separated by commas, of {', '.join(self.any_of)}"
        return None


def is_plain(text: str) -> bool:
    """Tell whether a value can stand in a configuration file and in a statement as it is."""
    return _TEXT.match(text) is not None


def _lowered(words: tuple[str, ...]) -> frozenset[str]:
    return frozenset(word.lower() for word in words)


@functools.cache
def load(datastore: str) -> Mapping[str, Parameter]:
    """Return the rules of a datastore by name of the parameter, in order of name."""
    resource = importlib.resources.files(__name__) / f"{datastore}.yaml"
    text = resource.read_text(encoding="utf-8")
    table: dict[str, dict[str, Any]] = yaml.load(text, Loader=_LOADER)  # noqa: S506 (it is safe)
    return {name: _rule(name, dict(table[name])) for name in sorted(table)}


def _rule(name: str, facts: dict[str, Any]) -> Parameter:
    return Parameter(
        name=name,
        type=ParameterType(facts["type"]),
        restart_required=facts["restart_required"],
        minimum=facts.get("min"),
        maximum=facts.get("max"),
        values=_words(facts.get("values")),
        any_of=_words(facts.get("any_of")),
        unit=facts.get("unit"),
        spelling=facts.get("spelling"),
    )


def _words(words: list[str] | None) -> tuple[str, ...] | None:
    return None if words is None else tuple(words)


def canonical(name: str) -> str:
    """Return how the name of a parameter is spelled in the rules; engines ignore case as well."""
    return name.lower().replace("-", "_")


def overrides(values: Mapping[str, Value]) -> dict[str, Value]:
    """Return the values of a group as agents get them: by canonical name, in order of name."""
    return dict(sorted((canonical(name), value) for name, value in values.items()))


def digest(values: Mapping[str, Value]) -> str | None:
    """Return what tells one set of values from another; None for no values at all."""
    if not values:
        return None
    text = json.dumps(overrides(values), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
