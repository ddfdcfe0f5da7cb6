"""Drivers are loaded by name; a wrong name is told with what can be chosen."""

import pytest
from oslo_config import cfg
from stevedore import driver, extension

from trove.common import exception
from trove.drivers import factory
from trove.drivers.compute.fake import FakeCompute
from trove.drivers.network.fake import FakeNetwork


class Entry:
    """What stevedore finds of an entry point."""

    def __init__(self, plugin: object) -> None:
        self.driver = plugin


def test_a_driver_that_does_not_exist_is_a_configuration_error(
    conf: cfg.ConfigOpts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        extension.ExtensionManager, "entry_points_names", lambda self: ["local", "fake"]
    )
    conf.set_override("compute_driver", "abacus", group="taskmanager")
    with pytest.raises(exception.ConfigurationError, match="compute_driver = abacus") as caught:
        factory.load_compute(conf)
    assert "fake, local" in caught.value.message


def test_a_driver_of_another_kind_is_refused(
    conf: cfg.ConfigOpts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "DriverManager", lambda *args, **kwargs: Entry(FakeNetwork()))
    with pytest.raises(exception.ConfigurationError, match="no ComputeDriver"):
        factory.load_compute(conf)
    monkeypatch.setattr(driver, "DriverManager", lambda *args, **kwargs: Entry(FakeCompute()))
    assert isinstance(factory.load_compute(conf), FakeCompute)
