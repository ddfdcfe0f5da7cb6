"""A real MariaDB to a real S3 and back: its agent has URLs alone that the control plane signs."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import pytest

from tests.fixtures import s3
from tests.fixtures.ceph import ceph, endpoint
from tests.fixtures.engine import Guest, guest, mariadb_template, needs_mariadb, passable_directory
from tests.fixtures.shelf import Shelf
from tests.fixtures.swift import swift
from tests.fixtures.syncing import no_syncing
from tests.fixtures.waiting import wait_until
from trove.rpc import payloads
from trove.storage import grants
from trove.storage.s3 import S3Store

__all__ = ["ceph", "endpoint", "guest", "mariadb_template", "no_syncing", "swift"]

pytestmark = needs_mariadb

ALICE = payloads.User(name="alice", password="secret", databases=("app",))
APP = payloads.Database(name="app")


@dataclasses.dataclass
class _Bucket(Shelf):
    """A bucket as a store of backups; signs what is asked for."""

    store: S3Store
    asked: list[tuple[str, ...]] = dataclasses.field(default_factory=list)

    def storage(self, prefix: str, names: Sequence[str] = ()) -> payloads.ObjectStorage:
        return grants.make(self.store, "p", container="b", prefix=f"{prefix}/", names=names)

    def grant(self, request: payloads.GrantRequest) -> payloads.GrantAnswer:
        self.asked.append(request.names)
        prefix = str(request.backup_id or request.epoch)
        return payloads.GrantAnswer(storage=self.storage(prefix, request.names))

    def names(self, prefix: str) -> list[str]:
        return [each.name for each in self.store.account("p").list("b", prefix=f"{prefix}/")]


def _run(guest: Guest, job: Any) -> dict[str, Any]:
    outcome = guest.run(job)
    assert outcome.succeeded, outcome.error
    return outcome.result


def _execute(guest: Guest, *statements: str) -> list[Any]:
    with guest.connect("alice", str(ALICE.password), database="app") as connection:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        connection.commit()
        return [value for (value,) in cursor.fetchall()]


def test_database_goes_there_and_comes_back_with_its_log(
    guest: Guest,
    mariadb_template: pathlib.Path,
    endpoint: s3.Endpoint,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bucket = _Bucket(tmp_path, s3.make_store(endpoint, tmp_path))
    monkeypatch.setattr(guest.conductor, "grant", bucket.grant)
    guest.start_agent()
    guest.prepare(databases=(APP,), users=(ALICE,))
    _execute(guest, "CREATE TABLE t (value INT)", "INSERT INTO t VALUES (1)")
    _run(guest, payloads.ArchiveJob(archive=bucket.log("e"), interval_s=0.3))
    full = bucket.stored("b", _run(guest, bucket.job("b")))
    assert bucket.names("b")[-1] == "b/manifest.json"
    _execute(guest, "INSERT INTO t VALUES (2)")

    def is_archived() -> bool:
        state = guest.conductor.last.archive if guest.conductor.last else None
        return state is not None and state.sequence > 0 and state.pending_bytes == 0

    wait_until(is_archived, what="the log to be archived")
    with passable_directory() as directory:
        other = Guest(directory=directory, template=mariadb_template)
        monkeypatch.setattr(other.conductor, "grant", bucket.grant)
        try:
            other.start_agent()
            other.prepare(restoration=payloads.Restoration(chain=(full,), archive=bucket.log("e")))
            other.wait_status("HEALTHY")
            assert _execute(other, "SELECT value FROM t ORDER BY value") == [1, 2]
        finally:
            other.destroy()
    # what was stored and read was asked for by its names, and some that follow
    assert ("manifest.json",) in bucket.asked
    assert ("000000000000", "000000000001", "000000000002", "000000000003") in bucket.asked
