"""What a piece of the archived binary log is made of.

Its bytes are, for each range, the beginning of the file it is of and the range itself, then the
moments at which the ranges were written (:mod:`.moments`). Its facts say how many bytes each has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from trove.common import exception

FORMAT = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The transactions of a file between two positions, behind ``head_bytes`` of its beginning.

    ``digest`` tells the file from another one of its name.
    """

    file: str
    digest: str
    head_bytes: int
    start: int
    end: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A place between two transactions; ``tail`` is the digest of what is before it in the file."""

    file: str
    offset: int
    digest: str
    tail: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The facts of a piece. All of it was written by ``read_s``."""

    ranges: tuple[Range, ...]
    start: Position
    end: Position
    moments_bytes: int
    read_s: float

    def to_facts(self) -> dict[str, Any]:
        """Return JSON types."""
        return {"format": FORMAT, **dataclasses.asdict(self)}


def contents_of(facts: Mapping[str, Any]) -> Contents:
    """Return what facts say; raises GuestError."""
    if facts.get("format") != FORMAT:
        raise exception.GuestError(
            reason="this piece of the log was archived by another release of the service"
        )
    try:
        return Contents(
            ranges=tuple(Range(**each) for each in facts["ranges"]),
            start=Position(**facts["start"]),
            end=Position(**facts["end"]),
            moments_bytes=int(facts["moments_bytes"]),
            read_s=float(facts["read_s"]),
        )
    except (KeyError, TypeError, ValueError):
        raise exception.GuestError(
            reason="what a piece of the log says of itself is damaged"
        ) from None
