"""Where the time of an operation went: what its journal says, added up.

With the entry that ends a step the journal keeps how many seconds the step took ("total") and what
of them was spent on whom: on calls of each driver ("compute", "volume", ...) and waiting for what
it does, on the boot of the guest until its agent said hello, on jobs of the agent ("guest"), on
pauses after errors ("pause"), on other operations ("other"). What is left is this service's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from trove.db import operations

#: Key of the whole time of a step in ``JournalEntry.timings``.
TOTAL = "total"
#: What the time is spent on other than on calls and work of the drivers, which have their kinds.
BOOT = "boot"
GUEST = "guest"
PAUSE = "pause"
OTHER = "other"
OWN = "own"

#: Beginning of the event that is waited for -> on whom the time is spent.
_WAITS: Mapping[str, str] = {
    "server": "compute",
    "volume": "volume",
    "port": "network",
    "hello": BOOT,
    "job:": GUEST,
    "rekey": GUEST,
    "pause": PAUSE,
}
#: What no service of ours can make shorter: the goal for our own part does not count it.
OUTSIDE = frozenset({"compute", "volume", "network", BOOT})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """One step, or its way back, in seconds."""

    step: str
    event: str
    total_s: float
    spent_s: Mapping[str, float]

    @property
    def own_s(self) -> float:
        """What this service itself took: its code, its database, and looking late."""
        return max(self.total_s - sum(self.spent_s.values()), 0.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """All steps of an operation, in seconds."""

    steps: tuple[StepTime, ...]
    total_s: float
    spent_s: Mapping[str, float]

    @property
    def own_s(self) -> float:
        """What this service itself took."""
        return sum(step.own_s for step in self.steps)

    @property
    def guest_s(self) -> float:
        """What the agents' jobs took, the engine's own start within them."""
        return self.spent_s.get(GUEST, 0.0)

    @property
    def overhead_s(self) -> float:
        """Everything but the compute, volume and network services and the boot of the guest."""
        outside = sum(seconds for kind, seconds in self.spent_s.items() if kind in OUTSIDE)
        return max(self.total_s - outside, 0.0)

    def columns(self) -> tuple[str, ...]:
        """Return the names of the columns of :meth:`rows`: everything, each part, our own."""
        return (TOTAL, *sorted(self.spent_s), OWN)

    def rows(self) -> list[dict[str, Any]]:
        """Return a table: a row for each step, and their sum."""
        rows = [
            _row(step.step if step.event == "done" else f"{step.step} ({step.event})", step)
            for step in self.steps
        ]
        blank = dict.fromkeys(self.columns())
        return [blank | row for row in (*rows, _row("all", self))]

    def to_plain(self) -> dict[str, Any]:
        """Return all figures for JSON; ``overhead`` is what the goals are set for."""
        return {"steps": self.rows(), "overhead": round(self.overhead_s, 3)}


def _row(name: str, times: StepTime | Timings) -> dict[str, Any]:
    spent = {kind: round(seconds, 3) for kind, seconds in times.spent_s.items()}
    return {
        "step": name,
        TOTAL: round(times.total_s, 3),
        **spent,
        OWN: round(times.own_s, 3),
    }


def kind_of(event: str) -> str:
    """Return on whom time is spent while an event is waited for."""
    for beginning, kind in _WAITS.items():
        if event.startswith(beginning):
            return kind
    return OTHER


def of(journal: Iterable[operations.JournalEntry]) -> Timings:
    """Add up the journal of an operation; steps under way are not in it."""
    steps: list[StepTime] = []
    spent: dict[str, float] = {}
    for entry in journal:
        if entry.timings is None:
            continue
        mine = {kind: s for kind, s in entry.timings.items() if kind != TOTAL}
        steps.append(
            StepTime(
                step=entry.step,
                event=entry.event,
                total_s=entry.timings.get(TOTAL, 0.0),
                spent_s=mine,
            )
        )
        for kind, seconds in mine.items():
            spent[kind] = spent.get(kind, 0.0) + seconds
    return Timings(steps=tuple(steps), total_s=sum(step.total_s for step in steps), spent_s=spent)
