"""Measure backups beside what people use: speed, size, memory, and the way back.

For each engine an instance of our own is filled with --size MiB of generated rows
(backup_engines.py says which). In one run, on the same data: the usual tool into files
(pg_basebackup -Ft -z, mariabackup | gzip), and the agent's own copies through its pipeline, with
and without encryption, into a store of files. Then the way back: to bytes, and by the agent's own
restore to the first accepted connection. Figures are the best of --runs. MB are 1,000,000 bytes of
what the engine gives.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import backup_engines
import harness

from trove.guestagent.datastores import base

_KEY = b"k" * 32
_BACKUP = "bench"
_MB = 1_000_000


# -- one backup or one restore, in a process of its own: memory is that of a fresh agent -----


def _work(task: Mapping[str, Any]) -> dict[str, Any]:
    """Do a task; return what it took."""
    from trove.guestagent.backup import place as places
    from trove.rpc import payloads
    from trove.storage.filesystem import FilesystemStore

    store = FilesystemStore(pathlib.Path(task["directory"]))
    storage = payloads.ObjectStorage(
        kind="filesystem",
        account="p",
        container="backups",
        prefix="b/",
        grant=dict(store.grant("p", container="backups", prefix="b/")),
    )
    place = places.Place(storage)
    datastore = backup_engines.Engine.of_task(dict(task)).guest.datastore
    assert datastore is not None
    part = datastore.backup
    assert isinstance(part, base.Backup)
    before = _memory("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    began, began_cpu_s = time.monotonic(), time.process_time()
    figures = _ACTIONS[task["action"]](task, place, part)
    figures["seconds"] = time.monotonic() - began
    figures["cpu_s"] = time.process_time() - began_cpu_s
    figures["growth_mib"] = _memory("VmHWM") - before
    return figures


def _memory(name: str) -> float:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def _store(task: Mapping[str, Any], place: Any, part: base.Backup) -> dict[str, Any]:
    from trove import states
    from trove.guestagent.backup import sealing, writer

    if not task["is_encrypted"]:
        sealing.Cipher.seal = (  # type: ignore[method-assign]
            lambda self, chunk, number, *, is_last: chunk + bytes(sealing.TAG_BYTES)
        )
    description = writer.Description(
        kind=states.BackupKind.FULL, manager="bench", engine_version="1", wrapped_key="a2V5"
    )
    with part.open_full() as stream:
        manifest = writer.store(
            stream,
            place,
            key=_KEY,
            backup_id=_BACKUP,
            describe=lambda facts: description,
            options=writer.Options(compression_level=task["level"]),
        )
    return {
        "data_bytes": manifest.data_bytes,
        "stored_bytes": manifest.stored_bytes,
        "sha256": manifest.sha256,
    }


def _usual(task: Mapping[str, Any], place: Any, part: base.Backup) -> dict[str, Any]:
    """Give the agent's stream to gzip; without a file, throw it away."""
    with contextlib.ExitStack() as stack:
        sink = None
        if task["file"] is not None:
            file = stack.enter_context(open(task["file"], "wb"))
            gzip = subprocess.Popen(["gzip"], stdin=subprocess.PIPE, stdout=file)
            stack.callback(gzip.wait)
            sink = stack.enter_context(gzip.stdin)  # type: ignore[arg-type]
        stream = stack.enter_context(part.open_full())
        while block := stream.read(1 << 20):
            if sink is not None:
                sink.write(block)
        stream.finish()
    return {}


def _restore(task: Mapping[str, Any], place: Any, part: base.Backup) -> dict[str, Any]:
    from trove.guestagent.backup import reader

    kept = reader.open_backup(
        place, key=_KEY, backup_id=_BACKUP, manifest_sha256=task["sha256"]
    ).kept
    if task["work"] is None:
        with kept.open() as content:
            while content.read(1 << 20):
                pass
        return {}
    part.restore(base.Recovery(chain=[kept]), pathlib.Path(task["work"]))
    return {}


_ACTIONS = {"store": _store, "usual": _usual, "restore": _restore}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Result:
    """What the process of a task told."""

    seconds: float
    cpu_s: float
    growth_mib: float
    data_bytes: int = 0
    stored_bytes: int = 0
    sha256: str = ""


def _do(**task: Any) -> _Result:
    done = subprocess.run(
        [sys.executable, __file__, "--task", json.dumps(task)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return _Result(**json.loads(done.stdout.splitlines()[-1]))


# -- the measurement -----


def _measure(
    engine: backup_engines.Engine, figures: harness.Figures, args: argparse.Namespace
) -> None:
    engine.start()
    engine.fill(args.size)
    engine.settle()
    rows = engine.count()
    objects = engine.directory / "objects"
    common = {**engine.task(), "directory": str(objects), "level": args.level}
    usual_s, usual_bytes = _best_of_the_usual(engine, common, args.runs)
    drained = [_do(**common, action="usual", file=None) for _ in range(args.runs)]
    results: dict[bool, list[_Result]] = {False: [], True: []}
    # in turn, so that what else goes on meets both; the last is kept
    for _ in range(args.runs):
        for is_encrypted, done in results.items():
            shutil.rmtree(objects, ignore_errors=True)
            done.append(_do(**common, action="store", is_encrypted=is_encrypted))
    sealed = min(results[True], key=lambda result: result.seconds)
    plain = min(results[False], key=lambda result: result.seconds)

    def speed(seconds: float) -> float:
        return sealed.data_bytes / _MB / seconds

    name = engine.name
    figures.add(f"{name}: data of a copy", sealed.data_bytes / _MB, "MB")
    figures.add(f"{name}: {engine.usual}", speed(usual_s), "MB/s")
    raw_s = min(each.seconds for each in drained)
    figures.add(f"{name}: the copy alone, thrown away", speed(raw_s), "MB/s")
    figures.add(f"{name}: backup, not encrypted", speed(plain.seconds), "MB/s")
    figures.add(f"{name}: backup", speed(sealed.seconds), "MB/s")
    figures.add(f"{name}: backup, of a second of the agent's CPU", speed(sealed.cpu_s), "MB")
    figures.add(f"{name}: times as fast as usual", usual_s / sealed.seconds, "x", at_least=5)
    cost = 100 * (sealed.seconds - plain.seconds) / plain.seconds
    figures.add(f"{name}: cost of encryption", cost, "%", at_most=15)
    cpu = min(each.cpu_s for each in results[True]) / min(each.cpu_s for each in results[False])
    figures.add(f"{name}: cost of encryption in CPU", 100 * (cpu - 1), "%")
    figures.add(f"{name}: size, usual", usual_bytes / _MB, "MB")
    figures.add(f"{name}: size", sealed.stored_bytes / _MB, "MB")
    figures.add(f"{name}: part of usual size", sealed.stored_bytes / usual_bytes, "", at_most=1)
    growth = max(each.growth_mib for each in results[True])
    figures.add(f"{name}: memory for a backup", growth, "MiB", at_most=64)
    _measure_the_way_back(engine, figures, common, results[True][-1], rows=rows, runs=args.runs)


def _measure_the_way_back(
    engine: backup_engines.Engine,
    figures: harness.Figures,
    common: Mapping[str, Any],
    stored: _Result,
    *,
    rows: int,
    runs: int,
) -> None:
    task = {**common, "action": "restore", "sha256": stored.sha256}
    megabytes = stored.data_bytes / _MB
    read = [_do(**task, work=None) for _ in range(runs)]
    name = engine.name
    read_s = min(each.seconds for each in read)
    figures.add(f"{name}: reading it all back", megabytes / read_s, "MB/s")
    made = [_do(**task, work=str(engine.restored))]
    for _ in range(runs - 1):
        shutil.rmtree(engine.restored)
        made.append(_do(**task, work=str(engine.restored)))
    made_s = min(each.seconds for each in made)
    figures.add(f"{name}: restore to a data directory", megabytes / made_s, "MB/s")
    engine.put_in_place()
    began = time.monotonic()
    engine.run()
    whole_s = made_s + time.monotonic() - began
    if engine.count() != rows:
        raise RuntimeError(f"{engine.count()} rows of {rows} came back")
    figures.add(f"{name}: and to a connection", megabytes / whole_s, "MB/s", at_least=150)
    growth = max(each.growth_mib for each in made)
    figures.add(f"{name}: memory for a restore", growth, "MiB", at_most=64)


def _best_of_the_usual(
    engine: backup_engines.Engine, common: Mapping[str, Any], runs: int
) -> tuple[float, int]:
    """Return (seconds, bytes) of what people use."""
    taken: list[float] = []
    size = 0
    for _ in range(runs):
        target = engine.directory / "usual"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(mode=0o700)
        command = engine.usual_command(target)
        if command is None:
            file = str(target / "copy.gz")
            taken.append(_do(**common, action="usual", file=file).seconds)
        else:
            began = time.monotonic()
            subprocess.run(command, check=True)
            taken.append(time.monotonic() - began)
        size = sum(path.stat().st_size for path in target.iterdir())
    shutil.rmtree(target)
    return min(taken), size


def main() -> int:
    """Print the figures."""
    parser = harness.argument_parser(__doc__)
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="data to generate")
    parser.add_argument("--runs", type=int, default=3, help="take the best of so many")
    parser.add_argument("--level", type=int, default=2, help="level of zstd")
    parser.add_argument(
        "--engine",
        action="append",
        choices=[each.name for each in backup_engines.ALL],
        help="measure this one (may be repeated; default: all that are installed)",
    )
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        print(json.dumps(_work(args.task)))
        return 0
    load = pathlib.Path("/proc/loadavg").read_text().split()[0]
    figures = harness.Figures(f"Backups of {args.size} MiB of rows; load before: {load}")
    for engine in backup_engines.ALL:
        if args.engine and engine.name not in args.engine:
            continue
        if not engine.is_installed():
            print(f"{engine.name} is not installed: skipped")
            continue
        with harness.work_directory() as directory:
            measured = engine(directory)
            try:
                _measure(measured, figures, args)
            finally:
                measured.guest.destroy()
    return figures.finish(args.json)


if __name__ == "__main__":
    raise SystemExit(main())
