"""The tree of resources and how a path finds its handler.

A :class:`Resource` is a node: its methods named after HTTP methods are handlers, ``children`` are
literal next segments, ``item`` is the node for any other next segment, which becomes an argument.
Pecan serves the tree, by the decoded segments of :mod:`trove.api.edge`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import webob
from pecan import core

from trove.api import edge, faults

_METHODS = ("get", "post", "put", "patch", "delete")


class Resource:
    """A node of the tree; subclasses add handlers made by :func:`trove.api.method.expose`."""

    #: Name of the path parameter when this node is the ``item`` of another.
    parameter: str | None = None
    #: Whether handlers below get the parameter as an argument.
    is_argument = True

    def __init__(
        self,
        *,
        children: Mapping[str, Resource] | None = None,
        item: Resource | None = None,
    ) -> None:
        """Take the nodes below."""
        self.children = dict(children or {})
        self.item = item

    def allowed(self) -> list[str]:
        """Return the HTTP methods of this node."""
        return [name.upper() for name in _METHODS if hasattr(self, name)]


def find_handler(root: Resource, segments: list[str], http_method: str) -> tuple[Any, list[str]]:
    """Return the handler of a path and its arguments; raises RouteNotFound, MethodNotAllowed."""
    node, arguments = root, []
    for segment in segments:
        child = node.children.get(segment)
        if child is None:
            child = node.item
            if child is None:
                raise faults.RouteNotFound()
            if child.is_argument:
                arguments.append(segment)
        node = child
    name = http_method.lower()
    handler = getattr(node, name, None) if name in _METHODS else None
    if handler is None:
        allowed = node.allowed()
        if not allowed:
            raise faults.RouteNotFound()
        raise faults.MethodNotAllowed(allow=", ".join(allowed))
    return handler, arguments


class Application(core.ExplicitPecan):
    """Pecan on a tree of resources.

    Handlers are found by :func:`find_handler` and return whole responses; pecan's own way would
    inspect signatures and split the path anew with every request.
    """

    def __init__(self, tree: Resource) -> None:
        """Take the tree of the whole API."""
        super().__init__(
            tree, force_canonical=False, guess_content_type_from_ext=False, default_renderer="json"
        )

    def route(self, req: webob.Request, node: Resource, path: str) -> tuple[Any, list[str]]:
        """Return the handler of a request and its arguments."""
        return find_handler(node, req.environ[edge.SEGMENTS], req.method)

    def get_args(
        self, state: Any, all_params: Any, remainder: list[str], *signature: Any
    ) -> tuple[list[Any], list[Any], dict[str, Any]]:
        """Pass request, response and the arguments of the path; bodies are the handlers' own."""
        return [state.request, state.response, *remainder], [], {}

    def invoke_controller(
        self, controller: Any, args: list[Any], kwargs: dict[str, Any], state: Any
    ) -> None:
        """Take the handler's response."""
        state.response = controller(*args)

    def _handle_empty_response_body(self, state: Any) -> None:
        """Keep the status of an empty body: pecan would make 204 of 200."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A path template with a method and its handler, for tests and documents."""

    method: str
    path: str
    handler: Any


def list_routes(node: Resource, prefix: str = "") -> Iterator[Route]:
    """Yield every route below ``node``."""
    for method in node.allowed():
        yield Route(method=method, path=prefix or "/", handler=getattr(node, method.lower()))
    for segment, child in node.children.items():
        yield from list_routes(child, f"{prefix}/{segment}")
    if node.item is not None:
        yield from list_routes(node.item, f"{prefix}/{{{node.item.parameter}}}")
