"""PostgreSQL's facts: names, encodings, rules by version, and the file that sizes become."""

from __future__ import annotations

from typing import Any

import pytest

from trove.common import exception
from trove.datastores import parameters, postgresql
from trove.datastores import postgresql_configuration as configuration

_FACTS: dict[str, Any] = {
    "data_dir": "/v/data",
    "hba_file": "/s/pg_hba.conf",
    "ident_file": "/s/pg_ident.conf",
    "guard_file": "/s/guard.conf",
    "run_dir": "/s/run",
    "bind_address": "10.0.0.5",
    "port": 5432,
    "libraries": "pg_stat_statements",
    "has_tls": True,
    "tls_dir": "/s/tls",
    "requires_client_certificate": False,
    "logs_dir": "/v/logs",
    "general_log": False,
    "slow_query_log": True,
}


def render(overrides: dict[str, object], **facts: Any) -> str:
    return configuration.render(
        memory_mib=1024,
        vcpus=2,
        volume_size_gib=8,
        overrides=overrides,
        **{**_FACTS, **facts},
    )


@pytest.mark.parametrize("memory_mib", [256, 512, 1024, 4096, 65536])
@pytest.mark.parametrize("volume_size_gib", [None, 1, 100, 10000])
def test_sizes_fit_each_other(memory_mib: int, volume_size_gib: int | None) -> None:
    sizes = configuration.sizes(memory_mib, volume_size_gib)
    assert 0 < sizes.shared_buffers_mib < memory_mib
    assert sizes.shared_buffers_mib + sizes.work_mem_mib * sizes.max_connections <= memory_mib
    assert 2 * configuration.WAL_SEGMENT_MIB <= sizes.min_wal_mib < sizes.max_wal_mib
    if volume_size_gib is not None:
        assert sizes.max_wal_mib + sizes.slot_wal_keep_mib < volume_size_gib * 1024


def test_larger_flavors_and_volumes_get_more() -> None:
    small, large = configuration.sizes(1024, 10), configuration.sizes(16384, 100)
    for name in configuration.Sizes.__dataclass_fields__:
        assert getattr(small, name) < getattr(large, name), name


def test_what_is_written_is_read_back() -> None:
    options = configuration.options(
        render({"work_mem": 5000, "datestyle": "ISO, DMY", "jit": False})
    )
    assert options["data_directory"] == "/v/data"
    assert options["work_mem"] == 5000
    assert options["datestyle"] == "ISO, DMY"
    assert options["jit"] == "off"
    assert options["shared_buffers"] == "224MB"
    assert options["ssl"] == "on"
    assert "ssl_ca_file" not in options


def test_slow_statements_are_told_from_the_groups_limit_on_and_only_while_switched_on() -> None:
    name = configuration.SLOW_PARAMETER
    assert configuration.options(render({}))[name] == configuration.SLOW_MS
    assert configuration.options(render({name: 20}))[name] == 20
    assert configuration.options(render({name: 20}, slow_query_log=False))[name] == -1


@pytest.mark.parametrize(
    "overrides", [{"a b": 1}, {"work_mem": "1'\nssl = off"}, {"search_path": "a'b"}, {"a.b.c": 1}]
)
def test_what_is_no_parameter_is_not_written(overrides: dict[str, object]) -> None:
    with pytest.raises(exception.GuestError):
        render(overrides)


def test_a_place_with_quotes_stays_one_value() -> None:
    text = render({}, data_dir="/v/it's\\here")
    assert "data_directory = '/v/it''s\\\\here'" in text
    with pytest.raises(exception.GuestError):
        render({}, data_dir="/v/a\nssl = off")


def test_defaults_name_no_places() -> None:
    defaults = configuration.defaults(1024, 8)
    assert defaults["max_connections"] == 128
    assert "data_directory" not in defaults
    assert not [value for value in defaults.values() if "/" in str(value)]


def test_versions_have_what_all_have_and_what_is_their_own() -> None:
    common = parameters.load("postgresql")
    assert len(common) > 150
    for version in ("15.18", "16.14", "17.5", "18.4", "19.1", "odd"):
        assert set(common) < set(postgresql.parameters_of(version))
    assert "io_workers" in postgresql.parameters_of("18.4")
    assert "io_workers" not in postgresql.parameters_of("16.14")
    assert postgresql.parameters_of("17.5") == postgresql.parameters_of("16.14")
    assert postgresql.SPEC.rules("18.4") == postgresql.parameters_of("18.4")
    restart = {v: postgresql.parameters_of(v)["autovacuum_max_workers"] for v in ("15", "18")}
    assert restart["15"].restart_required
    assert not restart["18"].restart_required


@pytest.mark.parametrize(
    ("character_set", "collate", "expected"),
    [
        (None, None, ("UTF8", "C.UTF-8")),
        ("utf-8", None, ("UTF8", "C.UTF-8")),
        ("latin1", None, ("LATIN1", "C")),
        ("Latin-1", "POSIX", ("LATIN1", "POSIX")),
        ("UTF8", "c", ("UTF8", "C")),
        (None, "C.utf8", ("UTF8", "C.UTF-8")),
    ],
)
def test_encodings_and_collations(
    character_set: str | None, collate: str | None, expected: tuple[str, str]
) -> None:
    assert postgresql.check_character_set(character_set, collate) is None
    found = postgresql.encoding(character_set), postgresql.collation(character_set, collate)
    assert found == expected


@pytest.mark.parametrize(
    ("character_set", "collate"),
    [("klingon", None), (None, "de_DE.utf8"), ("latin1", "C.UTF-8"), ("big5", None)],
)
def test_what_a_database_cannot_have_is_refused(
    character_set: str | None, collate: str | None
) -> None:
    assert postgresql.check_character_set(character_set, collate)


@pytest.mark.parametrize("name", ["", "x" * 64, "é" * 32, "a\nb", " a", "pg_x", "Trove_x"])
def test_bad_user_names(name: str) -> None:
    assert postgresql.check_user_name(name)


@pytest.mark.parametrize("name", ["x" * 63, "é" * 31, "a b", 'a"b', "a'b", "%", "Ünder_score"])
def test_good_names(name: str) -> None:
    assert postgresql.check_user_name(name) is None
    assert postgresql.check_database_name(name) is None
    assert postgresql.check_host("%") is None
    assert postgresql.check_host("10.0.0.1")
