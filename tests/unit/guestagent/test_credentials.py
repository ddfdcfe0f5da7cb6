"""What the agent keeps of the keys and accounts of its channel."""

from __future__ import annotations

import pathlib
import stat
from typing import Any

import pytest

from trove.common import crypto, exception
from trove.guestagent import credentials
from trove.guestagent.system import filesystem
from trove.rpc import payloads

FIRST = credentials.Credentials(key=b"1" * 32, transport_url="rabbit://first:secret-1@b/g")
JOB = payloads.RekeyJob(
    key=crypto.encode_key(b"2" * 32), transport_url="rabbit://second:secret-2@b/g"
)
SECOND = credentials.Credentials(key=b"2" * 32, transport_url=JOB.transport_url)


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "channel.json"


def test_the_first_count_until_they_are_replaced(path: pathlib.Path) -> None:
    kept = credentials.CredentialFile(path, FIRST)
    assert kept.current == FIRST
    assert kept.replace(JOB) == kept.current == SECOND
    assert credentials.CredentialFile(path, FIRST).current == SECOND
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_same_job_twice_changes_nothing(path: pathlib.Path) -> None:
    kept = credentials.CredentialFile(path, FIRST)
    assert kept.replace(JOB) == kept.replace(JOB) == SECOND


def test_what_an_earlier_server_kept_does_not_count(path: pathlib.Path) -> None:
    credentials.CredentialFile(path, FIRST).replace(JOB)
    anew = credentials.Credentials(key=b"3" * 32, transport_url=FIRST.transport_url)
    assert credentials.CredentialFile(path, anew).current == anew


@pytest.mark.parametrize("point", ["open", "fsync", "replace"])
def test_a_crash_leaves_the_old_or_the_new(
    path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    kept = credentials.CredentialFile(path, FIRST)

    class Crash(BaseException):
        pass

    def die(*_: Any, **__: Any) -> None:
        raise Crash

    where = pathlib.Path if point == "replace" else filesystem.os
    with monkeypatch.context() as patch:
        patch.setattr(where, point, die)
        with pytest.raises(Crash):
            kept.replace(JOB)
    # nothing is used that is not durable
    assert kept.current == FIRST
    assert credentials.CredentialFile(path, FIRST).current == FIRST
    assert kept.replace(JOB) == credentials.CredentialFile(path, FIRST).current == SECOND


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"replaces": 1}', '{"key": "x"'])
def test_a_damaged_file_is_told_without_its_secrets(path: pathlib.Path, text: str) -> None:
    path.write_text(text)
    if text == '{"replaces": 1}':
        assert credentials.CredentialFile(path, FIRST).current == FIRST
        return
    with pytest.raises(exception.ConfigurationError, match="rebuild the instance"):
        credentials.CredentialFile(path, FIRST)


def test_no_key_is_no_key(path: pathlib.Path) -> None:
    kept = credentials.CredentialFile(path, FIRST)
    bad = payloads.RekeyJob(key="c2VjcmV0", transport_url="rabbit://x")
    with pytest.raises(exception.GuestError) as caught:
        kept.replace(bad)
    assert "c2VjcmV0" not in str(caught.value)
    assert kept.current == FIRST
    assert not path.exists()


def test_secrets_are_not_shown(path: pathlib.Path) -> None:
    shown = repr([FIRST, SECOND, JOB, credentials.CredentialFile(path, FIRST)])
    for secret in ("secret-1", "secret-2", "1111", JOB.key):
        assert secret not in shown
