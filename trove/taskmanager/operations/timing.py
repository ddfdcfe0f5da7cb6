"""Measure where the time of a step goes: on calls of drivers, on waits, or on us.

What is known of a step that is not over is kept in the operation's data under :data:`KEY`, saved
with every wait, so that it does not matter which process goes on.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Mapping
from typing import Any, cast

from trove.common import concurrency
from trove.db import operation_timings, operations
from trove.drivers import factory

#: Key of ``Operation.data``.
KEY = "timing"

_SINCE, _SPENT, _WAITING = "since", "spent", "waiting"


class Meter:
    """Seconds spent on each kind of driver while a step runs."""

    def __init__(self, clock: concurrency.Clock) -> None:
        """Begin with none."""
        self._clock = clock
        self.spent: dict[str, float] = {}

    def measured(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, its time counted."""

        def call(*args: Any, **kwargs: Any) -> Any:
            began = self._clock.monotonic()
            try:
                return function(*args, **kwargs)
            finally:
                took = self._clock.monotonic() - began
                self.spent[kind] = self.spent.get(kind, 0.0) + took

        return call

    def around(self, drivers: factory.Drivers) -> factory.Drivers:
        """Return the drivers with the time of all their calls counted."""
        return dataclasses.replace(
            drivers,
            **{
                field.name: cast(Any, _Measured(getattr(drivers, field.name), field.name, self))
                for field in dataclasses.fields(drivers)
            },
        )


class _Measured:
    """A driver whose calls are measured."""

    def __init__(self, inner: Any, kind: str, meter: Meter) -> None:
        self._inner = inner
        self._kind = kind
        self._meter = meter

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        return self._meter.measured(self._kind, value) if callable(value) else value


def settle(
    operation: operations.Operation, data: dict[str, Any], *, now: datetime.datetime
) -> None:
    """Count a wait that is over: as outside only until the operation was due again."""
    timing = data.setdefault(KEY, {_SINCE: operation.created.isoformat(), _SPENT: {}})
    event, since_text = timing.pop(_WAITING, (None, None))
    if event is not None:
        since = datetime.datetime.fromisoformat(since_text)
        waited = min(max(operation.wake_at, since), max(now, since)) - since
        _add(timing[_SPENT], {operation_timings.kind_of(event): waited.total_seconds()})


def waiting(
    data: Mapping[str, Any], meter: Meter, event: str, *, now: datetime.datetime
) -> dict[str, Any]:
    """Return the data to store with a wait."""
    timing = _counted(data, meter)
    return {**data, KEY: {**timing, _WAITING: [event, now.isoformat()]}}


def going_on(data: Mapping[str, Any], meter: Meter) -> dict[str, Any]:
    """Return the data to run a step again with at once."""
    return {**data, KEY: _counted(data, meter)}


def over(
    data: Mapping[str, Any], meter: Meter, *, now: datetime.datetime
) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the data to go on with after a step, and the timings of the step."""
    timing = _counted(data, meter)
    since = datetime.datetime.fromisoformat(timing[_SINCE]) if timing[_SINCE] else now
    total = max((now - since).total_seconds(), 0.0)
    timings = {operation_timings.TOTAL: round(total, 3)}
    timings |= {kind: round(seconds, 3) for kind, seconds in timing[_SPENT].items() if seconds}
    return {**data, KEY: {_SINCE: now.isoformat(), _SPENT: {}}}, timings


def _counted(data: Mapping[str, Any], meter: Meter) -> dict[str, Any]:
    timing = data.get(KEY) or {_SINCE: None, _SPENT: {}}
    spent = dict(timing[_SPENT])
    _add(spent, meter.spent)
    return {_SINCE: timing[_SINCE], _SPENT: spent}


def _add(to: dict[str, float], more: Mapping[str, float]) -> None:
    for kind, seconds in more.items():
        to[kind] = to.get(kind, 0.0) + seconds
