"""Files, processes and users of the operating system."""

from __future__ import annotations

import errno
import os
import pathlib
import signal
import socket
import sys

import pytest

from tests.fixtures.waiting import wait_until
from trove.common import exception
from trove.guestagent import state
from trove.guestagent.system import filesystem, process, users


def _command(tmp_path: pathlib.Path, code: str, marker: str) -> process.Command:
    return process.Command(
        argv=(sys.executable, "-c", code, marker),
        marker=marker,
        user=users.current(),
        log=tmp_path / "log",
        directory=tmp_path,
    )


@pytest.fixture
def sleeper(tmp_path: pathlib.Path) -> process.Process:
    marker = f"--marker={tmp_path}"
    child = process.spawn(
        _command(tmp_path, "import time; print('up', flush=True); time.sleep(60)", marker)
    )
    wait_until(lambda: "up" in filesystem.read_tail(tmp_path / "log"))
    return child


def test_process_is_known_by_number_start_and_argument(
    sleeper: process.Process, tmp_path: pathlib.Path
) -> None:
    identity = sleeper.identity
    assert process.is_alive(identity)
    assert process.find_by_argument(f"--marker={tmp_path}") == identity
    older = process.Identity(
        pid=identity.pid, start_ticks=identity.start_ticks - 1, boot_id=identity.boot_id
    )
    assert not process.is_alive(older)
    assert os.getsid(identity.pid) == identity.pid
    sleeper.signal(signal.SIGKILL)
    assert sleeper.wait(10)
    assert sleeper.return_code == -signal.SIGKILL
    assert process.find_by_argument(f"--marker={tmp_path}") is None
    sleeper.signal(signal.SIGTERM)  # nothing happens
    sleeper.close()


def test_processes_are_known_by_the_directory_that_they_work_on(tmp_path: pathlib.Path) -> None:
    work = tmp_path / "work"
    beside = tmp_path / "work.log"
    elsewhere = tmp_path / "other"
    for directory in (work, beside, elsewhere):
        directory.mkdir()
    code = "import time; time.sleep(60)"
    left = [process.spawn(_command(each, code, "-")) for each in (work, beside)]
    left.append(process.spawn(_command(elsewhere, code, f"--target-dir={work}")))
    other = process.spawn(_command(elsewhere, code, f"--target-dir={elsewhere}"))
    try:
        assert process.end_on(work, timeout_s=10.0) == 3
        assert all(each.has_ended() for each in left)
        assert process.is_alive(other.identity)
        assert process.end_on(work, timeout_s=10.0) == 0
    finally:
        for each in (*left, other):
            each.signal(signal.SIGKILL)
            each.wait(10)
            each.close()


def test_a_child_of_before_is_collected_too(tmp_path: pathlib.Path) -> None:
    child = process.spawn(
        _command(tmp_path, "import time; time.sleep(0.3); raise SystemExit(7)", "x")
    )
    found = process.Process(child.identity)
    child.close()
    assert found.wait(10)
    assert found.return_code == 7
    assert not pathlib.Path(f"/proc/{found.identity.pid}").exists()
    found.close()


def test_zombie_counts_as_ended(sleeper: process.Process) -> None:
    adopted = process.Process(sleeper.identity)
    sleeper.signal(signal.SIGKILL)
    # not collected yet: it is a zombie now
    wait_until(lambda: not process.is_alive(sleeper.identity))
    assert pathlib.Path(f"/proc/{sleeper.identity.pid}").exists()
    assert adopted.has_ended()
    assert sleeper.has_ended()
    adopted.close()


def test_exit_code_is_told(tmp_path: pathlib.Path) -> None:
    child = process.spawn(_command(tmp_path, "raise SystemExit(7)", "x"))
    assert child.wait(20)
    assert child.return_code == 7
    child.close()


def test_pid_file_is_read_back_or_ignored(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "pid"
    assert process.read_pid_file(path) is None
    identity = process.identify(os.getpid())
    assert identity is not None
    process.write_pid_file(path, identity)
    assert process.read_pid_file(path) == identity
    path.write_text("[]")
    assert process.read_pid_file(path) is None


def test_port_in_use_is_seen() -> None:
    with socket.create_server(("127.40.0.2", 0)) as server:
        port = server.getsockname()[1]
        assert not process.is_port_free("127.40.0.2", port)
        assert process.is_port_free("127.40.0.3", port)
    assert process.is_port_free("127.40.0.2", port)


def test_file_is_replaced_as_a_whole_and_never_wider_than_its_mode(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "f"
    filesystem.write_file(path, "one", mode=0o600)
    filesystem.write_file(path, b"two", mode=0o640)
    assert path.read_text() == "two"
    assert path.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


def test_directory_that_is_a_link_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        filesystem.ensure_directory(tmp_path / "link", mode=0o700)


def test_tree_is_copied_with_modes_and_without_links(tmp_path: pathlib.Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "f").write_bytes(b"x" * 100_000)
    (source / "empty").touch(mode=0o600)
    (source / "link").symlink_to("/etc/passwd")
    filesystem.copy_tree(source, tmp_path / "target", owner=users.current())
    copied = sorted(p.relative_to(tmp_path / "target") for p in (tmp_path / "target").rglob("*"))
    assert [str(path) for path in copied] == ["empty", "sub", "sub/f"]
    assert (tmp_path / "target/sub/f").read_bytes() == b"x" * 100_000
    assert (tmp_path / "target/empty").stat().st_mode & 0o777 == 0o600


def test_log_is_bounded_and_its_end_is_kept(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "log"
    writer = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in range(2000):
        os.write(writer, b"line %d\n" % number)
    filesystem.bound_log(path, max_bytes=10_000)
    os.write(writer, b"after\n")
    os.close(writer)
    assert path.read_text() == "after\n"
    kept = (tmp_path / "log.1").read_text()
    assert kept.endswith("line 1999\n")
    assert len(kept) <= 5_000
    assert kept.startswith("line ")


def test_tail_of_a_log_since_an_offset(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "log"
    path.write_text("old\nnew\n")
    assert filesystem.read_tail(path, since=4) == "new\n"
    assert filesystem.read_tail(path, since=400) == "old\nnew\n"  # it was cut meanwhile
    assert filesystem.read_tail(tmp_path / "none") == ""


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EACCES, "Permission denied"),
        (errno.EROFS, "read-only"),
    ],
)
def test_errors_are_explained(number: int, words: str) -> None:
    text = filesystem.explain(OSError(number, "x", "/some/path"), "copying")
    assert words in text
    assert "/some/path" in text
    assert "copying" in text


def test_lock_is_held_by_one(tmp_path: pathlib.Path) -> None:
    first = filesystem.lock_file(tmp_path / "lock")
    assert first is not None
    assert filesystem.lock_file(tmp_path / "lock") is None
    os.close(first)
    again = filesystem.lock_file(tmp_path / "lock")
    assert again is not None
    os.close(again)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root chooses the engine's user")
@pytest.mark.parametrize("name", ["no-such-user", "root"])
def test_engine_user_must_exist_and_not_be_root(name: str) -> None:
    with pytest.raises(exception.ConfigurationError):
        users.engine_user(name)


def test_socket_directory_is_short_enough_wherever_the_state_lies(tmp_path: pathlib.Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    layout = state.Layout(
        state_dir=deep, mount_point=tmp_path / "volume", engine_user=users.current()
    )
    layout.make_state()
    store = state.Store(layout)
    path = store.run_dir()
    try:
        assert len(str(path / "mongodb-27017.sock")) <= 107
        assert path.stat().st_mode & 0o777 == 0o700
        assert state.Store(layout).run_dir() == path
    finally:
        path.rmdir()


def test_state_counts_boots_and_keeps_passwords(tmp_path: pathlib.Path) -> None:
    layout = state.Layout(
        state_dir=tmp_path / "s", mount_point=tmp_path / "v", engine_user=users.current()
    )
    layout.make_state()
    assert [state.Store(layout).count_boot() for _ in range(3)] == [1, 2, 3]
    first = state.Store(layout).password("os_admin")
    assert first == state.Store(layout).password("os_admin")
    assert len(first) == 32
