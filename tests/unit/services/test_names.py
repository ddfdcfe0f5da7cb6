"""Checks of what users name."""

from __future__ import annotations

import pytest

from trove.common import exception
from trove.rpc import payloads
from trove.services import accounts, names

_FACTS = names.get_spec("mariadb")


@pytest.mark.parametrize(
    ("segment", "name", "host"),
    [
        ("joe", "joe", "%"),
        ("joe@", "joe", "%"),
        ("joe@10.0.0.1", "joe", "10.0.0.1"),
        ("a@b@c", "a@b", "c"),
        ("a@b@", "a@b", "%"),
    ],
)
def test_a_user_segment_splits_at_the_last_at(segment: str, name: str, host: str) -> None:
    assert accounts.UserName.parse(segment) == accounts.UserName(name=name, host=host)


@pytest.mark.parametrize("name", ["mysql", "MySQL", "INFORMATION_SCHEMA", "sys", ""])
def test_reserved_and_empty_database_names_are_refused(name: str) -> None:
    with pytest.raises(exception.BadRequest):
        names.check_database_name(_FACTS, name)


def test_the_same_user_from_two_hosts_is_two_users() -> None:
    users = [payloads.User(name="u", host=host, password="x") for host in ("%", "10.0.0.1")]
    names.check_users(_FACTS, users)
    with pytest.raises(exception.BadRequest, match="named twice"):
        names.check_users(_FACTS, [*users, users[0]])


def test_an_unknown_manager_is_refused() -> None:
    with pytest.raises(exception.UnprocessableEntity, match="oracle"):
        names.get_spec("oracle")


def test_databases_are_refused_where_the_engine_has_none() -> None:
    names.check_databases(names.get_spec("redis"), [])
    with pytest.raises(exception.UnprocessableEntity, match="databases"):
        names.check_databases(names.get_spec("redis"), [payloads.Database(name="shop")])
