"""Quotas stay exact while many work on them at once, on both backends."""

from __future__ import annotations

import concurrent.futures
import random
import threading
from collections.abc import Sequence
from typing import Any

from tests.fixtures import api as api_fixture
from tests.fixtures import control_plane, workers
from tests.fixtures.database import NOW, add_instance, add_version
from trove.db import base, instances, models, quotas
from trove.services.quotas import Quotas

PROJECT = api_fixture.PROJECT
_BODY = {"instance": {"name": "x", "flavorRef": "1", "volume": {"size": 3}}}
_THREADS = 4


def create_many(url: str, attempts: int) -> list[int]:
    """Run in a process of its own: create from several threads, each with an engine of its own."""

    def work(database: base.Database) -> list[int]:
        api = api_fixture.make_api(database, max_accepted_volume_size_gib=100)
        barrier.wait(60)
        return [api.request("POST", "/instances", _BODY).status_int for _ in range(attempts)]

    barrier = threading.Barrier(_THREADS)
    databases = [base.Database(url) for _ in range(_THREADS)]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        answers = [status for statuses in pool.map(work, databases) for status in statuses]
    for database in databases:
        database.dispose()
    return answers


def test_of_200_creates_at_once_exactly_the_limit_is_accepted(database: base.Database) -> None:
    api_fixture.make_api(database).add_datastore()
    accepted = 33
    with database.writer() as session:
        # a create takes one of the first and three of the second, which runs short
        quotas.set_limits(session, PROJECT, {"instances": 70, "volumes": 100})
    url = workers.url_of(database)
    function = "tests.functional.db.test_quota_races:create_many"
    answers = [status for many in workers.run(function, [(url, 25)] * 2) for status in many]
    assert len(answers) == 200
    assert (answers.count(200), answers.count(413)) == (accepted, 200 - accepted)
    with database.reader() as session:
        usage = quotas.get_usage(session, PROJECT)
    assert (usage["instances"], usage["volumes"]) == (accepted, 3 * accepted)
    with database.writer() as session:
        assert quotas.recount(session, PROJECT, dry_run=True) == []


def test_a_deletion_that_is_asked_for_and_driven_by_many_gives_back_once(
    database: base.Database,
) -> None:
    plane = control_plane.ControlPlane(database)
    doomed, _ = plane.create()
    plane.create()
    plane.settle(plane.runner())
    plane.delete(doomed)
    (operation,) = plane.active()

    def drive(runner: Any) -> None:
        for _ in range(30):
            runner.drive(operation.id)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(drive, [plane.runner() for _ in range(4)]))
    plane.settle(plane.runner())
    assert plane.instance(doomed).is_deleted
    assert plane.usage() == {"instances": 1, "ram": 256, "volumes": 1, "backups": 0}


class _Bustle:
    """What services and operations do to quotas, in the transactions that they do it in."""

    def __init__(self, database: base.Database, version_id: str, seed: int) -> None:
        self._database = database
        self._version_id = version_id
        self._chance = random.Random(seed)
        self._mine: list[str] = []

    def work(self, rounds: int) -> None:
        for _ in range(rounds):
            what = self._chance.choice([self._create, self._create, self._delete, self._resize])
            base.retry_on_conflict(what)()

    def _create(self) -> None:
        charge = {quotas.INSTANCES: 1, quotas.RAM: 256, quotas.VOLUMES: 1}
        instance_id = models.new_id()
        with self._database.writer() as session:
            quotas.reserve(session, "project", charge, defaults=dict.fromkeys(charge, -1))
            instances.create_instance(
                session,
                instances.NewInstance(
                    id=instance_id,
                    project_id="project",
                    user_id=None,
                    name="x",
                    datastore_version_id=self._version_id,
                    flavor_id="1",
                    flavor_ram_mib=256,
                    volume_size_gib=1,
                    key_wrapped=b"k",
                ),
                now=NOW,
            )
        self._mine.append(instance_id)

    def _delete(self) -> None:
        if not self._mine:
            return
        instance_id = self._mine[-1]
        with self._database.writer() as session:
            instance = instances.get_instance(session, instance_id)
            charged = {quotas.INSTANCES: 1, quotas.RAM: instance.flavor_ram_mib, quotas.VOLUMES: 1}
            assert instances.mark_deleted(session, instance_id, now=NOW)
            quotas.release(session, "project", charged)
        self._mine.pop()

    def _resize(self) -> None:
        if not self._mine:
            return
        operation_id = models.new_id()
        with self._database.writer() as session:
            quotas.hold(
                session,
                "project",
                {quotas.RAM: 64},
                operation_id=operation_id,
                defaults={quotas.RAM: -1},
            )
        succeeds = self._chance.random() < 0.5
        with self._database.writer() as session:
            if succeeds:
                row = session.get(models.Instance, self._mine[0])
                assert row is not None
                row.flavor_ram_mib += 64
                quotas.settle(session, operation_id)
            quotas.give_back(session, operation_id)


def test_usage_is_right_at_every_moment_that_a_resync_looks(database: base.Database) -> None:
    version_id = add_version(database)
    several = [base.Database(workers.url_of(database)) for _ in range(3)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        working = [
            pool.submit(_Bustle(each, version_id, seed).work, 30)
            for seed, each in enumerate(several)
        ]
        wrong: list[quotas.Drift] = []
        looks = 0
        while not all(future.done() for future in working) or not looks:
            wrong += recount(database)
            looks += 1
        for future in working:
            future.result()
    assert wrong == []
    assert recount(database) == []
    for each in several:
        each.dispose()


@base.retry_on_conflict
def recount(database: base.Database, *, dry_run: bool = False) -> Sequence[quotas.Drift]:
    with database.writer() as session:
        return quotas.recount(session, "project", dry_run=dry_run)


def test_a_resync_mends_what_is_wrong_and_a_dry_run_only_tells(database: base.Database) -> None:
    version_id = add_version(database)
    gone, _ = (add_instance(database, version_id) for _ in range(2))
    with database.writer() as session:
        instances.mark_deleted(session, gone, now=NOW)
        quotas.hold(session, "project", {"ram": 7}, operation_id="o", defaults={"ram": -1})
        quotas.reserve(session, "other", {"backups": 2}, defaults={"backups": -1})
    service = Quotas(conf=api_fixture.make_conf(), database=database)
    for _ in range(2):
        drifts = service.resync(dry_run=True)
        assert {(d.project_id, d.resource): (d.recorded, d.counted) for d in drifts} == {
            ("project", "instances"): (0, 1),
            ("project", "ram"): (7, 263),
            ("project", "volumes"): (0, 1),
            ("other", "backups"): (2, 0),
        }
    assert len(service.resync("project", dry_run=False)) == 3
    assert [drift.project_id for drift in service.resync(dry_run=False)] == ["other"]
    assert service.resync(dry_run=False) == []
    shown = {quota.resource: quota for quota in service.list_quotas("project")}
    assert (shown["ram"].in_use, shown["ram"].reserved) == (256, 7)
