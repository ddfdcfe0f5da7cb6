"""The schemas themselves."""

from __future__ import annotations

import gc

import jsonschema
import pytest

from trove.api import app, validation


def test_every_schema_of_the_api_is_one() -> None:
    """They are not checked when they are made, which every start would pay for."""
    assert app.make_app
    schemas = [each for each in gc.get_objects() if isinstance(each, validation.Schema)]
    assert len(schemas) > 50
    for schema in schemas:
        schema.check_itself()


def test_a_schema_that_is_none_is_told() -> None:
    """The check above can fail."""
    with pytest.raises(jsonschema.SchemaError):
        validation.Schema({"type": "nonsense"}).check_itself()
