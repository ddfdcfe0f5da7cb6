"""Bodies and queries of requests: strict JSON, JSON Schema 2020-12, reasons that name the path.

Reasons never repeat a value of the body: it may be a password.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Mapping
from typing import Any

import jsonschema
from jsonschema import exceptions, validators

from trove.api import faults
from trove.common import exception

_MOST_REASONS = 5


_FORMATS = jsonschema.FormatChecker(formats=())


@_FORMATS.checks("ip-address", raises=ValueError)
def _is_address(value: object) -> bool:
    return not isinstance(value, str) or bool(ipaddress.ip_address(value))


@_FORMATS.checks("ip-network", raises=ValueError)
def _is_network(value: object) -> bool:
    return not isinstance(value, str) or bool(ipaddress.ip_network(value, strict=False))


# 5.0 is an integer to JSON Schema; it is not one to this API
_Validator = validators.extend(  # type: ignore[no-untyped-call]
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda checker, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)


class Schema:
    """A JSON Schema, compiled once; ``document`` is the data it was made from."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        """Compile; that the schema itself is right is for tests to check, see ``check_itself``."""
        self.document = document
        self._validator = _Validator(document, format_checker=_FORMATS)

    def check_itself(self) -> None:
        """Raise jsonschema.SchemaError for a broken schema; costs more than all other imports."""
        jsonschema.Draft202012Validator.check_schema(self.document)

    def check(self, value: Any, *, root: str = "body") -> None:
        """Raise ValidationFailed with the reasons, in the order of their paths."""
        errors = list(self._validator.iter_errors(value))
        if errors:
            leaves = sorted((_deepest(e) for e in errors), key=lambda e: [str(p) for p in e.path])
            reasons = list(dict.fromkeys(_reason(leaf, root) for leaf in leaves))
            raise exception.ValidationFailed(
                reason="; ".join(reasons[:_MOST_REASONS]), path=_path(leaves[0], root)
            )


def _deepest(error: exceptions.ValidationError) -> exceptions.ValidationError:
    """Return the most telling error below an anyOf or oneOf."""
    schema: Any = error.schema
    if error.validator in ("anyOf", "oneOf") and error.context:
        deeper = [e for e in error.context if len(e.path)]
        if not deeper and "x-reason" not in schema:
            # the alternative that is of the right type was meant
            deeper = [e for e in error.context if e.validator != "type"]
        if deeper:
            return _deepest(exceptions.best_match(deeper))
    return error


def _types(value: Any) -> str:
    return " or ".join(value) if isinstance(value, list) else str(value)


_REASONS: Mapping[str, Callable[[Any], str]] = {
    "type": lambda value: f"is not of type {_types(value)}",
    "minLength": lambda value: f"must have at least {value} characters",
    "maxLength": lambda value: f"must have at most {value} characters",
    "minimum": lambda value: f"must be at least {value}",
    "maximum": lambda value: f"must be at most {value}",
    "minItems": lambda value: f"must have at least {value} items",
    "maxItems": lambda value: f"must have at most {value} items",
    "minProperties": lambda value: f"must have at least {value} properties",
    "maxProperties": lambda value: f"must have at most {value} properties",
    "uniqueItems": lambda value: "has the same item twice",
    "enum": lambda value: "must be one of " + ", ".join(str(v) for v in value),
}


def _path(error: exceptions.ValidationError, root: str) -> str:
    return ".".join(str(part) for part in error.absolute_path) or root


def _reason(error: exceptions.ValidationError, root: str) -> str:
    path = _path(error, root)
    name = str(error.validator)
    schema: Any = error.schema
    instance: Any = error.instance
    if name == "required":
        missing = [key for key in schema["required"] if key not in instance]
        return f"{path}: {', '.join(missing)} is missing"
    if name == "additionalProperties":
        known = schema.get("properties", {})
        extra = sorted(key for key in instance if key not in known)
        return f"{path}: unknown keys {', '.join(repr(key[:50]) for key in extra[:5])}"
    if name in _REASONS:
        return f"{path} {_REASONS[name](error.validator_value)}"
    return f"{path} {_own_reason(error)}"


def _own_reason(error: exceptions.ValidationError) -> str:
    """Return the reason that stands in the schema of a value, or around its alternatives."""
    place: exceptions.ValidationError | None = error
    while place is not None and place.absolute_path == error.absolute_path:
        schema: Any = place.schema
        if "x-reason" in schema:
            return str(schema["x-reason"])
        place = place.parent  # type: ignore[assignment]
    return "is not valid"


def parse_body(
    body: bytes, content_type: str, *, schema: Schema, required: bool = True
) -> dict[str, Any]:
    """Return the JSON object of a body that fits ``schema``.

    An absent body is an empty object unless ``required``. Raises UnsupportedMediaType, BadRequest,
    ValidationFailed.
    """
    if not body:
        if required:
            raise exception.BadRequest(reason="the request has no body")
        value: Any = {}
    else:
        _check_media_type(content_type)
        value = _parse_json(body)
    if not isinstance(value, dict):
        raise exception.BadRequest(reason="the body must be a JSON object")
    schema.check(value)
    return value


def _check_media_type(content_type: str) -> None:
    """Accept JSON and no type at all; raises UnsupportedMediaType."""
    media_type, _, parameters = content_type.partition(";")
    if media_type.strip().lower() not in ("", "application/json"):
        raise faults.UnsupportedMediaType()
    name, _, value = parameters.strip().partition("=")
    if name.lower() == "charset" and value.strip('" ').lower() not in ("utf-8", "utf8"):
        raise faults.UnsupportedMediaType()


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object has the same key twice")
    return result


def _parse_json(body: bytes) -> Any:
    try:
        text = body.decode("utf-8")
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object)
        if "\\u" in text:
            # lone surrogates are JSON but not text: nothing behind this could store them
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise exception.BadRequest(reason="the body is nested too deeply") from None
    except json.JSONDecodeError as e:
        raise exception.BadRequest(
            reason=f"the body is not JSON: {e.msg} (line {e.lineno}, column {e.colno})"
        ) from None
    except UnicodeError:
        raise exception.BadRequest(reason="the body is not UTF-8 text") from None
    except ValueError as e:
        raise exception.BadRequest(reason=f"the body is not JSON: {str(e)[:100]}") from None
    return value
