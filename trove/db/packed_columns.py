"""Many columns of a SELECT as one: a JSON array, which the database writes and C code reads.

A driver written in Python takes longer for the columns of a row, and again for their descriptions,
than the database takes to find it.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from trove.db import models


def written(moment: datetime.datetime) -> str:
    """Return a moment as the database writes it as text: UTC, in an order that is that of time."""
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def read_time(text: str) -> datetime.datetime:
    """Return what :func:`written` wrote."""
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)


def _read_document(value: Any) -> Any:
    # a text within the text, unless the database knows the type
    return json.loads(value) if isinstance(value, str) else value


def _read_bool(value: Any) -> bool:
    # the answer of an EXISTS is "0" or "1" in an array of MariaDB's
    return bool(int(value))


def _find_reader(kind: sa.types.TypeEngine[Any]) -> Callable[[Any], Any] | None:
    """Return what makes a value of a column out of JSON, None when it is one already."""
    match kind:
        case models.UtcDateTime():
            return read_time
        case models.EnumString():
            return kind.enum_class
        case sa.JSON():
            return _read_document
        case sa.Boolean():
            return _read_bool
    return None


class PackedColumns:
    """Columns as one: ``column`` to select, ``unpack`` to read it."""

    def __init__(self, columns: Mapping[str, sa.ColumnElement[Any]]) -> None:
        """Take the columns by name."""
        self.names = tuple(columns)
        self.column: sa.ColumnElement[str] = sa.func.json_array(
            *(sa.type_coerce(column, sa.Text()) for column in columns.values()), type_=sa.Text()
        ).label("packed")
        readers = [_find_reader(column.type) for column in columns.values()]
        self._readers = [(place, read) for place, read in enumerate(readers) if read is not None]

    def unpack(self, text: str) -> list[Any]:
        """Return the values of the columns, in their order."""
        values: list[Any] = json.loads(text)
        for place, read in self._readers:
            if values[place] is not None:
                values[place] = read(values[place])
        return values
