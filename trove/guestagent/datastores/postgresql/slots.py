"""Slots of the server's, which keep its log until the agent has it elsewhere.

They are the agent's: only who may replicate can use or drop them, which no tenant may. What they
keep is bounded by ``max_slot_wal_keep_size``: beyond it the server lets go of them, and of its log.
"""

from __future__ import annotations

import dataclasses

from trove.guestagent.datastores.postgresql import connection, wal

#: What the archive of the log has not got yet.
ARCHIVE = "trove_archive"
#: What the next increment of a backup is made of, where the server has none of its own.
CHAIN = "trove_chain"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """What the server keeps for a slot: its log from ``lsn`` on, None when it let go."""

    lsn: int | None


def find(session: connection.Session, name: str) -> Slot | None:
    """Return a slot, None when there is none of this name."""
    rows = session.execute(
        "SELECT restart_lsn::text, wal_status FROM pg_replication_slots WHERE slot_name = %s", name
    )
    if not rows:
        return None
    lsn, status = rows[0]
    is_kept = lsn is not None and status in ("reserved", "extended")
    # "unreserved" is about to be lost at the next checkpoint, but has all of it still
    is_kept = is_kept or (lsn is not None and status == "unreserved")
    return Slot(lsn=wal.parse(lsn) if is_kept else None)


def create(session: connection.Session, name: str, *, is_temporary: bool = False) -> None:
    """Make a slot that keeps the log from the last checkpoint on."""
    session.execute("SELECT pg_create_physical_replication_slot(%s, true, %s)", name, is_temporary)


def ensure(session: connection.Session, name: str) -> Slot:
    """Return a slot that keeps something; one that was let go is made anew."""
    found = find(session, name)
    if found is not None and found.lsn is None:
        drop(session, name)
        found = None
    if found is None:
        create(session, name)
        found = find(session, name)
        assert found is not None  # noqa: S101 (for the type checker)
    return found


def advance(session: connection.Session, name: str, lsn: int) -> None:
    """Have a slot keep the log from a position on; it never goes back."""
    found = find(session, name)
    if found is not None and found.lsn is not None and found.lsn < lsn:
        session.execute("SELECT pg_replication_slot_advance(%s, %s::pg_lsn)", name, wal.show(lsn))


def drop(session: connection.Session, name: str) -> None:
    """Drop a slot, if there is one."""
    session.execute(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s",
        name,
    )
