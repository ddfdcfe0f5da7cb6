"""What every compute driver does."""

from collections.abc import Callable

import pytest

from tests.contract.conftest import Cloud
from tests.fixtures.waiting import wait_until
from trove import states
from trove.common import exception
from trove.drivers.compute.base import Flavor, ServerSpec

Status = states.ServerStatus


def wait(cloud: Cloud, is_so: Callable[[], object], *, timeout_s: float = 30) -> None:
    wait_until(is_so, timeout_s=timeout_s * cloud.patience, interval_s=0.05 * cloud.patience)


def listed(cloud: Cloud) -> list[str]:
    """Return the servers of this test; a real cloud has those of others too."""
    servers = cloud.compute.list_servers()
    return [server.id for server in servers if server.instance_id in cloud.made]


def status(cloud: Cloud, spec: ServerSpec) -> Status | None:
    server = cloud.compute.find_server(spec.instance_id)
    return None if server is None else server.status


def make(cloud: Cloud) -> ServerSpec:
    spec = cloud.new_spec()
    cloud.compute.create_server(spec)

    def is_active() -> bool:
        server = cloud.compute.find_server(spec.instance_id)
        assert server is not None
        assert server.status is not Status.ERROR, server.fault
        return server.status is Status.ACTIVE

    wait(cloud, is_active)
    return spec


def delete(cloud: Cloud, spec: ServerSpec) -> None:
    def is_gone() -> bool:
        server = cloud.compute.find_server(spec.instance_id)
        if server is not None:
            cloud.compute.delete_server(server.id)
        return cloud.compute.find_server(spec.instance_id) is None

    wait(cloud, is_gone)


def server_id(cloud: Cloud, spec: ServerSpec) -> str:
    server = cloud.compute.find_server(spec.instance_id)
    assert server is not None
    return server.id


def test_flavors_come_in_order_of_memory_and_are_found_by_id(cloud: Cloud) -> None:
    flavors = cloud.compute.list_flavors()
    assert len(flavors) >= 2
    assert [flavor.ram_mib for flavor in flavors] == sorted(flavor.ram_mib for flavor in flavors)
    assert cloud.compute.get_flavor(flavors[1].id) == flavors[1]
    with pytest.raises(exception.FlavorNotFound):
        cloud.compute.get_flavor("no such flavor")


def test_a_server_becomes_active_and_is_found_and_listed(cloud: Cloud) -> None:
    spec = make(cloud)
    found = cloud.again().compute.find_server(spec.instance_id)
    assert found is not None
    assert (found.instance_id, found.status) == (spec.instance_id, Status.ACTIVE)
    assert listed(cloud) == [found.id]
    delete(cloud, spec)


def test_an_instance_gets_one_server_however_often_it_is_asked_for(cloud: Cloud) -> None:
    spec = make(cloud)
    again = cloud.again().compute.create_server(spec)
    assert again.id == server_id(cloud, spec)
    assert len(listed(cloud)) == 1
    delete(cloud, spec)


def test_an_unknown_instance_has_no_server(cloud: Cloud) -> None:
    unknown = "00000000-0000-4000-8000-000000000000"
    assert cloud.compute.find_server(unknown) is None
    assert unknown not in {server.instance_id for server in cloud.compute.list_servers()}


def test_a_server_stops_and_starts_and_both_may_be_repeated(cloud: Cloud) -> None:
    spec = make(cloud)
    for _ in range(2):
        cloud.compute.stop_server(server_id(cloud, spec))
        wait(cloud, lambda: status(cloud, spec) is Status.SHUTOFF)
    for _ in range(2):
        cloud.compute.start_server(server_id(cloud, spec))
        wait(cloud, lambda: status(cloud, spec) is Status.ACTIVE)
    delete(cloud, spec)


def test_a_deleted_server_is_gone_and_may_be_deleted_again(cloud: Cloud) -> None:
    spec = make(cloud)
    gone_id = server_id(cloud, spec)
    delete(cloud, spec)
    assert listed(cloud) == []
    cloud.compute.delete_server(gone_id)
    cloud.again().compute.delete_server("00000000-0000-4000-8000-000000000000")


def flavor_and_status(cloud: Cloud, spec: ServerSpec) -> tuple[str | None, Status]:
    server = cloud.again().compute.find_server(spec.instance_id)
    assert server is not None
    return server.flavor_id, server.status


def resize(cloud: Cloud, spec: ServerSpec, flavor: Flavor) -> None:
    for _ in range(2):
        cloud.compute.resize_server(server_id(cloud, spec), flavor)
        wait(cloud, lambda: flavor_and_status(cloud, spec) == (flavor.id, Status.VERIFY_RESIZE))


def confirm(cloud: Cloud, spec: ServerSpec) -> None:
    for _ in range(2):
        cloud.compute.confirm_resize(server_id(cloud, spec))
    wait(cloud, lambda: status(cloud, spec) is Status.ACTIVE)


def test_a_resized_server_has_its_flavor_once_that_is_confirmed(cloud: Cloud) -> None:
    spec = make(cloud)
    small, large = cloud.compute.list_flavors()[:2]
    assert flavor_and_status(cloud, spec) == (small.id, Status.ACTIVE)
    resize(cloud, spec, large)
    confirm(cloud, spec)
    assert flavor_and_status(cloud, spec) == (large.id, Status.ACTIVE)
    # there is nothing left to take back
    cloud.compute.revert_resize(server_id(cloud, spec))
    assert flavor_and_status(cloud, spec) == (large.id, Status.ACTIVE)
    resize(cloud, spec, small)
    delete(cloud, spec)


def test_a_reverted_resize_leaves_the_old_flavor(cloud: Cloud) -> None:
    spec = make(cloud)
    small, large = cloud.compute.list_flavors()[:2]
    resize(cloud, spec, large)
    for _ in range(2):
        cloud.compute.revert_resize(server_id(cloud, spec))
        wait(cloud, lambda: flavor_and_status(cloud, spec) == (small.id, Status.ACTIVE))
    delete(cloud, spec)


def host(cloud: Cloud, spec: ServerSpec) -> str | None:
    """Return where a server is once it has arrived, with its move confirmed."""
    server = cloud.again().compute.find_server(spec.instance_id)
    assert server is not None
    if server.status is Status.VERIFY_RESIZE:
        cloud.compute.confirm_resize(server.id)
    return server.host if server.status is Status.ACTIVE else None


def test_a_server_moves_only_where_there_are_other_hosts(cloud: Cloud) -> None:
    if not cloud.has_hosts:
        pytest.skip("this cloud has one host")
    spec = make(cloud)
    before = cloud.compute.find_server(spec.instance_id)
    assert before is not None
    if cloud.compute.can_migrate:
        assert before.host is not None
        for _ in range(2):
            cloud.compute.migrate_server(before.id, None)
            wait(cloud, lambda: host(cloud, spec) not in (None, before.host))
            cloud.compute.migrate_server(before.id, before.host)
            wait(cloud, lambda: host(cloud, spec) == before.host)
            # it is there already
            cloud.compute.migrate_server(before.id, before.host)
            assert host(cloud, spec) == before.host
    else:
        with pytest.raises(exception.DriverError, match="this machine only"):
            cloud.compute.migrate_server(before.id, None)
    delete(cloud, spec)


def test_servers_of_different_instances_are_independent(cloud: Cloud) -> None:
    first, second = make(cloud), make(cloud)
    delete(cloud, first)
    assert status(cloud, second) is Status.ACTIVE
    delete(cloud, second)


def test_the_secrets_of_a_server_stay_out_of_its_repr(cloud: Cloud) -> None:
    assert "a2V5" not in repr(cloud.new_spec())
