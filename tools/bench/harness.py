"""What the benchmarks share: processes that are ended, measuring, figures that are printed.

Importing this module makes the source tree importable, so that every benchmark runs as
``python tools/bench/NAME.py`` in an environment with the requirements of the tests.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

import psutil

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number; ``at_most`` and ``at_least`` are its goal, if it has one."""

    name: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None

    @property
    def verdict(self) -> str:
        """Say whether the goal is met; empty without a goal."""
        if self.at_most is not None:
            return f"goal <= {self.at_most:g}: {'met' if self.value <= self.at_most else 'MISSED'}"
        if self.at_least is not None:
            return (
                f"goal >= {self.at_least:g}: {'met' if self.value >= self.at_least else 'MISSED'}"
            )
        return ""


class Figures:
    """The figures of one run, printed as they come."""

    def __init__(self, title: str) -> None:
        """Print the heading: what is measured, on what machine."""
        self.title = title
        self._figures: list[Figure] = []
        cpus = len(os.sched_getaffinity(0))
        print(f"{title}\nPython {platform.python_version()}, {cpus} CPUs\n", flush=True)

    def add(
        self,
        name: str,
        value: float,
        unit: str,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> None:
        """Record and print one figure."""
        figure = Figure(name=name, value=value, unit=unit, at_most=at_most, at_least=at_least)
        self._figures.append(figure)
        print(f"{name:<52} {value:>10.2f} {unit:<14} {figure.verdict}".rstrip(), flush=True)

    def finish(self, json_file: str | None) -> int:
        """Write the figures as JSON where that is asked for; return the exit status."""
        if json_file:
            document = {
                "title": self.title,
                "figures": [dataclasses.asdict(figure) for figure in self._figures],
            }
            pathlib.Path(json_file).write_text(json.dumps(document, indent=2) + "\n")
        return 1 if any("MISSED" in figure.verdict for figure in self._figures) else 0


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with what every benchmark takes."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE as well")
    return parser


def percentile(values: Sequence[float], per_cent: float) -> float:
    """Return the value that ``per_cent`` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * per_cent / 100) - 1)]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time, user and system, that a process and its ended children used."""
    return sum(psutil.Process(pid).cpu_times()[:4])


def memory_mib(pid: int) -> tuple[float, float]:
    """Return (RSS, PSS) of a process in MiB."""
    info = psutil.Process(pid).memory_full_info()
    return info.rss / 2**20, info.pss / 2**20


def pause(seconds: float) -> None:
    """Let time pass."""
    threading.Event().wait(seconds)


def wait_for(predicate: object, *, timeout_s: float, what: str, interval_s: float = 0.05) -> object:
    """Return the first true value of a callable; raises TimeoutError."""
    end = time.monotonic() + timeout_s
    while True:
        value = predicate()  # type: ignore[operator]
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"not within {timeout_s} s: {what}")
        pause(interval_s)


@contextlib.contextmanager
def work_directory() -> Iterator[pathlib.Path]:
    """Give a directory that an engine's user can reach, and remove it in the end."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="trove-bench-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def process(
    argv: Sequence[str],
    *,
    log: pathlib.Path | None = None,
    env: Mapping[str, str] | None = None,
    stdout: int | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """Run a program from this source tree in a session of its own; end all of it at the end."""
    environment = {**os.environ, **(env or {})}
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), environment.get("PYTHONPATH")])
    )
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("ab")) if log else subprocess.DEVNULL
        child = subprocess.Popen(
            list(argv),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout if stdout is not None else output,
            stderr=output if log else None,
            text=True,
            start_new_session=True,
        )
        try:
            yield child
        finally:
            for sig, grace_s in ((signal.SIGTERM, 15), (signal.SIGKILL, 5)):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, sig)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(grace_s)
                    break
            if child.stdout:
                child.stdout.close()
