"""How many requests of each project were admitted this minute, by the workers of all hosts.

A row holds what was taken of a window (a minute, counted from the epoch); workers take several
requests' worth at a time by one conditional UPDATE, so that all of them together never take more
than the limit.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Mapping
from typing import cast

import sqlalchemy as sa
from oslo_log import log
from sqlalchemy import exc, orm

from trove.db import base, models

LOG = log.getLogger(__name__)

WINDOW_S = 60
#: What a backend raises that is away, overloaded or of an older schema.
UNAVAILABLE = (base.DatabaseError, exc.SQLAlchemyError)
#: Windows by which the clocks of hosts may differ.
_MOST_AHEAD = 1

_windows = cast(sa.Table, models.RateWindow.__table__)
#: Adds a row unless there is one already.
_INSERT = (
    sa.insert(_windows)
    .prefix_with("OR IGNORE", dialect="sqlite")
    .prefix_with("IGNORE", dialect="mysql")
    .prefix_with("IGNORE", dialect="mariadb")
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Requests that the caller may admit in ``window``; none when the window is used up."""

    window: int
    granted: int


def window_of(moment: datetime.datetime) -> int:
    """Return the window that a moment is in."""
    return int(moment.timestamp() // WINDOW_S)


def take(
    session: orm.Session,
    project_id: str,
    method: str,
    *,
    window: int,
    limit: int,
    share: Callable[[int], int],
) -> Lease | None:
    """Take some of what is left of a window; None when others were quicker: try again.

    ``share`` says how many to take of how many. The row may be a window ahead, by the clock of
    another host: then that window counts.
    """
    is_row = sa.and_(_windows.c.project_id == project_id, _windows.c.method == method)
    row = session.execute(
        sa.select(_windows.c.window, _windows.c.taken).where(is_row).with_for_update()
    ).first()
    if row is None:
        granted = min(limit, share(limit))
        new = {"project_id": project_id, "method": method, "window": window, "taken": granted}
        if not session.execute(_INSERT, new).rowcount:  # type: ignore[attr-defined]
            return None
        return Lease(window=window, granted=granted)
    if row.window > window + _MOST_AHEAD:
        LOG.warning(
            "rate limits: another host's clock is %d s ahead of this one's",
            (row.window - window) * WINDOW_S,
        )
    elif row.window > window:
        window = row.window
    is_new = row.window != window
    left = limit if is_new else limit - row.taken
    if left <= 0:
        return Lease(window=window, granted=0)
    granted = min(left, share(left))
    statement = sa.update(_windows).where(is_row, _windows.c.window == row.window)
    if is_new:
        statement = statement.values(window=window, taken=granted)
    else:
        statement = statement.where(_windows.c.taken <= limit - granted)
        statement = statement.values(taken=_windows.c.taken + granted)
    if not session.execute(statement).rowcount:  # type: ignore[attr-defined]
        return None
    return Lease(window=window, granted=granted)


def get_taken(session: orm.Session, project_id: str, *, window: int) -> Mapping[str, int]:
    """Return what was taken of a window (or of a later one) by method."""
    rows = session.execute(
        sa.select(_windows.c.method, _windows.c.taken).where(
            _windows.c.project_id == project_id, _windows.c.window >= window
        )
    )
    return {row.method: row.taken for row in rows}


def prune(session: orm.Session, *, before: int) -> int:
    """Remove the rows of projects that were silent since window ``before``; return how many."""
    result = session.execute(sa.delete(_windows).where(_windows.c.window < before))
    return int(result.rowcount)  # type: ignore[attr-defined]
