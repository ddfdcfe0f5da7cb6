"""What agents report of their instances, many in one statement.

A report is stored only over an older one: (boot, sequence) orders the reports of an instance, no
clock does. Only rows that exist are changed; they are made together with the instance.

A report that changes the service status leaves the status before in ``changed_from``, which is
indexed: in the same transaction whatever is found there becomes an event. Reports that change
nothing, nearly all, cost no more than a look into that index for all of a batch.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from trove import states
from trove.db import events, models

#: The type of the events that are written here.
STATUS_CHANGED = "instance.status.changed"

#: Most changes of status that one transaction makes events of; the next takes the rest.
_MOST_CHANGES = 1000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One report, checked: every value fits its column. Sizes are bytes.

    ``metrics`` is a JSON object, as it is stored.
    """

    instance_id: str
    boot: int
    sequence: int
    service_status: states.ServiceStatus
    received: datetime.datetime
    engine_version: str | None = None
    agent_version: str | None = None
    disk_used_bytes: int | None = None
    disk_total_bytes: int | None = None
    job_id: str | None = None
    job_progress_percent: int | None = None
    job_done_bytes: int | None = None
    job_total_bytes: int | None = None
    message: str | None = None
    metrics: str | None = None

    @property
    def order(self) -> tuple[int, int]:
        """What orders the reports of one instance."""
        return self.boot, self.sequence


# The reports go in as one JSON document: one parameter and a constant text, however many they are.
# A value that is absent becomes NULL in both dialects.
_SQLITE = sa.text("""
    UPDATE instance_heartbeats SET
        changed_from = CASE
            WHEN v.service_status <> instance_heartbeats.service_status
            THEN COALESCE(instance_heartbeats.changed_from, instance_heartbeats.service_status)
            ELSE instance_heartbeats.changed_from END,
        boot = v.boot, sequence = v.sequence, service_status = v.service_status,
        received = v.received, engine_version = v.engine_version,
        agent_version = v.agent_version, disk_used_bytes = v.disk_used_bytes,
        disk_total_bytes = v.disk_total_bytes, job_id = v.job_id,
        job_progress_percent = v.job_progress_percent, job_done_bytes = v.job_done_bytes,
        job_total_bytes = v.job_total_bytes, message = v.message, metrics = v.metrics
    FROM (
        SELECT json_extract(value, '$.instance_id') AS instance_id,
            json_extract(value, '$.boot') AS boot,
            json_extract(value, '$.sequence') AS sequence,
            json_extract(value, '$.service_status') AS service_status,
            json_extract(value, '$.received') AS received,
            json_extract(value, '$.engine_version') AS engine_version,
            json_extract(value, '$.agent_version') AS agent_version,
            json_extract(value, '$.disk_used_bytes') AS disk_used_bytes,
            json_extract(value, '$.disk_total_bytes') AS disk_total_bytes,
            json_extract(value, '$.job_id') AS job_id,
            json_extract(value, '$.job_progress_percent') AS job_progress_percent,
            json_extract(value, '$.job_done_bytes') AS job_done_bytes,
            json_extract(value, '$.job_total_bytes') AS job_total_bytes,
            json_extract(value, '$.message') AS message,
            json_extract(value, '$.metrics') AS metrics
        FROM json_each(:reports)
    ) AS v
    WHERE instance_heartbeats.instance_id = v.instance_id
        AND (v.boot > instance_heartbeats.boot
            OR (v.boot = instance_heartbeats.boot AND v.sequence > instance_heartbeats.sequence))
""")

_MYSQL = sa.text("""
    UPDATE instance_heartbeats AS h JOIN JSON_TABLE(:reports, '$[*]' COLUMNS (
        instance_id VARCHAR(36) CHARACTER SET utf8mb4 PATH '$.instance_id',
        boot INT PATH '$.boot',
        sequence BIGINT PATH '$.sequence',
        service_status VARCHAR(40) CHARACTER SET utf8mb4 PATH '$.service_status',
        received DATETIME(6) PATH '$.received',
        engine_version VARCHAR(64) CHARACTER SET utf8mb4 PATH '$.engine_version',
        agent_version VARCHAR(64) CHARACTER SET utf8mb4 PATH '$.agent_version',
        disk_used_bytes BIGINT PATH '$.disk_used_bytes',
        disk_total_bytes BIGINT PATH '$.disk_total_bytes',
        job_id VARCHAR(36) CHARACTER SET utf8mb4 PATH '$.job_id',
        job_progress_percent INT PATH '$.job_progress_percent',
        job_done_bytes BIGINT PATH '$.job_done_bytes',
        job_total_bytes BIGINT PATH '$.job_total_bytes',
        message TEXT CHARACTER SET utf8mb4 PATH '$.message',
        metrics TEXT CHARACTER SET utf8mb4 PATH '$.metrics'
    )) AS v ON h.instance_id = v.instance_id COLLATE utf8mb4_bin
    SET h.changed_from = CASE WHEN v.service_status <> h.service_status COLLATE utf8mb4_bin
            THEN COALESCE(h.changed_from, h.service_status) ELSE h.changed_from END,
        h.boot = v.boot, h.sequence = v.sequence, h.service_status = v.service_status,
        h.received = v.received, h.engine_version = v.engine_version,
        h.agent_version = v.agent_version, h.disk_used_bytes = v.disk_used_bytes,
        h.disk_total_bytes = v.disk_total_bytes, h.job_id = v.job_id,
        h.job_progress_percent = v.job_progress_percent, h.job_done_bytes = v.job_done_bytes,
        h.job_total_bytes = v.job_total_bytes, h.message = v.message,
        h.metrics = v.metrics
    WHERE v.boot > h.boot OR (v.boot = h.boot AND v.sequence > h.sequence)
""")


def _document(reports: Collection[Report]) -> str:
    """Return the reports as JSON, in order of id: writers then lock rows in the same order."""
    return json.dumps(
        [
            {
                name: _value(getattr(report, name))
                for name in (field.name for field in dataclasses.fields(report))
                if getattr(report, name) is not None
            }
            for report in sorted(reports, key=lambda report: report.instance_id)
        ]
    )


def _value(value: object) -> object:
    if isinstance(value, datetime.datetime):
        # the form in which models.UtcDateTime stores on both backends
        return value.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    return value


def store(session: orm.Session, reports: Collection[Report]) -> int:
    """Store reports, at most one an instance, in one statement; return how many were newer."""
    if not reports:
        return 0
    statement = _SQLITE if session.get_bind().dialect.name == "sqlite" else _MYSQL
    result = session.execute(statement, {"reports": _document(reports)})
    _tell_changes(session, now=max(report.received for report in reports))
    return int(result.rowcount)  # type: ignore[attr-defined]


_CHANGED = (
    sa.select(
        models.InstanceHeartbeat.instance_id,
        models.InstanceHeartbeat.changed_from,
        models.InstanceHeartbeat.service_status,
    )
    .where(models.InstanceHeartbeat.changed_from.is_not(None))
    .limit(_MOST_CHANGES)
    # what another conductor is about to change is for it to tell
    .with_for_update(skip_locked=True)
)
_HAS_CHANGED = (
    sa.select(models.InstanceHeartbeat.instance_id)
    .where(models.InstanceHeartbeat.changed_from.is_not(None))
    .limit(1)
)


def _tell_changes(session: orm.Session, *, now: datetime.datetime) -> None:
    """Make events of the changes of status that are in no event yet."""
    if session.execute(_HAS_CHANGED).first() is None:
        return
    changed: Sequence[Any] = session.execute(_CHANGED).all()
    ids = [row.instance_id for row in changed]
    session.execute(
        sa.update(models.InstanceHeartbeat)
        .where(models.InstanceHeartbeat.instance_id.in_(ids))
        .values(changed_from=None)
        .execution_options(synchronize_session=False)
    )
    owned = session.execute(
        sa.select(models.Instance.id, models.Instance.project_id).where(
            models.Instance.id.in_(ids), models.Instance.is_deleted == sa.false()
        )
    )
    owners: dict[str, str] = {row.id: row.project_id for row in owned}
    for instance_id, before, status in changed:
        if instance_id in owners and before is not status:
            events.append(
                session,
                owners[instance_id],
                type=STATUS_CHANGED,
                resource_id=instance_id,
                payload={"from": before.value, "to": status.value},
                now=now,
            )


def set_csr(session: orm.Session, instance_id: str, csr_pem: str) -> None:
    """Store the certificate request of the hello that was just stored in this transaction."""
    session.execute(
        sa.update(models.InstanceHeartbeat)
        .where(models.InstanceHeartbeat.instance_id == instance_id)
        .values(csr_pem=csr_pem)
        .execution_options(synchronize_session=False)
    )


def set_unknown(session: orm.Session, instance_id: str) -> None:
    """Forget what the agent last said of its engine; its next report counts as ever."""
    session.execute(
        sa.update(models.InstanceHeartbeat)
        .where(models.InstanceHeartbeat.instance_id == instance_id)
        .values(service_status=states.ServiceStatus.UNKNOWN, message=None, metrics=None)
        .execution_options(synchronize_session=False)
    )


def find_csr(session: orm.Session, instance_id: str) -> str | None:
    """Return the certificate request of the agent's last hello, or None when it sent none."""
    return session.scalar(
        sa.select(models.InstanceHeartbeat.csr_pem).where(
            models.InstanceHeartbeat.instance_id == instance_id
        )
    )


def find_report(session: orm.Session, instance_id: str) -> Report | None:
    """Return the last report of an instance, or None when there is no such instance.

    Before the first report ``boot`` and ``sequence`` are 0 and ``received`` is when the instance
    was made.
    """
    columns = [
        getattr(models.InstanceHeartbeat, field.name) for field in dataclasses.fields(Report)
    ]
    row = session.execute(
        sa.select(*columns).where(models.InstanceHeartbeat.instance_id == instance_id)
    ).one_or_none()
    return None if row is None else Report(**row._mapping)
