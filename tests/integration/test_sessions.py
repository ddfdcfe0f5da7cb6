"""A new user's session with each engine, in short: tools/sessions.py runs the whole of it."""

from __future__ import annotations

import datetime
import pathlib
from collections.abc import Iterator

import pytest

from tests.fixtures import sessions
from tests.fixtures.stack import Stack, destroy_stack, make_stack
from trove.drivers.secrets import local as local_secrets


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Give a running stack that any engine can be imported into."""
    made = make_stack(sessions.OPTIONS)
    yield made
    destroy_stack(made)


@pytest.fixture(scope="module")
def wrong_ca(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Give the certificate of an authority that signed nothing here."""
    directory = tmp_path_factory.mktemp("authority")
    now = datetime.datetime.now(datetime.UTC)
    local_secrets.generate_ca(directory / "ca.pem", directory / "key.pem", now=now)
    return directory / "ca.pem"


@pytest.mark.parametrize("row", sessions.ROWS)
def test_a_new_user_gets_along(stack: Stack, wrong_ca: pathlib.Path, row: str) -> None:
    if not sessions.is_possible(row):
        pytest.skip(f"{row} or its client is not installed (tools/run-tests.sh installs them)")
    sessions.import_image(stack, row, name=f"{row}-first")
    session = sessions.Session(stack, row, f"{row}-first")
    session.create()
    session.connect(wrong_ca=str(wrong_ca))
    # one of a family is enough of what takes its time
    if row != "valkey":
        session.enable_root()
        session.tune()
        session.restart()
    session.delete()
