"""Backups in a real Swift: agents have signed URLs alone, the control plane its own account."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import pathlib

import pytest

from tests.fixtures import backup_bad_days
from tests.fixtures import backups as agent
from tests.fixtures.control_plane import PROJECT, ControlPlane
from tests.fixtures.engine import needs_mariadb
from tests.fixtures.faulty_proxy import Fault
from tests.fixtures.swift import Swift, swift
from tests.fixtures.trials import Trials
from trove import states
from trove.common import concurrency, context
from trove.datastores import spec
from trove.db import backups, base
from trove.guestagent.system import filesystem
from trove.rpc import payloads
from trove.services.backup_orphans import BackupOrphans
from trove.services.backups import NewBackup, StoredBackup

assert swift

Status = states.BackupStatus
CALLER = context.RequestContext(project_id=PROJECT, user_id="user", overwrite=False)


def test_backups_are_made_registered_and_deleted_in_swift(
    sqlite_database: base.Database,
    swift: Swift,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = spec.registry()
    able = registry["mariadb"].capabilities | {spec.Capability.BACKUP, spec.Capability.INCREMENTS}
    monkeypatch.setitem(
        registry,  # type: ignore[arg-type]
        "mariadb",
        dataclasses.replace(registry["mariadb"], capabilities=able),
    )
    store = swift.make_store(tmp_path)
    plane = ControlPlane(sqlite_database, store=store)
    plane.conf.set_override("point_in_time", False, group="backup")
    plane.conf.set_override("verify", "none", group="backup")
    plane.guests.results[payloads.BackupJob.KIND] = agent.run
    instance_id, _ = plane.create()
    plane.settle(plane.runner())
    service = plane.backups()

    def make(**asked: str) -> backups.BackupView:
        plane.manual_clock.advance(1)
        made = service.create(CALLER, NewBackup(name="b", instance_id=instance_id, **asked))
        plane.settle(plane.runner())
        view = service.get(CALLER, made.id)
        assert view.status is Status.COMPLETED, view.fault
        return view

    full = make(container="box")
    increment = make(container="box", parent_id=full.id)
    sent = payloads.BackupJob.from_wire(plane.guests.payloads["backup"].payload)
    assert sent.parent is not None
    assert set(sent.parent.storage.grant["signatures"]) == {"GET"}
    assert set(sent.storage.grant["signatures"]) == {"GET", "PUT", "DELETE"}
    assert sent.storage.grant["prefix"] == f"{instance_id}/{increment.id}/"
    assert str(full.location).startswith(f"{swift.url}/v1/AUTH_{PROJECT}/box/{instance_id}/")
    account = store.account(PROJECT)
    assert len(account.list("box")) == 6
    # what an increment is of goes with it
    service.delete(CALLER, full.id)
    plane.settle(plane.runner())
    assert account.list("box") == []
    # registered by the URL that another service showed
    other = agent.keep(store, plane.key_ring, account=PROJECT, container="box")
    stored = StoredBackup(name="old", location=other.location, version_id=plane.version_id)
    assert service.register(CALLER, stored).id == other.id
    # left over of an attempt
    account.put("box", f"{instance_id}/{increment.id}/{'a' * 16}/00000000", [b"x"])
    tomorrow = concurrency.SystemClock().now() + datetime.timedelta(days=1)
    orphans = BackupOrphans(
        database=sqlite_database, store=store, clock=concurrency.ManualClock(tomorrow)
    )
    assert orphans.list_places() == [(PROJECT, "box")]
    (orphan,) = orphans.list_orphans(PROJECT, "box", age=datetime.timedelta(hours=1))
    assert orphans.remove(orphan) == 1
    assert [each.name.startswith(other.prefix) for each in account.list("box")] == [True] * 3


@needs_mariadb
def test_a_store_that_fails_and_clocks_that_jump_lose_nothing(
    swift: Swift, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many more: ``tools/faults/backup.py --what storage`` and ``--what clock``."""
    monkeypatch.setattr(filesystem, "sync_file_system", lambda path: None)
    trials = Trials("a few")
    with backup_bad_days.shop(swift.make_store(tmp_path), swift.url) as made:
        faults = [
            # the first pieces of the log
            Fault(method="PUT", action="swallow", name="000000000000", times=1),
            Fault(method="PUT", action="lie", name="000000000001", times=1),
            Fault(method="PUT", action=503, times=2),
            Fault(method="PUT", action="drop", times=1),
            Fault(method="GET", action=500, times=1),
        ]
        made.proxy.faults = list(faults)
        trials.run("clock", 1, functools.partial(backup_bad_days.with_jumps, made, "both"))
    trials.check()
    assert not any(each.times for each in faults)
