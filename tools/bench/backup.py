"""Measure backups beside what people use: speed, size, memory, and the way back.

For each engine a server of our own is filled with --size MiB of generated rows (backup_engines.py
says which). In one run, on the same data: the usual tool into files (pg_basebackup -Ft -z,
mariabackup | gzip), and the agent's pipeline on the same copy as a stream, with and without
encryption, into a store of files. Then the way back: to bytes, and to the first accepted
connection. Figures are the best of --runs. MB are 1,000,000 bytes of the engine's.
"""

from __future__ import annotations

import argparse
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
    before = _memory("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    began, began_cpu_s = time.monotonic(), time.process_time()
    figures = (_store if task["action"] == "store" else _restore)(task, place)
    figures["seconds"] = time.monotonic() - began
    figures["cpu_s"] = time.process_time() - began_cpu_s
    figures["growth_mib"] = _memory("VmHWM") - before
    return figures


def _memory(name: str) -> float:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def _store(task: Mapping[str, Any], place: Any) -> dict[str, Any]:
    from trove import states
    from trove.guestagent.backup import sealing, writer

    if not task["is_encrypted"]:
        sealing.Cipher.seal = (  # type: ignore[method-assign]
            lambda self, chunk, number, *, is_last: chunk + bytes(sealing.TAG_BYTES)
        )
    description = writer.Description(
        kind=states.BackupKind.FULL, manager="bench", engine_version="1", wrapped_key="a2V5"
    )
    with _program_stream(task["command"]) as stream:
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


def _program_stream(command: list[str]) -> Any:
    from trove.guestagent.datastores import base

    class ProgramStream(base.Stream):
        """The output of a program."""

        def __init__(self) -> None:
            self._program = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
            )

        def read(self, most: int) -> bytes:
            assert self._program.stdout is not None
            return self._program.stdout.read(most) or b""

        def finish(self) -> dict[str, Any]:
            if self._program.wait() != 0:
                raise RuntimeError(f"{command} failed")
            return {}

        def close(self) -> None:
            self._program.kill()
            self._program.wait()

    return ProgramStream()


def _restore(task: Mapping[str, Any], place: Any) -> dict[str, Any]:
    from trove.guestagent.backup import reader

    stored = reader.open_backup(place, key=_KEY, backup_id=_BACKUP, manifest_sha256=task["sha256"])
    with stored.kept.open() as content:
        if task["command"] is None:
            while content.read(1 << 20):
                pass
            return {}
        with subprocess.Popen(task["command"], stdin=subprocess.PIPE, bufsize=0) as program:
            assert program.stdin is not None
            while block := content.read(1 << 20):
                view = memoryview(block)
                while view:
                    view = view[program.stdin.write(view) :]
            program.stdin.close()
            if program.wait() != 0:
                raise RuntimeError(f"{task['command']} failed")
    return {}


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
    engine.make()
    objects = engine.directory / "objects"
    with engine.running(engine.data):
        engine.fill(args.size)
        rows = engine.count(engine.data)
        usual_s, usual_bytes = _best_of_the_usual(engine, args.runs)
        raw_s = min(_drain(engine.stream()) for _ in range(args.runs))
        results: dict[bool, list[_Result]] = {True: [], False: []}
        # in turn, so that what else goes on meets both
        for _ in range(args.runs):
            for is_encrypted, done in results.items():
                shutil.rmtree(objects, ignore_errors=True)
                done.append(
                    _do(
                        action="store",
                        directory=str(objects),
                        command=engine.stream(),
                        level=args.level,
                        is_encrypted=is_encrypted,
                    )
                )
        # the way back needs one that is encrypted
        shutil.rmtree(objects, ignore_errors=True)
        last = _do(
            action="store",
            directory=str(objects),
            command=engine.stream(),
            level=args.level,
            is_encrypted=True,
        )
    sealed = min([*results[True], last], key=lambda result: result.seconds)
    plain = min(results[False], key=lambda result: result.seconds)
    data_bytes = sealed.data_bytes

    def speed(seconds: float) -> float:
        return data_bytes / _MB / seconds

    name = engine.name
    figures.add(f"{name}: data of a copy", data_bytes / _MB, "MB")
    figures.add(f"{name}: {engine.rival}", speed(usual_s), "MB/s")
    figures.add(f"{name}: the copy alone, thrown away", speed(raw_s), "MB/s")
    figures.add(f"{name}: backup, not encrypted", speed(plain.seconds), "MB/s")
    figures.add(f"{name}: backup", speed(sealed.seconds), "MB/s")
    figures.add(f"{name}: backup, of a second of CPU", speed(sealed.cpu_s), "MB")
    figures.add(f"{name}: times as fast as usual", usual_s / sealed.seconds, "x", at_least=5)
    cost = 100 * (sealed.seconds - plain.seconds) / plain.seconds
    figures.add(f"{name}: cost of encryption", cost, "%", at_most=15)
    figures.add(f"{name}: size, usual", usual_bytes / _MB, "MB")
    figures.add(f"{name}: size", sealed.stored_bytes / _MB, "MB")
    figures.add(f"{name}: part of usual size", sealed.stored_bytes / usual_bytes, "", at_most=1)
    growth = max(each.growth_mib for each in (*results[True], last))
    figures.add(f"{name}: memory for a backup", growth, "MiB", at_most=64)
    _measure_the_way_back(engine, figures, last, rows=rows, runs=args.runs)


def _measure_the_way_back(
    engine: backup_engines.Engine,
    figures: harness.Figures,
    stored: _Result,
    *,
    rows: int,
    runs: int,
) -> None:
    task = {
        "action": "restore",
        "directory": str(engine.directory / "objects"),
        "sha256": stored.sha256,
    }
    megabytes = stored.data_bytes / _MB
    read = [_do(**task, command=None) for _ in range(runs)]
    figures.add(
        f"{engine.name}: reading it all back",
        megabytes / min(each.seconds for each in read),
        "MB/s",
    )
    figures.add(
        f"{engine.name}: reading, of a second of CPU",
        megabytes / min(each.cpu_s for each in read),
        "MB",
    )
    whole: list[float] = []
    growth: list[float] = [each.growth_mib for each in read]
    for _ in range(runs):
        data = engine.empty("restored")
        began = time.monotonic()
        growth.append(_do(**task, command=engine.unpack(data)).growth_mib)
        if command := engine.prepare(data):
            engine.run(command)
        with engine.running(data):
            whole.append(time.monotonic() - began)
            if engine.count(data) != rows:
                raise RuntimeError(f"{engine.count(data)} rows of {rows} came back")
    figures.add(
        f"{engine.name}: restore to the first connection",
        megabytes / min(whole),
        "MB/s",
        at_least=150,
    )
    figures.add(f"{engine.name}: memory for a restore", max(growth), "MiB", at_most=64)


def _best_of_the_usual(engine: backup_engines.Engine, runs: int) -> tuple[float, int]:
    """Return (seconds, bytes) of what people use."""
    taken: list[float] = []
    size = 0
    for _ in range(runs):
        target = engine.empty("usual")
        began = time.monotonic()
        subprocess.run(engine.rival_command(target), shell=True, check=True)
        taken.append(time.monotonic() - began)
        size = sum(path.stat().st_size for path in target.iterdir())
    return min(taken), size


def _drain(command: list[str]) -> float:
    began = time.monotonic()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.monotonic() - began


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
            _measure(engine(directory), figures, args)
    return figures.finish(args.json)


if __name__ == "__main__":
    raise SystemExit(main())
