"""The service on the cloud that ``TROVE_TEST_CLOUD`` names; without one nothing of this runs.

``TROVE_TEST_IMAGE`` is a guest image of MariaDB. Servers are made one at a time, scenarios
share them where they can: a boot takes minutes where servers are emulated.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import pytest

from tests.fixtures import on_cloud
from tests.fixtures.waiting import wait_until

_HERE = pathlib.Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip everything here where no cloud is named, and give the rest the time that it takes."""
    is_named = bool(os.environ.get(on_cloud.VARIABLE))
    for item in items:
        if _HERE not in item.path.parents:
            continue
        # the SDK and the client warn of parts of their own that will go
        for warning in ("DeprecationWarning", "PendingDeprecationWarning", "ResourceWarning"):
            item.add_marker(pytest.mark.filterwarnings(f"ignore::{warning}"))
        item.add_marker(pytest.mark.timeout(1800))
        if not is_named:
            item.add_marker(pytest.mark.skip(reason=f"{on_cloud.VARIABLE} names no cloud"))


@pytest.fixture(scope="session")
def service() -> Iterator[on_cloud.CloudService]:
    """Give the running service with its image imported; at the end nothing may be left over."""
    found = on_cloud.find_settings()
    assert found is not None
    if not os.environ.get(on_cloud.IMAGE_VARIABLE):
        pytest.skip(f"{on_cloud.IMAGE_VARIABLE} names no guest image")
    with on_cloud.running(*found) as made:
        before = made.holdings()
        made.import_image("10.11", "--default")
        yield made
        try:
            made.delete_all()
            wait_until(
                lambda: not made.holdings().beyond(before),
                timeout_s=120,
                interval_s=5,
                what="nothing left over",
            )
        except AssertionError:
            pytest.fail(f"left over: {made.holdings().beyond(before)}")
        finally:
            made.remove_images()


@pytest.fixture(scope="session")
def host(service: on_cloud.CloudService) -> Iterator[on_cloud.NetworkHost]:
    """Give another host on the user's network."""
    if service.settings.host is None:
        pytest.skip("the tests do not run on a node of this cloud")
    made = on_cloud.NetworkHost(service, service.user, service.settings.user_network)
    yield made
    made.remove()


@pytest.fixture
def management_host(service: on_cloud.CloudService) -> Iterator[on_cloud.NetworkHost]:
    """Give a host on the network of the agents, where only the service may put one."""
    if service.settings.host is None:
        pytest.skip("the tests do not run on a node of this cloud")
    made = on_cloud.NetworkHost(service, service.own, service.settings.management_network)
    yield made
    made.remove()


@pytest.fixture(autouse=True)
def journal(service: on_cloud.CloudService, capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Print the steps of every operation that has ended, with their times."""
    yield
    with capsys.disabled():
        for instance_id in service.instances:
            for operation in reversed(service.operations(instance_id)):
                if operation.state.is_active or operation.id in service.printed:
                    continue
                service.printed.add(operation.id)
                shown = service.manage("operation", "show", operation.id)
                # only the table of times: all else is in the database
                table = shown.strip().rpartition("\n\n")[2]
                print(f"\n{operation.kind} {operation.state.value}\n{table}")  # noqa: T201
