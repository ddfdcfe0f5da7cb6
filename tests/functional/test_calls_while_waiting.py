"""No route asks another service while a client waits, but for those that are named here.

Every route of the API is asked once, as an administrator; every call of a guest agent, an image, a
compute, a volume, a secrets driver or a task manager's answer is counted. What a route may ask is
data: the short reads and changes inside a guest, and the exceptions that say why. Two requests
need the caller's own rights, which end with them, when they name something of another service:
enabling TLS with a bundle reads it from the key manager, and making an instance on a network asks
whose that is.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from tests.fixtures import api as api_fixture
from tests.functional.rbac import matrix, test_matrix
from trove.db import base, models
from trove.drivers.compute.fake import FakeCompute
from trove.drivers.volume.fake import FakeVolume

_ONE = "/instances/{instance_id}"
_MGMT = "/mgmt/instances/{instance_id}"
_GUEST = {"guest"}

#: "METHOD path" -> whom it asks. Routes that are not here ask nobody.
ASKS: dict[str, set[str]] = {
    **{route: _GUEST for route in matrix.MATRIX if f"{_ONE}/databases" in route},
    **{route: _GUEST for route in matrix.MATRIX if f"{_ONE}/users" in route},
    **{route: _GUEST for route in matrix.MATRIX if f" {_ONE}/log" in route},
    **{route: _GUEST for route in matrix.MATRIX if f" {_ONE}/modules" in route},
    # statistics that are kept nowhere but in the engine
    f"GET {_ONE}/queries": _GUEST,
    f"POST {_ONE}/root": _GUEST,
    f"DELETE {_ONE}/root": _GUEST,
    f"DELETE {_ONE}/root/delete": _GUEST,
    # operators ask how a guest is
    f"GET {_MGMT}/diagnostics": _GUEST,
    f"GET {_MGMT}/hwinfo": _GUEST,
    f"GET {_MGMT}/rpc_ping": _GUEST,
    # the driver that signs certificates knows the authority's
    "GET /certificate-authority": {"secrets"},
    # whether the image is there is asked once, when an operator names it
    "POST /mgmt/datastore-versions": {"images"},
}


class _Counter:
    """Notes whom a request asks."""

    def __init__(self, api: api_fixture.Api) -> None:
        self.asked: set[str] = set()
        for name in ("guest", "images", "compute", "volumes", "secrets", "network"):
            service = getattr(api, name)
            for method in dir(type(service)):
                if not method.startswith("_") and callable(getattr(type(service), method)):
                    self._watch(name, service, method)

    def _watch(self, name: str, service: Any, method: str) -> None:
        real = getattr(service, method)

        @functools.wraps(real)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.asked.add(name)
            return real(*args, **kwargs)

        setattr(service, method, watched)


@pytest.fixture
def api(sqlite_database: base.Database) -> Iterator[api_fixture.Api]:
    compute, volumes = FakeCompute(), FakeVolume()
    # as where looking costs a service something: what is listed comes from memory
    compute.look_interval_s = volumes.look_interval_s = 5.0
    made = api_fixture.make_api(sqlite_database, compute=compute, volumes=volumes)
    yield made
    for each in made.remembered:
        each.stop()


def test_every_route_asks_whom_it_may_and_nobody_else(api: api_fixture.Api) -> None:
    api.conf.set_override("max_instances_per_tenant", -1, group="quota")
    api.conf.set_override("max_volumes_per_tenant", -1, group="quota")
    for each in api.remembered:
        each.refresh()
    (version,) = api.add_datastore()
    asked = {}
    watched = None
    for route in [*matrix.MATRIX, *matrix.REFUSALS]:
        with api.database.writer() as session:
            # one of the routes sets a limit that the next instances would exceed
            session.execute(sa.delete(models.Quota))
            # each preparation makes one more than the last, and a project may have a few
            session.execute(sa.delete(models.BackupSchedule))
        names = test_matrix.prepare(api, version)
        watched = watched or _Counter(api)
        watched.asked.clear()
        status = test_matrix.send(api, route, names, "a")
        assert status < 500 or status == 501, route
        if watched.asked:
            asked[route] = set(watched.asked)
    assert asked == ASKS


def test_making_an_instance_on_a_network_asks_whose_that_is_and_nobody_else(
    api: api_fixture.Api,
) -> None:
    for each in api.remembered:
        each.refresh()
    (version,) = api.add_datastore()
    watched = _Counter(api)
    calls: list[str] = []
    api.network.injector.watch = calls.append
    body = {
        "name": "db",
        "flavorRef": "1",
        "volume": {"size": 1},
        "datastore": {"version": version},
    }
    nics = [{"net-id": models.new_id()}]
    api.request("POST", "/instances", {"instance": {**body, "nics": nics}}, status=200)
    assert (watched.asked, calls) == ({"network"}, ["check_nic"])
    calls.clear()
    api.request("POST", "/instances", {"instance": body}, status=200)
    assert calls == []
