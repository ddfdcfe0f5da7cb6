"""Measure backups beside what people use: speed, size, memory, and the way back.

For each engine an instance of our own is filled with --size MiB of generated rows
(backup_engines.py says which). In one run, on the same data: the usual tool into files
(pg_basebackup -Ft -z, mariabackup | gzip), and the agent's own copies through its pipeline into a
store of files. What encryption costs is measured with a store in memory, so that the disk is not
taken for it. Then the way back: to bytes, and by the agent's own restore, durable, to the first
accepted connection. Memory is measured with objects in Swift and in S3 as well, both of one process
of our own that is far from being fast. Figures are the best of --runs, of memory the worst. MB are
1,000,000 bytes of what the engine gives.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

import backup_engines
import harness

from trove.guestagent.datastores import base
from trove.storage import base as storage_base

_KEY = b"k" * 32
_BACKUP = "bench"
_ATTEMPT = "0" * 16
_MB = 1_000_000
#: How many a grant is for that is good for single objects: 2 GB of them.
_MOST_SEGMENTS = 250
#: Where files are in memory.
_MEMORY = pathlib.Path("/dev/shm")
_STORES = ("swift", "s3")
_LOOKS = 200
_MOST_PIECE_BYTES = 16 * 1024 * 1024


# -- one backup or one restore, in a process of its own: memory is that of a fresh agent -----


def _work(task: Mapping[str, Any]) -> dict[str, Any]:
    """Do a task; return what it took."""
    from trove.guestagent.backup import place as places
    from trove.rpc import payloads

    storage = json.loads(pathlib.Path(task["storage"]).read_text())
    place = places.Place(payloads.ObjectStorage.from_wire(storage))
    guest = backup_engines.Engine.of_task(dict(task)).guest
    before = _memory("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    began, began_cpu_s = time.monotonic(), time.process_time()
    figures = _ACTIONS[task["action"]](task, place, guest)
    figures["seconds"] = time.monotonic() - began
    figures["cpu_s"] = time.process_time() - began_cpu_s
    figures["growth_mib"] = _memory("VmHWM") - before
    return figures


def _memory(name: str) -> float:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def _part(guest: Any) -> base.Backup:
    part = guest.datastore.backup
    assert isinstance(part, base.Backup)
    return part


def _store(task: Mapping[str, Any], place: Any, guest: Any) -> dict[str, Any]:
    from trove import states
    from trove.guestagent.backup import sealing, writer

    if not task["is_encrypted"]:
        sealing.Cipher.seal = (  # type: ignore[method-assign]
            lambda self, chunk, number, *, is_last: b"".join((chunk, bytes(sealing.TAG_BYTES)))
        )
    description = writer.Description(
        kind=states.BackupKind.FULL, manager="bench", engine_version="1", wrapped_key="a2V5"
    )
    with _part(guest).open_full() as stream:
        manifest = writer.store(
            stream,
            place,
            key=_KEY,
            backup_id=_BACKUP,
            describe=lambda facts: description,
            options=writer.Options(compression_level=task["level"], attempt=_ATTEMPT),
        )
    return {
        "data_bytes": manifest.data_bytes,
        "stored_bytes": manifest.stored_bytes,
        "sha256": manifest.sha256,
    }


def _usual(task: Mapping[str, Any], place: Any, guest: Any) -> dict[str, Any]:
    """Give the agent's stream to gzip; without a file, throw it away."""
    with contextlib.ExitStack() as stack:
        sink = None
        if task["file"] is not None:
            file = stack.enter_context(open(task["file"], "wb"))
            gzip = subprocess.Popen(["gzip"], stdin=subprocess.PIPE, stdout=file)
            stack.callback(gzip.wait)
            sink = stack.enter_context(gzip.stdin)  # type: ignore[arg-type]
        stream = stack.enter_context(_part(guest).open_full())
        while block := stream.read(1 << 20):
            if sink is not None:
                sink.write(block)
        stream.finish()
    return {}


def _restore(task: Mapping[str, Any], place: Any, guest: Any) -> dict[str, Any]:
    from trove.guestagent.backup import progress, reader, restoring

    stored = reader.open_backup(place, key=_KEY, backup_id=_BACKUP, manifest_sha256=task["sha256"])
    if task["work"] is None:
        with stored.kept.open() as content:
            while content.read(1 << 20):
                pass
        return {}
    restorer = restoring.Restorer(
        _part(guest),
        manager=stored.manifest.manager,
        layout=guest.layout,
        open_place=lambda request, storage: place,
        check_version=lambda version: None,
    )
    checked = restoring.Checked(
        recovery=base.Recovery(chain=[stored.kept]),
        engine_version=stored.manifest.engine_version,
        needed_bytes=stored.manifest.data_bytes,
    )
    restorer.restore(checked, pathlib.Path(task["work"]), progress.Progress())
    return {}


def _look(task: Mapping[str, Any], place: Any, guest: Any) -> dict[str, Any]:
    """Look for what is new in the log of an idle engine."""
    archive = guest.datastore.archive
    assert isinstance(archive, base.Archive)
    position = archive.start()
    with contextlib.ExitStack() as stack:
        stack.callback(archive.stop)
        # what the engine itself wrote since
        while (piece := archive.read(position, most_bytes=_MOST_PIECE_BYTES)) is not None:
            stack.enter_context(piece.stream)
            position = piece.until
        began_s, began_cpu_s = time.monotonic(), time.process_time()
        pieces = 0
        for _ in range(_LOOKS):
            archive.pending_bytes(position)
            pieces += archive.read(position, most_bytes=_MOST_PIECE_BYTES) is not None
        return {
            "pieces": pieces,
            "look_s": (time.monotonic() - began_s) / _LOOKS,
            "look_cpu_s": (time.process_time() - began_cpu_s) / _LOOKS,
        }


_ACTIONS = {"store": _store, "usual": _usual, "restore": _restore, "look": _look}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Result:
    """What the process of a task told."""

    seconds: float
    cpu_s: float
    growth_mib: float
    data_bytes: int = 0
    stored_bytes: int = 0
    sha256: str = ""
    pieces: int = 0
    look_s: float = 0.0
    look_cpu_s: float = 0.0


def _do(**task: Any) -> _Result:
    done = subprocess.run(
        [sys.executable, __file__, "--task", json.dumps(task)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return _Result(**json.loads(done.stdout.splitlines()[-1]))


def _back_up(common: Mapping[str, Any], *, is_encrypted: bool = True) -> _Result:
    """Back up into a store that has nothing yet."""
    if "objects" in common:
        shutil.rmtree(common["objects"], ignore_errors=True)
    return _do(**common, action="store", is_encrypted=is_encrypted)


# -- stores -----


def _grant(store: storage_base.Store, directory: pathlib.Path) -> dict[str, str]:
    """Return the part of a task that opens a store; it holds signed URLs, in a file."""
    from trove.storage import grants, manifests

    names = [manifests.segment_name(_ATTEMPT, number) for number in range(_MOST_SEGMENTS)]
    storage = grants.make(
        store, "p", container="backups", prefix="b/", names=[manifests.MANIFEST_NAME, *names]
    )
    file = directory / f"{store.kind}.json"
    file.touch(mode=0o600)
    file.write_text(json.dumps(storage.to_wire()))
    return {"storage": str(file)}


@contextlib.contextmanager
def _files(parent: pathlib.Path) -> Iterator[dict[str, str]]:
    """Give a store of files below a directory."""
    from trove.storage.filesystem import FilesystemStore

    with tempfile.TemporaryDirectory(prefix="trove-bench-", dir=parent) as directory:
        objects = pathlib.Path(directory) / "objects"
        yield {
            **_grant(FilesystemStore(objects), pathlib.Path(directory)),
            "objects": str(objects / "p"),
        }


@contextlib.contextmanager
def _server(kind: str, directory: pathlib.Path) -> Iterator[dict[str, str]]:
    """Give a store of a server of our own."""
    from tests.fixtures import s3, swift

    home = directory / kind
    home.mkdir()
    with swift.serving(home) as running:
        is_s3 = kind == "s3"
        yield _grant(s3.make_store(running.s3, home) if is_s3 else running.make_store(home), home)


# -- the measurement -----


def _measure(
    engine: backup_engines.Engine, figures: harness.Figures, args: argparse.Namespace
) -> None:
    engine.start()
    engine.fill(args.size)
    engine.settle()
    rows = engine.count()
    common = {**engine.task(), "level": args.level}
    name = engine.name
    with _files(engine.directory) as files:
        _measure_looks(name, figures, {**common, **files})
        stored = _measure_backups(engine, figures, {**common, **files}, args.runs)
        with _files(_MEMORY if _MEMORY.is_dir() else engine.directory) as in_memory:
            _measure_encryption(name, figures, {**common, **in_memory}, args.runs)
        _measure_the_way_back(
            engine, figures, {**common, **files}, stored, rows=rows, runs=args.runs
        )
    for kind in args.store:
        with _server(kind, engine.directory) as served:
            _measure_memory(f"{name} in {kind}", figures, {**common, **served})


def _measure_looks(name: str, figures: harness.Figures, common: Mapping[str, Any]) -> None:
    looked = _do(**common, action="look")
    figures.add(f"{name}: pieces of an idle log", looked.pieces, "", at_most=0)
    figures.add(f"{name}: a look at an idle log", 1000 * looked.look_s, "ms")
    figures.add(f"{name}: agent's CPU for it", 1000 * looked.look_cpu_s, "ms")


def _measure_encryption(
    name: str, figures: harness.Figures, common: Mapping[str, Any], runs: int
) -> None:
    results: dict[bool, list[_Result]] = {False: [], True: []}
    # in turn, so that what else goes on meets both
    for number in range(2 * runs):
        is_encrypted = number % 4 in (1, 2)
        results[is_encrypted].append(_back_up(common, is_encrypted=is_encrypted))
    plain_s, sealed_s = (
        min(each.seconds for each in results[is_encrypted]) for is_encrypted in (False, True)
    )
    megabytes = results[True][0].data_bytes / _MB
    figures.add(f"{name}: into memory, not encrypted", megabytes / plain_s, "MB/s")
    figures.add(f"{name}: into memory", megabytes / sealed_s, "MB/s")
    figures.add(f"{name}: cost of encryption", 100 * (sealed_s / plain_s - 1), "%", at_most=15)
    cpu = min(each.cpu_s for each in results[True]) / min(each.cpu_s for each in results[False])
    figures.add(f"{name}: cost of encryption in CPU", 100 * (cpu - 1), "%")


def _measure_memory(name: str, figures: harness.Figures, common: Mapping[str, Any]) -> None:
    stored = _back_up(common)
    figures.add(f"{name}: memory for a backup", stored.growth_mib, "MiB", at_most=64)
    read = _do(**common, action="restore", sha256=stored.sha256, work=None)
    figures.add(f"{name}: memory to read it back", read.growth_mib, "MiB", at_most=64)


def _measure_backups(
    engine: backup_engines.Engine, figures: harness.Figures, common: Mapping[str, Any], runs: int
) -> _Result:
    """Print what backups take; return one that is stored."""
    name = engine.name
    usual_s, usual_bytes = _best_of_the_usual(engine, common, runs)
    drained = [_do(**common, action="usual", file=None) for _ in range(runs)]
    results = [_back_up(common) for _ in range(runs)]
    sealed = min(results, key=lambda result: result.seconds)

    def speed(seconds: float) -> float:
        return sealed.data_bytes / _MB / seconds

    figures.add(f"{name}: data of a copy", sealed.data_bytes / _MB, "MB")
    figures.add(f"{name}: {engine.usual}", speed(usual_s), "MB/s")
    raw_s = min(each.seconds for each in drained)
    figures.add(f"{name}: the copy alone, thrown away", speed(raw_s), "MB/s")
    figures.add(f"{name}: backup", speed(sealed.seconds), "MB/s")
    figures.add(f"{name}: backup, of a second of the agent's CPU", speed(sealed.cpu_s), "MB")
    figures.add(f"{name}: times as fast as usual", usual_s / sealed.seconds, "x", at_least=5)
    figures.add(f"{name}: size, usual", usual_bytes / _MB, "MB")
    figures.add(f"{name}: size", sealed.stored_bytes / _MB, "MB")
    figures.add(f"{name}: part of usual size", sealed.stored_bytes / usual_bytes, "", at_most=1)
    growth = max(each.growth_mib for each in results)
    figures.add(f"{name}: memory for a backup", growth, "MiB", at_most=64)
    return results[-1]


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
    parser.add_argument(
        "--store",
        action="append",
        choices=_STORES,
        help="measure memory with this one as well (may be repeated; default: both, where Swift is"
        " installed)",
    )
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        print(json.dumps(_work(args.task)))
        return 0
    if args.store is None:
        args.store = _STORES if importlib.util.find_spec("swift") else ()
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
