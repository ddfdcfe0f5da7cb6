"""Which backups of an instance may go: a pure function of what there is, the rules and the time.

* What any rule of its schedule keeps is kept; a schedule without rules keeps everything.
* A backup stays as long as one that builds on it does.
* The last good backup of an instance stays however old it is: the newest one that a database can
  be made from and that did not fail its verification, with all that it builds on.
* What somebody asked for (manual and final backups, copies kept for safety) is not looked at, nor
  are backups whose schedule is no more.
"""

from __future__ import annotations

import dataclasses
import datetime
import zoneinfo
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from trove import states

#: How long a failed backup is there to be looked at.
FAILED_KEPT = datetime.timedelta(days=7)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """What counts of a backup here. ``moment`` is when it was made, UTC."""

    id: str
    status: states.BackupStatus
    purpose: states.BackupPurpose
    schedule_id: str | None
    parent_id: str | None
    verification: states.Verification | None
    moment: datetime.datetime

    @property
    def is_good(self) -> bool:
        """Tell whether a database can be made from it, as far as is known."""
        return self.status.is_restorable and self.verification is not states.Verification.FAILED


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is kept of a schedule's backups; 0: the rule keeps nothing.

    ``count``: the newest ones. ``days``: those that are no older. ``daily`` and so on: the newest
    one of each of the last days (weeks from Monday, months, years) that have any, in ``zone``.
    """

    count: int = 0
    days: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    zone: datetime.tzinfo = datetime.UTC

    @classmethod
    def from_row(cls, retention: Mapping[str, Any], zone: str) -> Rules:
        """Make rules of what a schedule's row holds; what it does not know is left out."""
        names = {"count", "days", "daily", "weekly", "monthly", "yearly"} & set(retention)
        try:
            found: datetime.tzinfo = zoneinfo.ZoneInfo(zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError):
            # a zone that was given up: days begin elsewhere, nothing else changes
            found = datetime.UTC
        return cls(**{name: int(retention[name]) for name in names}, zone=found)

    @property
    def keeps_all(self) -> bool:
        """Tell whether there are no rules."""
        return not any((self.count, self.days, self.daily, self.weekly, self.monthly, self.yearly))


def to_delete(
    backups: Iterable[Backup], rules: Mapping[str, Rules], now: datetime.datetime | None
) -> Sequence[str]:
    """Return the ids of those of one instance's backups that may go, increments first.

    ``rules`` are by schedule. With a backup all that build on it are among them. While nobody knows
    the time (None) nothing is too old.
    """
    by_id = {backup.id: backup for backup in backups}
    candidates = {
        backup.id: backup
        for backup in by_id.values()
        if backup.purpose is states.BackupPurpose.SCHEDULED and backup.schedule_id in rules
    }
    needed = {backup.id for backup in by_id.values() if backup.id not in candidates}
    for schedule_id, its_rules in rules.items():
        own = [backup for backup in candidates.values() if backup.schedule_id == schedule_id]
        needed |= _kept(own, its_rules, now)
    good = [backup for backup in by_id.values() if backup.is_good]
    whole = [backup for backup in good if _is_whole(backup, by_id)]
    needed |= {max(those, key=_order).id for those in (good, whole) if those}
    for backup_id in tuple(needed):
        needed.update(chain.id for chain in _chain(by_id[backup_id], by_id))
    going = [backup for backup in candidates.values() if backup.id not in needed]
    going.sort(key=lambda backup: (len(_chain(backup, by_id)), *_order(backup)), reverse=True)
    return [backup.id for backup in going]


def _order(backup: Backup) -> tuple[datetime.datetime, str]:
    return backup.moment, backup.id


def _chain(backup: Backup, by_id: Mapping[str, Backup]) -> Sequence[Backup]:
    """Return a backup and what it builds on, as far as that is there."""
    chain = [backup]
    seen = {backup.id}
    while (parent_id := chain[-1].parent_id) in by_id and parent_id not in seen:
        chain.append(by_id[str(parent_id)])
        seen.add(chain[-1].id)
    return chain


def _is_whole(backup: Backup, by_id: Mapping[str, Backup]) -> bool:
    """Tell whether a database can be made from a backup: all that it builds on is good, too."""
    chain = _chain(backup, by_id)
    return chain[-1].parent_id is None and all(each.is_good for each in chain)


def _kept(backups: Sequence[Backup], rules: Rules, now: datetime.datetime | None) -> set[str]:
    """Return the ids of what the rules keep of a schedule's backups."""
    kept = {backup.id for backup in backups if backup.status.is_running}
    if rules.keeps_all:
        return {backup.id for backup in backups}
    # what cannot be restored takes no place of one that can
    kept |= {
        each.id for each in backups if not each.is_good and not _is_older(each, FAILED_KEPT, now)
    }
    good = sorted((each for each in backups if each.is_good), key=_order, reverse=True)
    kept |= {backup.id for backup in good[: rules.count]}
    if rules.days:
        age = datetime.timedelta(days=rules.days)
        kept |= {backup.id for backup in good if not _is_older(backup, age, now)}
    for number, period in (
        (rules.daily, _day),
        (rules.weekly, _week),
        (rules.monthly, _month),
        (rules.yearly, _year),
    ):
        kept |= _newest_of_periods(good, number, period, rules.zone)
    return kept


def _is_older(backup: Backup, age: datetime.timedelta, now: datetime.datetime | None) -> bool:
    return now is not None and backup.moment < now - age


def _newest_of_periods(
    newest_first: Sequence[Backup],
    number: int,
    period: Callable[[datetime.datetime], Hashable],
    zone: datetime.tzinfo,
) -> set[str]:
    """Return the newest backup of each of the last ``number`` periods that have one."""
    kept: dict[Hashable, str] = {}
    for backup in newest_first:
        of = period(backup.moment.astimezone(zone))
        if of not in kept and len(kept) == number:
            break
        kept.setdefault(of, backup.id)
    return set(kept.values())


def _day(moment: datetime.datetime) -> Hashable:
    return moment.date()


def _week(moment: datetime.datetime) -> Hashable:
    return moment.isocalendar()[:2]


def _month(moment: datetime.datetime) -> Hashable:
    return moment.year, moment.month


def _year(moment: datetime.datetime) -> Hashable:
    return moment.year
