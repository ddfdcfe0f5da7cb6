"""Hosts that prove backups tell of themselves, and have operations that nobody else runs."""

from __future__ import annotations

import datetime

from tests.fixtures.control_plane import PROJECT
from trove.db import base, models, operations, verifier_hosts

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
LATER = NOW + datetime.timedelta(minutes=1)


def test_hosts_tell_of_themselves_until_they_are_forgotten(database: base.Database) -> None:
    for moment, at_once in ((NOW, 1), (LATER, 3)):
        with database.writer() as session:
            verifier_hosts.report(
                session, "a", at_once=at_once, engines={"redis": ("7.0.15",)}, now=moment
            )
    with database.writer() as session:
        verifier_hosts.hold(session, "a")
        (found,) = verifier_hosts.list_hosts(session)
        assert (found.name, found.beats, found.seen, found.at_once) == ("a", 2, LATER, 3)
        assert found.engines == {"redis": ["7.0.15"]}
        assert verifier_hosts.forget(session, before=LATER) == 0
        assert verifier_hosts.forget(session, before=LATER + datetime.timedelta(seconds=1)) == 1
        assert verifier_hosts.list_hosts(session) == []


def test_an_operation_is_its_host_s_until_it_is_taken_from_it(database: base.Database) -> None:
    operation_id = models.new_id()

    def claim(host: str | None) -> operations.Operation | None:
        with database.writer() as session:
            return operations.claim(
                session, operation_id, owner=models.new_id(), now=LATER, lease_s=10, host=host
            )

    def due(host: str | None) -> list[str]:
        with database.reader() as session:
            found = operations.due(session, now=LATER, limit=10, host=host)
        return [each for each in found if each == operation_id]

    with database.writer() as session:
        operations.create(
            session,
            operation_id=operation_id,
            kind=operations.VERIFY_ON_HOST,
            resource_id=operation_id,
            lock_key=None,
            deadline=LATER,
            now=NOW,
            project_id=PROJECT,
        )
    assert (due(None), due("a"), claim("a")) == ([operation_id], [], None)
    claimed = claim(None)
    assert claimed is not None
    with database.writer() as session:
        assert operations.pin(session, claimed, host="a", now=LATER)
        assert operations.list_pinned(session, "a") == {operation_id}
        assert operations.list_pinning(session) == {"a"}
        operations.give_back(session, [str(claimed.owner)], now=NOW)
    assert (due(None), due("b"), due("a"), claim(None)) == ([], [], [operation_id], None)
    mine = claim("a")
    assert mine is not None
    with database.writer() as session:
        assert operations.unpin(session, "b", now=LATER) == []
        assert operations.unpin(session, "a", now=LATER) == [operation_id]
        # whoever has it keeps it until its lease has run out
        assert operations.list_pinned(session, "a") == frozenset()
    assert (due(None), claim(None)) == ([], None)
