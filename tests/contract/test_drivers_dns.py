"""What every DNS driver does."""

import pathlib
import uuid
from collections.abc import Callable, Iterator

import pytest

from tests.fixtures.cloud import StandInCloud, designate
from tests.fixtures.cloud.fixtures import make_conf, make_real_conf, real_cloud_name
from trove.drivers.dns.base import DnsDriver
from trove.drivers.dns.designate import DesignateDns
from trove.drivers.dns.fake import FakeDns


@pytest.fixture
def fake_dns() -> DnsDriver:
    return FakeDns()


@pytest.fixture
def standin_dns(standins: StandInCloud, tmp_path: pathlib.Path) -> DnsDriver:
    return DesignateDns(make_conf(standins, tmp_path, more=f"[designate]\nzone = {designate.ZONE}"))


@pytest.fixture
def real_dns(tmp_path: pathlib.Path) -> DnsDriver:
    """Give the driver on a cloud whose further configuration names a zone."""
    conf, _ = make_real_conf(str(real_cloud_name()), tmp_path)
    if conf.designate.zone is None:
        pytest.skip("TROVE_TEST_CLOUD_CONF names no [designate] zone")
    return DesignateDns(conf)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run on every implementation, on a real cloud where one is named."""
    if "dns" in metafunc.fixturenames:
        names = ["fake_dns", "standin_dns", *(["real_dns"] if real_cloud_name() else [])]
        metafunc.parametrize("dns", names, indirect=True)


@pytest.fixture
def dns(request: pytest.FixtureRequest) -> DnsDriver:
    return request.getfixturevalue(request.param)


@pytest.fixture
def new_id(dns: DnsDriver) -> Iterator[Callable[[], str]]:
    """Give ids of instances, and remove their names at the end."""
    made: list[str] = []

    def make() -> str:
        made.append(str(uuid.uuid4()))
        return made[-1]

    yield make
    for each in made:
        dns.remove_records(each)


def test_a_name_is_known_before_it_is_made_and_belongs_to_one_instance(
    dns: DnsDriver, new_id: Callable[[], str]
) -> None:
    first, second = new_id(), new_id()
    name = dns.hostname_of(first)
    assert name is not None
    assert name == dns.hostname_of(first)
    assert name != dns.hostname_of(second)
    assert not name.endswith(".")


def test_owners_are_those_that_have_a_name(dns: DnsDriver, new_id: Callable[[], str]) -> None:
    first, second = new_id(), new_id()
    for _ in range(2):
        dns.set_records(first, ["192.0.2.1", "2001:db8::1"])
    dns.set_records(second, ["192.0.2.2"])
    assert set(dns.list_owners()) >= {first, second}
    dns.set_records(second, ["192.0.2.3", "192.0.2.4"])
    for _ in range(2):
        dns.remove_records(first)
        assert first not in dns.list_owners()
        assert second in dns.list_owners()
