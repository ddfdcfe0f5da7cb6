"""Which version of an engine may follow which."""

import pytest

from trove.datastores import upgrades


@pytest.mark.parametrize(
    ("manager", "old", "new", "wrong"),
    [
        ("mariadb", "10.11.14", "10.11.19", None),
        ("mariadb", "10.11.19", "10.11", None),
        ("mariadb", "10.11", "11.4.2", None),
        ("mariadb", "10.11.19", "10.11.14", "is older"),
        ("mariadb", "10.11", "10.6", "is older"),
        ("postgresql", "15.18", "15.19", None),
        ("postgresql", "15", "18", None),
        ("postgresql", "18.4", "16", "is older"),
        ("redis", "7.0.15", "7.2.1", None),
        ("mongodb", "6.0.24", "6.0.27", None),
        ("mongodb", "6.0.27", "7.0.1", "choose one of 6.0.x"),
        ("mysql", "5.7.40", "8.0", "no way"),
        ("mariadb", "ten", "11", None),
    ],
)
def test_ways(manager: str, old: str, new: str, wrong: str | None) -> None:
    said = upgrades.check(manager, old, new)
    assert (said is None) if wrong is None else (wrong in str(said))


def test_versions_agree_as_far_as_both_say() -> None:
    assert upgrades.agree("10.11", "10.11.19")
    assert upgrades.agree("15.18 (Debian 15.18-0+deb12u1)", "15")
    assert not upgrades.agree("10.11.1", "10.11.19")
    assert upgrades.plain("10.11.19-MariaDB-deb12u1") == "10.11.19"


@pytest.mark.parametrize(
    ("manager", "one", "other", "may"),
    [
        ("mariadb", "10.11.6", "10.11.19", True),
        ("mariadb", "10.11.6", "10.6.1", False),
        ("mariadb", "10.11.6", "10", True),
        ("mariadb", "10.11.6", "ours", True),
        ("postgresql", "15.18", "18", False),
        ("postgresql", "15.18", "", True),
    ],
)
def test_only_numbers_tell_that_a_series_is_another(
    manager: str, one: str, other: str, may: bool
) -> None:
    assert upgrades.may_be_same_series(manager, one, other) is may
    assert upgrades.may_be_same_series(manager, other, one) is may
