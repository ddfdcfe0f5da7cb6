"""Hosts that prove backups: each tells again and again that it is there, and what it can prove."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import cast

import sqlalchemy as sa
from sqlalchemy import orm

from trove.db import models

_hosts = cast(sa.Table, models.VerifierHost.__table__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VerifierHost:
    """A host; ``engines`` are the versions that are installed by datastore manager."""

    name: str
    beats: int
    seen: datetime.datetime
    at_once: int
    engines: Mapping[str, Sequence[str]]


def report(
    session: orm.Session,
    name: str,
    *,
    at_once: int,
    engines: Mapping[str, Sequence[str]],
    now: datetime.datetime,
) -> None:
    """Tell that a host is there. It alone does so."""
    values = {"at_once": at_once, "engines": {k: list(v) for k, v in engines.items()}, "seen": now}
    told = session.execute(
        sa.update(_hosts).where(_hosts.c.name == name).values(beats=_hosts.c.beats + 1, **values)
    )
    if not told.rowcount:  # type: ignore[attr-defined]
        session.execute(sa.insert(_hosts).values(name=name, beats=1, **values))


def list_hosts(session: orm.Session) -> Sequence[VerifierHost]:
    """Return all hosts that ever told of themselves and were not forgotten, by name."""
    columns = [_hosts.c[field.name] for field in dataclasses.fields(VerifierHost)]
    rows = session.execute(sa.select(*columns).order_by(_hosts.c.name))
    return [VerifierHost(**row._mapping) for row in rows]


def hold(session: orm.Session, name: str) -> None:
    """Keep others from placing proofs on a host until this transaction has ended."""
    session.execute(sa.select(_hosts.c.name).where(_hosts.c.name == name).with_for_update())


def forget(session: orm.Session, *, before: datetime.datetime) -> int:
    """Remove the hosts that were not heard of since then; return how many there were."""
    gone = session.execute(sa.delete(_hosts).where(_hosts.c.seen < before))
    return int(gone.rowcount)  # type: ignore[attr-defined]
