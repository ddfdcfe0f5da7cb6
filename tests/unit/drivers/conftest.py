"""Fixtures of the drivers' tests."""

from tests.fixtures.local import agent_conf, conf, short_dir

__all__ = ["agent_conf", "conf", "short_dir"]
