"""Operations, progress and events as clients see them.

What only administrators are shown: who began something, and what the journal says of errors.
"""

from __future__ import annotations

from typing import Any

from trove.api.views.instances import timestamp
from trove.db import events, operation_kinds, operations
from trove.db.operation_views import OperationView
from trove.services.events import cursor_of
from trove.services.operations import Journal, Progress


def progress(row: Progress) -> dict[str, Any]:
    """Return how far an operation is; what is not known is absent."""
    view: dict[str, Any] = {
        "operation_id": row.operation_id,
        "operation": row.operation,
        "step": row.step,
        "percent": row.percent,
        "since": timestamp(row.since),
    }
    if row.step_number is not None:
        view |= {"step_number": row.step_number, "step_count": row.step_count}
    if row.estimated_end is not None:
        view["estimated_end"] = timestamp(row.estimated_end)
    if row.message is not None:
        view["message"] = row.message
    return view


def operation(row: OperationView, *, is_admin: bool) -> dict[str, Any]:
    """Return an item of the list of operations."""
    kind = operation_kinds.of(row.kind)
    view: dict[str, Any] = {
        "id": row.id,
        "operation": kind.word,
        "state": row.state.value,
        "step": row.step,
        "percent": row.progress,
        "created": timestamp(row.created),
        "updated": timestamp(row.updated),
        "request_id": row.request_id,
    }
    if row.step in kind.steps:
        view |= {"step_number": kind.steps.index(row.step) + 1, "step_count": len(kind.steps)}
    # of one under way it is that of a try that is followed by others
    if row.error is not None and not row.state.is_active:
        view["message"] = row.error
    if is_admin:
        view["user_id"] = row.user_id
    return view


def operation_detail(found: Journal, *, is_admin: bool) -> dict[str, Any]:
    """Return one operation with its journal."""
    return {
        **operation(found.operation, is_admin=is_admin),
        "journal": [_entry(entry, is_admin=is_admin) for entry in found.entries],
    }


def _entry(entry: operations.JournalEntry, *, is_admin: bool) -> dict[str, Any]:
    view = {"step": entry.step, "event": entry.event, "created": timestamp(entry.created)}
    if is_admin and entry.message is not None:
        view["message"] = entry.message
    return view


def event(row: events.Event, *, is_admin: bool) -> dict[str, Any]:
    """Return an event."""
    view: dict[str, Any] = {
        "sequence": row.sequence,
        "type": row.type,
        "resource_type": row.resource_type,
        "resource_id": row.resource_id,
        "payload": dict(row.payload),
        "request_id": row.request_id,
        "created": timestamp(row.created),
    }
    if is_admin:
        view |= {"user_id": row.user_id, "tenant_id": row.project_id}
    return view


def cursor(page: events.Page) -> str:
    """Return where to go on behind a page."""
    return cursor_of(page.next_sequence)
