"""What a cloud does to the service: over quota, servers gone, APIs down, processes killed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.fixtures.on_cloud import CloudService
from tests.fixtures.waiting import wait_until


@pytest.fixture
def no_servers(service: CloudService) -> Iterator[None]:
    """Have Nova refuse every new server of the service."""
    project = service.own.current_project_id
    used = len(list(service.own.compute.servers(details=False)))
    before = service.admin.get_compute_quotas(project)["instances"]
    service.admin.set_compute_quotas(project, instances=used)
    yield
    service.admin.set_compute_quotas(project, instances=before)


def test_novas_quota_is_told_and_nothing_is_left(service: CloudService, no_servers: None) -> None:
    instance_id = service.create("too-many")
    shown = service.wait_status(instance_id, "ERROR", timeout_s=120)
    service.wait_operations(instance_id)
    assert "quota" in str(shown["fault"]).lower()
    held = service.holdings().found
    assert not [name for name in held["volumes"] | held["ports"] if instance_id in name]
    service.delete(instance_id)


def test_a_forced_delete_ends_a_create(service: CloudService) -> None:
    instance_id = service.create("not-yet")
    wait_until(lambda: service.has_server(instance_id), timeout_s=60, interval_s=1)
    assert service.show(instance_id)["status"] == "BUILD"
    service.delete(instance_id, force=True)
    assert not service.has_server(instance_id)


def test_an_instance_outlasts_nova_and_a_killed_taskmanager_but_not_its_server(
    service: CloudService,
) -> None:
    if not (service.settings.stop_nova_api and service.settings.start_nova_api):
        pytest.skip("Nova's API cannot be stopped here")
    subprocess.run(service.settings.stop_nova_api, check=True, capture_output=True, timeout=60)
    try:
        instance_id = service.create("patient")
        wait_until(
            lambda: any(o.attempts > 0 for o in service.operations(instance_id)),
            timeout_s=120,
            interval_s=1,
            what="a step that is tried again",
        )
        assert service.show(instance_id)["status"] == "BUILD"
    finally:
        subprocess.run(
            service.settings.start_nova_api, check=True, capture_output=True, timeout=120
        )
    wait_until(
        lambda: service.has_server(instance_id),
        timeout_s=180,
        interval_s=0.2,
        what="a server after all",
    )
    service.kill("trove-taskmanager")
    service.start("trove-taskmanager")
    service.wait_ready(instance_id)
    names = [server.name for server in service.own.compute.servers(details=False)]
    assert len([name for name in names if instance_id in name]) == 1

    service.own.compute.delete_server(service.server(instance_id).id)
    wait_until(
        lambda: (
            service.show(instance_id)["status"] in {"ERROR", "SHUTDOWN"}
            or service.show(instance_id).get("operating_status") == "ERROR"
        ),
        timeout_s=180,
        interval_s=2,
        what="the user being told that the server is gone",
    )
    service.delete(instance_id)
