"""What other services are told of requests and operations, by name and with which traits."""

from typing import Any

import pytest

from tests.fixtures import api as api_fixture
from tests.fixtures import notifications as notified
from tests.fixtures.control_plane import ControlPlane
from tests.functional.flows.test_crashes import POINTS, crash_and_resume
from trove.api import method, routing
from trove.common import exception
from trove.db import base, models
from trove.rpc import payloads
from trove.taskmanager.operations import audit

BASE = {"tenant_id", "request_id", "client_ip", "server_ip", "server_type"}


@pytest.fixture
def api(sqlite_database: base.Database) -> api_fixture.Api:
    sqlite_database.notifies = True
    made = api_fixture.make_api(sqlite_database)
    made.add_datastore()
    return made


@pytest.fixture
def instance_id(api: api_fixture.Api) -> str:
    made = api.create_instance(active=True)
    engine = api.guest.engine(made)
    engine.databases["d"] = payloads.Database(name="d")
    engine.users["u", "%"] = payloads.User(name="u", password="old", databases=("d",))
    clear(api)
    return made


def clear(api: api_fixture.Api) -> None:
    with api.database.writer() as session:
        session.query(models.Notification).delete()


def told(api: api_fixture.Api) -> list[tuple[str, dict[str, Any]]]:
    """Return what was told, without the base traits, and check that those are there."""
    found = []
    for event_type, payload in notified.waiting(api.database):
        if event_type.startswith("dbaas.") and event_type != "dbaas.quota":
            assert payload.keys() >= BASE, event_type
            assert payload["tenant_id"] == api_fixture.PROJECT
            assert payload["server_type"] == "api"
            assert payload["client_ip"] == "10.0.0.9"
            payload = {key: value for key, value in payload.items() if key not in BASE}
        found.append((event_type, payload))
    return found


def send(api: api_fixture.Api, *arguments: Any, **options: Any) -> None:
    api.request(*arguments, **options, REMOTE_ADDR="10.0.0.9")


def test_nothing_is_written_when_nobody_is_to_be_told(sqlite_database: base.Database) -> None:
    api = api_fixture.make_api(sqlite_database)
    api.add_datastore()
    instance_id = api.create_instance(active=True)
    api.request("DELETE", f"/instances/{instance_id}/databases/none", status=404)
    assert notified.waiting(sqlite_database) == []


def test_a_create_is_told_of_with_what_was_asked_for(api: api_fixture.Api) -> None:
    body = {
        "instance": {
            "name": "orders",
            "flavorRef": "2",
            "volume": {"size": 3},
            "databases": [{"name": "shop"}],
            "users": [{"name": "ann", "password": "s3cret-Word"}],
        }
    }
    send(api, "POST", "/instances", body, status=200)
    (start, quota) = told(api)
    instance_id = api.get("/instances")["instances"][0]["id"]
    version = api.get("/datastores/mariadb/versions")["versions"][0]
    assert start[0] == "dbaas.instance_create.start"
    assert start[1] == {
        "instance_id": instance_id,
        "name": "orders",
        "flavor_id": "2",
        "datastore": "mariadb",
        "datastore_version": version["name"],
        "image_id": start[1]["image_id"],
        "region_name": "RegionOne",
        "volume_size": 3,
        "databases": ["shop"],
    }
    assert quota == (
        "dbaas.quota",
        {"tenant_id": api_fixture.PROJECT, "usage": {"instances": 1, "ram": 512, "volumes": 3}},
    )
    assert "s3cret-Word" not in str(told(api))


def test_a_refused_request_is_told_of_as_an_error(api: api_fixture.Api) -> None:
    body = {"instance": {"name": "big", "flavorRef": "1", "volume": {"size": 1000}}}
    send(api, "POST", "/instances", body, status=413)
    (start, error) = told(api)
    assert start == ("dbaas.instance_create.start", {"name": "big", "flavor_id": "1"})
    assert error[0] == "dbaas.instance_create.error"
    assert error[1]["exception"] == "trove.volume_too_large"
    assert "1000 GiB" in error[1]["message"]


def test_who_may_not_ask_is_not_told_of(api: api_fixture.Api, instance_id: str) -> None:
    action = f"/instances/{instance_id}/action"
    send(api, "POST", action, {"restart": {}}, roles="reader", status=403)
    send(api, "POST", f"/instances/{instance_id}/databases", {}, roles="reader", status=403)
    send(api, "POST", f"/instances/{instance_id}/databases", {}, status=400)
    assert told(api) == []


ACCOUNTS: list[tuple[str, str, Any, str, dict[str, Any], str]] = [
    (
        *("POST", "/databases", {"databases": [{"name": "x"}, {"name": "y"}]}),
        *("database_create", {"dbname": "x,y"}, "database.created"),
    ),
    (*("DELETE", "/databases/d", None), *("database_delete", {"dbname": "d"}, "database.deleted")),
    (
        *("POST", "/users", {"users": [{"name": "n", "password": "s3cret"}]}),
        *("user_create", {"username": "n"}, "user.created"),
    ),
    (
        *("PUT", "/users", {"users": [{"name": "u", "password": "s3cret"}]}),
        *("user_change_password", {"username": "u"}, "user.password.changed"),
    ),
    (
        *("PUT", "/users/u", {"user": {"password": "s3cret"}}),
        *("user_update_attributes", {"username": "u"}, "user.updated"),
    ),
    (*("DELETE", "/users/u@%25", None), *("user_delete", {"username": "u"}, "user.deleted")),
    (
        *("PUT", "/users/u/databases", {"databases": [{"name": "d"}]}),
        *("user_grant", {"username": "u", "database": "d"}, "user.access.granted"),
    ),
    (
        *("DELETE", "/users/u/databases/d", None),
        *("user_revoke", {"username": "u", "database": "d"}, "user.access.revoked"),
    ),
]


@pytest.mark.parametrize(
    ("http_method", "path", "body", "event", "traits", "feed"),
    ACCOUNTS,
    ids=lambda value: str(value)[:20],
)
def test_a_change_of_accounts_is_told_of(
    api: api_fixture.Api,
    instance_id: str,
    http_method: str,
    path: str,
    body: Any,
    event: str,
    traits: dict[str, Any],
    feed: str,
) -> None:
    send(api, http_method, f"/instances/{instance_id}{path}", body, status=202)
    expected = {"instance_id": instance_id, **traits}
    assert told(api) == [(f"dbaas.{event}.start", expected), (f"dbaas.{event}.end", expected)]
    last = api.get(f"/instances/{instance_id}/events?type={feed}")["events"][-1]
    assert last["payload"] == traits
    assert last["resource_id"] == instance_id
    assert last["request_id"]
    assert "s3cret" not in str([told(api), last])


def test_what_the_guest_refuses_is_told_of_as_an_error_and_is_no_event(
    api: api_fixture.Api, instance_id: str
) -> None:
    send(api, "DELETE", f"/instances/{instance_id}/databases/none", status=404)
    (start, error) = told(api)
    assert start[0] == "dbaas.database_delete.start"
    assert error[0] == "dbaas.database_delete.error"
    assert error[1]["exception"] == "trove.database_not_found"
    assert "none" in error[1]["message"]
    assert api.get(f"/instances/{instance_id}/events?type=database")["events"] == []


def test_an_event_of_an_administrators_change_is_in_the_instances_project(
    api: api_fixture.Api, instance_id: str
) -> None:
    path = f"/instances/{instance_id}/databases"
    body = {"databases": [{"name": "x"}]}
    api.request("POST", path, body, project="operators", roles="admin", status=202)
    assert api.get("/events?type=database")["events"][0]["payload"] == {"dbname": "x"}
    assert api.get("/events", project="operators")["events"] == []


def test_a_bug_is_told_of_without_its_details(
    api: api_fixture.Api, instance_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **options: Any) -> None:
        raise ValueError("a secret")

    monkeypatch.setattr(api.guest, "call", broken)
    send(api, "DELETE", f"/instances/{instance_id}/databases/d", status=500)
    assert told(api)[-1][1]["message"] == "An internal error happened."


def test_a_change_that_was_made_is_answered_though_it_cannot_be_told_of(
    api: api_fixture.Api, instance_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.database.notifies = False

    def down(*arguments: Any, **options: Any) -> None:
        raise base.DatabaseError(RuntimeError("down"))

    monkeypatch.setattr("trove.db.events.append", down)
    send(api, "DELETE", f"/instances/{instance_id}/databases/d", status=202)


def test_every_mutating_route_of_the_contract_names_its_event(api: api_fixture.Api) -> None:
    named = {
        route.path.partition("{project_id}")[2] + " " + route.method
        for route in routing.list_routes(api.tree)
        if _info(route).notice is not None
    }
    assert named >= {
        "/instances POST",
        "/instances/{instance_id} PUT",
        "/instances/{instance_id} PATCH",
        "/instances/{instance_id} DELETE",
        "/instances/{instance_id}/action POST",
        "/instances/{instance_id}/databases POST",
        "/instances/{instance_id}/databases/{database} DELETE",
        "/instances/{instance_id}/users POST",
        "/instances/{instance_id}/users PUT",
        "/instances/{instance_id}/users/{user} POST",
        "/instances/{instance_id}/users/{user} PUT",
        "/instances/{instance_id}/users/{user} DELETE",
        "/instances/{instance_id}/users/{user}/databases PUT",
        "/instances/{instance_id}/users/{user}/databases/{database} DELETE",
        "/instances/{instance_id}/root POST",
        "/instances/{instance_id}/root DELETE",
        "/configurations POST",
        "/configurations/{configuration_id} PUT",
        "/configurations/{configuration_id} PATCH",
        "/configurations/{configuration_id} DELETE",
        "/mgmt/instances/{instance_id}/action POST",
    }


def _info(route: routing.Route) -> method.RouteInfo:
    info: method.RouteInfo = route.handler.route
    return info


# -- operations, from beginning to end -----


@pytest.fixture
def plane(sqlite_database: base.Database) -> ControlPlane:
    sqlite_database.notifies = True
    return ControlPlane(sqlite_database)


def types(plane: ControlPlane) -> list[str]:
    return [event_type for event_type, _ in notified.waiting(plane.database)]


def test_operations_are_told_of_from_beginning_to_end(plane: ControlPlane) -> None:
    instance_id, _ = plane.create()
    plane.settle(plane.runner())
    plane.restart(instance_id)
    plane.settle(plane.runner())
    plane.delete(instance_id)
    plane.settle(plane.runner())
    assert types(plane) == [
        *("dbaas.instance_create.start", "dbaas.quota"),
        *("dbaas.instance_create.end", "trove.instance.create", "dbaas.quota"),
        *("dbaas.instance_restart.start", "dbaas.instance_restart.end"),
        *("dbaas.instance_delete.start", "dbaas.quota"),
        *("dbaas.instance_delete.end", "trove.instance.delete", "dbaas.quota"),
    ]
    told = notified.waiting(plane.database)
    assert told[2][1]["instance_id"] == instance_id
    life_cycle = told[3][1]
    assert life_cycle["state"] == "ACTIVE"
    assert (life_cycle["instance_size"], life_cycle["volume_size"]) == (256, 1)
    assert told[-1][1]["usage"] == {"instances": 0, "ram": 0, "volumes": 0}
    assert "s3" not in {str(value) for _, payload in told for value in payload.values()}


def test_a_failed_operation_is_told_of_as_an_error(plane: ControlPlane) -> None:
    plane.guests.failing["prepare"] = "no space left"
    plane.create()
    plane.settle(plane.runner())
    error = dict(notified.waiting(plane.database))["dbaas.instance_create.error"]
    assert error["exception"] == "trove.operation_failed"
    assert "no space left" in error["message"]
    assert "trove.instance.create" not in types(plane)


# -- sending -----


def test_what_waits_is_sent_in_order_and_forgotten(plane: ControlPlane) -> None:
    sender = notified.FakeNotifier()
    notified.fill(plane.database, 250)
    plane.outbox(sender).run()
    assert [message.payload["number"] for message in sender.sent] == list(range(250))
    assert len({message.message_id for message in sender.sent}) == 250
    assert notified.waiting(plane.database) == []


def test_a_broker_that_is_away_loses_nothing_and_keeps_the_order(plane: ControlPlane) -> None:
    sender = notified.FakeNotifier()
    sender.most = 120
    notified.fill(plane.database, 130)
    outbox = plane.outbox(sender)
    for _ in range(3):
        with pytest.raises(exception.MessagingUnavailable):
            outbox.run()
    assert len(notified.waiting(plane.database)) == 10
    sender.most = None
    plane.outbox(sender).run()
    assert [message.payload["number"] for message in sender.sent] == list(range(130))


def test_one_task_manager_sends_at_a_time_and_another_goes_on_after_a_crash(
    plane: ControlPlane,
) -> None:
    class Killed(BaseException):
        pass

    class Dying(notified.FakeNotifier):
        def send(self, message: Any) -> None:
            if len(self.sent) == 5:
                raise Killed
            super().send(message)

    notified.fill(plane.database, 10)
    dying, healthy = Dying(), notified.FakeNotifier()
    first, second = plane.outbox(dying), plane.outbox(healthy)
    first._settle = lambda sent: None  # type: ignore[method-assign] - as after a kill -9
    with pytest.raises(Killed):
        first.run()
    second.run()
    assert healthy.sent == []
    plane.manual_clock.advance(61)
    second.run()
    seen = [message.message_id for message in [*dying.sent, *healthy.sent]]
    # what was sent and not forgotten comes again, by the same id
    assert seen[:5] == seen[5:10]
    assert len(set(seen)) == 10


def test_the_table_is_bounded(plane: ControlPlane) -> None:
    plane.conf.set_override("max_waiting", 1000, group="notifications")
    plane.conf.set_override("exists_interval_s", 0, group="notifications")
    with plane.database.writer() as session:
        session.add_all(
            models.Notification(
                event_type=f"test.{number}", priority="info", created=plane.clock.now()
            )
            for number in range(2600)
        )
    plane.housekeeping().run()
    left = types(plane)
    assert len(left) == 1000
    assert left[-1] == "test.2599"


def test_every_instance_is_told_of_once_an_interval(plane: ControlPlane) -> None:
    made = sorted(plane.create()[0] for _ in range(3))
    plane.settle(plane.runner())
    gone = made.pop()
    plane.delete(gone)
    plane.settle(plane.runner())
    with plane.database.writer() as session:
        session.query(models.Notification).delete()
    now = plane.clock.now()
    for housekeeping in (plane.housekeeping(), plane.housekeeping()):
        housekeeping.run()
        housekeeping.run()
        plane.settle(plane.runner())
    told = notified.waiting(plane.database)
    assert {event_type for event_type, _ in told} == {"trove.instance.exists"}
    assert [payload["instance_id"] for _, payload in told] == made
    period = {payload["audit_period_ending"] for _, payload in told}
    assert len(period) == 1
    assert period.pop()[:13] == now.isoformat()[:13]
    plane.manual_clock.advance(3600)
    housekeeping.run()
    plane.settle(plane.runner())
    assert len(types(plane)) == 4


@pytest.mark.parametrize("before", POINTS)
def test_telling_of_instances_survives_a_crash(
    plane: ControlPlane, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_PAGE", 2)
    made = sorted(plane.create()[0] for _ in range(5))
    plane.settle(plane.runner())
    plane.housekeeping().run()
    crash_and_resume(plane, audit.FLOW, "tell_of_instances", before=before)
    told = [
        payload["instance_id"]
        for event_type, payload in notified.waiting(plane.database)
        if event_type == "trove.instance.exists"
    ]
    # a page may come twice, in order
    assert list(dict.fromkeys(told)) == made
    assert len(told) <= 7
