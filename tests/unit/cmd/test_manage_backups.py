"""trove-manage backup: from storage alone, on a real database and a directory of objects."""

from __future__ import annotations

import datetime
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fixtures import backups as agent
from tests.fixtures.database import add_version, new_backup, sqlite_copy
from trove import states
from trove.cmd import manage, manage_backups
from trove.cmd import manage_output as output
from trove.common import concurrency, crypto
from trove.db import backups, base, models, verifier_hosts
from trove.storage import filesystem

KEY = crypto.encode_key(b"k" * 32)
BOX = ("--project", "p1", "--container", "box")


@pytest.fixture
def database(sqlite_template: pathlib.Path, tmp_path: pathlib.Path) -> Iterator[base.Database]:
    made = sqlite_copy(sqlite_template, tmp_path)
    yield made
    made.dispose()


@pytest.fixture
def objects(tmp_path: pathlib.Path) -> filesystem.FilesystemStore:
    return filesystem.FilesystemStore(tmp_path / "objects")


@pytest.fixture
def run(
    database: base.Database, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, Any, str]]:
    config = tmp_path / "trove.conf"
    config.write_text(
        f"[database]\nconnection = {database.engine.url}\n"
        f"[guest]\nkey_encryption_keys = {KEY}\n"
        f"[storage]\ndriver = filesystem\nfilesystem_directory = {tmp_path}/objects\n"
    )

    def run(*args: str) -> tuple[int, Any, str]:
        code = manage.main(["--config-file", str(config), "backup", *args, "--json"])
        said = capsys.readouterr()
        return code, json.loads(said.out) if said.out else None, said.err

    return run


def keep(objects: filesystem.FilesystemStore, **options: Any) -> agent.Stored:
    ring = crypto.KeyRing.from_config([KEY])
    return agent.keep(objects, ring, account="p1", container="box", **options)


def test_a_service_that_was_lost_finds_its_backups_in_storage(
    run: Callable[..., tuple[int, Any, str]],
    database: base.Database,
    objects: filesystem.FilesystemStore,
) -> None:
    add_version(database, manager="mysql", version="10.11")
    version_id = add_version(database)
    about = {"version_number": "10.11", "name": "nightly"}
    full = keep(objects, owner="owner", about=about)
    increments = [keep(objects, owner="owner", about=about, parent=full.id)]
    increments.append(keep(objects, owner="owner", about=about, parent=increments[0].id))
    code, rows, _ = run("import", *BOX, "--prefix", "")
    assert code == 0
    order = [row["id"] for row in rows]
    assert [each for each in order if each != full.id] == [each.id for each in increments]
    assert {(row["project"], row["name"], row["status"]) for row in rows} == {
        ("owner", "nightly", "RESTORED")
    }
    with database.reader() as session:
        found = backups.chain(session, increments[1].id)
        assert [each.datastore_version_id for each in found] == [version_id] * 3
    code, _, err = run("import", *BOX, "--prefix", full.prefix)
    assert (code, "registered already" in err) == (1, True)
    code, rows, _ = run("list", "--project", "owner")
    assert (code, {row["id"] for row in rows}) == (0, set(order))
    assert run("list", "--project", "p1")[1] == []


def test_what_cannot_be_imported_is_told(
    run: Callable[..., tuple[int, Any, str]],
    database: base.Database,
    objects: filesystem.FilesystemStore,
) -> None:
    stored = keep(objects)
    code, rows, err = run("import", *BOX, "--prefix", stored.prefix)
    assert (code, rows) == (1, [])
    assert "say which datastore version" in err
    assert run("import", *BOX, "--prefix", "nothing")[0] == 1
    version_id = add_version(database)
    code, rows, _ = run(
        *("import", *BOX, "--prefix", stored.prefix, "--datastore-version", version_id)
    )
    assert (code, [row["id"] for row in rows]) == (0, [stored.id])


def test_only_what_belongs_to_no_backup_is_left_over(
    run: Callable[..., tuple[int, Any, str]],
    database: base.Database,
    objects: filesystem.FilesystemStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version_id = add_version(database)
    unregistered = keep(objects)
    account = objects.account("p1")

    def leave(status: states.BackupStatus | None) -> str:
        new = new_backup(
            version_id,
            project_id="p1",
            account_id="p1",
            container="box",
            status=status or states.BackupStatus.FAILED,
        )
        if status is not None:
            with database.writer() as session:
                backups.create(session, new, now=concurrency.SystemClock().now())
        prefix = f"{models.new_id()}/{new.id}/"
        account.put("box", f"{prefix}{'a' * 16}/00000000", [b"x"])
        account.put("box", f"{prefix}{'a' * 16}/00000001", [b"y"])
        return prefix

    failed, nobodys = leave(states.BackupStatus.FAILED), leave(None)
    kept = leave(states.BackupStatus.COMPLETED)
    account.put("box", "notes.txt", [b"of somebody else"])
    assert run("orphans")[1] == []
    clock = concurrency.ManualClock(concurrency.SystemClock().now() + datetime.timedelta(hours=49))
    monkeypatch.setattr(manage_backups, "_CLOCK", clock)
    code, rows, _ = run("orphans")
    assert (code, {row["prefix"]: row["removed"] for row in rows}) == (0, {failed: 0, nobodys: 0})
    code, rows, _ = run("orphans", *BOX, "--delete")
    assert [row["removed"] for row in rows] == [2, 2]
    left = {each.name.rsplit("/", 2)[0] for each in account.list("box")}
    assert f"{kept}".rstrip("/") in left
    assert account.find("box", f"{unregistered.prefix}manifest.json") is not None
    assert account.find("box", "notes.txt") is not None
    assert run("orphans")[1] == []


def test_the_hosts_that_prove_backups_are_listed(
    run: Callable[..., tuple[int, Any, str]], database: base.Database, tmp_path: pathlib.Path
) -> None:
    assert run("hosts")[1] == []
    seen = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    engines = {"mysql": ["8.0.40"], "mariadb": ["10.11.6", "11.4.2"]}
    with database.writer() as session:
        verifier_hosts.report(session, "one", at_once=2, engines=engines, now=seen)
    _, rows, _ = run("hosts")
    assert rows == [
        {
            "name": "one",
            "seen": "2026-01-02T03:04:05+00:00",
            "proofs": 0,
            "at_once": 2,
            "engines": ["mariadb 10.11.6", "mariadb 11.4.2", "mysql 8.0.40"],
        }
    ]
    assert output.cell(rows[0]["engines"]) == "mariadb 10.11.6, mariadb 11.4.2, mysql 8.0.40"
