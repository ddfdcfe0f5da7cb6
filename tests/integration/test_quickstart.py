"""tools/quickstart.sh, as a user runs it; the Python environment is the tests' own."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from tests.fixtures.stack import free_port

SCRIPT = pathlib.Path(__file__).parents[2] / "tools" / "quickstart.sh"


@pytest.fixture(scope="module")
def root() -> Iterator[pathlib.Path]:
    """Give a short directory that other users can pass through; ends what runs in it."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="trove-"))
    path.chmod(0o755)
    yield path
    _run(path, "down", "--purge")
    shutil.rmtree(path)


def _run(root: pathlib.Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPT), *args, "--state-dir", str(root / "s")],
        # a client configuration of somebody else must not matter
        env=os.environ
        | {"TROVE_VENV": sys.prefix, "OS_CLOUD": "mine", "OS_AUTH_URL": "http://127.0.0.1:1/"}
        | env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
    )


def _ok(root: pathlib.Path, *args: str) -> str:
    done = _run(root, *args)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _visits(output: str) -> int:
    (line,) = (line for line in output.splitlines() if "-MariaDB" in line)
    assert "TLS_" in line
    return int(line.split("|")[2])


def test_the_first_run_ends_with_an_answer_over_tls_and_the_next_keeps_the_data(
    root: pathlib.Path,
) -> None:
    first = _ok(root, "--port", str(free_port()))
    assert _visits(first) == 1
    assert "tools/quickstart.sh down" in first
    _ok(root, "down")
    beside = _ok(root, "--datastore", "redis")
    assert "Creating the instance 'quickstart-redis'" in beside
    assert re.search(r"^redis 7\S* \| 1 visits \| port 6380$", beside, flags=re.MULTILINE)
    assert "redis-cli -h 127." in beside
    assert "--tls --cacert" in beside
    # while it runs, with what was there before it was stopped
    again = _ok(root)
    assert "is there already" in again
    assert _visits(again) == 2
    purged = _ok(root, "down", "--purge")
    assert "removed" in purged
    assert not (root / "s").exists()


def test_a_failure_names_its_step_and_where_to_look(root: pathlib.Path) -> None:
    (root / "s").mkdir()
    (root / "s" / "thesis.tex").touch()
    done = _run(root, "--port", str(free_port()))
    assert done.returncode == 1
    assert "--state-dir" in done.stderr
    assert "This step failed: Starting the service" in done.stderr
    assert "What was said on the way" in done.stderr
    log = done.stderr.split("What was said on the way: ")[1].split()[0]
    pathlib.Path(log).unlink()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--port"], "--port needs a value"),
        (["--datastore"], "--datastore needs a value"),
        (["sideways"], "tools/quickstart.sh down"),
        (["--datastore", "oracle"], "mariadb postgresql redis valkey mongodb"),
        (["--datastore", ""], "mariadb postgresql redis valkey mongodb"),
        (["--datastore", "redis valkey"], "mariadb postgresql redis valkey mongodb"),
    ],
)
def test_a_wrong_command_line_is_refused(args: list[str], words: str) -> None:
    done = subprocess.run(["bash", str(SCRIPT), *args], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert words in done.stderr


@pytest.mark.parametrize("datastore", ["valkey", "mongodb"])
def test_an_engine_that_debian_lacks_is_asked_for_before_anything_starts(
    root: pathlib.Path, tmp_path: pathlib.Path, datastore: str
) -> None:
    path = os.pathsep.join((os.environ["PATH"], "/usr/local/sbin", "/usr/sbin"))
    if shutil.which({"valkey": "valkey-server", "mongodb": "mongod"}[datastore], path=path):
        pytest.skip("this machine has the engine")
    done = _run(root, "--datastore", datastore, TROVE_TEST_ENGINES=str(tmp_path / "none"))
    assert done.returncode == 1
    assert f"--datastore {datastore} --test-engines" in done.stderr
    assert "Starting the service" not in done.stdout
    assert not (tmp_path / "none").exists()
