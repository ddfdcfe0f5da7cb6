"""Prove how the agent talks to its engine."""

from __future__ import annotations

import pathlib
import ssl

import pytest

from trove.guestagent.datastores import base
from trove.guestagent.datastores.mysql import connection


def test_a_ping_reads_no_certificate_authorities(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    def refuse(*args: object, **kwargs: object) -> ssl.SSLContext:
        raise AssertionError("the socket of this machine needs no TLS")

    monkeypatch.setattr(ssl, "create_default_context", refuse)
    connector = connection.Connector(tmp_path / "nobody.sock", password="secret")
    with pytest.raises(base.NotReady):
        connector.ping()
