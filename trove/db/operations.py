"""Persisted operations: how they are made, claimed, stepped, woken and ended.

The invariants, each a conditional UPDATE and never a check followed by a write:

* At most one active operation holds a ``lock_key``; an ended one holds none.
* Only the claim whose token stands in ``owner`` may save a step, and only from the step it
  expects; a claim is taken when there is no owner or the owner's lease has run out.
* An event for a resource increments ``signals``; a wait is stored only if ``signals`` is what it
  was when the step began, so no event is lost between a look and a wait.
"""

from __future__ import annotations

from collections.abc import Mapping

#: Kinds of operations.
CREATE_INSTANCE = "create_instance"
DELETE_INSTANCE = "delete_instance"
RESTART_INSTANCE = "restart_instance"
RECOVER_INSTANCE = "recover_instance"
CLEANUP = "cleanup"

#: Where each kind begins: what ``create(step=...)`` is given.
FIRST_STEPS: Mapping[str, str] = {
    CREATE_INSTANCE: "create_port",
    DELETE_INSTANCE: "supersede",
    RESTART_INSTANCE: "restart_engine",
    RECOVER_INSTANCE: "start_server",
    CLEANUP: "delete_orphan",
}


def instance_lock(instance_id: str) -> str:
    """Return the lock key of all operations on an instance but its deletion."""
    return f"instance:{instance_id}"


def delete_lock(instance_id: str) -> str:
    """Return the lock key of the deletion of an instance."""
    return f"delete:{instance_id}"
