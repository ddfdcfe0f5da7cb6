"""The sizes of the server's configuration and its text."""

from __future__ import annotations

import configparser

import pytest

from trove.common import exception
from trove.guestagent.datastores import base
from trove.guestagent.datastores.mysql import configuration


def _settings(memory_mib: int, **changes: object) -> base.Settings:
    values = {"memory_mib": memory_mib, "vcpus": 1, "server_id": 7, **changes}
    return base.Settings(**values)  # type: ignore[arg-type]


def _render(settings: base.Settings) -> str:
    names = ("basedir", "data_dir", "temporary_dir", "exchange_dir", "tls_dir", "run_dir")
    places = {name: f"/{name}" for name in (*names, "socket", "init_file")}
    return configuration.render(
        "mariadb.cnf.j2",
        settings,
        bind_address="127.40.0.1",
        port=3306,
        requires_tls=False,
        **places,
    )


@pytest.mark.parametrize("memory_mib", [256, 512, 1024, 4096, 8192, 65536])
def test_server_fits_into_its_memory(memory_mib: int) -> None:
    sizes = configuration.sizes(_settings(memory_mib))
    fixed = sizes.buffer_pool_mib + sizes.log_buffer_mib + 2 * sizes.key_buffer_mib
    assert fixed < memory_mib * 0.85
    assert fixed + 64 + 40 < memory_mib  # the agent, and the server's own code


def test_more_memory_never_gives_less() -> None:
    sizes = [configuration.sizes(_settings(memory)) for memory in range(256, 70000, 64)]
    for name in ("buffer_pool_mib", "redo_log_mib", "max_connections", "table_open_cache"):
        values = [getattr(size, name) for size in sizes]
        assert values == sorted(values)


def test_text_is_an_option_file_with_the_settings() -> None:
    parser = configparser.RawConfigParser(allow_no_value=True)
    parser.read_string(_render(_settings(256, has_tls=True, overrides={"wait_timeout": 60})))
    server = parser["mysqld"]
    assert server["bind-address"] == "127.40.0.1"
    assert server["server-id"] == "7"
    assert server["ssl-key"] == "/tls_dir/server-key.pem"
    assert server["wait_timeout"] == "60"
    assert "skip-name-resolve" in server


def test_without_a_certificate_there_is_no_tls() -> None:
    assert "ssl-" not in _render(_settings(256))


@pytest.mark.parametrize(
    "overrides", [{"a\nb": 1}, {"max_connections": "1\nplugin-load=x"}, {"": 1}, {"[mysqld]": 1}]
)
def test_overrides_cannot_smuggle_lines(overrides: dict[str, object]) -> None:
    with pytest.raises(exception.GuestError):
        _render(_settings(256, overrides=overrides))
