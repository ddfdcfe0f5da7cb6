#!/usr/bin/env python3
"""Damage backups and the store that they go to, at random, and see that none of it passes.

    backup.py [--trials 1000] [--seed 0]

Half of the trials damage what is stored: a bit is flipped, an object cut off, made longer, removed
or exchanged (with another of the backup, of another try, of another backup), the key is another.
Reading has to fail, saying what is wrong, and must have handed on nothing but what was stored. The
other half have a bad day while a backup is made: the store fails, lies or loses the manifest, the
engine fails at some byte or at its end, somebody cancels. Either the backup is there and comes back
byte by byte, or there is an error and nothing is left. Prints trials and findings of each kind;
ends with 1 if there is a finding.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import logging
import pathlib
import random
import sys
from collections.abc import Callable, Iterator

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from trove.common import concurrency

concurrency.use_native_threads()

from tests.unit.guestagent.backup import making, stores  # noqa: E402
from trove.common import exception  # noqa: E402
from trove.guestagent.backup import sealing, writer  # noqa: E402
from trove.guestagent.backup.progress import Progress  # noqa: E402
from trove.storage import base as storage  # noqa: E402
from trove.storage import factory, manifests  # noqa: E402

_MANIFEST = f"{stores.PREFIX}{manifests.MANIFEST_NAME}"
_MOST_BYTES = 3 * sealing.SEALED_BYTES


class Campaign:
    """Trials, one after another."""

    def __init__(self, seed: int) -> None:
        """Begin with a seed."""
        self.random = random.Random(seed)
        self.trials: collections.Counter[str] = collections.Counter()
        self.findings: list[str] = []
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
        self.findings.append(f"{kind}: {what}")

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


def main() -> int:
    """Run the trials; return how it ended."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.disable()
    campaign = Campaign(args.seed)
    kinds: list[Callable[[], None]] = [campaign.damage, campaign.bad_day]
    for number in range(args.trials):
        kinds[number % 2]()
    for kind, count in sorted(campaign.trials.items()):
        found = sum(each.startswith(f"{kind}: ") for each in campaign.findings)
        print(f"{kind:<28} {count:>7} trials {found:>4} findings")
    print(f"{'all':<28} {args.trials:>7} trials {len(campaign.findings):>4} findings")
    for each in campaign.findings[:50]:
        print(each)
    return 1 if campaign.findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
