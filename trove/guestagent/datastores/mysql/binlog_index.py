"""The index of the binary log: a list of its files, by full paths.

In data that come from another place it names files of that place, which a server would recover
from, and remove when they are old.
"""

from __future__ import annotations

import pathlib

from trove.guestagent.datastores.mysql import binlog
from trove.guestagent.system import filesystem, users


def path_in(data: pathlib.Path) -> pathlib.Path:
    """Return where the index of a data directory is, which need not have one."""
    return data / f"{binlog.BASE_NAME}.index"


def make_relative(data: pathlib.Path, *, owner: users.SystemUser) -> None:
    """Have the index of a data directory name the files beside it, wherever it is moved."""
    path = path_in(data)
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    text = "".join(f"./{pathlib.PurePosixPath(line).name}\n" for line in lines if line)
    filesystem.write_file(path, text, mode=0o660, owner=owner)
