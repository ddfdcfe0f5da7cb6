"""The logs of a real engine, without a broker: switched, cut, published and taken back."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fixtures.engine import Guest, mariadb_template, needs_mariadb, passable_directory
from tests.fixtures.waiting import wait_until
from trove.common import exception
from trove.guestagent.logs import part
from trove.guestagent.logs import stream as streams
from trove.guestagent.system import process
from trove.rpc import payloads
from trove.storage import base as storage
from trove.storage.filesystem import FilesystemStore

__all__ = ["mariadb_template"]

pytestmark = needs_mariadb

_CONTAINER = "database_logs"


class Instance:
    """A running instance, and the store that it publishes to."""

    def __init__(self, guest: Guest, store: FilesystemStore) -> None:
        self.guest = guest
        self.store = store

    def where(self, name: str, project: str = "p") -> payloads.LogStorage:
        return payloads.LogStorage(
            kind=self.store.kind,
            account=project,
            container=_CONTAINER,
            prefix=f"{self.guest.instance_id}/mariadb-{name}/",
            grant=dict(self.store.grant(project, container="c", prefix="p")),
        )

    def change(self, name: str, project: str = "p", **what: Any) -> payloads.Log:
        where = self.where(name, project)
        answer = self.guest.call(
            "change_log", payloads.LogRequest(name=name, storage=where, **what)
        )
        assert isinstance(answer, payloads.Log)
        return answer

    def show(self, name: str) -> payloads.Log:
        answer = self.guest.call(
            "show_log", payloads.LogRequest(name=name, storage=self.where(name))
        )
        assert isinstance(answer, payloads.Log)
        return answer

    def stream(self, name: str) -> streams.Stream:
        assert self.guest.datastore is not None
        logs = self.guest.datastore.logs
        assert isinstance(logs, part.StreamLogs)
        return logs._sources[name].stream

    def objects(self, name: str, project: str = "p") -> list[storage.StoredObject]:
        prefix = self.where(name).prefix
        return list(self.store.account(project).list(_CONTAINER, prefix=prefix))

    def published(self, name: str, project: str = "p") -> str:
        """Return everything that was published, as a client puts it together."""
        account, text = self.store.account(project), ""
        for each in sorted(self.objects(name, project), key=lambda each: each.modified):
            _, content = account.open(_CONTAINER, each.name)
            with content:
                part_text = content.read().decode()
            assert each.metadata["lines"] == str(len(part_text.splitlines()))
            text += part_text
        return text

    def say(self, *words: str) -> None:
        """Have lines in the general log, and the slow one when it is on, as a tenant does."""
        connection = self.guest.connect("tenant", "secret")
        with connection, connection.cursor() as cursor:
            cursor.execute("SET SESSION long_query_time = 0")
            for word in words:
                cursor.execute(f"SELECT '{word}'")


@pytest.fixture(scope="module")
def running(
    mariadb_template: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Instance]:
    """One instance for all tests of this module."""
    # as in an agent of its own process
    logging.getLogger("trove").setLevel(logging.INFO)
    with passable_directory() as directory:
        guest = Guest(directory=directory, template=mariadb_template)
        try:
            guest.start_agent()
            guest.prepare(users=(payloads.User(name="tenant", password="secret"),))
            yield Instance(guest, FilesystemStore(tmp_path_factory.mktemp("objects") / "o"))
        finally:
            guest.destroy()
            logging.getLogger("trove").setLevel(logging.NOTSET)


@pytest.fixture
def instance(running: Instance) -> Iterator[Instance]:
    """The instance with its logs switched off and nothing published."""
    for name in ("general", "slow_query", "audit"):
        running.change(name, disable=True, discard=True)
    for name in ("error", "guest"):
        running.change(name, discard=True)
    yield running
    if running.guest.agent is None:
        running.guest.start_agent()
        running.guest.wait_status("HEALTHY")


def test_all_logs_are_listed_with_type_and_status(instance: Instance) -> None:
    logs = {each.name: each for each in instance.guest.call("list_logs", payloads.Empty()).logs}
    assert list(logs) == ["general", "slow_query", "audit", "error", "guest"]
    assert [each.type for each in logs.values()] == ["USER", "USER", "USER", "SYS", "SYS"]
    assert [each.status for each in logs.values()][:3] == ["Disabled"] * 3
    for name in ("error", "guest"):
        assert logs[name].status == "Ready"
        assert logs[name].pending_bytes > 0
        assert logs[name].container is None


def test_log_is_enabled_written_published_and_disabled_without_a_restart(
    instance: Instance,
) -> None:
    before = instance.guest.engine()
    instance.say("said-too-early")
    shown = instance.change("general", enable=True)
    assert shown.status in ("Enabled", "Ready")
    instance.say("first-words")
    assert instance.show("general").status == "Ready"
    published = instance.change("general", publish=True)
    assert published.status in ("Published", "Partial")
    assert (published.container, published.prefix) == (
        _CONTAINER,
        instance.where("general").prefix,
    )
    assert "first-words" in instance.published("general")
    assert "said-too-early" not in instance.published("general")
    assert instance.change("general", disable=True).status == "Disabled"
    instance.say("said-too-late")
    final = instance.change("general", publish=True, disable=True)
    assert "said-too-late" not in instance.published("general")
    assert final.published_bytes == sum(
        int(each.metadata["end"]) - int(each.name.rpartition("-")[2].removesuffix(".log"))
        for each in instance.objects("general")
    )
    assert instance.guest.engine() == before


def test_slow_queries_are_published_after_publish_alone(instance: Instance) -> None:
    assert instance.change("slow_query", publish=True).status in ("Published", "Partial", "Enabled")
    instance.say("slow-words")

    def is_published() -> bool:
        # the server writes how long a statement took a moment after it has answered it
        instance.change("slow_query", publish=True)
        return "slow-words" in instance.published("slow_query")

    wait_until(is_published)


def test_every_line_comes_once_though_the_log_is_cut_and_published_in_between(
    instance: Instance,
) -> None:
    instance.change("general", enable=True)
    words = [f"word-{number:04d}-end" for number in range(120)]
    for number, word in enumerate(words):
        instance.say(word)
        if number % 20 == 7:
            with instance.stream("general").lock:
                instance.stream("general").cut()
        if number % 30 == 11:
            instance.change("general", publish=True)
    instance.change("general", disable=True)
    shown = instance.change("general", publish=True, disable=True)
    assert shown.pending_bytes == 0
    text = instance.published("general")
    assert [text.count(word) for word in words] == [1] * len(words)
    # what is published takes no room on the volume any more, but for the active file
    assert len(instance.stream("general").pieces()) <= 1


def test_errors_of_the_server_go_on_in_a_new_file_after_a_cut(instance: Instance) -> None:
    instance.change("error", publish=True)
    with instance.stream("error").lock:
        instance.stream("error").cut()
    layout = instance.guest.layout
    assert layout.log.stat().st_size < 2000
    assert instance.guest.run(payloads.RestartJob()).succeeded
    log = instance.guest.layout.log.read_text()
    assert "ready for connections" in log
    instance.change("error", publish=True)
    text = instance.published("error")
    assert text.count("ready for connections") >= 2
    assert instance.show("error").pending_bytes == 0


def test_enabled_log_is_written_after_restarts_of_engine_and_agent(instance: Instance) -> None:
    instance.change("general", enable=True)
    instance.change("general", publish=True)
    assert instance.guest.run(payloads.RestartJob()).succeeded
    instance.say("after-the-engine")
    shown = instance.show("general")
    instance.guest.stop_agent()
    instance.guest.start_agent()
    instance.guest.wait_status("HEALTHY")
    again = instance.show("general")
    assert again.status in ("Partial", "Ready")
    assert again.published_bytes == shown.published_bytes
    assert again.pending_bytes >= shown.pending_bytes
    instance.say("after-the-agent")
    instance.change("general", publish=True)
    text = instance.published("general")
    assert text.count("after-the-engine") == text.count("after-the-agent") == 1


def test_log_of_a_crashed_engine_is_published_all_the_same(instance: Instance) -> None:
    instance.change("general", enable=True)
    instance.say("before-the-crash")
    identity = instance.guest.engine()
    assert identity is not None
    process.Process(identity).signal(9)
    instance.change("general", publish=True)
    assert "before-the-crash" in instance.published("general")
    instance.change("error", publish=True)
    wait_until(lambda: instance.guest.engine() not in (None, identity))
    instance.guest.wait_status("HEALTHY")
    instance.say("after-the-crash")
    instance.change("general", publish=True)
    assert instance.published("general").count("after-the-crash") == 1


def test_log_that_fills_the_volume_is_kept_in_bounds_and_what_is_lost_is_told(
    instance: Instance,
) -> None:
    instance.change("general", enable=True)
    stream = instance.stream("general")
    bounds = streams.Bounds(total_bytes=64 * 1024, piece_bytes=8 * 1024)
    for number in range(40):
        instance.say(f"begin-{number}", *("x" * 1000 for _ in range(5)))
        with stream.lock:
            stream.tend(bounds)
            assert sum(piece.size for piece in stream.pieces()) <= bounds.total_bytes
    shown = instance.show("general")
    assert shown.status == "Rotated"
    assert shown.dropped_bytes > 100_000
    published = instance.change("general", publish=True)
    assert published.status in ("Published", "Partial")
    assert published.dropped_bytes == shown.dropped_bytes
    text = instance.published("general")
    assert "begin-39" in text
    assert "begin-0'" not in text
    first = min(instance.objects("general"), key=lambda each: each.modified)
    assert int(first.metadata["dropped"]) == shown.dropped_bytes


def test_discarding_deletes_what_is_published_and_nothing_else(instance: Instance) -> None:
    instance.change("general", enable=True)
    instance.say("to-be-discarded")
    instance.change("general", publish=True)
    instance.change("error", publish=True)
    errors = instance.objects("error")
    shown = instance.change("general", discard=True)
    assert (shown.published_bytes, shown.container, shown.prefix) == (0, None, None)
    assert instance.objects("general") == []
    assert instance.objects("error") == errors
    names = [each.name for each in instance.store.account("p").list(_CONTAINER)]
    assert not any("general" in name for name in names)
    again = instance.change("general", discard=True, publish=True)
    assert again.published_bytes > 0


def test_agent_s_own_log_is_published_to_each_who_asks(instance: Instance) -> None:
    instance.change("guest", "admins", publish=True)
    assert "the log general is" in instance.published("guest", "admins")
    assert instance.objects("guest", "p") == []
    instance.change("guest", "p", publish=True)
    assert "the log general is" in instance.published("guest", "p")
    assert instance.objects("guest", "admins")


def test_what_cannot_be_done_is_refused_with_a_reason(instance: Instance) -> None:
    for name, what, said in (
        ("nothing", {}, "not defined"),
        ("error", {"enable": True}, "always written"),
        ("guest", {"disable": True}, "always written"),
    ):
        with pytest.raises(exception.GuestError, match=said):
            instance.change(name, **what)
    with pytest.raises(exception.GuestError, match="object store"):
        instance.guest.call("change_log", payloads.LogRequest(name="error", publish=True))
    with pytest.raises(exception.GuestError, match="not defined"):
        instance.guest.call("show_log", payloads.LogRequest(name="../error"))


def test_nobody_but_the_agent_enters_its_pieces(instance: Instance) -> None:
    instance.change("general", enable=True)
    layout = instance.guest.layout
    assert layout.volume_agent_dir.stat().st_mode & 0o077 == 0
    assert layout.engine_logs_dir.stat().st_uid == layout.engine_user.uid
    secret = layout.agent_dir / "secret-of-the-agent"
    secret.write_text("s3cret\n")
    instance.change("general", disable=True)
    with instance.stream("general").lock:
        instance.stream("general").cut()
        # an engine that is taken over puts a link in the place of its log
        active = layout.engine_logs_dir / "general.log"
        active.unlink(missing_ok=True)
        active.symlink_to(secret)
        instance.stream("general").tend(streams.Bounds(total_bytes=100, piece_bytes=1))
    assert not active.is_symlink()
    instance.change("general", publish=True, disable=True)
    assert "s3cret" not in instance.published("general")


def test_published_logs_hold_no_password_that_the_agent_set(instance: Instance) -> None:
    instance.change("general", enable=True)
    instance.change("slow_query", enable=True)
    user = payloads.User(name="logged", password="s3cret-Word-of-a-user")
    instance.guest.call("create_users", payloads.Users(users=(user,)))
    instance.guest.call(
        "update_user",
        payloads.UpdateUser(
            user=payloads.UserRef(name="logged"),
            change=payloads.UserChange(new_password="s3cret-Word-that-is-new"),
        ),
    )
    instance.guest.call("enable_root", payloads.EnableRoot(password="s3cret-Word-of-root"))
    # the agent's own account is asserted at every start of the engine
    assert instance.guest.run(payloads.RestartJob()).succeeded
    instance.say("still-written")
    own = instance.guest.environment().store.password("os_admin")
    for name in ("general", "slow_query", "error", "guest"):
        instance.change(name, publish=True)
        text = instance.published(name)
        assert "s3cret-Word" not in text
        assert own not in text
    assert "still-written" in instance.published("general")
