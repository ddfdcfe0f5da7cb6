"""Leases: of several processes one does what should be done once, as long as it renews."""

from __future__ import annotations

import datetime
from typing import cast

import sqlalchemy as sa
from sqlalchemy import orm

from trove.common import concurrency
from trove.db import models

_leases = cast(sa.Table, models.Lease.__table__)
#: Adds a row unless there is one already.
_INSERT = (
    sa.insert(_leases)
    .prefix_with("OR IGNORE", dialect="sqlite")
    .prefix_with("IGNORE", dialect="mysql")
    .prefix_with("IGNORE", dialect="mariadb")
)


def take(
    session: orm.Session,
    name: str,
    *,
    owner: str,
    now: datetime.datetime,
    lease_s: float,
    longest_s: float | None = None,
) -> bool:
    """Take a lease, or prolong one's own; False while somebody else holds it.

    Nobody takes one for longer than ``longest_s``, by default ``lease_s``: what lasts for longer is
    of a clock that was ahead, and holds nobody up.
    """
    until = now + datetime.timedelta(seconds=lease_s)
    longest = now + datetime.timedelta(seconds=longest_s or lease_s) + concurrency.CLOCKS_APART
    taken = session.execute(
        sa.update(_leases)
        .where(
            _leases.c.name == name,
            sa.or_(_leases.c.owner == owner, _leases.c.until < now, _leases.c.until > longest),
        )
        .values(owner=owner, until=until)
    )
    if taken.rowcount:  # type: ignore[attr-defined]
        return True
    made = session.execute(_INSERT, {"name": name, "owner": owner, "until": until})
    return bool(made.rowcount)  # type: ignore[attr-defined]


def release(session: orm.Session, name: str, *, owner: str) -> None:
    """Give one's own lease back."""
    session.execute(sa.delete(_leases).where(_leases.c.name == name, _leases.c.owner == owner))
