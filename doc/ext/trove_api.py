"""Directives of Sphinx that describe the API by its own code: ``trove-api`` and ``trove-errors``.

The first writes every route with its parameters, bodies and answers, of the OpenAPI description;
the second every code of an error. Nothing is fetched from anywhere and no service is asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes, statemachine
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx
from sphinx.util.nodes import nested_parse_with_titles

from trove.api import faults, openapi
from trove.api.controllers import root


class _Anything:
    """Stands for what controllers are made with; no handler is called here."""

    def __getattr__(self, name: str) -> _Anything:
        return self


class _Generated(Directive):
    def lines(self) -> Iterator[str]:
        """Give the lines of reStructuredText."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Put the lines in the place of the directive."""
        text = statemachine.StringList(list(self.lines()), source=self.name)
        node = nodes.section()
        node.document = self.state.document
        nested_parse_with_titles(self.state, text, node)
        return node.children


def _heading(text: str, line: str) -> list[str]:
    return ["", text, line * len(text), ""]


class Api(_Generated):
    """Every route."""

    def lines(self) -> Iterator[str]:
        """Give a section for each kind of resource."""
        document = openapi.describe(root.make_tree(_Anything()))
        by_tag: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
        for path, node in document["paths"].items():
            for method, operation in node.items():
                if method != "parameters":
                    where = by_tag.setdefault(operation["tags"][0], [])
                    where.append((method.upper(), path, operation))
        for tag in sorted(by_tag, key=lambda tag: (tag != "versions", tag)):
            yield from _heading(tag, "-")
            for method, path, operation in by_tag[tag]:
                yield from self._operation(method, path, operation)
        yield from _heading("Schemas", "-")
        for name, schema in document["components"]["schemas"].items():
            if not name.startswith("Fault"):
                yield from ["", f".. _api-schema-{name.lower()}:"]
                yield from _heading(name, "~")
                yield from _block(json.dumps(schema, indent=2))

    def _operation(self, method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
        yield from _heading(f"{method} {path}", "~")
        yield from [operation["summary"], ""]
        if "x-policy" in operation:
            yield from [f"Rule of the policy: ``{operation['x-policy']}``", ""]
        for parameter in operation.get("parameters", ()):
            kind = parameter["schema"].get("type", "string")
            yield f"* ``{parameter['name']}`` (query, {kind}): {parameter['description']}"
        yield ""
        body = operation.get("requestBody")
        if body is not None:
            needed = "" if body["required"] else " (may be left out)"
            yield from [f"Request{needed}: {_schema_of(body)}", ""]
        good = {s: r for s, r in operation["responses"].items() if int(s) < 300}
        for status, response in good.items():
            yield from [f"Answer {status}: {_schema_of(response) or 'no body'}", ""]
        bad = sorted(operation["responses"].keys() - good.keys())
        yield from [f"Other answers: {', '.join(bad)}", ""]


def _schema_of(part: dict[str, Any]) -> str:
    for content in part.get("content", {}).values():
        name = content["schema"]["$ref"].rpartition("/")[2]
        return f":ref:`api-schema-{name.lower()}`"
    return ""


def _block(text: str) -> list[str]:
    return ["", ".. code-block:: json", "", *(f"   {line}" for line in text.splitlines()), ""]


class Errors(_Generated):
    """Every code of an error."""

    def lines(self) -> Iterator[str]:
        """Give a table by status and code."""
        yield from [".. list-table::", "   :header-rows: 1", "   :widths: 10 20 30 40", ""]
        yield from _row("status", "fault", "``error_code``", "means")
        for error in faults.list_errors():
            meaning = re.sub(r"\s+", " ", error.meaning)
            yield from _row(str(error.status), f"``{error.name}``", f"``{error.code}``", meaning)
        yield ""


def _row(*cells: str) -> Iterator[str]:
    for number, cell in enumerate(cells):
        yield f"   {'*' if number == 0 else ' '} - {cell}"


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directives."""
    app.add_directive("trove-api", Api)
    app.add_directive("trove-errors", Errors)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
