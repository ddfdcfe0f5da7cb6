"""The OpenAPI 3.1 description of the API, made of what it is served by.

Paths come from the tree of resources, bodies, queries and answers from the schemas that handlers
are declared with, who may from the rules of the policy. What the description says of an answer the
tests hold every answer against; a 500 is described nowhere, since it is always a bug.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import pkgutil
import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from trove import policies
from trove.api import faults, method, routing, schemas
from trove.api.urls import VERSION
from trove.api.validation import Schema

Document = dict[str, Any]

#: Where the description is, below the version.
SEGMENT = "openapi.json"
#: Stands for the URL of the service, which depends on how it was reached.
SERVER = "https://database.example.org"
#: The first segments of paths that need a caller.
_PROTECTED = f"/{VERSION}/{{project_id}}"
_SCHEMA_KEYS = {"type", "anyOf", "oneOf", "allOf", "enum", "const", "not"}
_JSON = "application/json"
_DESCRIPTION = """\
Databases as a service: instances and everything that belongs to them.

Every answer has the header ``x-openstack-request-id``; an error is an object with one key, the
name of the fault, whose value tells ``code``, ``message`` and ``error_code``. A method that a path
does not have is answered 405 with the header ``Allow``, a path that does not exist 404. Keys of a
request that are not described here are ignored unless the schema says otherwise.
"""
_STATUS_TEXTS: Mapping[int, str] = {
    304: "What the client has already (``If-None-Match``) is what there is.",
    400: "The request makes no sense as it stands, or the agent refused it.",
    401: "No valid credentials were sent.",
    403: "The caller may not do this.",
    404: "A resource that the request names does not exist for this caller.",
    409: "The request is at odds with the state of a resource.",
    413: "A quota, a rate limit or the largest size of a body or a volume is exceeded.",
    414: "The URL is longer than this server takes.",
    415: "The body is not sent as JSON in UTF-8.",
    422: "A resource is not in a state that allows the request.",
    501: "The datastore or this deployment does not offer this.",
    503: "Something that the request needs is down for now.",
    504: "The agent of the instance did not answer in time.",
}


def list_statuses(route: routing.Route) -> list[int]:
    """Return every status that a route may answer, those of failures behind those of success."""
    info: method.RouteInfo = route.handler.route
    errors = {400, 413, *info.errors}
    if _needs_caller(route):
        errors |= {401, 403, 503}
    if len(_path_parameters(route)) > 1:
        errors.add(404)
    if info.query:
        errors.add(414)
    if info.body is not None:
        errors.add(415)
    if "{instance_id}" in route.path:
        # the agent may be asked, and the state of the instance counts
        errors |= {422, 501, 504}
    if route.method != "GET":
        errors |= {404, 409, 422, 501, 504}
    good = [info.status]
    if route.method == "GET" and info.response is not None:
        good.append(304)
    return [*good, *sorted(errors)]


def describe(tree: routing.Resource) -> Document:
    """Return the description of a tree of resources."""
    components = _Components()
    rules = {rule.name: rule.description or "" for rule in policies.list_rules()}
    paths: dict[str, Document] = {}
    for route in routing.list_routes(tree):
        node = paths.setdefault(route.path, {})
        parameters = _path_parameters(route)
        if parameters:
            node["parameters"] = [
                {"$ref": f"#/components/parameters/{name}"} for name in parameters
            ]
            components.add_parameters(parameters)
        node[route.method.lower()] = _operation(route, components, rules)
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {
            "title": "Database service",
            "version": _release(),
            "description": _DESCRIPTION,
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": SERVER}],
        "security": [{"token": []}, {"basic": []}],
        "paths": dict(sorted(paths.items())),
        "components": components.document(),
    }


class Description(routing.Resource):
    """The description, served as a document of the tree that it is part of."""

    _RESPONSE = Schema({"type": "object", "required": ["openapi", "info", "paths", "components"]})

    def __init__(self) -> None:
        """Begin without the tree, which comes by :meth:`attach`."""
        super().__init__()
        self._tree: routing.Resource | None = None
        self._rendered: bytes | None = None

    def attach(self, tree: routing.Resource) -> None:
        """Take the tree."""
        self._tree = tree

    @method.expose(None, response=_RESPONSE)
    def get(self, call: method.Call) -> Any:
        """Describe the API."""
        if self._rendered is None:
            self._rendered = json.dumps(describe(self._tree or self)).encode()
        own = json.dumps(call.urls.base).encode()
        return method.Rendered(self._rendered.replace(json.dumps(SERVER).encode(), own))


def _release() -> str:
    try:
        return importlib.metadata.version("trove")
    except importlib.metadata.PackageNotFoundError:
        return "development"


# -- operations -----


def _needs_caller(route: routing.Route) -> bool:
    return route.path.startswith(_PROTECTED)


def _path_parameters(route: routing.Route) -> list[str]:
    return re.findall(r"\{(\w+)\}", route.path)


def _operation(route: routing.Route, components: _Components, rules: Mapping[str, str]) -> Document:
    info: method.RouteInfo = route.handler.route
    name = _operation_id(route)
    summary = (inspect.getdoc(route.handler) or "").partition("\n")[0]
    operation: Document = {"operationId": name, "summary": summary, "tags": [_tag(route)]}
    if info.rule is not None:
        operation["description"] = rules.get(info.rule, "")
        operation["x-policy"] = info.rule
    if not _needs_caller(route):
        operation["security"] = []
    if info.query:
        operation["parameters"] = [
            {
                "name": key,
                "in": "query",
                "description": str(document.get("description", "")),
                "schema": components.convert(
                    {k: v for k, v in document.items() if k != "description"}
                ),
            }
            for key, document in info.query.items()
        ]
    if info.body is not None:
        content = {_JSON: {"schema": components.reference(info.body, f"{name}Request")}}
        operation["requestBody"] = {"required": info.body_required, "content": content}
    operation["responses"] = {
        str(status): _response(status, info, name, components) for status in list_statuses(route)
    }
    return operation


def _response(status: int, info: method.RouteInfo, name: str, components: _Components) -> Document:
    if status >= 400:
        return components.fault(status)
    headers = {"x-openstack-request-id": {"$ref": "#/components/headers/RequestId"}}
    text = _STATUS_TEXTS.get(status, HTTPStatus(status).phrase)
    response: Document = {"description": text, "headers": headers}
    if info.response is not None and status != 304:
        schema = components.reference(info.response, f"{name}Response")
        response["content"] = {_JSON: {"schema": schema}}
    return response


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[^0-9A-Za-z]+", text) if word]


def _camel(*texts: str) -> str:
    words = [word for text in texts for word in _words(text)]
    return "".join(word[0].upper() + word[1:] for word in words)


def _operation_id(route: routing.Route) -> str:
    """Return e.g. ``getInstancesByInstanceIdUsers``."""
    path = route.path.removeprefix(_PROTECTED) if route.path != _PROTECTED else "project"
    path = re.sub(r"\{(\w+)\}", r"by \1", path) or "versions"
    return route.method.lower() + _camel(path)


def _tag(route: routing.Route) -> str:
    segments = route.path.removeprefix(_PROTECTED).split("/")
    named = [segment for segment in segments if segment and not segment.startswith("{")]
    if named[:1] == ["mgmt"]:
        return " ".join(named[:2])
    return named[0] if named and _needs_caller(route) else "versions"


# -- components -----


def _modules() -> Iterator[tuple[str, Any]]:
    """Give the modules of schemas, the common values first."""
    names = [info.name for info in pkgutil.iter_modules(schemas.__path__)]
    for name in sorted(names, key=lambda name: (name != "common", name)):
        yield name, importlib.import_module(f"{schemas.__name__}.{name}")


def _is_schema(value: object) -> bool:
    """Tell whether a value is a schema worth a name of its own."""
    return (
        isinstance(value, dict)
        and len(value) > 1
        and bool(_SCHEMA_KEYS & value.keys())
        and isinstance(value.get("type", ""), str | list)
    )


class _Components:
    """The parts of the description that are named, by what they are made of."""

    def __init__(self) -> None:
        self._schemas: dict[str, Document] = {}
        self._parameters: dict[str, Document] = {}
        self._responses: dict[str, Document] = {}
        #: id of a document -> its name; the modules keep the documents alive
        self._names: dict[int, str] = {}
        for module_name, module in _modules():
            prefix = "" if module_name == "common" else _camel(module_name)
            # what is sent and answered first: it has the better right to a name
            for kind in (Schema, dict):
                for name, value in vars(module).items():
                    if isinstance(value, kind):
                        self._name(value, f"{prefix}{_camel(name.lower())}")

    def _name(self, value: Any, name: str) -> None:
        document = value.document if isinstance(value, Schema) else value
        if id(document) in self._names or not _is_schema(document):
            return
        while name in self._names.values():
            name += "Value"
        self._names[id(document)] = name

    def document(self) -> Document:
        """Return the components."""
        return {
            "schemas": dict(sorted(self._schemas.items())),
            "parameters": self._parameters,
            "responses": dict(sorted(self._responses.items())),
            "headers": {
                "RequestId": {
                    "description": "The id of the request, to tell operators.",
                    "schema": {"type": "string", "pattern": "^req-"},
                }
            },
            "securitySchemes": {
                "token": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-Auth-Token",
                    "description": "A token of Keystone; [api] auth_strategy = keystone.",
                },
                "basic": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "Name and password; [api] auth_strategy = http_basic.",
                },
            },
        }

    def add_parameters(self, names: list[str]) -> None:
        """Add parameters of paths."""
        for name in names:
            self._parameters[name] = {
                "name": name,
                "in": "path",
                "required": True,
                "schema": {"type": "string", "minLength": 1},
            }

    def reference(self, schema: Schema, name: str) -> Document:
        """Return a reference to a schema, under its own name or the given one."""
        return self._refer(schema.document, self._names.setdefault(id(schema.document), name))

    def convert(self, value: Any) -> Any:
        """Return a part of a schema with references to what has a name."""
        if isinstance(value, list | tuple):
            return [self.convert(item) for item in value]
        if not isinstance(value, Mapping):
            return value
        name = self._names.get(id(value))
        return self._refer(value, name) if name is not None else self._plain(value)

    def fault(self, status: int) -> Document:
        """Return a reference to the answer of an error."""
        name = f"Fault{status}"
        if name not in self._responses:
            headers: Document = {
                "x-openstack-request-id": {"$ref": "#/components/headers/RequestId"}
            }
            if status == 413:
                headers["Retry-After"] = {
                    "description": "When to try again, of a rate limit.",
                    "schema": {"type": "string", "pattern": "^[0-9]+$"},
                }
            self._responses[name] = {
                "description": _STATUS_TEXTS[status],
                "headers": headers,
                "content": {_JSON: {"schema": self._refer(_fault_schema(status), name)}},
            }
        return {"$ref": f"#/components/responses/{name}"}

    def _refer(self, document: Mapping[str, Any], name: str) -> Document:
        if name not in self._schemas:
            # before what it is made of, since that may refer to it
            self._schemas[name] = {}
            self._schemas[name] = self._plain(document)
        return {"$ref": f"#/components/schemas/{name}"}

    def _plain(self, document: Mapping[str, Any]) -> Document:
        plain = {key: self.convert(value) for key, value in document.items()}
        reason = plain.pop("x-reason", None)
        if isinstance(reason, str):
            plain.setdefault("description", f"{reason[0].upper()}{reason[1:]}.")
        return plain


def _fault_schema(status: int) -> Document:
    content: Document = {
        "type": "object",
        "required": ["code", "message", "error_code"],
        "properties": {
            "code": {"const": status},
            "message": {"type": "string", "minLength": 1},
            "error_code": {"type": "string", "pattern": r"^trove\.[a-z_]+$"},
        },
    }
    if status == 400:
        content["properties"]["path"] = {
            "type": "string",
            "description": "What does not fit the schema of the request.",
        }
    if status == 413:
        content["properties"] |= {
            "details": {"type": "string"},
            "retryAfter": {"type": "string", "pattern": "^[0-9]+$"},
        }
    name = faults.FAULT_NAMES.get(status, faults.MALFORMED_FAULT)
    return {"type": "object", "required": [name], "properties": {name: content}}
