"""Which version of an engine may follow which on the same data: facts, no I/O.

Versions are compared as far as both say: ``10.11`` is any of 10.11.x. A *series* is what shares one
format of data: within it new programs run on the data as they are. From one series to a later one
there is a way where the engine has one; back there is none.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

_NUMBER = re.compile(r"\d+(?:\.\d+)*")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """What upgrades an engine has.

    ``series_length`` is how many numbers of a version name its series; ``leaves_series`` tells
    whether the service can bring data to a later one.
    """

    series_length: int = 2
    leaves_series: bool = False
    advice: str = ""


_OTHERWISE = Ways()
_WAYS: Mapping[str, Ways] = {
    "mariadb": Ways(leaves_series=True),
    "postgresql": Ways(series_length=1, leaves_series=True),
    "redis": Ways(leaves_series=True),
    "valkey": Ways(leaves_series=True),
    "mongodb": Ways(
        advice="; a release of MongoDB takes over the data of the one before it alone, once their"
        " feature compatibility version was raised"
    ),
}


def plain(version: str) -> str:
    """Return the number in what an engine says of its version; empty when there is none."""
    found = _NUMBER.search(version)
    return "" if found is None else found.group()


def number(version: str) -> tuple[int, ...]:
    """Return a version to compare by."""
    return tuple(int(digits) for digits in plain(version).split(".") if digits)


def agree(one: str, other: str) -> bool:
    """Tell whether two versions are the same as far as both say."""
    return all(mine == theirs for mine, theirs in zip(number(one), number(other), strict=False))


def is_older(version: str, than: str) -> bool:
    """Tell whether a version comes before another, as far as both say."""
    return not agree(version, than) and number(version) < number(than)


def is_same_series(manager: str, one: str, other: str) -> bool:
    """Tell whether the programs of two versions run on the same data."""
    length = _WAYS.get(manager, _OTHERWISE).series_length
    return number(one)[:length] == number(other)[:length]


def may_be_same_series(manager: str, one: str, other: str) -> bool:
    """Tell whether :func:`is_same_series` may be true, where a version is not told as a number."""
    length = _WAYS.get(manager, _OTHERWISE).series_length
    pairs = zip(number(one)[:length], number(other)[:length], strict=False)
    return all(mine == theirs for mine, theirs in pairs)


def check(manager: str, old: str, new: str) -> str | None:
    """Return why data of one version cannot be taken over by another, for people; None if so."""
    if is_older(new, old):
        return f"version {new} is older than {old}, which the instance runs"
    ways = _WAYS.get(manager, _OTHERWISE)
    if is_same_series(manager, old, new) or ways.leaves_series:
        return None
    series = ".".join(str(each) for each in number(old)[: ways.series_length])
    return (
        f"there is no way from version {old} to {new}: choose one of {series}.x, or create another"
        f" instance and bring the data over{ways.advice}"
    )
