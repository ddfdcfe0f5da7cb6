"""Backups of an instance on a real cloud: made, proven, restored, removed, and who knows what."""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fixtures import guest_search
from tests.fixtures.on_cloud import BOOT_S, GRANT_S, CloudService, NetworkHost
from tests.fixtures.stack import CommandFailed
from tests.fixtures.waiting import wait_until

USER, PASSWORD = "ann", "s3cret-of-ann"
CONTAINER = "database_backups"
#: An emulated server is slow at this: a second engine, and all that is read and sealed.
WORK_S = 600.0
#: More than the log of an instance is behind, and what an emulated server adds.
SHIPPED_S = 180.0


@dataclasses.dataclass
class Backed:
    """An instance with backups, in the order in which they were made."""

    service: CloudService
    host: NetworkHost
    id: str
    backups: list[str] = dataclasses.field(default_factory=list)

    def ask(self, statement: str, *, instance_id: str | None = None) -> str:
        """Ask the database, or that of another instance with the same users."""
        shown = self.service.show(instance_id or self.id)
        address = next(a["address"] for a in shown["addresses"] if a["type"] == "private")
        return self.host.sql(str(address), USER, PASSWORD, statement).strip()

    def words(self, *, instance_id: str | None = None) -> list[str]:
        """Return what is in the table."""
        return self.ask("SELECT word FROM shop.kept ORDER BY n", instance_id=instance_id).split()

    def write(self, word: str) -> None:
        """Add a row."""
        self.ask(f"INSERT INTO shop.kept (word) VALUES ('{word}')")

    def back_up(self, name: str, *args: str) -> dict[str, Any]:
        """Make a backup as its user does; returns what is shown of it."""
        self.service.wait_operations(self.id)
        made = self.service.openstack(
            *("database", "backup", "create", name, "--instance", self.id, *args, "-f", "json")
        )
        self.backups.append(str(made["id"]))
        return self.completed(str(made["id"]))

    def completed(self, backup_id: str) -> dict[str, Any]:
        """Wait until a backup is there."""

        def look() -> dict[str, Any] | None:
            seen = self.service.openstack("database", "backup", "show", backup_id, "-f", "json")
            assert seen["status"] != "FAILED", self.proof(backup_id)
            return dict(seen) if seen["status"] == "COMPLETED" else None

        return wait_until(look, timeout_s=WORK_S, interval_s=1, what="the backup") or {}

    def proof(self, backup_id: str) -> dict[str, Any]:
        """Return what there is to say of a backup."""
        return dict(
            self.service.openstack(
                *("database", "backup", "proof", "show", backup_id, "-f", "json")
            )
        )

    def archive(self) -> dict[str, Any]:
        """Return how well the log is kept."""
        return dict(
            self.service.openstack(
                *("database", "instance", "archive", "show", self.id, "-f", "json")
            )
        )

    def wait_shipped(self, moment: datetime.datetime) -> None:
        """Wait until everything that was written before a moment is in the archive."""

        def is_there() -> bool:
            seen = self.archive()
            assert not seen["problem"], seen
            latest = seen["latest_restorable_time"]
            return latest is not None and _time(latest) >= moment

        wait_until(is_there, timeout_s=SHIPPED_S, interval_s=2, what="the log being shipped")

    def now(self) -> datetime.datetime:
        """Return the time of the server."""
        return _time(self.ask("SELECT UTC_TIMESTAMP(6)").replace(" ", "T"))

    def objects(self, prefix: str = "") -> set[str]:
        """Return the names of what is in the user's container, as Swift lists them."""
        found = self.service.user.object_store.objects(CONTAINER, prefix=f"{self.id}/{prefix}")
        return {str(item.name) for item in found}


def _time(text: str) -> datetime.datetime:
    moment = datetime.datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def made(service: CloudService, host: NetworkHost) -> Iterator[Backed]:
    """Give an instance with a row."""
    instance_id = service.create("backed", "--databases", "shop", "--users", f"{USER}:{PASSWORD}")
    service.wait_ready(instance_id)
    backed = Backed(service, host, instance_id)
    backed.ask("CREATE TABLE shop.kept (n INT AUTO_INCREMENT PRIMARY KEY, word VARCHAR(64))")
    backed.write("first")
    yield backed
    service.delete(instance_id)
    for backup_id in backed.backups:
        _remove(service, backup_id)


def _remove(service: CloudService, backup_id: str) -> None:
    try:
        service.openstack("database", "backup", "delete", backup_id)
    except CommandFailed:
        # it went with what it was built on
        return
    wait_until(
        lambda: not _is_shown(service, backup_id), timeout_s=120, interval_s=1, what="no backup"
    )


def _is_shown(service: CloudService, backup_id: str) -> bool:
    try:
        service.openstack("database", "backup", "show", backup_id)
    except CommandFailed:
        return False
    return True


@pytest.fixture
def backed(made: Backed) -> Backed:
    """Give the instance when nothing is being done to it, with a backup."""
    made.service.wait_operations(made.id, timeout_s=WORK_S)
    made.service.wait_ready(made.id)
    if not made.backups:
        made.back_up("full")
        made.service.wait_ready(made.id)
    return made


def test_a_full_backup_is_in_the_users_container(backed: Backed) -> None:
    (full,) = backed.backups
    shown = backed.proof(full)
    assert shown["type"] == "full"
    stored = {
        item.name: item.content_length
        for item in backed.service.user.object_store.objects(CONTAINER)
        if f"{backed.id}/{full}/" in item.name
    }
    manifest = f"{backed.id}/{full}/manifest.json"
    assert manifest in stored
    assert sum(stored.values()) - stored[manifest] == shown["stored_bytes"]


def test_the_log_is_shipped_while_rows_are_written(backed: Backed) -> None:
    backed.write("shipped")
    backed.wait_shipped(backed.now())
    before = backed.objects("archive/")
    assert before
    # what an instance that is only looked at has to say needs no object each time
    for number in range(3):
        backed.write(f"shipped-{number}")
    backed.wait_shipped(backed.now())
    assert backed.objects("archive/") > before


def test_an_increment_holds_what_changed_and_is_proven(backed: Backed) -> None:
    backed.write("second")
    shown = backed.back_up("more", "--incremental")
    assert shown["parent_id"] == backed.backups[0]
    proofs = [backed.proof(each) for each in backed.backups[:2]]
    assert proofs[1]["stored_bytes"] < proofs[0]["stored_bytes"]
    backed.service.wait_ready(backed.id)
    backed.service.openstack("database", "backup", "verify", backed.backups[1])
    shown = (
        wait_until(
            lambda: _settled(backed.proof(backed.backups[1])),
            timeout_s=WORK_S,
            interval_s=2,
            what="the proof",
        )
        or {}
    )
    assert shown["verification"] == "passed", shown
    assert shown["verified_at"]


def _settled(proof: dict[str, Any]) -> dict[str, Any] | None:
    return proof if proof["verification"] in ("passed", "failed") else None


def test_no_credential_is_in_the_guest(
    backed: Backed, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After backups, with the log being shipped: not on a disk, in memory, in any argument."""
    service = backed.service
    marker = f"marker-{uuid.uuid4().hex}"
    backed.write(marker)
    backed.wait_shipped(backed.now())
    guest = guest_search.find_guest(service.server(backed.id).id)
    search = guest_search.Search(
        {
            **service.secrets(),
            # what is there shows that the search finds what is there
            "marker": [marker],
            "id": [backed.id],
            "argument of the engine": [b"mariadbd\0--"],
        }
    )
    looked = {"memory": search.memory(guest)}
    looked |= {
        f"{file.parent.name}/{file.name}": search.disk(file, tmp_path) for file in guest.disks
    }
    with capsys.disabled():
        for place, found in looked.items():
            print(f"\n{place}: {found.bytes_read} bytes searched")  # noqa: T201
    controls = {"marker", "id", "argument of the engine"}
    assert looked["memory"].counts.keys() >= controls
    disks = [found for place, found in looked.items() if place != "memory"]
    assert sum(found.counts["marker"] for found in disks)
    assert sum(found.counts["id"] for found in disks)
    for place, found in looked.items():
        known = found.counts.keys() - controls
        assert not known, (place, known, found.around)
        assert not found.tokens, place
        # signatures: of its own objects alone, and soon over
        assert {which for which in found.objects if which[0] == CONTAINER} <= {
            (CONTAINER, backed.id)
        }, place
        assert all(each <= time.time() + GRANT_S for each in found.expiries), place
    assert (CONTAINER, backed.id) in looked["memory"].objects


@pytest.fixture(scope="module")
def dropped(made: Backed) -> datetime.datetime:
    """Give the moment one second before the table was dropped."""
    made.write("last")
    # the times in a log are those of whole seconds
    made.ask("DO SLEEP(3)")
    moment = made.now() - datetime.timedelta(seconds=1)
    made.ask("DROP TABLE shop.kept")
    made.wait_shipped(moment + datetime.timedelta(seconds=1))
    return moment


def test_a_dropped_table_is_had_again_in_a_new_server(
    backed: Backed, dropped: datetime.datetime
) -> None:
    service = backed.service
    with pytest.raises(CommandFailed, match="doesn't exist"):
        backed.words()
    clone = str(
        service.openstack(
            *("database", "instance", "clone", backed.id, "as-it-was"),
            *("--time", dropped.isoformat()),
            *("--network", service.user.network.find_network(service.settings.user_network).id),
            *("-f", "json"),
        )["id"]
    )
    service.instances.add(clone)
    service.wait_ready(clone, timeout_s=BOOT_S + WORK_S)
    assert service.server(clone).id != service.server(backed.id).id
    words = backed.words(instance_id=clone)
    assert (words[0], words[-1]) == ("first", "last")
    with pytest.raises(CommandFailed, match="doesn't exist"):
        backed.words()
    service.delete(clone)


def test_a_dropped_table_is_had_again_in_place(backed: Backed, dropped: datetime.datetime) -> None:
    service = backed.service
    before = service.server(backed.id).id
    service.openstack("database", "instance", "restore", backed.id, "--time", dropped.isoformat())
    service.wait_operations(backed.id, timeout_s=WORK_S)
    shown = service.wait_ready(backed.id)
    assert "fault" not in shown, shown
    assert service.server(backed.id).id == before
    words = backed.words()
    assert (words[0], words[-1]) == ("first", "last")


def test_a_deleted_backup_leaves_no_object(backed: Backed) -> None:
    """Of it and of what is built on it; so does the log that nothing needs any more."""
    service = backed.service
    full, increment = backed.backups[:2]
    service.openstack("database", "backup", "delete", full)
    wait_until(
        lambda: not (backed.objects(full) | backed.objects(increment)),
        timeout_s=120,
        interval_s=1,
        what="no objects of the backups",
    )
    wait_until(
        lambda: not (_is_shown(service, full) or _is_shown(service, increment)),
        timeout_s=60,
        interval_s=1,
        what="no backups",
    )
    wait_until(lambda: not backed.objects(), timeout_s=180, interval_s=2, what="no objects")
