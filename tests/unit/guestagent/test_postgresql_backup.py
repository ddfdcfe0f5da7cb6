"""Archives of copies, positions of the log, and files of it for a recovering server."""

from __future__ import annotations

import hashlib
import io
import json
import pathlib
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fixtures import keeping
from tests.fixtures.waiting import wait_until
from trove.common import exception
from trove.guestagent.datastores import base
from trove.guestagent.datastores.postgresql import feed, recovery, tar, wal
from trove.guestagent.system import users

SEGMENT = 1 << 20


def manifest_of(files: dict[str, bytes]) -> bytes:
    entries = [
        {
            "Path": path,
            "Size": len(data),
            "Checksum-Algorithm": "SHA256",
            "Checksum": hashlib.sha256(data).hexdigest(),
        }
        for path, data in files.items()
        if not path.startswith("pg_wal/")
    ]
    ranges = '[{ "Timeline": 1, "Start-LSN": "0/28", "End-LSN": "0/100" }]'
    text = (
        f'{{ "PostgreSQL-Backup-Manifest-Version": 1,\n"Files": {json.dumps(entries)},\n'
        f'"WAL-Ranges": {ranges},\n'
    )
    return (
        text + f'"Manifest-Checksum": "{hashlib.sha256(text.encode()).hexdigest()}"}}\n'
    ).encode()


def archive_of(files: dict[str, bytes], *, members: list[tarfile.TarInfo] | None = None) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for member in members or []:
            archive.addfile(member)
        for path, data in {**files, tar.MANIFEST: manifest_of(files)}.items():
            folder = tarfile.TarInfo(f"{pathlib.PurePath(path).parent}")
            folder.type = tarfile.DIRTYPE
            if "/" in path:
                archive.addfile(folder)
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


FILES = {
    "PG_VERSION": b"15\n",
    "base/1/1259": b"x" * 20_000,
    "pg_wal/000000010000000000000001": b"",
}
#: tarfile makes no parents by itself.
PARENT = tarfile.TarInfo("base")
PARENT.type = tarfile.DIRTYPE


def unpack(data: bytes, target: pathlib.Path, *, step: int = 1000) -> str:
    directory = tar.Directory(target, owner=users.current())
    scanner = tar.Scanner(directory)
    try:
        for start in range(0, len(data), step):
            scanner.feed(data[start : start + step])
        scanner.finish()
    finally:
        directory.close()
    return directory.check()


@pytest.mark.parametrize("step", [1, 511, 512, 513, 1 << 20])
def test_an_archive_is_unpacked_whatever_the_pieces_are(tmp_path: pathlib.Path, step: int) -> None:
    unpack(archive_of(FILES, members=[PARENT]), tmp_path / "data", step=step)
    for path, data in FILES.items():
        assert (tmp_path / "data" / path).read_bytes() == data
    assert not (tmp_path / "data" / tar.MANIFEST).exists()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../escaped", tarfile.REGTYPE),
        ("/escaped", tarfile.REGTYPE),
        ("base/../../escaped", tarfile.REGTYPE),
        ("pg_tblspc/16384", tarfile.SYMTYPE),
        ("linked", tarfile.LNKTYPE),
        ("device", tarfile.CHRTYPE),
    ],
)
def test_nothing_leaves_the_directory(tmp_path: pathlib.Path, name: str, kind: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = "/etc"
    with pytest.raises(exception.GuestError):
        unpack(archive_of(FILES, members=[PARENT, member]), tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_what_is_not_as_the_manifest_says_is_refused(tmp_path: pathlib.Path) -> None:
    whole = archive_of(FILES, members=[PARENT])
    changed = whole.replace(b"x" * 20_000, b"x" * 19_999 + b"y")
    more = tarfile.TarInfo("base/more")
    manifest = whole.replace(b'"Size": 3', b'"Size": 4')
    for number, (data, problem) in enumerate(
        [
            (changed, "base/1/1259 is not what was copied"),
            (manifest, "manifest is not what was written"),
            (archive_of(FILES, members=[PARENT, more]), "does not belong"),
            (archive_of(FILES, members=[PARENT, PARENT]), ""),
            (whole[:-12_000], "ends too early"),
            (whole[:30_000], "ends too early"),
            (whole + whole, "behind its end"),
        ]
    ):
        if not problem:
            unpack(data, tmp_path / str(number))
            continue
        with pytest.raises(exception.GuestError, match=problem):
            unpack(data, tmp_path / str(number))


def test_a_copy_without_a_whole_manifest_is_incomplete() -> None:
    watch = tar.Watch()
    tar.Scanner(watch).feed(archive_of(FILES, members=[PARENT]))
    assert watch.manifest.finish()[1][0]["End-LSN"] == "0/100"
    watch = tar.Watch()
    data = archive_of(FILES, members=[PARENT]).replace(b"Manifest-Checksum", b"Manifest-Chocksum")
    tar.Scanner(watch).feed(data)
    with pytest.raises(exception.GuestError, match="no complete manifest"):
        watch.manifest.finish()


def test_positions_are_read_and_written_as_the_server_does() -> None:
    assert wal.parse("16/B374D848") == 0x16B374D848
    assert wal.show(0x16B374D848) == "16/B374D848"
    assert wal.segment_name(3, 0x16B374D848, 16 << 20) == "0000000300000016000000B3"
    assert wal.bare(SEGMENT + 40, SEGMENT) == SEGMENT
    assert wal.bare(SEGMENT + 8192 + 24, SEGMENT) == SEGMENT + 8192
    assert wal.bare(SEGMENT + 8192 + 32, SEGMENT) == SEGMENT + 8192 + 32
    for text in ("", "0", "0/", "g/1", "0/1; DROP", "1/123456789"):
        with pytest.raises(exception.GuestError):
            wal.parse(text)


@pytest.mark.parametrize(
    "target",
    [
        base.Target(time_s=1.0, name="x"),
        base.Target(position="x"),
        base.Target(name=""),
        base.Target(name="x" * 64),
        base.Target(name="x\ny"),
    ],
)
def test_targets_that_mean_nothing_are_refused(target: base.Target) -> None:
    with pytest.raises(exception.GuestError):
        recovery.check_target(target)


# -- files of the log -----


def piece(first: int, data: bytes, **changes: Any) -> base.Kept:
    facts = {
        "incarnation": "i",
        "timeline": 1,
        "segment_bytes": SEGMENT,
        "from_lsn": wal.show(first),
        "to_lsn": wal.show(first + len(data)),
        "is_whole": True,
        "as_of_s": 1.0,
    }
    return keeping.kept(data, {**facts, **changes})


def feed_of(directory: pathlib.Path, pieces: list[base.Kept]) -> feed.Feed:
    def give() -> Iterator[base.Kept]:
        return iter(pieces)

    return feed.Feed(
        directory,
        pieces=give,
        owner=users.current(),
        first=SEGMENT,
        timeline=1,
        incarnation="i",
        segment_bytes=SEGMENT,
        present=("000000010000000000000000",),
    )


def ask(given: feed.Feed, name: str, target: pathlib.Path) -> int:
    """Run the command as the server does."""
    command = given.command().replace("%f", name).replace("%p", str(target))
    return subprocess.run(["/bin/sh", "-c", command], check=False, timeout=20).returncode


def test_a_server_gets_the_files_it_asks_for(tmp_path: pathlib.Path) -> None:
    log = bytes(range(256)) * (SEGMENT * 3 // 256)
    pieces = [
        piece(0, bytes(SEGMENT) + log[:1000]),
        # again, and more
        piece(SEGMENT + 500, log[500:2_000_000]),
        piece(SEGMENT + 2_000_000, log[2_000_000:2_500_000]),
    ]
    given = feed_of(tmp_path / "log", pieces)
    given.start()
    try:
        got = tmp_path / "got"
        assert ask(given, "00000002.history", got) == 1
        # what the data have already
        assert ask(given, "000000010000000000000000", got) == 1
        for number in (1, 2, 3):
            assert ask(given, f"00000001000000000000000{number}", got) == 0
            begin = (number - 1) * SEGMENT
            assert got.read_bytes() == log[:2_500_000][begin : begin + SEGMENT].ljust(
                SEGMENT, b"\0"
            )
        assert ask(given, "000000010000000000000003", got) == 1
        assert ask(given, "000000010000000000000004", got) == 1
    finally:
        given.stop()
    given.raise_failure()
    assert given.whole_until == SEGMENT + 2_500_000


@pytest.mark.parametrize(
    "second",
    [
        piece(SEGMENT + 1001, b"x"),
        piece(SEGMENT + 1000, b"x", incarnation="other"),
        piece(SEGMENT + 1000, b"x", timeline=2),
        piece(SEGMENT + 1000, b"x", to_lsn=wal.show(SEGMENT + 1002)),
        piece(SEGMENT + 1000, b"x", segment_bytes=SEGMENT * 2),
    ],
)
def test_a_log_with_a_gap_is_refused(tmp_path: pathlib.Path, second: base.Kept) -> None:
    given = feed_of(tmp_path / "log", [piece(SEGMENT, b"x" * 1000), second])
    given.start()
    assert given.must_end.wait(10)
    given.stop()
    with pytest.raises(exception.GuestError, match="is not whole"):
        given.raise_failure()


def test_few_files_are_ready_before_they_are_wanted(tmp_path: pathlib.Path) -> None:
    given = feed_of(tmp_path / "log", [piece(SEGMENT, bytes(SEGMENT * 30))])
    before = threading.active_count()
    given.start()
    give = tmp_path / "log" / "give"
    wait_until(lambda: len(list(give.iterdir())) == 16)
    given.stop()
    assert len(list(give.iterdir())) == 16
    assert threading.active_count() == before
