"""A backup that is a snapshot of a volume of Cinder: made below a writer, restored, outlived."""

from __future__ import annotations

from typing import Any

from tests.fixtures.on_cloud import BOOT_S, CloudService, NetworkHost
from tests.fixtures.stack import CommandFailed
from tests.fixtures.waiting import wait_until
from trove.drivers import cloud

USER, PASSWORD = "ann", "s3cret-of-ann"
#: Cinder copies a whole volume to make one of a snapshot, unless its backend can do better.
COPY_S = 600.0


def test_a_snapshot_is_made_restored_and_outlives_its_instance(
    service: CloudService, host: NetworkHost
) -> None:
    source = service.create("frozen", "--databases", "shop", "--users", f"{USER}:{PASSWORD}")
    service.wait_ready(source)

    def ask(instance_id: str, statement: str) -> str:
        shown = service.show(instance_id)
        address = next(a["address"] for a in shown["addresses"] if a["type"] == "private")
        return host.sql(str(address), USER, PASSWORD, statement).strip()

    ask(source, "CREATE TABLE shop.kept (n INT AUTO_INCREMENT PRIMARY KEY)")
    ask(source, "INSERT INTO shop.kept VALUES (1)")
    backup = str(
        service.openstack(
            *("database", "backup", "create", "snapshot", "--instance", source),
            *("--storage-driver", "cinder", "-f", "json"),
        )["id"]
    )
    # it waits where it comes in time to be held up, and is done in any case
    ask(source, "INSERT INTO shop.kept VALUES (2)")

    def find_completed() -> dict[str, Any] | None:
        seen = service.openstack("database", "backup", "show", backup, "-f", "json")
        assert seen["status"] != "FAILED", seen
        return dict(seen) if seen["status"] == "COMPLETED" else None

    wait_until(find_completed, timeout_s=120, interval_s=1, what="the snapshot")
    block_storage = service.own.block_storage
    (snapshot,) = block_storage.snapshots(name=cloud.name_of(backup))
    (volume,) = block_storage.volumes(name=cloud.name_of(source))
    assert (snapshot.volume_id, snapshot.status) == (volume.id, "available")
    ask(source, "INSERT INTO shop.kept VALUES (3)")
    assert ask(source, "SELECT COUNT(*) FROM shop.kept") == "3"

    network = service.user.network.find_network(service.settings.user_network).id
    copy = str(
        service.openstack(
            *("database", "instance", "clone", source, "thawed", "--backup", backup),
            *("--network", network, "-f", "json"),
        )["id"]
    )
    service.instances.add(copy)
    service.wait_ready(copy, timeout_s=BOOT_S + COPY_S)
    assert ask(copy, "SELECT MAX(n) FROM shop.kept") in ("1", "2")
    ask(copy, "INSERT INTO shop.kept VALUES (10)")
    service.delete(copy)

    # the volume has to stay for its snapshot, and goes with it
    service.delete(source)
    assert [each.id for each in block_storage.volumes(name=cloud.name_of(source))] == [volume.id]
    service.openstack("database", "backup", "delete", backup)

    def is_gone() -> bool:
        try:
            service.openstack("database", "backup", "show", backup)
        except CommandFailed:
            return True
        return False

    wait_until(is_gone, timeout_s=120, interval_s=1, what="no backup")
    assert not list(block_storage.snapshots(name=cloud.name_of(backup)))
    assert not list(block_storage.volumes(name=cloud.name_of(source)))
