"""When a schedule runs: a cron expression in a time zone, as moments of real time.

Expressions are read by cronsim, which knows days that the clock changes as Debian's cron does. Of
an expression with fixed hours and minutes each time of a day is one run: one that the clock skips
runs when it goes on, one that it shows twice runs the first time. An expression whose minutes or
hours begin with ``*`` runs by real time, in an hour that there is twice in both. Moments are UTC
and rise strictly, whatever clocks do.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import zoneinfo

import cronsim

from trove.common import exception

#: Backups of one database more often than this are none: point in time recovery is for that.
LEAST_INTERVAL = datetime.timedelta(minutes=15)

#: Names that mean something else on each machine, or nothing.
_NO_ZONES = frozenset({"localtime", "Factory", "posixrules"})
_FIELDS = 5
#: How much of an expression's runs is looked at before it is taken.
_LOOK_RUNS = 50
_LOOK_AHEAD = datetime.timedelta(days=400)


@functools.cache
def _zone_names() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones()) - _NO_ZONES


def get_zone(name: str) -> zoneinfo.ZoneInfo:
    """Return a time zone of the IANA's database; raises BadRequest for an unknown one."""
    if name not in _zone_names():
        raise exception.BadRequest(reason=f'there is no time zone "{name}"')
    return zoneinfo.ZoneInfo(name)


class Timetable:
    """The moments of a cron expression (minute, hour, day, month, weekday) in a time zone."""

    def __init__(self, cron: str, zone: str) -> None:
        """Take the expression and the zone's name; raises BadRequest for what is none."""
        self._zone = get_zone(zone)
        self._cron = cron
        if len(cron.split()) != _FIELDS:
            raise exception.BadRequest(
                reason="cron must have five fields: minute, hour, day of the month, month and day"
                " of the week"
            )
        try:
            cronsim.CronSim(cron, datetime.datetime.now(self._zone))
        except cronsim.CronSimError as e:
            raise exception.BadRequest(reason=f'cron "{cron}": {e}') from None

    def find_next(self, after: datetime.datetime) -> datetime.datetime | None:
        """Return the first moment later than another, UTC; None when there is none any more."""
        # in an hour that is there twice, the first one found may be of its first time
        for found in cronsim.CronSim(self._cron, after.astimezone(self._zone)):
            moment = found.astimezone(datetime.UTC)
            if moment > after:
                return moment
        return None

    def check(self, now: datetime.datetime) -> None:
        """Raise BadRequest when it runs never, or more often than is of use."""
        before = self.find_next(now)
        if before is None:
            raise exception.BadRequest(reason=f'cron "{self._cron}" never comes to pass')
        for _ in range(_LOOK_RUNS):
            found = self.find_next(before)
            if found is None or found > now + _LOOK_AHEAD:
                return
            if found - before < LEAST_INTERVAL:
                raise exception.BadRequest(
                    reason=f'cron "{self._cron}" runs more often than every'
                    f" {LEAST_INTERVAL.seconds // 60} minutes"
                )
            before = found


def delay_s(key: str, planned: datetime.datetime, window_s: float) -> float:
    """Return how long behind its time a run begins: always the same for the same run.

    Runs of the same time are spread evenly over the window, by what ``key`` names.
    """
    text = f"{key}/{planned.astimezone(datetime.UTC).isoformat()}"
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
    return window_s * number / 2**64
