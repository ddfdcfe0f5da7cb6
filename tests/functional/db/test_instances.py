"""Instances change by compare-and-swap, on every backend."""

import concurrent.futures
import datetime

import pytest

from tests.fixtures.database import NOW, add_instance, add_version
from trove import states
from trove.common import exception
from trove.db import base, instances, models

Task = states.TaskStatus
LATER = NOW + datetime.timedelta(seconds=5)


@pytest.fixture
def instance_id(database: base.Database) -> str:
    return add_instance(database, add_version(database))


def read(database: base.Database, instance_id: str) -> models.Instance:
    with database.reader() as session:
        instance = instances.find_instance(session, instance_id)
    assert instance is not None
    return instance


def test_new_instance_has_a_heartbeat_row_and_utc_times(
    database: base.Database, instance_id: str
) -> None:
    instance = read(database, instance_id)
    assert instance.heartbeat.service_status is states.ServiceStatus.NEW
    assert instance.heartbeat.boot == 0
    assert instance.created == NOW
    assert instance.version.datastore.name.startswith("mariadb")


def test_names_keep_characters_outside_the_basic_plane(database: base.Database) -> None:
    version = add_version(database)
    with database.writer() as session:
        instance = instances.create_instance(
            session,
            instances.NewInstance(
                id=models.new_id(),
                project_id="p",
                user_id=None,
                name="données \U0001f42c",
                datastore_version_id=version,
                flavor_id="1",
                flavor_ram_mib=1,
                key_wrapped=b"\x00\xff",
            ),
            now=NOW,
        )
    assert read(database, instance.id).name == "données \U0001f42c"


def test_a_task_changes_only_from_what_is_expected(
    database: base.Database, instance_id: str
) -> None:
    with database.writer() as session:
        assert not instances.change_task(
            session, instance_id, expect=Task.NONE, to=Task.REBOOTING, now=LATER
        )
        assert instances.change_task(
            session,
            instance_id,
            expect={Task.BUILDING, Task.REBOOTING},
            to=Task.NONE,
            now=LATER,
            server_status=states.ServerStatus.ACTIVE,
        )
    instance = read(database, instance_id)
    assert (instance.task, instance.server_status) == (Task.NONE, states.ServerStatus.ACTIVE)
    assert instance.updated == LATER


def test_a_change_outside_the_transition_table_is_refused(
    database: base.Database, instance_id: str
) -> None:
    with database.writer() as session, pytest.raises(ValueError, match="BUILDING -> REBOOTING"):
        instances.change_task(
            session, instance_id, expect=Task.BUILDING, to=Task.REBOOTING, now=LATER
        )


def test_of_many_writers_one_passes_the_gate(database: base.Database, instance_id: str) -> None:
    with database.writer() as session:
        instances.change_task(session, instance_id, expect=Task.BUILDING, to=Task.NONE, now=NOW)

    @base.retry_on_conflict
    def change(_: int) -> bool:
        with database.writer() as session:
            instances.get_instance(session, instance_id)
            return instances.change_task(
                session, instance_id, expect=Task.NONE, to=Task.REBOOTING, now=LATER
            )

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(change, range(64))) == 1


def test_deletion_happens_once_and_forgets_the_key(
    database: base.Database, instance_id: str
) -> None:
    with database.writer() as session:
        assert instances.mark_deleted(session, instance_id, now=LATER)
    with database.writer() as session:
        assert not instances.mark_deleted(session, instance_id, now=LATER)
        assert not instances.change_task(
            session, instance_id, expect=Task.NONE, to=Task.REBOOTING, now=LATER
        )
    instance = read(database, instance_id)
    assert instance.is_deleted
    assert instance.key_wrapped is None
    with database.reader() as session, pytest.raises(exception.InstanceNotFound):
        instances.get_instance(session, instance_id)


def test_a_fault_is_set_and_cleared(database: base.Database, instance_id: str) -> None:
    with database.writer() as session:
        instances.set_fault(session, instance_id, message="m", details="d", now=LATER)
    instance = read(database, instance_id)
    assert (instance.fault_message, instance.fault_details) == ("m", "d")
    assert instance.fault_created == LATER
    with database.writer() as session:
        instances.clear_fault(session, instance_id, now=LATER)
    assert read(database, instance_id).fault_created is None


def test_server_status_changes_only_for_the_server_it_was_seen_on(
    database: base.Database, instance_id: str
) -> None:
    status = states.ServerStatus
    with database.writer() as session:
        instances.set_server(session, instance_id, server_id="s1", status=status.ACTIVE, now=NOW)
        change = {"expect": status.ACTIVE, "to": status.SHUTOFF, "now": LATER}
        assert not instances.change_server_status(session, instance_id, server_id="s2", **change)
        assert not instances.change_server_status(session, instance_id, server_id=None, **change)
        assert instances.change_server_status(session, instance_id, server_id="s1", **change)
        assert not instances.change_server_status(session, instance_id, server_id="s1", **change)


def test_ports_volumes_and_addresses_are_recorded(
    database: base.Database, instance_id: str
) -> None:
    address = {"address": "127.64.0.2", "type": "private", "network": "n"}
    with database.writer() as session:
        instances.set_port(session, instance_id, port_id="p", addresses=[address], now=NOW)
        instances.set_volume(session, instance_id, volume_id="v", now=NOW)
    instance = read(database, instance_id)
    assert (instance.port_id, instance.volume_id, instance.addresses) == ("p", "v", [address])


def test_snapshots_come_in_pages_and_leave_out_the_deleted(database: base.Database) -> None:
    version = add_version(database)
    ids = sorted(add_instance(database, version) for _ in range(7))
    with database.writer() as session:
        instances.mark_deleted(session, ids[3], now=LATER)
    seen: list[str] = []
    with database.reader() as session:
        after = None
        while page := instances.list_snapshots(session, after=after, limit=2):
            seen += [snapshot.id for snapshot in page]
            after = seen[-1]
    assert seen == ids[:3] + ids[4:]
