"""Operations, progress and the events feed, through the whole application."""

import datetime
from typing import Any

import pytest
import sqlalchemy as sa

from tests.fixtures import api as api_fixture
from trove import states
from trove.db import base, events, guest_jobs, models, operations


@pytest.fixture
def api(sqlite_database: base.Database) -> api_fixture.Api:
    made = api_fixture.make_api(sqlite_database)
    made.add_datastore()
    return made


def add_operation(
    api: api_fixture.Api, instance_id: str, kind: str = "restart_instance", **values: Any
) -> str:
    with api.database.writer() as session:
        operation_id = operations.create(
            session,
            kind=kind,
            resource_id=instance_id,
            lock_key=None,
            deadline=api.clock.now(),
            now=api.clock.now(),
            project_id=api_fixture.PROJECT,
            user_id="somebody",
        )
    if values:
        update = sa.update(models.Operation).where(models.Operation.id == operation_id)
        with api.database.writer() as session:
            session.execute(update.values(**values))
    return operation_id


# -- operations -----


def test_the_operations_of_an_instance_are_listed_newest_first(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    api.clock.advance(5)
    restart = add_operation(api, instance_id)
    listed = api.get(f"/instances/{instance_id}/operations")["operations"]
    assert [each["operation"] for each in listed] == ["restart", "create"]
    assert listed[0] == {
        "id": restart,
        "operation": "restart",
        "state": "PENDING",
        "step": "restart_engine",
        "step_number": 1,
        "step_count": 2,
        "percent": 0,
        "created": "2026-05-01T12:00:05",
        "updated": "2026-05-01T12:00:05",
        "request_id": None,
    }


@pytest.mark.parametrize(("count", "pages"), [(0, [0]), (1, [1]), (2, [2]), (3, [2, 1])])
def test_operations_come_in_pages(api: api_fixture.Api, count: int, pages: list[int]) -> None:
    instance_id = api.create_instance(active=True)
    with api.database.writer() as session:
        session.execute(sa.delete(models.Operation))
    made = [add_operation(api, instance_id) for _ in range(count)]
    path, seen = f"/instances/{instance_id}/operations?limit=2", []
    sizes = []
    while path:
        answer = api.get(path)
        sizes.append(len(answer["operations"]))
        seen += [each["id"] for each in answer["operations"]]
        links = answer.get("links", [])
        assert links == answer.get("operations_links", [])
        path = links[0]["href"].partition(api_fixture.PROJECT)[2] if links else ""
    assert sizes == pages
    assert sorted(seen) == sorted(made)


def test_an_operation_is_shown_with_its_journal_and_errors_for_administrators_only(
    api: api_fixture.Api,
) -> None:
    instance_id = api.create_instance(active=True)
    one = add_operation(
        api, instance_id, state=states.OperationState.FAILED, error="It was too full."
    )
    with api.database.writer() as session:
        operations.journal(
            session,
            one,
            step="restart_engine",
            event="failed",
            message="(hex)",
            now=api.clock.now(),
        )
    path = f"/instances/{instance_id}/operations/{one}"
    shown = api.get(path)["operation"]
    assert shown["message"] == "It was too full."
    assert shown["journal"] == [
        {"step": "restart_engine", "event": "failed", "created": "2026-05-01T12:00:00"}
    ]
    assert "user_id" not in shown
    shown = api.get(path, roles="admin")["operation"]
    assert shown["journal"][0]["message"] == "(hex)"
    assert shown["user_id"] == "somebody"


def test_the_error_of_a_try_is_no_message_of_the_operation(api: api_fixture.Api) -> None:
    instance_id = api.create_instance(active=True)
    one = add_operation(api, instance_id, error="for now")
    assert "message" not in api.get(f"/instances/{instance_id}/operations/{one}")["operation"]


def test_what_is_not_an_operation_of_the_instance_is_not_found(api: api_fixture.Api) -> None:
    instance_id, other = api.create_instance(active=True), api.create_instance(active=True)
    one = add_operation(api, other)
    internal = add_operation(api, instance_id, kind="cleanup")
    base_path = f"/instances/{instance_id}/operations"
    for wrong in (one, internal, models.new_id(), "x"):
        answer = api.request("GET", f"{base_path}/{wrong}", status=404).json
        assert "cannot be found" in answer["itemNotFound"]["message"]
    assert internal not in [each["id"] for each in api.get(base_path)["operations"]]
    assert api.get(f"{base_path}/{internal}", roles="admin")["operation"]["operation"] == "cleanup"
    api.request("GET", f"{base_path}?marker={one}", status=400)
    api.request("GET", f"{base_path}?limit=-1", status=400)
    api.request("GET", base_path, project="project-b", status=404)


# -- progress -----


def progress(api: api_fixture.Api, instance_id: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = api.get(f"/instances/{instance_id}")["instance"].get("progress")
    return found


def test_progress_is_shown_only_while_an_operation_is_under_way(api: api_fixture.Api) -> None:
    instance_id = api.create_instance()
    shown = progress(api, instance_id)
    assert shown == {
        "operation_id": api.taskmanager.hints[-1],
        "operation": "create",
        "step": "create_port",
        "step_number": 1,
        "step_count": 11,
        "percent": 0,
        "since": "2026-05-01T12:00:00",
    }
    api.make_active(instance_id)
    assert progress(api, instance_id) is None
    api.request("DELETE", f"/instances/{instance_id}", status=202)
    shown = progress(api, instance_id)
    assert shown is not None
    assert shown["operation"] == "delete"


def test_progress_counts_the_job_of_the_agent_and_foretells_the_end(api: api_fixture.Api) -> None:
    others = [api.create_instance(active=True) for _ in range(3)]
    for other, seconds in zip(others, (30, 60, 600), strict=True):
        created = api.clock.now()
        with api.database.writer() as session:
            session.execute(
                sa.update(models.Operation)
                .where(models.Operation.resource_id == other)
                .values(updated=created + datetime.timedelta(seconds=seconds))
            )
    instance_id = api.create_instance()
    operation_id = api.taskmanager.hints[-1]
    with api.database.writer() as session:
        session.execute(
            sa.update(models.Operation)
            .where(models.Operation.id == operation_id)
            .values(step="prepare", progress=66)
        )
        guest_jobs.ensure(
            session,
            "job",
            instance_id=instance_id,
            operation_id=operation_id,
            kind="prepare",
            now=api.clock.now(),
        )
    api.set_heartbeat(instance_id, job_id="job", job_progress_percent=25)
    api.clock.advance(45)
    shown = progress(api, instance_id)
    assert shown is not None
    assert (shown["step_number"], shown["percent"]) == (9, 75)
    # half of such operations take up to a minute
    assert shown["estimated_end"] == "2026-05-01T12:01:00"
    api.clock.advance(45)
    shown = progress(api, instance_id)
    assert shown is not None
    # it takes longer than usual: 90 s for three quarters
    assert shown["estimated_end"] == "2026-05-01T12:02:00"
    # the job of something else does not count
    api.set_heartbeat(instance_id, job_id="another", job_progress_percent=99)
    shown = progress(api, instance_id)
    assert shown is not None
    assert shown["percent"] == 66


def test_progress_tells_what_holds_an_operation_up(api: api_fixture.Api) -> None:
    instance_id = api.create_instance()
    with api.database.writer() as session:
        session.execute(sa.update(models.Operation).values(attempts=2, error="Nova is down."))
    shown = progress(api, instance_id)
    assert shown is not None
    assert shown["message"] == "Tried again until it passes: Nova is down."


# -- events -----


def test_the_feed_tells_of_operations_from_beginning_to_end(api: api_fixture.Api) -> None:
    instance_id = api.create_instance()
    operation_id = api.taskmanager.hints[-1]
    with api.database.writer() as session:
        claimed = operations.claim(
            session, operation_id, owner="me", now=api.clock.now(), lease_s=10
        )
        assert claimed is not None
        assert operations.finish(
            session,
            claimed,
            state=states.OperationState.FAILED,
            error="no room",
            now=api.clock.now(),
        )
    answer = api.get("/events")
    assert [event["type"] for event in answer["events"]] == [
        "instance.create.accepted",
        "instance.create.failed",
    ]
    last = answer["events"][-1]
    assert last == {
        "sequence": 2,
        "type": "instance.create.failed",
        "resource_type": "instance",
        "resource_id": instance_id,
        "payload": {"operation_id": operation_id, "operation": "create", "message": "no room"},
        "request_id": answer["events"][0]["request_id"],
        "created": "2026-05-01T12:00:00",
    }
    assert "links" not in answer
    assert api.get(f"/events?marker={answer['cursor']}")["events"] == []
    assert api.get(f"/instances/{instance_id}/events")["events"] == answer["events"]
    assert api.get("/events", project="project-b")["events"] == []
    api.request("GET", f"/instances/{instance_id}/events", project="project-b", status=404)
    # an administrator of another project looks at the instance's project
    foreign = api.get(f"/instances/{instance_id}/events", project="project-b", roles="admin")
    assert [event["tenant_id"] for event in foreign["events"]] == [api_fixture.PROJECT] * 2


def test_a_refused_change_leaves_no_event(api: api_fixture.Api) -> None:
    body = {"instance": {"name": "x", "flavorRef": "1", "volume": {"size": 1000}}}
    api.request("POST", "/instances", body, status=413)
    assert api.get("/events")["events"] == []


def fill(api: api_fixture.Api, count: int) -> None:
    with api.database.writer() as session:
        for _ in range(count):
            events.append(
                session,
                api_fixture.PROJECT,
                type="instance.x",
                resource_id="r",
                now=api.clock.now(),
            )


@pytest.mark.parametrize(("count", "pages"), [(0, [0]), (1, [1]), (2, [2]), (3, [2, 1])])
def test_following_the_cursor_shows_every_event_once(
    api: api_fixture.Api, count: int, pages: list[int]
) -> None:
    fill(api, count)
    path, sizes, seen = "/events?limit=2", [], []
    while True:
        answer = api.get(path)
        sizes.append(len(answer["events"]))
        seen += [event["sequence"] for event in answer["events"]]
        path = f"/events?limit=2&marker={answer['cursor']}"
        if "links" not in answer:
            break
        (link,) = answer["links"]
        assert link["href"].endswith(path)
    assert sizes == pages
    fill(api, 1)
    seen += [event["sequence"] for event in api.get(path)["events"]]
    assert seen == list(range(1, count + 2))


def test_an_empty_page_goes_on_where_it_began(api: api_fixture.Api) -> None:
    fill(api, 3)
    answer = api.get("/events?limit=0")
    assert (answer["events"], "links" in answer) == ([], False)
    assert len(api.get(f"/events?marker={answer['cursor']}")["events"]) == 3


def test_a_cursor_older_than_what_is_kept_is_told_of_the_gap(api: api_fixture.Api) -> None:
    fill(api, 1)
    cursor = api.get("/events")["cursor"]
    fill(api, 2)
    assert "gap" not in api.get(f"/events?marker={cursor}")
    with api.database.writer() as session:
        events.prune(session, before=api.clock.now() + datetime.timedelta(1), limit=2)
    answer = api.get(f"/events?marker={cursor}")
    assert answer["gap"] is True
    assert [event["sequence"] for event in answer["events"]] == [3]
    assert "gap" not in api.get(f"/events?marker={answer['cursor']}")


def test_events_are_filtered(api: api_fixture.Api) -> None:
    one = api.create_instance()
    api.clock.advance(60)
    two = api.create_instance()
    for query, expected in [
        (f"resource_id={one}", [one]),
        (f"instance_id={two}", [two]),
        ("type=instance.create", [one, two]),
        ("type=instance.crea", []),
        ("type=%25", []),
        ("since=2026-05-01T12:00:30", [two]),
        ("since=2026-05-01T14:00:30%2B02:00", [two]),
        ("since=2026-05-01T12:00:00Z", [one, two]),
    ]:
        found = [event["resource_id"] for event in api.get(f"/events?{query}")["events"]]
        assert found == expected, query


@pytest.mark.parametrize(
    "query",
    [
        "marker=x",
        "marker=e1.",
        "marker=e1.-1",
        "marker=e1.9999999999999999999",
        "marker=e1.%D9%A3",
        "since=yesterday",
        "since=0001-01-01T00:00:00%2B14:00",
        "limit=x",
    ],
)
def test_what_makes_no_sense_is_refused_in_words(api: api_fixture.Api, query: str) -> None:
    assert api.request("GET", f"/events?{query}", status=400).json["badRequest"]["message"]
