"""The events feed of a project and of one instance."""

from __future__ import annotations

import dataclasses
import datetime

from trove.common import context, exception
from trove.db import base, events
from trove.services.changes import find_in_reach

#: What a cursor begins with, so that other texts are told from cursors.
_CURSOR = "e1."


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which events, and where to go on: a cursor of an earlier answer."""

    limit: int
    cursor: str | None = None
    resource_id: str | None = None
    type_prefix: str | None = None
    since: datetime.datetime | None = None


def cursor_of(sequence: int) -> str:
    """Return the cursor behind an event."""
    return f"{_CURSOR}{sequence}"


def _sequence_of(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    digits = cursor.removeprefix(_CURSOR)
    if digits == cursor or not (digits.isascii() and digits.isdigit()) or len(digits) > 18:
        raise exception.BadRequest(reason="marker is not a cursor of this list")
    return int(digits)


class Events:
    """Use cases of the events feed."""

    def __init__(self, *, database: base.Database) -> None:
        """Take the database."""
        self._database = database

    def list_page(self, caller: context.RequestContext, wanted: Wanted) -> events.Page:
        """Return events of the caller's project, oldest first; raises BadRequest."""
        return self._list(str(caller.project_id), wanted)

    def list_of_instance(
        self, caller: context.RequestContext, instance_id: str, wanted: Wanted
    ) -> events.Page:
        """Return events of an instance, oldest first; raises InstanceNotFound, BadRequest."""
        with self._database.reader() as session:
            project_id = find_in_reach(session, caller, instance_id).project_id
        return self._list(project_id, dataclasses.replace(wanted, resource_id=instance_id))

    def _list(self, project_id: str, wanted: Wanted) -> events.Page:
        after = _sequence_of(wanted.cursor)
        with self._database.reader() as session:
            return events.list_page(
                session,
                project_id,
                wanted=events.Filter(
                    resource_id=wanted.resource_id,
                    type_prefix=wanted.type_prefix,
                    since=wanted.since,
                ),
                after=after,
                limit=wanted.limit,
            )
