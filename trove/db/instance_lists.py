"""Lists of instances that are filtered or sorted, or of all projects.

A page is found by its place in an order and not by counting: what is sorted by is part of the
marker, so that pages neither overlap nor gape while instances come and go. Each order has an
index of its own; a filter reads on in that order until the page is full.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from trove import states
from trove.db import instance_views, models

#: What a list can be sorted by.
SORT_KEYS = ("id", "created", "updated", "name")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which instances a list has; None: whatever it is. Tags: all of, and at least one of."""

    project_id: str | None
    is_deleted: bool = False
    name: str | None = None
    status: str | None = None
    flavor_id: str | None = None
    #: By name or id, both.
    datastore: str | None = None
    datastore_version: str | None = None
    tags: Sequence[str] = ()
    tags_any: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a list is sorted by; instances that are the same in it, by id."""

    key: str = "id"
    is_descending: bool = False

    def columns(self, table: Any) -> tuple[sa.ColumnElement[Any], ...]:
        """Return the terms of ORDER BY over a table of instances."""
        keys = ("id",) if self.key == "id" else (self.key, "id")
        columns = [table.c[key] for key in keys]
        return tuple(column.desc() if self.is_descending else column.asc() for column in columns)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """The place of an instance in an order: its value of the key, and its id."""

    value: Any
    id: str


_table = models.Instance.__table__
_tags = models.InstanceTag.__table__


#: A status of a server, and whether a backup is being made.
_State = tuple[states.ServerStatus, bool]


def _words() -> Mapping[str, Mapping[states.TaskStatus, frozenset[_State]]]:
    """Return for each word of ``status`` the tasks that it stands for, and with what."""
    words: dict[str, dict[states.TaskStatus, set[_State]]] = {}
    for task, server, is_backing_up in itertools.product(
        states.TaskStatus, states.ServerStatus, (False, True)
    ):
        word = states.api_status(task, server, is_backing_up=is_backing_up)
        words.setdefault(word, {}).setdefault(task, set()).add((server, is_backing_up))
    return {
        word: {task: frozenset(found) for task, found in tasks.items()}
        for word, tasks in words.items()
    }


_WORDS = _words()
#: The words of ``status`` that a live instance may have.
STATUSES = frozenset(_WORDS)


def _has_status(word: str) -> sa.ColumnElement[bool]:
    by_state: dict[frozenset[_State], list[states.TaskStatus]] = {}
    for task, found in _WORDS[word].items():
        by_state.setdefault(found, []).append(task)
    alternatives = []
    for found, tasks in by_state.items():
        conditions = [_table.c.task.in_(sorted(tasks))]
        servers = {server for server, _ in found}
        if servers != set(states.ServerStatus):
            conditions.append(_table.c.server_status.in_(sorted(servers)))
        making = {is_backing_up for _, is_backing_up in found}
        if making == {True}:
            conditions.append(_table.c.running_backup_id.is_not(None))
        elif making == {False}:
            conditions.append(_table.c.running_backup_id.is_(None))
        alternatives.append(sa.and_(*conditions))
    return sa.or_(*alternatives)


def _has_tag(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    return _table.c.id.in_(sa.select(_tags.c.instance_id).where(condition))


def _version_ids(session: orm.Session, filters: Filters) -> Sequence[str] | None:
    """Return the versions that are asked for, None when all are.

    Asked for first: in one statement with the instances, MariaDB would read those of a version in
    whatever order and sort them all.
    """
    if filters.datastore is None and filters.datastore_version is None:
        return None
    query = sa.select(models.DatastoreVersion.id).join(models.DatastoreVersion.datastore)
    if filters.datastore is not None:
        query = query.where(
            sa.or_(
                models.Datastore.id == filters.datastore, models.Datastore.name == filters.datastore
            )
        )
    if filters.datastore_version is not None:
        query = query.where(
            sa.or_(
                models.DatastoreVersion.id == filters.datastore_version,
                models.DatastoreVersion.name == filters.datastore_version,
            )
        )
    return list(session.scalars(query))


def _conditions(
    filters: Filters, version_ids: Sequence[str] | None
) -> list[sa.ColumnElement[bool]]:
    # not "IS false": MariaDB finds no index for that
    conditions: list[sa.ColumnElement[bool]] = [_table.c.is_deleted == filters.is_deleted]
    for name in ("project_id", "name", "flavor_id"):
        value = getattr(filters, name)
        if value is not None:
            conditions.append(_table.c[name] == value)
    if filters.status is not None:
        conditions.append(_has_status(filters.status))
    if version_ids is not None:
        conditions.append(_table.c.datastore_version_id.in_(version_ids))
    conditions += [_has_tag(_tags.c.tag == tag) for tag in filters.tags]
    if filters.tags_any:
        conditions.append(_has_tag(_tags.c.tag.in_(list(filters.tags_any))))
    return conditions


def _behind(order: Order, after: Position) -> sa.ColumnElement[bool]:
    """Return what holds for the instances behind a position."""
    last = _table.c.id < after.id if order.is_descending else _table.c.id > after.id
    if order.key == "id":
        return last
    column = _table.c[order.key]
    value = sa.literal(after.value, column.type)
    beyond = column < value if order.is_descending else column > value
    reached = column <= value if order.is_descending else column >= value
    # the first term says nothing new, but is a range of the index
    return sa.and_(reached, sa.or_(beyond, last))


def list_page(
    session: orm.Session,
    kind: type[instance_views.View],
    filters: Filters,
    *,
    order: Order,
    limit: int,
    after: Position | None = None,
    offset: int = 0,
) -> tuple[Sequence[instance_views.View], Position | None]:
    """Return up to ``limit`` instances behind a position, and where they end if there are more."""
    version_ids = _version_ids(session, filters)
    page = sa.select(_table.c.id, _table.c[order.key].label("place"))
    page = page.where(*_conditions(filters, version_ids))
    if after is not None:
        page = page.where(_behind(order, after))
    page = page.order_by(*order.columns(_table)).limit(limit + 1)
    if offset:
        page = page.offset(offset)
    found = instance_views.list_placed_views(session, kind, page, order=order.columns)
    shown = found[:limit]
    views = [view for view, _ in shown]
    if not shown or len(found) <= limit:
        return views, None
    view, place = shown[-1]
    return views, Position(value=place, id=view.id)


def find_position(
    session: orm.Session, order: Order, instance_id: str, *, project_id: str | None
) -> Position | None:
    """Return the place of an instance in an order, deleted ones too; None when there is none."""
    query = sa.select(_table.c.id, _table.c[order.key].label("value")).where(
        _table.c.id == instance_id
    )
    if project_id is not None:
        query = query.where(_table.c.project_id == project_id)
    row = session.execute(query).first()
    return None if row is None else Position(value=row.value, id=row.id)
