"""Probes: what a backup has to hold, whatever its engine's own check says.

Right before a backup begins the agent writes a mark that was never used before among the engine's
own data, where no user looks. Everything that was committed before a backup began is in it; so a
restored database without the mark is another one, or an older one, however sound it is. The mark is
among the facts of the backup, and is looked for when it is proven.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trove.common import exception
from trove.guestagent.datastores import base

#: Key of the facts of a backup, and of the findings of a check.
KEY = "probe"


class Probed(base.Stream):
    """A stream whose facts hold a mark."""

    def __init__(self, stream: base.Stream, mark: str) -> None:
        """Take the stream, and the mark that was written before it was opened."""
        self._stream = stream
        self._mark = mark

    def read(self, most: int) -> bytes:
        """Return up to ``most`` bytes, none at the end."""
        return self._stream.read(most)

    def finish(self) -> dict[str, Any]:
        """Return the facts of the stream, with the mark."""
        return {**self._stream.finish(), KEY: self._mark}

    def close(self) -> None:
        """End the stream."""
        self._stream.close()


def compare(expected: object, checked: Mapping[str, Any]) -> dict[str, Any]:
    """Return findings that say whether a mark was compared; raises GuestError for a wrong one.

    Backups that were made before there were marks have none, nor have those of engines without.
    """
    findings = dict(checked)
    found = findings.pop(KEY, None)
    if expected is None:
        return findings
    if found != expected:
        raise exception.GuestError(
            reason="the restored database is not the one that was backed up, or not as it was then:"
            f" its probe is {str(found)[:36]}, and {str(expected)[:36]} was written before the"
            " backup"
        )
    return {**findings, KEY: "equal"}
