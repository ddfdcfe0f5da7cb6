"""Facts of Redis and Valkey that need no server."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures import project
from trove.common import exception
from trove.datastores import redis, redis_configuration, valkey
from trove.guestagent.datastores.redis import dialect, users


@pytest.mark.parametrize("name", ["a b", "", "a\tb", "a\nb", "x" * 129, "a\0", "a\u2028b"])
def test_names_that_the_file_of_users_cannot_hold_are_refused(name: str) -> None:
    assert redis.check_user_name(name) is not None
    if len(name) < 129:
        assert redis.check_pattern(name) is not None


@pytest.mark.parametrize("pattern", ["*", "app:*", "[a-z]?", "é", '"', "~x", "(x"])
def test_patterns_of_keys_are_taken(pattern: str) -> None:
    assert redis.check_pattern(pattern) is None


def test_users_come_from_everywhere_or_nowhere() -> None:
    assert redis.check_host("%") is None
    assert redis.check_host("10.0.0.1") is not None


def test_the_agents_account_and_the_superuser_are_reserved_in_any_spelling() -> None:
    for facts in (redis.SPEC, valkey.SPEC):
        for name in ("os_admin", "OS_ADMIN", "default", "Default"):
            assert facts.is_reserved_user(name)


@given(memory_mib=st.integers(128, 2**20), vcpus=st.integers(1, 256))
def test_data_and_a_copy_of_two_thirds_of_it_fit_into_memory(memory_mib: int, vcpus: int) -> None:
    sizes = redis_configuration.sizes(memory_mib, vcpus)
    assert sizes.data_mib >= 16
    if memory_mib >= 256:
        assert sizes.data_mib * 5 / 3 <= memory_mib - 128
    assert 128 <= sizes.max_clients <= 10000
    assert 1 <= sizes.backlog_mib <= max(1, sizes.data_mib // 16)
    assert 1 <= sizes.io_threads <= min(8, max(1, vcpus))


def test_values_of_a_group_take_the_place_of_the_usual_ones() -> None:
    options = redis_configuration.options(
        memory_mib=256, overrides={"maxmemory_policy": "allkeys-lru", "activerehashing": False}
    )
    assert options["maxmemory-policy"] == "allkeys-lru"
    assert options["activerehashing"] == "no"
    text = redis_configuration.render(options, {"dir": '/a "b\\'}, memory_mib=256)
    assert text.count("maxmemory-policy ") == 1
    assert 'dir "/a \\"b\\\\"\n' in text


@pytest.mark.parametrize(
    ("name", "value"), [("save", "1\nport 1"), ("a b", "x"), ("save", '"'), ("Save", "x")]
)
def test_what_would_be_another_option_is_refused(name: str, value: str) -> None:
    with pytest.raises(exception.GuestError):
        redis_configuration.options(memory_mib=256, overrides={name: value})


def test_the_agent_keeps_all_rights_and_the_superuser_does_not_have_them() -> None:
    found = users.root_rules("0" * 64)
    for forbidden in ("-@admin", "-@dangerous", "-script|debug"):
        assert forbidden in found
    given_back = {rule.lstrip("+") for rule in found[found.index("-@dangerous") :]}
    assert not given_back & {
        *("config", "debug", "module", "shutdown", "replicaof", "failover", "acl", "migrate"),
        *("save", "bgsave", "bgrewriteaof", "client|pause", "cluster", "sync", "psync"),
    }
    assert users.root_rules(None) == ["off", "-@all"]


def test_images_open_the_ports_that_the_facts_name() -> None:
    for facts in (redis.SPEC, valkey.SPEC):
        path = project.ROOT / "images" / facts.manager / "engine.conf"
        found = re.search(r"^more_ports=(.*)$", path.read_text(), flags=re.MULTILINE)
        assert found is not None
        assert tuple(map(int, found[1].strip('"').split(","))) == facts.more_ports


def test_both_members_have_a_dialect() -> None:
    assert set(dialect.DIALECTS) == {"redis", "valkey"}
    assert set(valkey.rules()) - set(redis.SPEC.parameters())
    assert "sanitize_dump_payload" not in valkey.rules()
