"""What an agent weighs before it does anything: its libraries, with the driver of one engine."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[3]
_WEIGH = """
import sys
sys.argv[0] = "trove-guestagent"
import trove.cmd.guestagent
import trove.guestagent.datastores.{family}
with open("/proc/self/status") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmRSS")))
print(*sorted(sys.modules.keys() & {{"asyncio.base_events", "psutil._pslinux", "_bcrypt"}}))
"""


def _weigh(family: str) -> tuple[int, str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", _WEIGH.format(family=family)],
        capture_output=True,
        text=True,
        check=True,
        env={**environment, "PYTHONPATH": str(_ROOT)},
    )
    kib, loaded = done.stdout.splitlines()
    return int(kib) // 1024, loaded


@pytest.mark.parametrize(
    ("family", "at_most_mib", "uses"),
    [
        # what a running agent adds is some 5 MiB, of 64 that it may have
        ("mysql", 56, ""),
        ("postgresql", 61, ""),
        ("redis", 53, ""),
        # its driver is one for event loops too
        ("mongodb", 59, "asyncio.base_events"),
    ],
)
def test_libraries_leave_room_for_the_agent(family: str, at_most_mib: int, uses: str) -> None:
    mib, loaded = _weigh(family)
    if mib > at_most_mib:
        # the first to import something has compiled it as well
        mib, loaded = _weigh(family)
    assert mib <= at_most_mib
    assert loaded == uses
