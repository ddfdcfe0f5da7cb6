"""Prove that the agent finds the datastores that are installed."""

from __future__ import annotations

from importlib import metadata

import pytest

from trove.common import exception
from trove.guestagent import service
from trove.guestagent.datastores import mysql


def test_own_datastores_are_found_without_asking_all_packages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(**params: object) -> metadata.EntryPoints:
        raise AssertionError("all packages were asked")

    monkeypatch.setattr(metadata, "entry_points", refuse)
    assert service.load_datastore("mariadb") is mysql.make_mariadb


def test_datastores_of_other_packages_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = metadata.EntryPoint(
        name="other", value=f"{mysql.__name__}:make_mariadb", group=service.NAMESPACE
    )
    monkeypatch.setattr(metadata, "entry_points", lambda **params: metadata.EntryPoints([foreign]))
    assert service.load_datastore("other") is mysql.make_mariadb


def test_a_datastore_that_is_not_installed_is_named() -> None:
    with pytest.raises(exception.ConfigurationError, match="oracle"):
        service.load_datastore("oracle")
