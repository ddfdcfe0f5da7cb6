"""The audit log of a real MariaDB: what is in it and what is not, switched, restarted, bounded."""

from __future__ import annotations

import contextlib
import logging
import pathlib
import signal
from collections.abc import Iterator
from typing import Any

import pymysql
import pytest

from tests.fixtures.engine import Guest, mariadb_template, needs_mariadb, passable_directory
from tests.fixtures.waiting import wait_until
from trove.common import exception
from trove.guestagent.datastores.mysql import audit
from trove.guestagent.logs import part
from trove.guestagent.logs import stream as streams
from trove.guestagent.system import process
from trove.rpc import payloads
from trove.storage.filesystem import FilesystemStore

__all__ = ["mariadb_template"]

pytestmark = needs_mariadb

_CONTAINER = "database_logs"
_LOADED = "SELECT COUNT(*) FROM information_schema.PLUGINS WHERE PLUGIN_NAME = 'SERVER_AUDIT'"
_PASSWORDS = {"tenant": "secret", "root": "s3cret-Word-of-root"}


class Instance:
    """A running instance, and the store that it publishes to."""

    def __init__(self, guest: Guest, store: FilesystemStore) -> None:
        self.guest = guest
        self.store = store

    def change(self, **what: Any) -> payloads.Log:
        where = payloads.LogStorage(
            kind=self.store.kind,
            account="p",
            container=_CONTAINER,
            prefix="i/mariadb-audit/",
            grant=dict(self.store.grant("p", container="c", prefix="p")),
        )
        request = payloads.LogRequest(name="audit", storage=where, **what)
        answer = self.guest.call("change_log", request)
        assert isinstance(answer, payloads.Log)
        return answer

    def published(self, *words: str) -> str:
        """Publish until all these words were, and return everything that was.

        The server answers a statement a moment before its line is written.
        """
        found = ""

        def look() -> bool:
            nonlocal found
            self.change(publish=True)
            found = self._read()
            return all(word in found for word in words)

        wait_until(look)
        return found

    def _read(self) -> str:
        account, text = self.store.account("p"), ""
        found = account.list(_CONTAINER, prefix="i/mariadb-audit/")
        for each in sorted(found, key=lambda each: each.modified):
            _, content = account.open(_CONTAINER, each.name)
            with content:
                text += content.read().decode()
        return text

    @property
    def stream(self) -> streams.Stream:
        assert self.guest.datastore is not None
        logs = self.guest.datastore.logs
        assert isinstance(logs, part.StreamLogs)
        return logs._sources["audit"].stream

    def run(self, *statements: str, user: str = "tenant", password: str | None = None) -> None:
        connection = self.guest.connect(user, password or _PASSWORDS[user])
        with connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def scalar(self, statement: str) -> Any:
        connection = self.guest.connect("root", _PASSWORDS["root"])
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            row = cursor.fetchone()
            return row and row[0]

    def restart(self) -> None:
        assert self.guest.run(payloads.RestartJob()).succeeded


@pytest.fixture(scope="module")
def running(
    mariadb_template: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Instance]:
    """One instance for all tests of this module."""
    logging.getLogger("trove").setLevel(logging.INFO)
    with passable_directory() as directory:
        guest = Guest(directory=directory, template=mariadb_template)
        try:
            guest.start_agent()
            tenant = payloads.User(
                name="tenant", password=_PASSWORDS["tenant"], databases=("shop",)
            )
            guest.prepare(databases=(payloads.Database(name="shop"),), users=(tenant,))
            guest.call("enable_root", payloads.EnableRoot(password=_PASSWORDS["root"]))
            yield Instance(guest, FilesystemStore(tmp_path_factory.mktemp("objects") / "o"))
        finally:
            guest.destroy()
            logging.getLogger("trove").setLevel(logging.NOTSET)


@pytest.fixture
def instance(running: Instance) -> Iterator[Instance]:
    """The instance with its audit log switched off and nothing published."""
    running.change(disable=True, discard=True)
    running.change(publish=True, disable=True)
    running.change(discard=True)
    yield running
    if running.guest.agent is None:
        running.guest.start_agent()
        running.guest.wait_status("HEALTHY")


def test_statements_that_define_and_failed_logins_are_in_it_and_nothing_of_the_agent(
    instance: Instance,
) -> None:
    before = instance.guest.engine()
    instance.run("CREATE TABLE shop.too_early (a INT)")
    assert instance.change(enable=True).status in ("Enabled", "Ready")
    assert instance.scalar(_LOADED) == 1
    instance.run("CREATE TABLE shop.ordered (a INT)", "INSERT INTO shop.ordered VALUES (4711)")
    with contextlib.suppress(pymysql.err.OperationalError):
        instance.run(user="tenant", password="wrong")
    instance.run("CREATE USER made@localhost IDENTIFIED BY 's3cret-Word-of-made'", user="root")
    user = payloads.User(name="of_the_agent", password="s3cret-Word-of-it")
    instance.guest.call("create_users", payloads.Users(users=(user,)))
    with pytest.raises(pymysql.err.OperationalError, match="SUPER"):
        instance.run("SET GLOBAL server_audit_logging = OFF")
    text = instance.published(
        "CREATE TABLE shop.ordered",
        "CREATE USER made@localhost IDENTIFIED BY *****",
        ",tenant,127.0.0.1",
        "FAILED_CONNECT",
    )
    instance.change(disable=True)
    instance.run("CREATE TABLE shop.too_late (a INT)")
    instance.change(enable=True)
    instance.run("CREATE TABLE shop.sentinel (a INT)")
    text = instance.published("shop.sentinel")
    assert text.count("FAILED_CONNECT") == 1
    for word in ("4711", "of_the_agent", "s3cret-Word", "too_early", "too_late"):
        assert word not in text, word
    assert instance.guest.engine() == before


def test_log_is_written_after_restarts_for_as_long_as_it_is_enabled(instance: Instance) -> None:
    instance.change(enable=True)
    # what is enabled is in the file alone that the server reads at its start, not in its data
    assert instance.scalar("SELECT COUNT(*) FROM mysql.plugin") == 0
    # nor does a change of the configuration wait for a restart because of it
    sizes: dict[str, Any] = dict(instance.guest.sizes)
    outcome = instance.guest.run(payloads.ConfigureJob(**sizes, overrides={"max_connections": 77}))
    assert outcome.succeeded
    assert outcome.result["restart_required"] is False
    instance.restart()
    instance.run("CREATE TABLE shop.after_restart (a INT)")
    instance.published("shop.after_restart")
    identity = instance.guest.engine()
    assert identity is not None
    instance.guest.stop_agent()
    process.Process(identity).signal(signal.SIGKILL)
    instance.guest.start_agent()
    wait_until(lambda: instance.guest.engine() not in (None, identity))
    instance.guest.wait_status("HEALTHY")
    instance.run("CREATE TABLE shop.after_crash (a INT)")
    text = instance.published("shop.after_restart", "shop.after_crash")
    assert text.count("shop.after_restart") == text.count("shop.after_crash") == 1
    with pytest.raises(pymysql.err.OperationalError, match="force_plus_permanent"):
        instance.run("UNINSTALL PLUGIN server_audit", user="root")
    instance.change(disable=True)
    instance.restart()
    assert instance.scalar(_LOADED) == 0
    instance.run("CREATE TABLE shop.not_seen (a INT)")
    assert instance.change(enable=True).status in ("Enabled", "Ready", "Partial")
    instance.run("CREATE TABLE shop.sentinel_too (a INT)")
    assert "not_seen" not in instance.published("shop.sentinel_too")


def test_superuser_who_ends_the_log_is_in_it_and_enabling_it_begins_it_again(
    instance: Instance,
) -> None:
    instance.change(enable=True)
    instance.run("SET GLOBAL server_audit_logging = OFF", user="root")
    instance.run("CREATE TABLE shop.unseen (a INT)")
    instance.run("SET GLOBAL server_audit_file_path = '/tmp/elsewhere'", user="root")
    instance.change(enable=True)
    instance.run("CREATE TABLE shop.seen (a INT)")
    text = instance.published("SET GLOBAL server_audit_logging = OFF", "shop.seen")
    assert ",root,127.0.0.1" in text
    assert "shop.unseen" not in text


def test_agent_that_ends_while_it_enables_the_log_does_so_when_it_is_back(
    instance: Instance,
) -> None:
    stream = instance.stream
    stream.record.enabled = stream.record.switching = True
    stream.save()
    instance.guest.stop_agent()
    instance.guest.start_agent()
    instance.guest.wait_status("HEALTHY")
    assert instance.guest.datastore is not None
    instance.guest.datastore.logs.tend()
    instance.run("CREATE TABLE shop.finished (a INT)")
    instance.published("shop.finished")


def test_log_is_cut_without_a_gap_and_kept_in_bounds(instance: Instance) -> None:
    instance.change(enable=True)
    stream = instance.stream
    bounds = streams.Bounds(total_bytes=16 * 1024, piece_bytes=4 * 1024)
    for number in range(13):
        # the plugin keeps the first 1024 bytes of a statement
        comment = "x" * 900
        instance.run(
            f"CREATE TABLE shop.bound_{number:02d} (a INT) COMMENT '{comment}'",
            f"DROP TABLE shop.bound_{number:02d} -- {comment}",
        )
        with stream.lock:
            stream.tend(bounds)
            assert sum(piece.size for piece in stream.pieces()) <= bounds.total_bytes
    text = instance.published("DROP TABLE shop.bound_12")
    assert instance.change().dropped_bytes > 4_000
    assert "bound_00" not in text
    first = min(number for number in range(13) if f"bound_{number:02d}" in text)
    for number in range(first + 1, 13):
        assert text.count(f"CREATE TABLE shop.bound_{number:02d} ") == 1
        assert text.count(f"DROP TABLE shop.bound_{number:02d}") == 1


def test_server_without_the_plugin_has_the_log_refused_with_the_reason(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_PLUGIN_DIRS", ("nowhere",))
    with pytest.raises(exception.GuestError, match="without its plugin server_audit"):
        instance.change(enable=True)
    assert instance.change().status == "Disabled"
    # nor does one that was enabled before keep the server from starting
    instance.stream.record.enabled = True
    instance.restart()
    assert instance.scalar(_LOADED) == 0
