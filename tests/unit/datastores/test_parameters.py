"""Rules of configuration parameters: values, spellings, digests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trove.datastores import parameters
from trove.datastores.parameters import Parameter, ParameterType

INTEGER = Parameter(
    name="i", type=ParameterType.INTEGER, restart_required=False, minimum=0, maximum=2**64
)
WORDS = Parameter(
    name="w", type=ParameterType.STRING, restart_required=False, values=("ON", "OFF", "a-b")
)
LIST = Parameter(
    name="l", type=ParameterType.STRING, restart_required=False, any_of=("ANSI", "TRADITIONAL")
)


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        (INTEGER, 0),
        (INTEGER, 2**64),
        (WORDS, "on"),
        (WORDS, "A-B"),
        (LIST, ""),
        (LIST, "ansi, TRADITIONAL"),
    ],
)
def test_good_values_are_good(rule: Parameter, value: object) -> None:
    assert rule.check(value) is None


@pytest.mark.parametrize(
    ("rule", "value", "words"),
    [
        (INTEGER, -1, "at least 0"),
        (INTEGER, 2**64 + 1, "at most"),
        (INTEGER, True, "an integer"),
        (INTEGER, 1.0, "an integer"),
        (WORDS, 1, "a string"),
        (WORDS, "", "one of ON, OFF, a-b"),
        (WORDS, " ON", "made of"),
        (WORDS, "ON\n", "made of"),
        (LIST, "ANSI,", "a list"),
        (LIST, "ANSI;DROP", "made of"),
    ],
)
def test_bad_values_are_told(rule: Parameter, value: object, words: str) -> None:
    assert words in str(rule.check(value))


def test_no_number_is_not_a_number() -> None:
    rule = Parameter(name="f", type=ParameterType.FLOAT, restart_required=False)
    assert rule.check(1.5) is None
    for value in (float("nan"), float("inf")):
        assert rule.check(value) == "must be a number"


@given(st.text())
def test_what_is_plain_ends_no_line_and_no_string(text: str) -> None:
    if parameters.is_plain(text):
        assert not set(text) & set("\r\n\0\"'`\\#;[]")
        assert text.isascii()


def test_values_are_the_same_whatever_the_spelling_and_order_of_their_names() -> None:
    one = {"Max-Connections": 1, "wait_timeout": 2}
    two = {"wait_timeout": 2, "max_connections": 1}
    assert parameters.overrides(one) == {"max_connections": 1, "wait_timeout": 2}
    assert parameters.digest(one) == parameters.digest(two)
    assert len(str(parameters.digest(one))) == 64
    assert parameters.digest(one) != parameters.digest({**one, "wait_timeout": 3})
    assert parameters.digest({"a": 1}) != parameters.digest({"a": True})
    assert parameters.digest({}) is None


def test_the_rules_are_complete_and_named_as_the_engine_names_them() -> None:
    rules = parameters.load("mariadb")
    assert list(rules) == sorted(rules)
    for name, rule in rules.items():
        assert rule.name == name == parameters.canonical(name)
        is_number = rule.type in (ParameterType.INTEGER, ParameterType.FLOAT)
        assert is_number == (rule.minimum is not None) == (rule.maximum is not None)
