"""The samples in etc/trove say what the code says."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

from oslo_config import cfg

from tests.fixtures import project
from trove import conf as trove_conf

SAMPLES = project.ROOT / "etc" / "trove"


def _generate(generator: str, config: str, tmp_path: pathlib.Path) -> str:
    """Run one of oslo's generators (``module:function``) as tox does, into a temporary file."""
    output = tmp_path / "sample"
    module, _, function = generator.partition(":")
    subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-c"),
            f"import {module}, sys; sys.exit({module}.{function}())",
            *("--config-file", str(SAMPLES / config), "--output-file", str(output)),
        ],
        cwd=project.ROOT,
        env=project.environment_with_entry_points(tmp_path / "metadata"),
        check=True,
        capture_output=True,
        timeout=120,
    )
    return output.read_text()


def _options(sample: str) -> dict[tuple[str, str], str]:
    """Return (group, option) -> the text of the option, its description included."""
    options = {}
    for section in re.split(r"^(?=\[)", sample, flags=re.MULTILINE)[1:]:
        group = section[1 : section.index("]")]
        for block in section.split("\n\n"):
            names = re.findall(r"^#(\w+) =", block, flags=re.MULTILINE)
            if names:
                options[group, names[0]] = block.strip()
    return options


def test_configuration_sample_describes_every_option_of_this_project(
    tmp_path: pathlib.Path,
) -> None:
    generated = _options(
        _generate("oslo_config.generator:main", "trove-config-generator.conf", tmp_path)
    )
    committed = _options((SAMPLES / "trove.conf.sample").read_text())
    ours = {
        (group, option.dest)
        for group, options in trove_conf.list_opts()
        # [database] and the libraries' groups follow the versions installed, ours follow the code
        if group != "database"
        for option in options
    }
    assert ours <= generated.keys()
    stale = [key for key in sorted(ours) if committed.get(key) != generated[key]]
    assert not stale, "run 'tox -e genconfig'"
    assert not {
        key for key in committed if key[0] in {group for group, _ in ours} and key not in ours
    }, "run 'tox -e genconfig'"


def test_configuration_sample_can_be_read_as_a_configuration(tmp_path: pathlib.Path) -> None:
    sample = SAMPLES / "trove.conf.sample"
    conf = trove_conf.new()
    conf([], project="trove", default_config_files=[str(sample)])
    assert conf.api.bind_port == 8779
    assert isinstance(conf, cfg.ConfigOpts)


def test_policy_sample_is_what_the_rules_say(tmp_path: pathlib.Path) -> None:
    generated = _generate(
        "oslo_policy.generator:generate_sample", "trove-policy-generator.conf", tmp_path
    )
    assert (SAMPLES / "policy.yaml.sample").read_text() == generated, "run 'tox -e genpolicy'"


def test_samples_name_nothing_of_the_machine_they_were_made_on() -> None:
    for name in ("trove.conf.sample", "policy.yaml.sample"):
        text = (SAMPLES / name).read_text()
        assert not re.search(r"/home/|/root/|/tmp/|site-packages", text), name
