"""Runs over more than a year of changing clocks, compared with the calendar of each zone."""

import datetime
import zoneinfo

import hypothesis
import pytest
from hypothesis import strategies as st

from trove.common import exception
from trove.services.timetables import Timetable, delay_s

UTC = datetime.UTC
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    # changes at midnight
    "America/Santiago",
    # changes by half an hour
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    # changes twice more, in Ramadan
    "Africa/Casablanca",
)
START = datetime.datetime(2027, 12, 1, tzinfo=UTC)  # over the leap day of 2028
DAYS = 400


def runs(cron: str, zone: str, *, start: datetime.datetime, days: int) -> list[datetime.datetime]:
    """Return what a scheduler runs that looks for the next run after each."""
    timetable = Timetable(cron, zone)
    found = []
    now = start
    while (moment := timetable.find_next(now)) is not None:
        if moment > start + datetime.timedelta(days=days):
            break
        assert moment > now
        found.append(moment)
        now = moment
    return found


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize(("hour", "minute"), [(2, 30), (0, 0), (1, 15), (3, 0), (23, 59)])
def test_a_daily_run_is_one_a_day(zone: str, hour: int, minute: int) -> None:
    zone_info = zoneinfo.ZoneInfo(zone)
    found = runs(f"{minute} {hour} * * *", zone, start=START, days=DAYS)
    local = [moment.astimezone(zone_info) for moment in found]
    assert len({moment.date() for moment in local}) == len(local)
    assert (local[-1].date() - local[0].date()).days == len(local) - 1 >= DAYS - 2
    for moment in local:
        wanted = moment.replace(hour=hour, minute=minute, fold=0)
        if wanted.astimezone(UTC).astimezone(zone_info).replace(fold=0) == wanted:
            # the first of two
            assert moment == wanted
            assert moment.fold == 0
        else:
            # the clock skips the time: when it goes on
            before = moment.astimezone(UTC) - datetime.timedelta(minutes=1)
            shown = before.astimezone(zone_info).replace(tzinfo=None)
            assert shown < wanted.replace(tzinfo=None)
            assert moment.replace(tzinfo=None) > wanted.replace(tzinfo=None)


@pytest.mark.parametrize("zone", ["Australia/Lord_Howe", "Africa/Casablanca"])
def test_a_run_every_hour_goes_by_real_time(zone: str) -> None:
    zone_info = zoneinfo.ZoneInfo(zone)
    looks = (START + datetime.timedelta(minutes=5 * n) for n in range(1, DAYS * 288 + 1))
    expected = [moment for moment in looks if moment.astimezone(zone_info).minute == 20]
    assert runs("20 * * * *", zone, start=START, days=DAYS) == expected


def test_month_ends_and_leap_days() -> None:
    last = runs("0 3 L * *", "Europe/Berlin", start=START, days=DAYS)
    assert [moment.date().isoformat() for moment in last[:4]] == [
        "2027-12-31",
        "2028-01-31",
        "2028-02-29",
        "2028-03-31",
    ]
    assert len(last) == 13
    # there is no 31st in five months
    assert len(runs("0 3 31 * *", "UTC", start=START, days=366)) == 7
    timetable = Timetable("30 4 29 2 *", "UTC")
    first = timetable.find_next(START)
    assert first is not None
    assert first.year == 2028
    second = timetable.find_next(first)
    assert second is not None
    assert second.year == 2032


_times = st.tuples(
    st.lists(st.integers(0, 59), min_size=1, max_size=2, unique=True),
    st.lists(st.integers(0, 23), min_size=1, max_size=3, unique=True),
)


@hypothesis.settings(max_examples=8, deadline=None)
@hypothesis.given(
    times=_times,
    day=st.sampled_from(["* *", "*/2 *", "28-31 *", "* 1-5"]),
    zone=st.sampled_from(ZONES),
    look=st.floats(20_000, 400_000),
)
def test_each_run_comes_once_whenever_it_is_looked_for(
    times: tuple[list[int], list[int]], day: str, zone: str, look: float
) -> None:
    """A look at any moment finds the first run behind it: none is lost, none comes again."""
    minutes, hours = (",".join(map(str, sorted(numbers))) for numbers in times)
    days, weekdays = day.split()
    cron = f"{minutes} {hours} {days} * {weekdays}"
    found = runs(cron, zone, start=START, days=DAYS)
    zone_info = zoneinfo.ZoneInfo(zone)
    most = len(times[0]) * len(times[1])
    per_day: dict[datetime.date, int] = {}
    for moment in found:
        of = moment.astimezone(zone_info).date()
        per_day[of] = per_day.get(of, 0) + 1
    assert max(per_day.values()) <= most
    # only where clocks are put forward some are one
    assert sum(count < most for count in list(per_day.values())[1:-1]) <= 4
    timetable = Timetable(cron, zone)
    moment = START
    left = found
    while left and moment < START + datetime.timedelta(days=DAYS - 40):
        left = [each for each in left if each > moment]
        assert timetable.find_next(moment) == left[0]
        moment += datetime.timedelta(seconds=look + 3600)


@pytest.mark.parametrize(
    ("cron", "zone", "said"),
    [
        ("0 2 * *", "UTC", "five fields"),
        ("0 0 2 * * *", "UTC", "five fields"),
        ("61 2 * * *", "UTC", "Bad minute"),
        ("0 2 30 2 *", "UTC", "Bad day"),
        ("*/10 * * * *", "UTC", "more often"),
        ("0,5 2 * * *", "UTC", "more often"),
        ("0 2 * * *", "Mars/Phobos", "no time zone"),
        ("0 2 * * *", "../../etc/passwd", "no time zone"),
        ("0 2 * * *", "localtime", "no time zone"),
    ],
)
def test_what_makes_no_sense_is_refused(cron: str, zone: str, said: str) -> None:
    with pytest.raises(exception.BadRequest, match=said):
        Timetable(cron, zone).check(START)


def test_the_delay_of_a_run_is_its_own_and_spread_over_the_window() -> None:
    delays = [delay_s(f"schedule-{number}", START, 3600) for number in range(2000)]
    assert delays == [delay_s(f"schedule-{number}", START, 3600) for number in range(2000)]
    assert all(0 <= delay < 3600 for delay in delays)
    for quarter in range(4):
        assert 400 < sum(quarter * 900 <= delay < quarter * 900 + 900 for delay in delays) < 600
    later = START + datetime.timedelta(days=1)
    assert delay_s("schedule-1", later, 3600) != delays[1]
    assert delay_s("schedule-1", START, 0) == 0
