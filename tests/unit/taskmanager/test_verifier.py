"""What a verifier begins with: a directory of its own, and the engines of its host."""

from __future__ import annotations

import os
import pathlib
import stat

import pytest
from oslo_config import cfg

from tests.fixtures.local import conf, short_dir
from trove.common import exception
from trove.datastores import all as all_specs
from trove.drivers.image.local import LocalImage
from trove.drivers.network import egress
from trove.rpc import transport
from trove.taskmanager import verifier

__all__ = ["all_specs", "conf", "short_dir"]


@pytest.fixture
def state_dir(conf: cfg.ConfigOpts, short_dir: pathlib.Path) -> pathlib.Path:
    path = short_dir / "verifier"
    conf.set_override("state_dir", str(path), group="verifier")
    return path


def test_nobody_else_looks_into_its_directory(
    conf: cfg.ConfigOpts, state_dir: pathlib.Path
) -> None:
    assert verifier.prepare_directory(conf) == state_dir
    mode = stat.S_IMODE(state_dir.stat().st_mode)
    assert mode == (0o711 if os.geteuid() == 0 else 0o700)
    verifier.prepare_directory(conf, group=os.getgid())
    assert stat.S_IMODE(state_dir.stat().st_mode) == 0o710
    # what a verifier that was killed left is its own
    (state_dir / "servers").mkdir()
    verifier.prepare_directory(conf)


def test_a_directory_with_other_things_is_not_taken(
    conf: cfg.ConfigOpts, state_dir: pathlib.Path
) -> None:
    (state_dir / "servers").mkdir(parents=True)
    with pytest.raises(exception.ConfigurationError, match="holds something else"):
        verifier.prepare_directory(conf)


@pytest.mark.skipif(os.geteuid() != 0, reason="as another user everything is its own")
def test_a_directory_that_engines_do_not_get_to_is_not_taken(
    conf: cfg.ConfigOpts, state_dir: pathlib.Path
) -> None:
    state_dir.parent.chmod(0o700)
    with pytest.raises(exception.ConfigurationError, match="is closed to other users"):
        verifier.prepare_directory(conf)


def make_program(directory: pathlib.Path, version: str) -> pathlib.Path:
    directory.mkdir()
    program = directory / "redis-server"
    program.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=0'\n")
    program.chmod(0o755)
    return program


def test_engines_that_are_named_are_known_beside_those_that_are_found(
    conf: cfg.ConfigOpts, state_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    program = make_program(tmp_path / "bin", "7.9.9")
    conf.set_override("engines", [f"redis:{program}"], group="verifier")
    found = verifier.find_engines(conf)
    assert found["redis"].count((str(program), "7.9.9")) == 1
    conf.set_override("engines", ["redis:/nowhere"], group="verifier")
    with pytest.raises(exception.ConfigurationError, match=r"\[verifier\] engines: no /nowhere"):
        verifier.find_engines(conf)


def test_what_is_installed_now_is_what_is_known(
    conf: cfg.ConfigOpts, tmp_path: pathlib.Path
) -> None:
    driver = LocalImage(conf)
    engines = {"redis": [(str(tmp_path / "a"), "7.0.1"), (str(tmp_path / "b"), "7.2.1")]}
    for _ in range(2):
        driver.remember(engines)
        assert sorted(each.version for each in driver.list_images()) == ["7.0.1", "7.2.1"]
    driver.remember({"redis": engines["redis"][1:]})
    assert [each.version for each in driver.list_images()] == ["7.2.1"]


def test_brokers_and_endpoints_are_what_proofs_may_reach(conf: cfg.ConfigOpts) -> None:
    url = "rabbit://u:p@10.0.0.1:5000,u:p@[fd00::1]//guests?ssl=1"
    conf.set_override("transport_url", url, group="guest")
    assert transport.guest_hosts(conf) == [("10.0.0.1", 5000), ("fd00::1", 5671)]
    parsed = [egress.Endpoint.parse(each) for each in ("https://10.0.0.2/v1", "10.0.0.3:8080")]
    assert [(each.host, each.port) for each in parsed] == [("10.0.0.2", 443), ("10.0.0.3", 8080)]
    with pytest.raises(exception.ConfigurationError, match="neither host:port nor a URL"):
        egress.Endpoint.parse("10.0.0.3")
    text = egress.render("inet t", 7, set(egress.resolve(parsed)), [])
    assert "elements = { 10.0.0.2 . 443, 10.0.0.3 . 8080 }" in text
    assert text.index("meta skuid 7 ip daddr . tcp dport @to4 accept") < text.index(
        "meta skuid 7 reject"
    )
