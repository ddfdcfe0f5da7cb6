"""Runs the stories in ``gabbits/``: the API as a client reads it in the documents."""

from __future__ import annotations

import pathlib
import shutil
import sys
import tempfile
from wsgiref.types import WSGIApplication

import pytest
from gabbi import driver, fixture

from tests.fixtures import api as api_fixture
from trove.db import base, migrations

# gabbi's own test function: pytest parametrizes it with the stories
test_pytest = driver.test_pytest

_DIRECTORY = pathlib.Path(__file__).with_name("gabbits")
_running: list[api_fixture.Api] = []


class ApiFixture(fixture.GabbiFixture):
    """An API with one datastore, for one story."""

    def start_fixture(self) -> None:
        """Make it."""
        self._directory = tempfile.mkdtemp(prefix="trove-gabbi-")
        self._database = base.Database(f"sqlite:///{self._directory}/trove.db")
        migrations.upgrade(self._database)
        api = api_fixture.make_api(self._database)
        api.add_datastore()
        _running.append(api)

    def stop_fixture(self) -> None:
        """End it."""
        _running.pop()
        self._database.dispose()
        shutil.rmtree(self._directory)


def _application() -> WSGIApplication:
    # gabbi asks while it collects, before any story begins
    return lambda environ, start_response: _running[-1].wsgi(environ, start_response)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    driver.py_test_generator(
        str(_DIRECTORY),
        intercept=_application,
        test_loader_name="api",
        fixture_module=sys.modules[__name__],
        metafunc=metafunc,
    )
