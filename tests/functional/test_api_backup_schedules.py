"""Schedules of backups: made, shown, changed, removed, by whom they belong to."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.fixtures import api as api_fixture
from trove.datastores import mariadb, spec
from trove.db import backup_schedules, base, models

PROJECT = api_fixture.PROJECT
PATH = "/backup_schedules"


@pytest.fixture
def api(sqlite_database: base.Database, monkeypatch: pytest.MonkeyPatch) -> api_fixture.Api:
    facts = dataclasses.replace(
        mariadb.SPEC, capabilities=mariadb.SPEC.capabilities | {spec.Capability.BACKUP}
    )
    monkeypatch.setattr(spec, "_REGISTRY", {**spec.registry(), "mariadb": facts})
    api = api_fixture.make_api(sqlite_database)
    api.add_datastore()
    return api


def create(api: api_fixture.Api, status: int = 200, **values: Any) -> Any:
    options = {name: values.pop(name) for name in ("project", "roles") if name in values}
    body = {"backup_schedule": {"name": "nightly", "cron": "0 2 * * *", **values}}
    answer = api.request("POST", PATH, body, status=status, **options).json
    (content,) = answer.values()
    return content if status == 200 else content["message"]


def change(api: api_fixture.Api, schedule_id: str, status: int = 200, **values: Any) -> Any:
    body = {"backup_schedule": values}
    (content,) = api.request("PATCH", f"{PATH}/{schedule_id}", body, status=status).json.values()
    return content


def test_a_schedule_says_when_it_runs_next(api: api_fixture.Api) -> None:
    instance_id = api.create_instance()
    made = create(
        api,
        instance_id=instance_id.upper(),
        cron="30  2 * * 1-5",
        timezone="Europe/Berlin",
        window_s=600,
        full_every=7,
        retention={"daily": 7, "weekly": 4},
    )
    # 1 May 2026 is a Friday
    assert made == {
        "id": made["id"],
        "project_id": PROJECT,
        "instance_id": instance_id,
        "name": "nightly",
        "cron": "30 2 * * 1-5",
        "timezone": "Europe/Berlin",
        "window_s": 600,
        "full_every": 7,
        "retention": {"daily": 7, "weekly": 4},
        "enabled": True,
        "next_run": "2026-05-04T00:30:00",
        "last_run": None,
        "last_backup_id": None,
        "last_backup_status": None,
        "problem": None,
        "created": "2026-05-01T12:00:00",
        "updated": "2026-05-01T12:00:00",
    }
    assert api.get(f"{PATH}/{made['id']}") == {"backup_schedule": made}


def test_a_projects_default_has_no_instance_and_keeps_a_fortnight(api: api_fixture.Api) -> None:
    made = create(api)
    assert made["instance_id"] is None
    assert made["retention"] == {"count": 14}
    assert (made["timezone"], made["window_s"], made["full_every"]) == ("UTC", 3600, 1)
    assert made["next_run"] == "2026-05-02T02:00:00"
    assert create(api, name="other", instance_id=None, enabled=False)["next_run"] is None


def test_lists_are_of_a_project_and_of_an_instance_in_pages(api: api_fixture.Api) -> None:
    instance_id = api.create_instance()
    own = [create(api, name=f"s{n}", instance_id=instance_id)["id"] for n in range(3)]
    default = create(api)["id"]
    create(api, project="project-b")
    found: list[str] = []
    query = "?limit=3"
    while query:
        page = api.get(f"{PATH}{query}")
        found += [each["id"] for each in page["backup_schedules"]]
        query = f"?{page['links'][0]['href'].partition('?')[2]}" if "links" in page else ""
    assert found == sorted([*own, default])
    listed = api.get(f"{PATH}?instance_id={instance_id.upper()}")["backup_schedules"]
    assert {each["id"] for each in listed} == set(own)
    api.request("GET", f"{PATH}?project_id=project-b", status=403)
    (other,) = api.get(f"{PATH}?project_id=project-b", roles="admin")["backup_schedules"]
    assert other["project_id"] == "project-b"
    api.request("GET", f"{PATH}?limit=x", status=400)


def test_what_is_changed_runs_from_now_on(api: api_fixture.Api) -> None:
    made = create(api)
    api.clock.advance(3 * 86400)
    changed = change(api, made["id"], cron="0 4 * * *", retention={"count": 3})
    assert changed["next_run"] == "2026-05-05T04:00:00"
    assert changed["retention"] == {"count": 3}
    assert changed["updated"] == "2026-05-04T12:00:00"
    assert change(api, made["id"], enabled=False)["next_run"] is None
    assert change(api, made["id"], timezone="Asia/Tokyo")["next_run"] is None
    assert change(api, made["id"], enabled=True)["next_run"] == "2026-05-04T19:00:00"


def test_what_is_switched_off_begins_nothing_that_was_due(api: api_fixture.Api) -> None:
    made = create(api, instance_id=api.create_instance())
    now = api.clock.now()
    with api.database.writer() as session:
        run = backup_schedules.Run(
            schedule_id=made["id"],
            instance_id=made["instance_id"],
            planned=now,
            next_try=now,
            deadline=now,
        )
        backup_schedules.add_runs(session, [run])
    change(api, made["id"], name="weekly")
    change(api, made["id"], enabled=False)
    with api.database.reader() as session:
        assert not backup_schedules.list_due_runs(session, now=now, limit=10)


def test_a_schedule_is_gone_when_it_is_deleted(api: api_fixture.Api) -> None:
    path = f"{PATH}/{create(api)['id']}"
    api.request("DELETE", path, status=204)
    for method in ("GET", "DELETE"):
        api.request(method, path, status=404)
    create(api)


def test_names_are_unique_per_instance_and_there_are_ten_at_most(api: api_fixture.Api) -> None:
    first = create(api)
    assert "already exists" in create(api, status=400)
    create(api, instance_id=api.create_instance())
    for number in range(9):
        other = create(api, name=f"s{number}")
    assert "10 schedules already" in create(api, name="one more", status=400)
    assert "already exists" in change(api, other["id"], 400, name=first["name"])["message"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"cron": "every day"}, "cron"),
        ({"cron": "0 2 * * * *"}, "five fields"),
        ({"cron": "99 2 * * *"}, "Bad minute"),
        ({"cron": "0 2 30 2 *"}, "Bad day"),
        ({"cron": "* * * * *"}, "more often"),
        ({"timezone": "Nowhere"}, 'no time zone "Nowhere"'),
        ({"window_s": -1}, "window_s"),
        ({"full_every": 0}, "full_every"),
        ({"retention": {"hourly": 1}}, "retention"),
        ({"retention": {"count": -1}}, "count"),
        ({"instance_id": "x"}, "instance_id"),
        ({"owner": "x"}, "owner"),
    ],
)
def test_what_makes_no_sense_is_refused(
    api: api_fixture.Api, values: dict[str, Any], said: str
) -> None:
    assert said in create(api, status=400, **values)
    if "instance_id" not in values:
        made = create(api)
        assert said in change(api, made["id"], 400, **values)["message"]


def test_instances_and_schedules_of_others_do_not_exist(api: api_fixture.Api) -> None:
    instance_id = api.create_instance()
    create(api, status=404, instance_id=instance_id, project="project-b")
    create(api, status=404, instance_id=models.new_id())
    path = f"{PATH}/{create(api, instance_id=instance_id)['id']}"
    api.request("GET", path, project="project-b", status=404)
    # an administrator's is the instance's project's
    made = create(api, name="x", instance_id=instance_id, project="project-b", roles="admin")
    assert made["project_id"] == PROJECT


def test_an_engine_without_backups_has_no_schedules(api: api_fixture.Api) -> None:
    facts = spec.registry()["mariadb"]
    lesser = dataclasses.replace(facts, capabilities=facts.capabilities - {spec.Capability.BACKUP})
    instance_id = api.create_instance()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(spec.registry(), "mariadb", lesser)  # type: ignore[arg-type]
        assert "backup" in create(api, status=501, instance_id=instance_id)
