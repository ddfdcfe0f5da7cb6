"""MongoDB's facts: names, passwords, sizes, and the file that is made of them."""

from __future__ import annotations

import json

import pytest

from trove.common import exception
from trove.datastores import mongodb, mongodb_configuration, parameters


@pytest.mark.parametrize("name", ["a", "A_1", "z-1", "é", "a%b", "x" * 63])
def test_good_database_names(name: str) -> None:
    assert mongodb.check_database_name(name) is None


@pytest.mark.parametrize(
    "name", ["", "a.b", "a b", "a/b", "a\\b", 'a"b', "$external", "a\0", "x" * 64, "é" * 32]
)
def test_bad_database_names(name: str) -> None:
    assert mongodb.check_database_name(name) is not None


@pytest.mark.parametrize(
    ("name", "is_good"),
    [("a.b", True), ("$x", True), ("a@b", True), ("", False), (".a", False), (" a", False)],
)
def test_user_names(name: str, is_good: bool) -> None:
    assert (mongodb.check_user_name(name) is None) is is_good


@pytest.mark.parametrize("password", ["secret", "p'a\"ss\\", "pässwörd", "密码", " inner blank "])
def test_good_passwords(password: str) -> None:
    assert mongodb.check_password(password) is None


@pytest.mark.parametrize(
    "password", ["", "a\0", "ﬁsh", "soft\u00adhyphen", "a\u00a0b", "שלום", "\U0001f40d", "x" * 256]
)
def test_passwords_that_clients_would_not_agree_on(password: str) -> None:
    wrong = mongodb.check_password(password)
    assert wrong is not None
    assert not password or password not in wrong


def test_hosts_and_character_sets_are_no_matter_of_mongodb() -> None:
    assert mongodb.check_host("%") is None
    assert mongodb.check_host("10.0.0.1") is not None
    assert mongodb.check_character_set(None, None) is None
    assert mongodb.check_character_set("utf8", None) is not None


@pytest.mark.parametrize(
    ("memory_mib", "volume_gib", "cache_mib", "oplog_mib", "connections"),
    [
        (512, 1, 256, 64, 128),
        (2048, 10, 768, 512, 512),
        (8192, 100, 4608, 5120, 2048),
        (131072, 4000, 78336, 51200, 16000),
    ],
)
def test_sizes_follow_from_flavor_and_volume(
    memory_mib: int, volume_gib: int, cache_mib: int, oplog_mib: int, connections: int
) -> None:
    size = mongodb_configuration.sizes(memory_mib, volume_gib)
    assert size.cache_mib == cache_mib
    assert size.oplog_mib == oplog_mib
    assert size.max_connections == connections
    assert 8 <= size.journal_file_mib <= 100


def test_defaults_are_plain_values_in_order() -> None:
    found = mongodb_configuration.defaults(512, None)
    assert list(found) == sorted(found)
    assert all(isinstance(value, int | str) for value in found.values())
    assert found["storage.wiredTiger.engineConfig.cacheSizeGB"] == "0.25"


def test_overrides_are_spelled_as_mongodb_does() -> None:
    values = {"ttlmonitorsleepsecs": 5, "OPERATIONPROFILING.SLOWOPTHRESHOLDMS": 7}
    assert mongodb_configuration.overrides(values) == {
        "ttlMonitorSleepSecs": 5,
        "operationProfiling.slowOpThresholdMs": 7,
    }


@pytest.mark.parametrize(
    "values",
    [{"nonsense": 1}, {"ttlmonitorsleepsecs": [1]}, {"ttlmonitorsleepsecs": "a\nb"}],
)
def test_other_overrides_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(exception.GuestError):
        mongodb_configuration.overrides(values)


def test_the_file_is_a_tree_that_reads_back() -> None:
    options = {"net.port": 1, "net.tls.mode": "preferTLS", "storage.dbPath": '/a "b"\n'}
    text = mongodb_configuration.render(options, {"ttlMonitorSleepSecs": 5})
    assert json.loads(text)["net"] == {"port": 1, "tls": {"mode": "preferTLS"}}
    assert mongodb_configuration.flatten(text) == {**options, "setParameter.ttlMonitorSleepSecs": 5}


def test_rules_are_keyed_by_canonical_names() -> None:
    for name, rule in parameters.load("mongodb").items():
        assert name == parameters.canonical(str(rule.spelling))
