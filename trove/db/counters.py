"""What the processes of the service count, added up in one place.

A process adds what it counted since it last did: all of them answer the same, and a restart sets
nothing back. Names and labels are the code's own, so that there are few rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, cast

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import mysql, sqlite

from trove.db import models

_rows = cast(sa.Table, models.ServiceCounter.__table__)


class Key(NamedTuple):
    """What is counted; the label tells kinds apart and may be empty."""

    name: str
    label: str = ""


def add(session: orm.Session, counted: Mapping[Key, int]) -> None:
    """Add to counters, those that are new as well, in one statement."""
    if not counted:
        return
    # in one order, so that writers wait for each other in the same
    values = [
        {"name": key.name, "label": key.label, "value": counted[key]} for key in sorted(counted)
    ]
    if session.get_bind().dialect.name == "sqlite":
        new = sqlite.insert(_rows).values(values)
        session.execute(
            new.on_conflict_do_update(
                index_elements=[_rows.c.name, _rows.c.label],
                set_={"value": _rows.c.value + new.excluded.value},
            )
        )
    else:
        inserted = mysql.insert(_rows).values(values)
        session.execute(
            inserted.on_duplicate_key_update(value=_rows.c.value + inserted.inserted.value)
        )


def read(session: orm.Session) -> Iterator[tuple[Key, int]]:
    """Yield all counters in the order of their keys."""
    rows = session.execute(sa.select(_rows).order_by(_rows.c.name, _rows.c.label))
    for row in rows:
        yield Key(name=row.name, label=row.label), int(row.value)
