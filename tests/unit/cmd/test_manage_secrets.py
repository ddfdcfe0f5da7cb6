"""trove-manage secret store, on a real state directory."""

from __future__ import annotations

import io
import pathlib
import sys

import pytest

from trove import conf as trove_conf
from trove.cmd import manage
from trove.common import context, crypto
from trove.drivers import factory
from trove.drivers.secrets.local import LocalSecrets


@pytest.fixture
def config(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    path = tmp_path / "trove.conf"
    key = crypto.encode_key(crypto.generate_key())
    path.write_text(
        f"[local]\nstate_dir = {tmp_path}/state\n[guest]\nkey_encryption_keys = {key}\n"
        "[api]\nbind_host = 0.0.0.0\nbind_port = 26001\n"
    )
    monkeypatch.setattr(factory, "load_secrets", LocalSecrets)
    return path


def store(config: pathlib.Path, *args: str) -> int:
    return manage.main(["--config-file", str(config), "secret", "store", *args])


def test_a_file_is_kept_for_a_project_and_its_reference_printed(
    config: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "db.p12").write_bytes(b"\x00bundle")
    assert store(config, "--project", "p", "--file", str(tmp_path / "db.p12")) == 0
    ref = capsys.readouterr().out.strip()
    assert ref.startswith("http://127.0.0.1:26001/key-manager/v1/secrets/")
    conf = trove_conf.load(["--config-file", str(config)], prog="test")
    driver = LocalSecrets(conf)
    caller = context.RequestContext(project_id="p", overwrite=False)
    assert driver.get_secret_payload(ref, caller=caller) == b"\x00bundle"
    assert driver.store.get("p", ref).name == "db.p12"
    for path in (tmp_path / "state").rglob("*.json"):
        assert path.stat().st_mode & 0o777 == 0o600
        assert b"bundle" not in path.read_bytes()


def test_standard_input_is_read_and_what_is_no_file_is_told(
    config: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"phrase")))
    assert store(config, "--project", "p", "--file", "-", "--name", "pass") == 0
    assert "/secrets/" in capsys.readouterr().out
    assert store(config, "--project", "p", "--file", str(tmp_path / "none")) == 1
    assert "No such file" in capsys.readouterr().err
    (tmp_path / "empty").touch()
    assert store(config, "--project", "p", "--file", str(tmp_path / "empty")) == 1
    assert "1 to" in capsys.readouterr().err


def test_authority_is_made_once_and_shown(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "authority.conf"
    config.write_text(
        "[taskmanager]\nsecrets_driver = local\n"
        f"[local]\nstate_dir = {tmp_path}/state\n"
        f"[tls]\nca_certificate_file = {tmp_path}/ca.pem\nca_key_file = {tmp_path}/ca-key.pem\n"
    )
    command = ["--config-file", str(config), "certificate-authority"]
    assert manage.main([*command, "show"]) == 1
    assert "ca.pem cannot be read" in capsys.readouterr().err
    for words in ("is made", "already"):
        assert manage.main([*command, "create"]) == 0
        assert words in capsys.readouterr().out
    assert (tmp_path / "ca-key.pem").stat().st_mode & 0o777 == 0o600
    assert manage.main([*command, "show"]) == 0
    assert capsys.readouterr().out.startswith("-----BEGIN CERTIFICATE-----")
