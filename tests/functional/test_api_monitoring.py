"""Figures and statistics of statements over REST."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from tests.fixtures import api as api_fixture
from trove import states
from trove.datastores import mariadb, spec
from trove.db import base
from trove.rpc import payloads

_OTHER = {"project": "project-b"}

SLOW = payloads.TopQuery(
    text="SELECT SLEEP(?)",
    database="app",
    calls=2,
    total_seconds=8.0,
    mean_seconds=4.0,
    max_seconds=5.0,
    rows=2,
)
BUSY = payloads.TopQuery(text="SELECT ?", calls=100, total_seconds=1.0, max_seconds=0.1, rows=100)


@pytest.fixture
def api(sqlite_database: base.Database) -> api_fixture.Api:
    made = api_fixture.make_api(sqlite_database)
    made.add_datastore()
    return made


@pytest.fixture
def path(api: api_fixture.Api) -> str:
    return f"/instances/{api.create_instance(active=True)}"


def _without(monkeypatch: pytest.MonkeyPatch, capability: spec.Capability) -> None:
    capabilities = mariadb.SPEC.capabilities - {capability}
    monkeypatch.setattr(type(mariadb.SPEC), "capabilities", capabilities, raising=False)


def test_figures_are_those_of_the_last_report_and_nobody_is_asked(
    api: api_fixture.Api, path: str
) -> None:
    instance_id = path.rpartition("/")[2]
    figures = '{"uptime_seconds": 61.5, "connections": 3}'
    api.set_heartbeat(instance_id, boot=1, metrics=figures)
    shown = api.get(f"{path}/metrics")
    assert shown == {
        "metrics": {
            "reported": "2026-05-01T12:00:00",
            "service_status": "HEALTHY",
            "disk_used_bytes": 2**29,
            "disk_total_bytes": 2**30,
            "figures": {"connections": 3, "uptime_seconds": 61.5},
        }
    }
    # an agent that is silent has said what it said, and when
    api.clock.advance(86400)
    assert api.get(f"{path}/metrics") == shown
    assert api.guest.calls == []


def test_figures_cost_few_statements(api: api_fixture.Api, path: str) -> None:
    api.get(f"{path}/metrics")
    statements: list[str] = []
    with api.database.reader() as session:
        engine = session.get_bind()
    sa.event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    api.get(f"{path}/metrics")
    assert 1 <= len([text for text in statements if text.startswith("SELECT")]) <= 2


def test_an_instance_that_never_reported_has_no_figures(api: api_fixture.Api) -> None:
    shown = api.get(f"/instances/{api.create_instance()}/metrics")["metrics"]
    assert (shown["reported"], shown["figures"], shown["disk_used_bytes"]) == (None, {}, None)


def test_statements_are_in_the_order_that_is_asked_for(api: api_fixture.Api, path: str) -> None:
    api.guest.engine(path.rpartition("/")[2]).queries = [BUSY, SLOW]
    answer = api.get(f"{path}/queries")
    assert answer["since"] == "2026-05-01T11:00:00"
    assert answer["queries"] == [
        {
            "text": "SELECT SLEEP(?)",
            "database": "app",
            "user": None,
            "calls": 2,
            "rows": 2,
            "total_seconds": 8.0,
            "mean_seconds": 4.0,
            "max_seconds": 5.0,
        },
        {
            "text": "SELECT ?",
            "database": None,
            "user": None,
            "calls": 100,
            "rows": 100,
            "total_seconds": 1.0,
            "mean_seconds": 0.0,
            "max_seconds": 0.1,
        },
    ]
    for order in ("calls", "rows"):
        found = api.get(f"{path}/queries?order_by={order}")["queries"]
        assert [each["text"] for each in found] == ["SELECT ?", "SELECT SLEEP(?)"]
    assert len(api.get(f"{path}/queries?limit=1")["queries"]) == 1
    assert api.get(f"{path}/queries?limit=0")["queries"] == []


@pytest.mark.parametrize("query", ["order_by=text", "order_by=1%3BDROP", "limit=-1", "limit=many"])
def test_what_makes_no_sense_never_reaches_the_guest(
    api: api_fixture.Api, path: str, query: str
) -> None:
    api.request("GET", f"{path}/queries?{query}", status=400)
    assert api.guest.calls == []


def test_the_guest_must_be_there_and_its_engine_run(api: api_fixture.Api, path: str) -> None:
    instance_id = path.rpartition("/")[2]
    api.guest.failing[instance_id] = "this database was started without statistics"
    answer = api.request("GET", f"{path}/queries", status=400)
    assert "without statistics" in answer.json["badRequest"]["message"]
    del api.guest.failing[instance_id]
    api.guest.silent.add(instance_id)
    api.request("GET", f"{path}/queries", status=504)
    api.set_heartbeat(instance_id, service_status=states.ServiceStatus.CRASHED)
    api.request("GET", f"{path}/queries", status=422)


def test_what_a_guest_says_of_the_time_is_a_time_or_nothing(
    api: api_fixture.Api, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for said, shown in [
        ("2026-05-01T13:30:00+02:00", "2026-05-01T11:30:00"),
        ("2026-05-01 11:30:00", "2026-05-01T11:30:00"),
        ("<script>", None),
        (None, None),
    ]:
        answer = payloads.TopQueries(since=said)
        monkeypatch.setattr(api.guest, "call", lambda *_, answer=answer, **__: answer)
        assert api.get(f"{path}/queries")["since"] == shown


def test_other_projects_have_no_such_instance(api: api_fixture.Api, path: str) -> None:
    for what in ("metrics", "queries"):
        api.request("GET", f"{path}/{what}", status=404, **_OTHER)
        api.request("POST", f"{path}/{what}", {}, status=405)


@pytest.mark.parametrize(
    ("what", "capability"),
    [("metrics", spec.Capability.METRICS), ("queries", spec.Capability.QUERIES)],
)
def test_a_datastore_without_them_says_so(
    api: api_fixture.Api,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    capability: spec.Capability,
) -> None:
    _without(monkeypatch, capability)
    answer = api.request("GET", f"{path}/{what}", status=501)
    assert "mariadb" in answer.json["notImplemented"]["message"]
    assert api.guest.calls == []
