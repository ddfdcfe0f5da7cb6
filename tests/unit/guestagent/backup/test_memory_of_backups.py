"""A backup and a restore take little memory, however large, and an idle agent none for them."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

from tests.fixtures.project import ROOT

_PROGRAM = """
import json, pathlib, sys
from tests.unit.guestagent.backup import making
from trove.guestagent.backup import jobs, pieces, reader, writer

def memory(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith(name + ":"))

def blocks():
    block = making.noise(1 << 20)
    for number in range(64):
        yield number.to_bytes(8, "big") + block

place = making.make_place(pathlib.Path(sys.argv[1]))
told = {"has_zstandard": "zstandard" in sys.modules}
for what in ("store", "restore"):
    before = memory("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    if what == "store":
        stream = making.GivenStream(blocks())
        manifest = making.store(stream, place, options=writer.Options(threads=4))
    else:
        kept = reader.open_backup(
            place, key=making.KEY, backup_id=making.BACKUP, manifest_sha256=manifest.sha256
        ).kept
        with kept.open() as content:
            while content.read(1 << 20):
                pass
    told[what] = memory("VmHWM") - before
print(json.dumps(told))
"""


def test_memory_is_flat(tmp_path: pathlib.Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    assert not told["has_zstandard"]
    assert told["store"] <= 64
    assert told["restore"] <= 64
