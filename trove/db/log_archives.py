"""The archives of engines' logs: what is stored of each epoch, and what of it is still needed.

An instance has at most one active epoch. What its agent tells of it comes with heartbeats, many in
one statement, and counts for the active epoch of that very instance only; numbers and times never
go back. A backup says at which piece of which epoch the log goes on from it, so a piece is needed
as long as there is a backup that goes on at it or before it.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy import orm

from trove import states
from trove.db import backups, events, models, operations

#: The types of the events that are written here.
BEGUN = "instance.archive.begun"
ENDED = "instance.archive.ended"
LOST = "instance.archive.lost"
LATE = "instance.archive.late"
CAUGHT_UP = "instance.archive.caught_up"

_archives = cast(sa.Table, models.LogArchive.__table__)
_backups = cast(sa.Table, models.Backup.__table__)
_IS_ACTIVE = _archives.c.state == states.ArchiveStatus.ACTIVE


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NewArchive:
    """What an epoch is made of; the fields are those of :class:`trove.db.models.LogArchive`."""

    epoch: str
    instance_id: str
    project_id: str
    storage_driver: str
    account_id: str
    container: str
    prefix: str
    key_wrapped: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """An epoch as it was read."""

    epoch: str
    instance_id: str
    project_id: str
    state: states.ArchiveStatus
    storage_driver: str
    account_id: str
    container: str
    prefix: str
    key_wrapped: bytes | None = dataclasses.field(repr=False)
    first_sequence: int
    next_sequence: int
    since: datetime.datetime | None
    as_of: datetime.datetime | None
    pending_bytes: int
    stored_bytes: int
    problem: str | None
    is_late: bool
    reported: datetime.datetime | None
    created: datetime.datetime
    updated: datetime.datetime

    @property
    def is_active(self) -> bool:
        """Tell whether the agent adds to it."""
        return self.state is states.ArchiveStatus.ACTIVE


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What an agent tells of its archive, checked: every value fits its column."""

    instance_id: str
    epoch: str
    sequence: int
    since: datetime.datetime
    as_of: datetime.datetime
    pending_bytes: int
    stored_bytes: int
    problem: str | None
    is_lost: bool
    reported: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """To which moments an instance can be restored, and how well its log is kept."""

    earliest: datetime.datetime | None
    latest: datetime.datetime | None
    state: states.ArchiveStatus
    as_of: datetime.datetime | None
    created: datetime.datetime
    pending_bytes: int
    problem: str | None


_COLUMNS = tuple(_archives.c[field.name] for field in dataclasses.fields(Archive))


def _read(session: orm.Session, query: sa.Select[Any]) -> list[Archive]:
    return [Archive(**row._mapping) for row in session.execute(query)]


# -- making and ending -----


def begin(session: orm.Session, new: NewArchive, *, now: datetime.datetime) -> None:
    """Add an epoch, which is the active one of its instance from now on."""
    close_active(session, new.instance_id, now=now)
    values = {field.name: getattr(new, field.name) for field in dataclasses.fields(new)}
    session.execute(
        sa.insert(models.LogArchive).values(
            **values,
            state=states.ArchiveStatus.ACTIVE,
            first_sequence=0,
            next_sequence=0,
            pending_bytes=0,
            stored_bytes=0,
            is_late=False,
            created=now,
            updated=now,
        )
    )
    _tell(session, new, BEGUN, now=now)


def close_active(session: orm.Session, instance_id: str, *, now: datetime.datetime) -> bool:
    """End the active epoch of an instance, whose pieces are kept; tell whether there was one."""
    found = find_active(session, instance_id)
    if found is None or not _end(session, found, states.ArchiveStatus.CLOSED, now=now):
        return False
    _tell(session, found, ENDED, now=now)
    return True


def lose(session: orm.Session, epoch: str, *, problem: str, now: datetime.datetime) -> bool:
    """End an active epoch whose log has a gap behind it; tell whether this was the time."""
    found = find(session, epoch)
    if found is None or not _end(
        session, found, states.ArchiveStatus.LOST, now=now, problem=problem
    ):
        return False
    _tell(session, found, LOST, now=now, problem=problem)
    return True


def remove(session: orm.Session, epoch: str) -> bool:
    """Forget an epoch that has ended and has no pieces any more; tell whether it was forgotten."""
    result = session.execute(
        sa.delete(models.LogArchive)
        .where(_archives.c.epoch == epoch, sa.not_(_IS_ACTIVE))
        .execution_options(synchronize_session=False)
    )
    return bool(result.rowcount)  # type: ignore[attr-defined]


def _end(
    session: orm.Session,
    archive: Archive,
    state: states.ArchiveStatus,
    *,
    now: datetime.datetime,
    **values: Any,
) -> bool:
    return _update(
        session, archive.epoch, _IS_ACTIVE, state=state, is_late=False, updated=now, **values
    )


def _update(
    session: orm.Session, epoch: str, *conditions: sa.ColumnElement[bool], **values: Any
) -> bool:
    result = session.execute(
        sa.update(models.LogArchive)
        .where(_archives.c.epoch == epoch, *conditions)
        .values(**values)
        .execution_options(synchronize_session=False)
    )
    return bool(result.rowcount)  # type: ignore[attr-defined]


def _tell(
    session: orm.Session,
    archive: Archive | NewArchive,
    kind: str,
    *,
    now: datetime.datetime,
    **payload: Any,
) -> None:
    events.append(
        session,
        archive.project_id,
        type=kind,
        resource_id=archive.instance_id,
        payload={"epoch": archive.epoch, **payload},
        now=now,
    )


# -- what agents report -----

# As with heartbeats: one parameter, however many they are. An older report, or one of another
# instance's epoch or of one that has ended, finds no row.
_SQLITE = sa.text("""
    UPDATE log_archives SET
        next_sequence = v.sequence,
        since = COALESCE(log_archives.since, v.since),
        as_of = MAX(COALESCE(log_archives.as_of, v.as_of), v.as_of),
        pending_bytes = v.pending_bytes, stored_bytes = v.stored_bytes, problem = v.problem,
        reported = v.reported
    FROM (
        SELECT json_extract(value, '$.instance_id') AS instance_id,
            json_extract(value, '$.epoch') AS epoch,
            json_extract(value, '$.sequence') AS sequence,
            json_extract(value, '$.since') AS since,
            json_extract(value, '$.as_of') AS as_of,
            json_extract(value, '$.pending_bytes') AS pending_bytes,
            json_extract(value, '$.stored_bytes') AS stored_bytes,
            json_extract(value, '$.problem') AS problem,
            json_extract(value, '$.reported') AS reported
        FROM json_each(:reports)
    ) AS v
    WHERE log_archives.epoch = v.epoch AND log_archives.instance_id = v.instance_id
        AND log_archives.state = 'active' AND v.sequence >= log_archives.next_sequence
""")

_MYSQL = sa.text("""
    UPDATE log_archives AS a JOIN JSON_TABLE(:reports, '$[*]' COLUMNS (
        instance_id VARCHAR(36) CHARACTER SET utf8mb4 PATH '$.instance_id',
        epoch VARCHAR(36) CHARACTER SET utf8mb4 PATH '$.epoch',
        sequence BIGINT PATH '$.sequence',
        since DATETIME(6) PATH '$.since',
        as_of DATETIME(6) PATH '$.as_of',
        pending_bytes BIGINT PATH '$.pending_bytes',
        stored_bytes BIGINT PATH '$.stored_bytes',
        problem TEXT CHARACTER SET utf8mb4 PATH '$.problem',
        reported DATETIME(6) PATH '$.reported'
    )) AS v ON a.epoch = v.epoch COLLATE utf8mb4_bin
    SET a.next_sequence = v.sequence,
        a.since = COALESCE(a.since, v.since),
        a.as_of = GREATEST(COALESCE(a.as_of, v.as_of), v.as_of),
        a.pending_bytes = v.pending_bytes, a.stored_bytes = v.stored_bytes,
        a.problem = v.problem, a.reported = v.reported
    WHERE a.instance_id = v.instance_id COLLATE utf8mb4_bin
        AND a.state = 'active' AND v.sequence >= a.next_sequence
""")


def _value(value: object) -> object:
    if isinstance(value, datetime.datetime):
        # the form in which models.UtcDateTime stores on both backends
        return value.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    return value


def _document(reports: Iterable[Report]) -> str:
    """Return the reports as JSON, in order of epoch: writers then lock rows in the same order."""
    names = [field.name for field in dataclasses.fields(Report)]
    return json.dumps(
        [
            {
                name: _value(getattr(report, name))
                for name in names
                if getattr(report, name) is not None
            }
            for report in sorted(reports, key=lambda report: report.epoch)
        ]
    )


def store(session: orm.Session, reports: Collection[Report]) -> None:
    """Store what agents told, at most one an instance, in one statement.

    An epoch that an agent says is lost has ended, which is told.
    """
    if not reports:
        return
    statement = _SQLITE if session.get_bind().dialect.name == "sqlite" else _MYSQL
    session.execute(statement, {"reports": _document(reports)})
    lost = {report.epoch: report for report in reports if report.is_lost}
    if lost:
        _lose_reported(session, lost)


def _lose_reported(session: orm.Session, lost: Mapping[str, Report]) -> None:
    found = session.execute(
        sa.select(_archives.c.epoch, _archives.c.instance_id).where(
            _archives.c.epoch.in_(sorted(lost)), _IS_ACTIVE
        )
    ).all()
    for epoch, instance_id in found:
        report = lost[epoch]
        if report.instance_id != instance_id:
            continue
        if _is_restored(session, instance_id):
            # the log of another database follows, which nobody calls a loss
            close_active(session, instance_id, now=report.reported)
        else:
            problem = report.problem or "the log has a gap"
            lose(session, epoch, problem=problem, now=report.reported)


def _is_restored(session: orm.Session, instance_id: str) -> bool:
    """Tell whether another database is being put in the place of an instance's."""
    query = sa.select(models.Operation.id).where(
        models.Operation.resource_id == instance_id,
        models.Operation.kind.in_(operations.RESTORATIONS),
        models.Operation.state.in_([state for state in states.OperationState if state.is_active]),
    )
    return session.scalar(query.limit(1)) is not None


# -- reading -----


def find(session: orm.Session, epoch: str) -> Archive | None:
    """Return an epoch, or None."""
    found = _read(session, sa.select(*_COLUMNS).where(_archives.c.epoch == epoch))
    return found[0] if found else None


def find_active(session: orm.Session, instance_id: str) -> Archive | None:
    """Return the active epoch of an instance, or None."""
    query = sa.select(*_COLUMNS).where(_archives.c.instance_id == instance_id, _IS_ACTIVE)
    found = _read(session, query)
    return found[0] if found else None


def list_epochs(
    session: orm.Session, *, instance_id: str | None = None, after: str = "", limit: int = 1000
) -> Sequence[Archive]:
    """Return epochs, of one instance or of all, in order of their ids."""
    query = sa.select(*_COLUMNS).where(_archives.c.epoch > after)
    if instance_id is not None:
        query = query.where(_archives.c.instance_id == instance_id)
    return _read(session, query.order_by(_archives.c.epoch).limit(limit))


def find_window(session: orm.Session, instance_id: str) -> Window | None:
    """Return what is kept of the log of an instance: of the newest epoch; None without any.

    It can be restored from the oldest backup on that the epoch goes on from.
    """
    newest = (
        sa.select(*_COLUMNS)
        .where(_archives.c.instance_id == instance_id)
        # the active one, else the one that ended last
        .order_by(sa.case((_IS_ACTIVE, 0), else_=1), _archives.c.created.desc(), _archives.c.epoch)
        .limit(1)
    )
    found = _read(session, newest)
    if not found:
        return None
    archive = found[0]
    earliest, newest_backup = session.execute(
        sa.select(sa.func.min(_backups.c.completed), sa.func.max(_backups.c.completed)).where(
            _backups.c.instance_id == instance_id,
            _backups.c.archive_epoch == archive.epoch,
            _backups.c.is_deleted == sa.false(),
            _backups.c.status.in_(sorted(backups.RESTORABLE)),
        )
    ).one()
    latest = max(archive.as_of or newest_backup, newest_backup) if newest_backup else None
    return Window(
        earliest=earliest,
        latest=latest,
        state=archive.state,
        as_of=archive.as_of,
        created=archive.created,
        pending_bytes=archive.pending_bytes,
        problem=archive.problem,
    )


# -- what is needed -----


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """From which piece on the kept backups need an epoch; None: none needs it."""

    archive: Archive
    sequence: int | None


def list_needs(session: orm.Session, *, after: str = "", limit: int = 100) -> Sequence[Need]:
    """Return what is needed of epochs, in order of their ids."""
    archives = list_epochs(session, after=after, limit=limit)
    rows = session.execute(
        sa.select(_backups.c.archive_epoch, sa.func.min(_backups.c.archive_sequence))
        .join(_archives, _archives.c.epoch == _backups.c.archive_epoch)
        .where(
            _archives.c.epoch.in_([archive.epoch for archive in archives]),
            _backups.c.instance_id == _archives.c.instance_id,
            _backups.c.is_deleted == sa.false(),
            # what was made and failed goes on from nowhere; what is being made may
            _backups.c.status != states.BackupStatus.FAILED,
        )
        .group_by(_backups.c.archive_epoch)
    )
    needed = {epoch: int(sequence) for epoch, sequence in rows if sequence is not None}
    return [Need(archive=archive, sequence=needed.get(archive.epoch)) for archive in archives]


def is_needed(session: orm.Session, archive: Archive) -> bool:
    """Tell whether a kept backup needs an epoch, or one that is being made of its instance."""
    query = sa.select(_backups.c.id).where(
        _backups.c.is_deleted == sa.false(),
        sa.or_(
            sa.and_(
                _backups.c.archive_epoch == archive.epoch,
                _backups.c.instance_id == archive.instance_id,
                _backups.c.status != states.BackupStatus.FAILED,
            ),
            sa.and_(
                _backups.c.instance_id == archive.instance_id,
                _backups.c.status.in_(sorted(backups.RUNNING)),
            ),
        ),
    )
    return session.scalar(query.limit(1)) is not None


def advance_first(
    session: orm.Session, epoch: str, sequence: int, *, now: datetime.datetime
) -> bool:
    """Note that the pieces before ``sequence`` are removed."""
    return _update(
        session, epoch, _archives.c.first_sequence < sequence, first_sequence=sequence, updated=now
    )


# -- lag -----


def tell_lags(
    session: orm.Session, *, since: datetime.datetime, now: datetime.datetime, limit: int
) -> int:
    """Make events of archives that are older than ``since``, and of those that no longer are.

    Each is told of once. Returns how many there were.
    """
    as_of = sa.func.coalesce(_archives.c.as_of, _archives.c.created)
    late = sa.and_(_archives.c.is_late == sa.false(), as_of < since)
    caught_up = sa.and_(_archives.c.is_late == sa.true(), as_of >= since)
    found = _read(
        session, sa.select(*_COLUMNS).where(_IS_ACTIVE, sa.or_(late, caught_up)).limit(limit)
    )
    for archive in found:
        is_change = _archives.c.is_late == archive.is_late
        if not _update(
            session, archive.epoch, _IS_ACTIVE, is_change, is_late=not archive.is_late, updated=now
        ):
            continue
        if archive.is_late:
            _tell(session, archive, CAUGHT_UP, now=now)
        else:
            lag = now - (archive.as_of or archive.created)
            _tell(
                session,
                archive,
                LATE,
                now=now,
                lag_s=round(lag.total_seconds()),
                problem=archive.problem,
            )
    return len(found)
