"""What stands in a configuration file, read back as values."""

from __future__ import annotations

import trove.datastores.all
from trove.datastores import mysql_configuration, spec

assert trove.datastores.all

TEMPLATE = "mariadb.cnf.j2"


def test_options_are_read_as_the_server_reads_them() -> None:
    text = """
# a comment
[mysqld]
skip-name-resolve
max-allowed-packet = 64M
loose-some-size = 2K
binlog-format=ROW
long_query_time = 1.5
tls-version = TLSv1.2,TLSv1.3
negative = -1
max_allowed_packet = 1G
"""
    assert mysql_configuration.options(text) == {
        "skip_name_resolve": "ON",
        "max_allowed_packet": 2**30,
        "some_size": 2048,
        "binlog_format": "ROW",
        "long_query_time": "1.5",
        "tls_version": "TLSv1.2,TLSv1.3",
        "negative": -1,
    }


def test_defaults_follow_from_the_flavor_and_hold_no_place() -> None:
    small = mysql_configuration.defaults(TEMPLATE, 256, 1)
    large = mysql_configuration.defaults(TEMPLATE, 4096, 100)
    assert list(small) == sorted(small)
    assert small["max_connections"] == 64
    assert large["max_connections"] == 1024
    assert large["performance_schema"] == "ON"
    assert small["max_binlog_size"] == 16 * 2**20
    assert large["max_binlog_size"] == 256 * 2**20
    for name in ("datadir", "socket", "log_bin", "bind_address", "port", "server_id", "ssl_key"):
        assert name not in small
    for value in small.values():
        assert "\0" not in str(value)


def test_the_spec_has_rules_and_defaults_exactly_with_the_capability() -> None:
    for facts in spec.registry().values():
        can = spec.Capability.CONFIGURATION in facts.capabilities
        assert can == bool(facts.parameters())
        assert can == bool(facts.default_configuration(512, 1))
