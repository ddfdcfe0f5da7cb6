"""What every datastore promises, asked of the real engine: one suite, a row for each of ENGINES.

What an engine can do is asked of its spec, how to speak to it of its probe: a new engine adds a row
and a probe.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
import string
import uuid

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.fixtures.engine import Guest, passable_directory
from tests.fixtures.probes import Refused
from tests.fixtures.project import entry_points
from tests.fixtures.rows import Subject, clean, subject
from tests.fixtures.waiting import wait_until
from trove.common import exception
from trove.conductor import figures
from trove.datastores import metrics
from trove.datastores import spec as datastore_spec
from trove.datastores.spec import Capability
from trove.guestagent import templates
from trove.guestagent.datastores import base
from trove.guestagent.logs import stream as streams
from trove.rpc import payloads

__all__ = ["clean", "subject"]

# -- composition -----


def test_capabilities_are_those_of_the_spec(subject: Subject) -> None:
    assert subject.guest.datastore is not None
    found, lacking = subject.guest.datastore.capabilities, subject.guest.row_engine.lacks
    assert subject.spec.capabilities - lacking <= found <= subject.spec.capabilities
    assert subject.guest.datastore.spec is subject.spec


def test_entry_point_names_the_maker(subject: Subject) -> None:
    module, _, attribute = entry_points()["trove.guestagent.datastores"][
        subject.guest.manager
    ].partition(":")
    maker = subject.guest.row_engine.maker
    assert (maker.__module__, maker.__name__) == (module, attribute)


def test_absent_parts_say_that_they_are_unsupported(subject: Subject) -> None:
    datastore = subject.guest.datastore
    assert datastore is not None
    parts = [getattr(datastore, f.name) for f in dataclasses.fields(datastore)]
    for part in parts:
        if isinstance(part, base.Unsupported):
            with pytest.raises(exception.NotImplementedByEngine, match=subject.guest.manager):
                part.anything()


def test_every_call_of_the_wire_format_has_a_handler(subject: Subject) -> None:
    assert subject.guest.agent is not None
    assert set(subject.guest.agent.manager.handlers) == set(payloads.CALLS)


def test_probe_says_what_the_spec_says(subject: Subject) -> None:
    users = {log.name for log in subject.spec.logs if log.type is datastore_spec.LogType.USER}
    assert (subject.probe.log in users) if users else (subject.probe.log is None)
    if subject.can(Capability.CONFIGURATION):
        rules = subject.spec.parameters()
        dynamic, static = subject.probe.dynamic, subject.probe.static
        assert not rules[dynamic[0]].restart_required
        assert rules[static[0]].restart_required
        for name, value in (dynamic, static):
            assert rules[name].check(value) is None


# -- lifecycle -----


def keep_a_value(subject: Subject) -> tuple[str | None, str]:
    """Have a value kept by a user; returns the database and the value."""
    database = subject.tenant_user()
    value = uuid.uuid4().hex
    with subject.login("joe", "secret", database=database) as session:
        session.write(value)
    return database, value


def read(subject: Subject, database: str | None) -> str | None:
    with subject.login("joe", "secret", database=database) as session:
        return session.read()


def test_a_later_agent_adopts_the_running_engine(clean: Subject) -> None:
    guest, kept = clean.guest, keep_a_value(clean)
    before = guest.engine()
    with clean.login("joe", "secret", database=kept[0]) as session:
        guest.stop_agent()
        assert session.read() == kept[1]
        guest.start_agent()
        guest.wait_status("HEALTHY")
        assert session.read() == kept[1]
    assert guest.engine() == before
    assert [user.name for user in clean.users()] == ["joe"]


def test_stop_start_and_restart_keep_the_data(clean: Subject) -> None:
    guest, (database, value) = clean.guest, keep_a_value(clean)
    before = guest.engine()
    assert guest.run(payloads.StopJob()).succeeded
    assert guest.engine() is None
    assert not clean.is_let_in("joe", "secret", database=database)
    guest.wait_status("SHUTDOWN")
    outcome = guest.run(payloads.StartJob())
    assert outcome.succeeded, outcome.error
    started = guest.engine()
    assert started is not None
    assert started != before
    assert read(clean, database) == value
    clean.restart()
    assert guest.engine() not in (None, started)
    assert read(clean, database) == value


def test_a_killed_engine_is_back_with_its_data(clean: Subject) -> None:
    guest, (database, value) = clean.guest, keep_a_value(clean)
    killed = guest.engine()
    assert killed is not None
    os.kill(killed.pid, 9)
    reports = len(guest.conductor.heartbeats)

    def is_back() -> bool:
        return guest.engine() not in (None, killed) and clean.is_let_in(
            "joe", "secret", database=database
        )

    wait_until(is_back, timeout_s=30, what="engine after kill -9")
    assert read(clean, database) == value
    guest.wait_status("HEALTHY")
    told = [report.message or "" for report in guest.conductor.heartbeats[reports:]]
    assert any("signal 9" in message or "memory" in message for message in told)


def test_a_damaged_template_is_said_and_nothing_is_made_of_it(subject: Subject) -> None:
    guest = subject.guest
    if guest.template is None:
        pytest.skip(f"{guest.manager} needs no template")
    with passable_directory() as directory:
        template = directory / "template"
        shutil.copytree(guest.template, template)
        victim = max(template.rglob("*"), key=lambda path: path.stat().st_size)
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 0x55
        victim.write_bytes(content)
        other = Guest(directory=directory, row=guest.row, template=template)
        try:
            other.start_agent()
            outcome = other.run(payloads.PrepareJob(**other.sizes))
            assert not outcome.succeeded
            assert "template" in str(outcome.error)
            assert other.wait_status("FAILED").message == outcome.heartbeat.message
            assert not other.layout.data_dir.exists()
        finally:
            other.destroy()


def test_template_is_left_alone_when_it_exists(subject: Subject) -> None:
    template = subject.guest.template
    if template is None:
        pytest.skip(f"{subject.guest.manager} needs no template")

    def look() -> list[tuple[pathlib.Path, int, int]]:
        paths = [template, *sorted(template.rglob("*"))]
        return [(path, path.stat().st_ino, path.stat().st_mtime_ns) for path in paths]

    before = look()
    made = templates.build(
        subject.guest.manager,
        target=template,
        user=subject.guest.row_engine.user,
        basedir=subject.guest.row_engine.find_basedir(),
    )
    assert made["version"]
    assert look() == before


# -- databases -----


def test_databases_come_back_in_order_and_pages_are_full(clean: Subject) -> None:
    clean.need(Capability.DATABASES)
    names = [n for n in clean.probe.database_names if clean.spec.check_database_name(n) is None]
    assert len(names) >= 3
    clean.create(*names)
    seen: list[str] = []
    marker = None
    while True:
        page = clean.guest.call("list_databases", payloads.Page(limit=2, marker=marker))
        seen += [database.name for database in page.databases]
        marker = page.next_marker
        if marker is None:
            break
        assert len(page.databases) == 2  # reserved ones are taken out before the page is cut
    assert seen == sorted(names, key=lambda name: name.encode())


def test_creating_databases_is_all_or_nothing(clean: Subject) -> None:
    clean.need(Capability.DATABASES)
    clean.create("there")
    with pytest.raises(exception.AlreadyExists) as caught:
        clean.create("new", "there")
    assert caught.value.kwargs == {"kind": "database", "name": "there"}
    assert clean.databases() == ["there"]


def test_missing_database_cannot_be_deleted(clean: Subject) -> None:
    clean.need(Capability.DATABASES)
    with pytest.raises(exception.DatabaseNotFound):
        clean.delete_database("nothing")


def test_a_deleted_database_is_gone_with_its_data(clean: Subject) -> None:
    clean.need(Capability.DATABASES)
    database, _ = keep_a_value(clean)
    assert database is not None
    clean.delete_database(database)
    assert clean.databases() == []
    clean.create(database)
    clean.grant("joe", database)
    assert read(clean, database) is None


def test_reserved_and_bad_database_names_are_refused_by_the_agent_too(clean: Subject) -> None:
    clean.need(Capability.DATABASES)
    reserved = sorted(clean.spec.reserved_databases)
    for name in [*reserved, *(each.upper() for each in reserved), "", "x" * 300, "a\0b"]:
        with pytest.raises(exception.GuestError):
            clean.create(name)
        with pytest.raises(exception.GuestError):
            clean.delete_database(name)
    assert clean.databases() == []


# -- users -----


def test_users_come_back_in_order_and_pages_are_full(clean: Subject) -> None:
    clean.need(Capability.USERS)
    names = [n for n in clean.probe.user_names if clean.spec.check_user_name(n) is None]
    wanted = [(name, "%") for name in names]
    if clean.can(Capability.HOSTS):
        wanted.append((names[0], "10.0.0.1"))
    assert len(wanted) >= 3
    clean.add(*(payloads.User(name=n, host=h, password="x-Word-1") for n, h in wanted))
    seen: list[tuple[str, str]] = []
    marker = None
    while True:
        page = clean.guest.call("list_users", payloads.Page(limit=2, marker=marker))
        seen += [(user.name, user.host) for user in page.users]
        assert all(user.password is None for user in page.users)
        marker = page.next_marker
        if marker is None:
            break
        assert len(page.users) == 2
    assert seen == sorted(wanted, key=lambda pair: (pair[0].encode(), pair[1].encode()))


def test_creating_users_is_all_or_nothing(clean: Subject) -> None:
    clean.need(Capability.USERS)
    clean.add(payloads.User(name="there", password="x-Word-1"))
    with pytest.raises(exception.AlreadyExists) as caught:
        clean.add(*(payloads.User(name=n, password="other") for n in ("new", "there")))
    assert caught.value.kwargs == {"kind": "user", "name": "there"}
    assert [user.name for user in clean.users()] == ["there"]
    assert not clean.is_let_in("there", "other")


def test_missing_users_are_told_apart(clean: Subject) -> None:
    clean.need(Capability.USERS)
    missing = payloads.UserRef(name="u", host="%")
    if clean.can(Capability.HOSTS):
        clean.add(payloads.User(name="u", host="10.0.0.1", password="x-Word-1"))
    requests: list[tuple[str, payloads.Payload]] = [
        ("get_user", missing),
        ("delete_user", missing),
        (
            "update_user",
            payloads.UpdateUser(user=missing, change=payloads.UserChange(new_password="y-1")),
        ),
    ]
    if clean.can(Capability.DATABASES):
        nothing = payloads.Grant(user=missing, databases=())
        requests += [("grant", nothing), ("revoke", nothing)]
    for method, request in requests:
        with pytest.raises(exception.UserNotFound) as caught:
            clean.guest.call(method, request)
        assert caught.value.kwargs == {"name": "u", "host": "%"}


def test_new_name_and_password_keep_the_grants(clean: Subject) -> None:
    clean.need(Capability.USERS)
    database = clean.tenant_user("old", "old-Word", "d_1")
    clean.change("old", new_name="new")
    assert clean.may_write("new", "old-Word", database)
    clean.change("new", new_password="new-Word")
    user = clean.get_user("new")
    assert user.databases == clean.granted(database)
    assert clean.may_write("new", "new-Word", database)
    assert not clean.is_let_in("new", "old-Word", database=database)
    assert not clean.is_let_in("old", "old-Word", database=database)
    clean.change("new", new_name="newer", new_password="newer-Word")
    assert clean.may_write("newer", "newer-Word", database)


def test_renaming_to_an_existing_user_is_refused_and_changes_nothing(clean: Subject) -> None:
    clean.need(Capability.USERS)
    database = clean.tenant_user("a", "a-Word")
    clean.tenant_user("b", "b-Word")
    with pytest.raises(exception.AlreadyExists):
        clean.change("a", new_name="b", new_password="new-Word")
    for name in ("a", "b"):
        assert clean.is_let_in(name, f"{name}-Word", database=database)


def test_a_deleted_user_is_locked_out(clean: Subject) -> None:
    clean.need(Capability.USERS)
    database = clean.tenant_user()
    assert clean.is_let_in("joe", "secret", database=database)
    clean.delete_user("joe")
    assert clean.users() == []
    assert not clean.is_let_in("joe", "secret", database=database)


def test_reserved_users_can_be_neither_seen_nor_touched(clean: Subject) -> None:
    clean.need(Capability.USERS)
    change = payloads.UserChange(new_password="x-Word-1")
    for name in sorted(clean.spec.reserved_users):
        reference = payloads.UserRef(name=name)
        requests: list[tuple[str, payloads.Payload]] = [
            ("create_users", payloads.Users(users=(payloads.User(name=name, password="x"),))),
            ("create_users", payloads.Users(users=(payloads.User(name=name.upper()),))),
            ("get_user", reference),
            ("delete_user", reference),
            ("update_user", payloads.UpdateUser(user=reference, change=change)),
        ]
        if clean.can(Capability.DATABASES):
            requests.append(("grant", payloads.Grant(user=reference, databases=())))
        for method, request in requests:
            with pytest.raises(exception.GuestError):
                clean.guest.call(method, request)
    assert clean.users() == []


def test_user_cannot_be_renamed_to_a_reserved_name(clean: Subject) -> None:
    clean.need(Capability.USERS)
    clean.add(payloads.User(name="a", password="a-Word"))
    for name in sorted(clean.spec.reserved_users):
        with pytest.raises(exception.GuestError, match="reserved"):
            clean.change("a", new_name=name)
    assert [user.name for user in clean.users()] == ["a"]


# -- grants -----


def test_grant_reaches_one_database_and_no_other(clean: Subject) -> None:
    clean.need(Capability.DATABASES, Capability.USERS)
    for granted, other in clean.probe.lookalikes:
        if any(clean.spec.check_database_name(name) for name in (granted, other)):
            continue
        clean.clean()
        clean.create(granted, other)
        clean.add(payloads.User(name="u", password="u-Word"))
        assert not clean.may_write("u", "u-Word", granted)
        clean.grant("u", granted)
        assert clean.may_write("u", "u-Word", granted)
        assert not clean.may_write("u", "u-Word", other)
        assert clean.get_user("u").databases == (granted,)
        clean.revoke("u", granted)
        assert clean.get_user("u").databases == ()
        assert not clean.may_write("u", "u-Word", granted)


def test_grant_adds_and_asks_for_existing_databases(clean: Subject) -> None:
    clean.need(Capability.DATABASES, Capability.USERS)
    clean.create("a", "b")
    clean.add(payloads.User(name="u", password="u-Word", databases=("a",)))
    clean.grant("u", "b")
    clean.grant("u", "b")
    assert clean.get_user("u").databases == ("a", "b")
    with pytest.raises(exception.DatabaseNotFound):
        clean.grant("u", "none")
    with pytest.raises(exception.DatabaseNotFound):
        clean.revoke("u", "none")
    clean.revoke("u", "a", "b")
    assert clean.get_user("u").databases == ()


# -- the superuser, and the agent's own account -----


def test_root_is_let_in_with_each_new_password_and_locked_out_again(clean: Subject) -> None:
    clean.need(Capability.ROOT)
    for password in ("first-Word", "sec'ond\\"):
        answer = clean.guest.call("enable_root", payloads.EnableRoot(password=password))
        assert answer.name == clean.spec.root_name
        with clean.login(answer.name, password) as session:
            session.try_admin()
    assert not clean.is_let_in(clean.spec.root_name, "first-Word")
    clean.guest.call("disable_root", payloads.Empty())
    clean.guest.call("disable_root", payloads.Empty())
    assert not clean.is_let_in(clean.spec.root_name, "sec'ond\\")


def test_a_user_of_the_tenants_is_no_superuser(clean: Subject) -> None:
    clean.need(Capability.USERS)
    if not clean.can(Capability.DATABASES):
        pytest.skip("who may use the keyspace of this engine may use all of it")
    database = clean.tenant_user()
    with clean.login("joe", "secret", database=database) as session, pytest.raises(Refused):
        session.try_admin()


def test_nobody_is_let_in_without_a_password(clean: Subject) -> None:
    for user in clean.probe.anonymous():
        assert not clean.is_let_in(user, ""), user


def test_root_cannot_lock_the_agent_out_for_longer_than_until_a_restart(clean: Subject) -> None:
    clean.need(Capability.ROOT)
    with clean.root() as session:
        session.attack()
    clean.restart()
    clean.guest.wait_status("HEALTHY")
    database = clean.tenant_user()
    assert clean.may_write("joe", "secret", database)
    clean.guest.call("disable_root", payloads.Empty())


# -- every name that passes the checks -----

_TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs"]) | st.sampled_from("`'\"\\%_.; -*/{}$"),
    min_size=1,
    max_size=70,
)
_NAME = st.text(string.ascii_letters + string.digits + "_-. `'\"\\%$é", min_size=1, max_size=40)


def _settings(examples: int) -> settings:
    checks = [
        HealthCheck.function_scoped_fixture,
        HealthCheck.filter_too_much,
        HealthCheck.too_slow,
        HealthCheck.nested_given,
    ]
    return settings(max_examples=examples, deadline=None, suppress_health_check=checks)


def test_every_database_name_that_passes_the_checks_works(clean: Subject) -> None:
    clean.need(Capability.DATABASES, Capability.USERS)
    spec = clean.spec

    @_settings(clean.probe.examples)
    @given(name=_TEXT | _NAME)
    def try_name(name: str) -> None:
        assume(spec.check_database_name(name) is None and not spec.is_reserved_database(name))
        user = f"u{uuid.uuid4().hex[:12]}"
        clean.create(name)
        try:
            assert name in clean.databases()
            clean.add(payloads.User(name=user, password="x-Word-1", databases=(name,)))
            try:
                assert clean.get_user(user).databases == (name,)
                assert clean.may_write(user, "x-Word-1", name)
                clean.revoke(user, name)
                assert clean.get_user(user).databases == ()
            finally:
                clean.delete_user(user)
        finally:
            clean.delete_database(name)
        assert name not in clean.databases()

    try_name()


def test_every_user_and_password_that_pass_the_checks_work(clean: Subject) -> None:
    clean.need(Capability.USERS)
    spec = clean.spec
    database = clean.tenant_user("first", "first-Word")
    clean.delete_user("first")
    databases = () if database is None else (database,)

    @_settings(clean.probe.examples)
    @given(name=_TEXT | _NAME, password=_TEXT)
    def try_names(name: str, password: str) -> None:
        assume(spec.check_user_name(name) is None and not spec.is_reserved_user(name))
        assume(len(name) <= clean.probe.longest_user_name)
        assume(spec.check_password(password) is None)
        clean.add(payloads.User(name=name, password="first-Word", databases=databases))
        try:
            clean.change(name, new_password=password)
            assert clean.is_let_in(name, password, database=database)
            assert [user.name for user in clean.users()] == [name]
            assert clean.get_user(name).databases == clean.granted(database)
        finally:
            clean.delete_user(name)

    try_names()


# -- logs -----

_SMALL = streams.Bounds(total_bytes=1024 * 1024, piece_bytes=128 * 1024)


def test_a_log_is_switched_while_the_engine_runs_and_stays_within_its_bounds(
    clean: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean.need(Capability.LOGS)
    name = clean.probe.log
    if name is None:
        pytest.skip(f"{clean.guest.manager} has no log that is switched")
    guest, database = clean.guest, clean.tenant_user()
    assert guest.datastore is not None
    logs = guest.datastore.logs
    sources = logs._sources  # type: ignore[union-attr]
    before = guest.engine()

    def show() -> payloads.Log:
        log = guest.call("show_log", payloads.LogRequest(name=name))
        assert isinstance(log, payloads.Log)
        return log

    assert show().status == "Disabled"
    monkeypatch.setitem(sources, name, dataclasses.replace(sources[name], bounds=lambda: _SMALL))
    with clean.login("joe", "secret", database=database) as session:
        guest.call("change_log", payloads.LogRequest(name=name, enable=True))

        def begun() -> bool:
            # a session may hear of it a little later
            session.provoke(name, 4096)
            return show().pending_bytes > 0

        wait_until(begun, what=f"something in the log {name}")

        def overflow() -> bool:
            session.provoke(name, _SMALL.piece_bytes)
            logs.tend()
            return show().dropped_bytes > 0

        wait_until(overflow, what="pieces that are dropped")
        assert show().pending_bytes <= _SMALL.total_bytes
        guest.call("change_log", payloads.LogRequest(name=name, disable=True))
        logs.tend()
        settled = show()
        session.provoke(name, 4096)
    assert settled.status == "Disabled"
    assert show().pending_bytes == settled.pending_bytes
    assert guest.engine() == before


def test_every_log_of_the_spec_is_listed(subject: Subject) -> None:
    subject.need(Capability.LOGS)
    logs = subject.guest.call("list_logs", payloads.Empty()).logs
    assert [(log.name, log.type) for log in logs] == [
        (log.name, log.type.value) for log in subject.spec.logs
    ]


# -- metrics -----


def test_metrics_are_in_the_vocabulary_and_counters_grow(clean: Subject) -> None:
    clean.need(Capability.METRICS)
    assert clean.guest.datastore is not None
    database = clean.tenant_user()
    figures = clean.guest.datastore.metrics
    before = figures.read()
    assert set(before) <= set(metrics.METRICS)
    assert "connections" in before
    with clean.login("joe", "secret", database=database) as session:
        for number in range(20):
            session.write(str(number))
        assert figures.read()["connections"] >= 1
    counters = [n for n in before if metrics.METRICS[n].kind is metrics.Kind.COUNTER]

    def have_grown() -> bool:
        after = figures.read()
        assert all(after[name] >= before[name] for name in counters)
        return any(after[name] >= before[name] + 20 for name in counters)

    # sessions of some engines tell what they did a moment later
    wait_until(have_grown, what="counters that grow")


def test_heartbeats_carry_figures_that_the_conductor_takes_all(clean: Subject) -> None:
    clean.need(Capability.METRICS)

    def look() -> dict[str, float] | None:
        last = clean.guest.conductor.last
        return last.metrics if last is not None and last.metrics else None

    sent = wait_until(look, timeout_s=20, what="a heartbeat with figures")
    assert sent is not None
    text, dropped = figures.pack(sent)
    assert dropped == ()
    assert json.loads(text or "") == sent


def test_statements_are_counted_without_what_is_in_them(clean: Subject) -> None:
    clean.need(Capability.QUERIES)
    database = clean.tenant_user()
    needle = f"needle{uuid.uuid4().hex}"
    with clean.login("joe", "secret", database=database) as session:
        for number in range(7):
            session.write(f"{needle}{number}")
    request = payloads.TopQueriesRequest(limit=200, order_by="calls")
    answer = clean.guest.call("top_queries", request)
    assert not any(needle in each.text for each in answer.queries)
    assert any(each.calls >= 7 and each.text for each in answer.queries)
    assert answer.since is not None
