#!/usr/bin/env python3
"""Have backups go wrong in all ways that are known, at random, and see that none of it passes.

    backup.py [--what pipeline] [--trials 1000] [--seed 0] [--first 0] [--keep]

``pipeline``
    Streams of no engine and a store in memory. What is stored is damaged: reading has to fail,
    saying what is wrong, and must have handed on nothing but what was stored. And bad days: the
    store fails, lies or loses the manifest, the engine fails at some byte, somebody cancels. Either
    the backup is there and comes back byte by byte, or there is an error and nothing is left.
``corruption``
    Backups and log of a real MariaDB, damaged or exchanged in the store: each has to be noticed by
    who proves it, restores it in place or makes an instance of it, and nothing is overwritten.
``deaths``
    A trove-standalone with a MariaDB that is written to: one of its processes, or all, are killed
    while a backup is made, while the log is archived, and while one is restored, also in place.
``engines``
    MariaDB, PostgreSQL and MongoDB that are written to: the engine is killed while it is backed up,
    its log archived, or it is restored, in place or anew; also the one that only replays the log.
``volume-lost``
    As ``deaths``: a volume is destroyed under writes. How much of what was acknowledged is missing
    in what is restored?
``storage``
    A MariaDB that is written to is backed up, and its log archived, to a Swift that fails, is full,
    slow, drops connections, lies, or changes bits.
``full``
    A MariaDB that is written to, on a small volume, with a store on a small disk: one of them gets
    full while it is backed up, its log archived, or a backup restored in place or proven. Needs
    root.
``clock``
    The same as ``storage``, while the clock of the agent is set forward and back, or of who grants
    access to the store, or both; and days of a task manager whose clock is: schedules, retention.
``schedules``
    400 days of schedules by random times in random time zones, on a clock that is moved.
``moments``
    MariaDB, PostgreSQL and MongoDB are restored to random moments of a journal.

Prints trials and findings of each kind, and figures; ends with 1 if there is a finding. The trial
that is told as ``seed:number`` is repeated by ``--seed seed --first number --trials 1``.
``--keep`` leaves the service as it is at the first finding.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import itertools
import logging
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping

_ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(_ROOT))

from trove.common import concurrency  # noqa: E402

concurrency.use_native_threads()

from tests.fixtures import (  # noqa: E402
    backup_bad_days,
    backup_damage,
    backup_deaths,
    backup_full_disks,
    engine_deaths,
    swift,
)
from tests.fixtures.engine import is_available  # noqa: E402
from tests.fixtures.stack import Options, Stack, destroy_stack, make_stack  # noqa: E402
from tests.fixtures.trials import Found, Trials  # noqa: E402
from tests.unit.guestagent.backup import making, stores  # noqa: E402
from trove.common import exception  # noqa: E402
from trove.guestagent.backup import sealing, writer  # noqa: E402
from trove.guestagent.backup.progress import Progress  # noqa: E402
from trove.guestagent.system import filesystem  # noqa: E402
from trove.storage import base as storage  # noqa: E402
from trove.storage import factory, manifests  # noqa: E402

_MANIFEST = f"{stores.PREFIX}{manifests.MANIFEST_NAME}"
_MOST_BYTES = 3 * sealing.SEALED_BYTES


class Campaign:
    """Trials of the pipeline, one after another."""

    def __init__(self, trials: Trials) -> None:
        """Count what is tried and found."""
        self._all = trials
        self.trials = trials.trials
        self.begin(0)

    def begin(self, number: int) -> None:
        """Begin the trial of a number."""
        self._seed = f"{self._all.seed}:{number}"
        self.random = self._all.chance(number)
        self.account = stores.MemoryAccount()

    def _new_store(self) -> stores.MemoryAccount:
        self.account = stores.MemoryAccount()
        factory._OWN_GRANTS["memory"] = self.account.open_grant  # type: ignore[index]
        return self.account

    def _data(self) -> bytes:
        size = self.random.choice([0, 1, self.random.randrange(_MOST_BYTES)])
        return self.random.randbytes(size)

    def _options(self) -> writer.Options:
        return writer.Options(
            segment_bytes=self.random.choice([1, 2]) * sealing.SEALED_BYTES,
            threads=self.random.choice([0, 2]),
        )

    def find(self, kind: str, what: str) -> None:
        """Note a finding."""
        self._all.findings.append(Found(kind=kind, seed=self._seed, text=what))

    # -- what is stored -----

    def damage(self) -> None:
        """Damage what is stored, and read it."""
        data = self._data()
        others = self._new_store()
        making.store(data, stores.memory_place(), options=self._options())
        other_try = dict(others.objects)
        others.objects.clear()
        making.store(data, stores.memory_place(), options=self._options(), backup_id="other")
        other_backup = dict(others.objects)
        account = self._new_store()
        manifest = making.store(data, stores.memory_place(), options=self._options())
        kind = self.random.choice(
            ["flip", "cut", "longer", "remove", "exchange", "other try", "other backup", "key"]
        )
        key = making.KEY
        name = self.random.choice(sorted(account.objects))
        content = account.objects[name]
        match kind:
            case "flip":
                place = self.random.randrange(len(content))
                flipped = content[place] ^ 1 << self.random.randrange(8)
                account.objects[name] = content[:place] + bytes([flipped]) + content[place + 1 :]
            case "cut":
                account.objects[name] = content[: self.random.randrange(len(content))]
            case "longer":
                account.objects[name] = content + self.random.randbytes(1)
            case "remove":
                del account.objects[name]
            case "exchange":
                account.objects[name] = next(
                    (each for each in account.objects.values() if each != content), b""
                )
            case "other try" | "other backup":
                foreign = other_try if kind == "other try" else other_backup
                account.objects[name] = (
                    foreign[_MANIFEST]
                    if name == _MANIFEST
                    else next(each for other, each in foreign.items() if other != _MANIFEST)
                )
            case "key":
                key = self.random.randbytes(32)
        self.trials[f"stored: {kind}"] += 1
        self._read(f"stored: {kind}", data, manifest.sha256, key)

    def _read(self, kind: str, data: bytes, sha256: str, key: bytes) -> None:
        given = bytearray()
        try:
            for piece in _pieces(sha256, key, self.random.randrange(1, 500_000)):
                given += piece
        except exception.GuestError as e:
            if not data.startswith(given) or (data and len(given) == len(data)):
                self.find(kind, f"{len(given)} bytes were handed on before {e}")
        else:
            self.find(kind, "nobody noticed")

    # -- bad days -----

    def bad_day(self) -> None:
        """Make a backup on a bad day."""
        account, data, progress = self._new_store(), self._data(), Progress()
        kind = self.random.choice(
            ["store fails", "store lies", "manifest lost", "engine", "end of engine", "cancel"]
        )
        stream = making.GivenStream(making.blocks_of(data))
        moment = self.random.randrange(6)
        calls = iter(range(1000))
        match kind:
            case "store fails":
                chance = self.random.choice([0.2, 0.5, 1.0])
                account.before = lambda action, name: (
                    _fail() if action != "delete" and self.random.random() < chance else None
                )
            case "store lies":
                account.say = lambda stored: (
                    dataclasses.replace(stored, etag="0" * 32)
                    if self.random.random() < 0.5
                    else stored
                )
            case "manifest lost":
                account.keep = lambda name, content: None if name == _MANIFEST else content
            case "engine":
                part = data[: self.random.randrange(len(data) + 1)]
                stream = making.GivenStream([part, making.failing()])
            case "end of engine":
                stream = making.GivenStream([data], facts=making.failing())
            case "cancel":
                account.before = lambda action, name: (
                    progress.cancel() if next(calls) == moment else None
                )
        kind = f"bad day: {kind}"
        self.trials[kind] += 1
        place = stores.memory_place(patience_s=self.random.choice([0.0, 0.05]))
        try:
            manifest = making.store(stream, place, options=self._options(), progress=progress)
        except exception.GuestError as e:
            if account.objects and "are left" not in str(e):
                self.find(kind, f"{len(account.objects)} objects are left after {e}")
            return
        account.before = lambda action, name: None
        if making.restore(stores.memory_place(), manifest.sha256) != data:
            self.find(kind, "what was completed does not come back")


def _fail() -> None:
    raise storage.StorageError(reason="it answered 503")


def _pieces(sha256: str, key: bytes, most: int) -> Iterator[bytes]:
    from trove.guestagent.backup import reader

    stored = reader.open_backup(
        stores.memory_place(), key=key, backup_id=making.BACKUP, manifest_sha256=sha256
    )
    with stored.kept.open() as content:
        yield from iter(lambda: content.read(most), b"")


# -- what is tried -----


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What is asked for."""

    trials: Trials
    first: int
    count: int
    keep: bool

    @property
    def numbers(self) -> range:
        """The numbers of the trials."""
        return range(self.first, self.first + self.count)


def _pipeline(run: Run) -> None:
    campaign = Campaign(run.trials)
    kinds: list[Callable[[], None]] = [campaign.damage, campaign.bad_day]
    for number in run.numbers:
        campaign.begin(number)
        kinds[number % 2]()


def _told(run: Run, kind: str, number: int, *, is_well: bool) -> None:
    told = "well" if is_well else f"FINDING: {run.trials.findings[-1].text}"
    print(f"{run.trials.seed}:{number} {kind}: {told}", flush=True)


def _corruption(run: Run) -> None:
    filesystem.sync_file_system = lambda path: None
    kinds = list(itertools.product(backup_damage.WAYS, backup_damage.KINDS))
    with (
        tempfile.TemporaryDirectory(prefix="trove-faults-") as directory,
        backup_damage.history(backup_damage.make_shelf(pathlib.Path(directory))) as made,
    ):
        run.trials.run(
            "corruption: none", run.first, lambda chance: backup_damage.expect_whole(made)
        )
        for number in run.numbers:
            way, kind = kinds[number % len(kinds)]
            is_well = run.trials.run(
                f"corruption: {kind}",
                number,
                functools.partial(backup_damage.notice, made, kind, way),
            )
            _told(run, f"{kind}, {way}", number, is_well=is_well)
        run.trials.run(
            "corruption: none", run.first, lambda chance: backup_damage.expect_whole(made)
        )


@contextlib.contextmanager
def _shop() -> Iterator[backup_bad_days.Shop]:
    filesystem.sync_file_system = lambda path: None
    with (
        tempfile.TemporaryDirectory(prefix="trove-faults-") as directory,
        swift.serving(pathlib.Path(directory)) as served,
        backup_bad_days.shop(served.make_store(pathlib.Path(directory)), served.url) as made,
    ):
        yield made


def _storage(run: Run) -> None:
    kinds = list(backup_bad_days.FAULTS)
    with _shop() as made:
        for number in run.numbers:
            kind = kinds[number % len(kinds)]
            trial = functools.partial(backup_bad_days.on_a_bad_day, made, kind)
            is_well = run.trials.run(f"storage: {kind}", number, trial)
            _told(run, kind, number, is_well=is_well)


def _full(run: Run) -> None:
    filesystem.sync_file_system = lambda path: None
    kinds = list(backup_full_disks.KINDS)
    with backup_full_disks.tight() as made:
        for number in run.numbers:
            kind = kinds[number % len(kinds)]
            trial = functools.partial(backup_full_disks.KINDS[kind], made)
            is_well = run.trials.run(f"full: {kind}", number, trial)
            _told(run, kind, number, is_well=is_well)


_DAYS = (
    "tests/functional/flows/test_clock_jumps.py"
    "::test_a_clock_that_is_set_right_again_costs_no_backup"
)


def _clock(run: Run) -> None:
    with _shop() as made:
        for number in run.numbers:
            whose = backup_bad_days.CLOCKS[number % len(backup_bad_days.CLOCKS)]
            trial = functools.partial(backup_bad_days.with_jumps, made, whose)
            is_well = run.trials.run(f"clock: {whose}", number, trial)
            _told(run, f"clock: {whose}", number, is_well=is_well)
    variables = {
        "TROVE_TEST_CLOCKS": str(run.count),
        "TROVE_TEST_CLOCKS_SEED": f"{run.trials.seed}:{run.first}",
    }
    _run_test(run, "clock: task manager, days", _DAYS, variables, trials_of_each=1)


#: A journal is as long as it may be, then another instance is written to.
_TRIALS_OF_ONE = 16


def _on_stacks(run: Run, options: Options, work: Callable[[Stack, int], int]) -> None:
    """Run trials on a service, on another one after each finding.

    ``work`` takes the number of the next trial and returns the one behind its last.
    """
    number, end = run.first, run.first + run.count
    while number < end:
        stack, known = make_stack(options), len(run.trials.findings)
        try:
            while number < end and len(run.trials.findings) == known:
                number = work(stack, number)
        finally:
            if run.keep and len(run.trials.findings) > known:
                print(f"it is left as it is: {stack.state_dir}")
                number = end
            else:
                destroy_stack(stack)


def _die(made: backup_deaths.Written, stage: str, role: str, chance: random.Random) -> None:
    backup_deaths.die(made, stage, role, chance)
    backup_deaths.go_on(made)


def _deaths(run: Run) -> None:
    kinds = list(itertools.product(backup_deaths.STAGES, backup_deaths.ROLES))

    def work(stack: Stack, number: int) -> int:
        last = min(number + _TRIALS_OF_ONE, run.numbers.stop)
        with backup_deaths.written(stack) as made:
            while number < last:
                # stage and role change together: one instance sees all
                stage, role = kinds[number * 9 % len(kinds)]
                kind = f"death: {stage}, {role}"
                trial = functools.partial(_die, made, stage, role)
                is_well = run.trials.run(kind, number, trial)
                _told(run, kind, number, is_well=is_well)
                number += 1
                if not is_well:
                    break
        return number

    _on_stacks(run, backup_deaths.OPTIONS, work)


def _volume_lost(run: Run) -> None:
    for interval_s, kind in ((1, "volume lost, archived each 1 s"), (60, "volume lost, each 60 s")):
        options = backup_deaths.OPTIONS
        options = {**options, "backup": {**options["backup"], "archive_interval_s": interval_s}}

        def work(stack: Stack, number: int, kind: str = kind, most_s: int = interval_s) -> int:
            is_well = run.trials.run(
                kind,
                number,
                lambda chance: backup_deaths.lose_volume(
                    stack, chance, run.trials, within_s=most_s + 5.0
                ),
            )
            _told(run, kind, number, is_well=is_well)
            return number + 1

        _on_stacks(run, options, work)


#: The tests that are trials when they are told how many, and by which variable they are.
_MOMENTS = {
    "moments: MariaDB": "tests/integration/test_mysql_backup.py"
    "::test_random_times_give_exactly_the_rows_of_a_journal",
    "moments: PostgreSQL": "tests/integration/test_postgresql_backup.py"
    "::test_any_moment_of_a_journal_comes_back",
    "moments: MongoDB": "tests/integration/test_mongodb_backup.py"
    "::test_a_journal_is_restored_to_any_moment",
}


def _moments(run: Run) -> None:
    for kind, test in _MOMENTS.items():
        variables = {"TROVE_TEST_RESTORE_TARGETS": str(run.count)}
        _run_test(run, kind, test, variables, trials_of_each=run.count)


_YEAR = (
    "tests/unit/taskmanager/test_scheduler.py"
    "::test_a_year_of_any_schedule_runs_it_once_on_each_of_its_days"
)


def _schedules(run: Run) -> None:
    variables = {
        "TROVE_TEST_SCHEDULES": str(run.count),
        "TROVE_TEST_SCHEDULES_SEED": f"{run.trials.seed}:{run.first}",
    }
    _run_test(run, "schedules: 400 days", _YEAR, variables, trials_of_each=1)


def _run_test(
    run: Run, kind: str, test: str, variables: Mapping[str, str], *, trials_of_each: int
) -> None:
    """Run a test as so many trials; it tells its own seeds."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--timeout=0", "-p", "no:cacheprovider", test],
        cwd=_ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )
    tests = sum(int(count) for count in re.findall(r"(\d+) (?:passed|failed)", done.stdout))
    run.trials.trials[kind] += trials_of_each * tests
    run.trials.seconds[kind] += time.monotonic() - began
    if done.returncode:
        text = done.stdout[-4000:]
        run.trials.findings.append(Found(kind=kind, seed=run.trials.seed, text=text))
    _told(run, f"{kind}, {tests} tests", run.first, is_well=not done.returncode)


def _engines(run: Run) -> None:
    """Each stage of an engine in turn, then the next engine."""
    filesystem.sync_file_system = lambda path: None
    rows = [row for row in engine_deaths.ROWS if is_available(row)]
    stages = list(engine_deaths.STAGES.items())
    numbers = list(run.numbers)
    for first in range(0, len(numbers), len(stages)):
        row = rows[numbers[first] // len(stages) % len(rows)]
        with (
            tempfile.TemporaryDirectory(prefix="trove-faults-") as directory,
            engine_deaths.written(row, pathlib.Path(directory)) as made,
        ):
            for number in numbers[first : first + len(stages)]:
                stage, trial = stages[number % len(stages)]
                kind = f"engine: {row}, {stage}"
                is_well = run.trials.run(kind, number, functools.partial(trial, made))
                _told(run, kind, number, is_well=is_well)
                if not is_well:
                    break


_WHAT: Mapping[str, tuple[Callable[[Run], None], int]] = {
    "pipeline": (_pipeline, 1000),
    "corruption": (_corruption, 39),
    "deaths": (_deaths, 28),
    "engines": (_engines, 32),
    "volume-lost": (_volume_lost, 5),
    "moments": (_moments, 100),
    "storage": (_storage, 27),
    "full": (_full, 35),
    "clock": (_clock, 10),
    "schedules": (_schedules, 20),
}


def main() -> int:
    """Run the trials; return how it ended."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--what", choices=list(_WHAT), default="pipeline")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    logging.disable()
    function, count = _WHAT[args.what]
    if args.trials is not None:
        count = args.trials
    trials = Trials(args.seed)
    function(Run(trials=trials, first=args.first, count=count, keep=args.keep))
    for line in trials.report():
        print(line)
    return 1 if trials.findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
