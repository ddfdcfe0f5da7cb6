"""All flows of this task manager."""

from __future__ import annotations

from collections.abc import Sequence

from trove.taskmanager.operations import create, delete, engine, recover, restart

ALL: Sequence[engine.Flow] = (
    create.FLOW,
    delete.FLOW,
    delete.CLEANUP,
    restart.FLOW,
    recover.FLOW,
)
