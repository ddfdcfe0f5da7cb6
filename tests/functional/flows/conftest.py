"""The control plane on fakes."""

import pytest

from tests.fixtures.control_plane import ControlPlane
from trove.db import base


@pytest.fixture
def plane(sqlite_database: base.Database) -> ControlPlane:
    return ControlPlane(sqlite_database)


@pytest.fixture
def plane_on_both(database: base.Database) -> ControlPlane:
    return ControlPlane(database)
