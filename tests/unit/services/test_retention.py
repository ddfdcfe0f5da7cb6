"""What retention leaves, whatever there is: held by properties, and the rules by examples."""

import datetime
import zoneinfo
from collections.abc import Iterable, Sequence

import hypothesis
from hypothesis import strategies as st

from trove import states
from trove.services.retention import Backup, Rules, to_delete

NOW = datetime.datetime(2026, 7, 1, 12, tzinfo=datetime.UTC)
STATUSES = list(states.BackupStatus)


def made(
    name: str,
    days_ago: float,
    *,
    parent: str | None = None,
    status: states.BackupStatus = states.BackupStatus.COMPLETED,
    purpose: states.BackupPurpose = states.BackupPurpose.SCHEDULED,
    schedule: str | None = "s",
    verification: states.Verification | None = None,
) -> Backup:
    return Backup(
        id=name,
        status=status,
        purpose=purpose,
        schedule_id=schedule if purpose is states.BackupPurpose.SCHEDULED else None,
        parent_id=parent,
        verification=verification,
        moment=NOW - datetime.timedelta(days=days_ago),
    )


def left(backups: Iterable[Backup], rules: Rules, now: datetime.datetime = NOW) -> set[str]:
    those = list(backups)
    return {backup.id for backup in those} - set(to_delete(those, {"s": rules}, now))


@st.composite
def histories(draw: st.DrawFn) -> Sequence[Backup]:
    """Backups of one instance, increments on earlier ones, in all states."""
    found: list[Backup] = []
    for number in range(draw(st.integers(0, 12))):
        parent = draw(st.none() | st.sampled_from(found)) if found else None
        found.append(
            made(
                f"b{number}",
                draw(st.floats(0, 900)),
                # some lost their parent
                parent=draw(st.sampled_from([parent.id, parent.id, "gone"])) if parent else None,
                status=draw(st.sampled_from(STATUSES) | st.just(states.BackupStatus.COMPLETED)),
                purpose=draw(
                    st.just(states.BackupPurpose.SCHEDULED)
                    | st.sampled_from(list(states.BackupPurpose))
                ),
                schedule=draw(st.sampled_from(["s", "t", "removed"])),
                verification=draw(st.none() | st.sampled_from(list(states.Verification))),
            )
        )
    return draw(st.permutations(found))


_few = st.integers(0, 4)
_rules = st.builds(
    Rules,
    count=_few,
    days=st.integers(0, 400),
    daily=_few,
    weekly=_few,
    monthly=_few,
    yearly=_few,
    zone=st.sampled_from([datetime.UTC, zoneinfo.ZoneInfo("Pacific/Apia")]),
)


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(backups=histories(), rules=st.fixed_dictionaries({"s": _rules, "t": _rules}))
def test_nothing_goes_that_is_needed(backups: Sequence[Backup], rules: dict[str, Rules]) -> None:
    going = to_delete(backups, rules, NOW)
    by_id = {backup.id: backup for backup in backups}
    staying = [backup for backup in backups if backup.id not in going]
    assert len(set(going)) == len(going)
    # only what a schedule that there is had made, and nothing that is being made
    for each in map(by_id.__getitem__, going):
        assert each.purpose is states.BackupPurpose.SCHEDULED
        assert each.schedule_id in rules
        assert not each.status.is_running
    # the last good one is there however old it is, and as much as can be restored
    good = [backup for backup in backups if backup.is_good]
    if good:
        assert max(good, key=lambda each: (each.moment, each.id)) in staying
    # nobody loses what it builds on
    assert not {each.parent_id for each in staying} & set(going)
    # in an order in which each may be removed alone
    for number, backup_id in enumerate(going):
        assert by_id[backup_id].parent_id not in going[:number]
    # what one rule alone keeps is kept with all of them
    for schedule_id, all_rules in rules.items():
        for name in ("count", "days", "daily", "weekly", "monthly", "yearly"):
            if number := getattr(all_rules, name):
                alone = Rules(**{name: number}, zone=all_rules.zone)
                assert set(going) <= set(to_delete(backups, {**rules, schedule_id: alone}, NOW))
    # and what is left is left: a second look finds nothing more
    assert not to_delete(staying, rules, NOW)


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    backups=histories(), rules=_rules, later_days=st.lists(st.integers(1, 400), max_size=4)
)
def test_time_alone_never_takes_the_last_good_backup(
    backups: Sequence[Backup], rules: Rules, later_days: list[int]
) -> None:
    had_good = any(backup.is_good for backup in backups)
    now = NOW
    for days in later_days:
        now += datetime.timedelta(days=days)
        gone = set(to_delete(backups, {"s": rules, "t": rules, "removed": rules}, now))
        backups = [backup for backup in backups if backup.id not in gone]
    assert any(backup.is_good for backup in backups) == had_good


def test_the_newest_ones_are_counted_without_what_failed() -> None:
    backups = [
        made("a", 1),
        made("broken", 2, status=states.BackupStatus.FAILED),
        made("refuted", 3, verification=states.Verification.FAILED),
        made("b", 4),
        made("c", 5),
        made("old and broken", 9, status=states.BackupStatus.FAILED),
    ]
    assert left(backups, Rules(count=2)) == {"a", "broken", "refuted", "b"}


def test_a_full_backup_stays_as_long_as_an_increment_of_it() -> None:
    backups = [
        made("full", 9),
        made("one", 8, parent="full"),
        made("two", 7, parent="one"),
        made("other branch", 6, parent="full"),
        made("new", 5),
    ]
    assert left(backups, Rules(count=3)) == {"full", "one", "two", "other branch", "new"}
    assert left(backups, Rules(count=2)) == {"full", "other branch", "new"}
    assert left(backups, Rules(count=1)) == {"new"}
    assert to_delete(backups, {"s": Rules(count=1)}, NOW)[0] == "two"


def test_the_last_good_backup_stays_whatever_is_newer() -> None:
    backups = [
        made("good", 900),
        made("failed", 1, status=states.BackupStatus.FAILED),
        made("refuted", 2, verification=states.Verification.FAILED),
        made("on refuted", 1.5, parent="refuted"),
    ]
    # an increment of what cannot be restored is good by itself only
    assert left(backups, Rules(days=1)) == {"good", "failed", "refuted", "on refuted"}


def test_grandfather_father_and_son() -> None:
    backups = [made(f"d{days}", days) for days in range(800)]
    kept = left(backups, Rules(daily=3, weekly=2, monthly=3, yearly=3))
    # 1 July 2026 is a Wednesday
    assert kept == {
        *("d0", "d1", "d2"),
        # Sunday of the week before
        "d3",
        # the last of June is d1, the last of May
        "d31",
        # the last of 2025 and of 2024
        "d182",
        "d547",
    }


def test_days_are_those_of_the_schedules_zone() -> None:
    # 23:30 and 00:30 of the next day in Berlin, the same day by UTC
    late = made("late", 0.604166)
    early = made("early", 0.5625)
    assert left([late, early, made("now", 0)], Rules(daily=3)) == {"early", "now"}
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    assert left([late, early, made("now", 0)], Rules(daily=3, zone=berlin)) == {"late", "now"}


def test_without_rules_everything_is_kept() -> None:
    backups = [made("a", 800), made("b", 1, status=states.BackupStatus.FAILED)]
    assert left(backups, Rules()) == {"a", "b"}
    assert Rules.from_row({"count": 2, "later": 3}, "No/Where") == Rules(count=2)


def test_what_somebody_asked_for_is_never_looked_at() -> None:
    backups = [
        *(made(f"{purpose}", 800, purpose=purpose) for purpose in states.BackupPurpose),
        made("new", 1),
    ]
    assert left(backups, Rules(count=1)) == {"manual", "final", "safety", "new"}
