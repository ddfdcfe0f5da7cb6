"""Runs the stories in ``gabbits/``: the API as a client reads it in the documents.

A story is one test. gabbi's own plugin for pytest is not used: it takes every test whose id has a
colon for one of its own.
"""

from __future__ import annotations

import pathlib
import shutil
import sys
import tempfile
import unittest
from wsgiref.types import WSGIApplication

import pytest
from gabbi import fixture, handlers, suitemaker, utils

from tests.fixtures import api as api_fixture
from trove.db import base, migrations

_STORIES = sorted(pathlib.Path(__file__).with_name("gabbits").glob("*.yaml"))
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
    # gabbi asks when it reads a story, before its fixtures start
    return lambda environ, start_response: _running[-1].wsgi(environ, start_response)


@pytest.mark.parametrize("story", _STORIES, ids=lambda story: story.stem)
def test_the_story_holds(story: pathlib.Path) -> None:
    suite = suitemaker.test_suite_from_dict(
        loader=unittest.TestLoader(),
        test_base_name=f"api_{story.stem}",
        suite_dict=utils.load_yaml(yaml_file=str(story)),
        test_directory=str(story.parent),
        host="localhost",
        port=80,
        fixture_module=sys.modules[__name__],
        intercept=_application,
        handlers=[handler() for handler in handlers.RESPONSE_HANDLERS],
    )
    result = unittest.TestResult()
    suite.run(result)
    assert result.testsRun >= 4
    assert [text for _, text in [*result.failures, *result.errors]] == []
