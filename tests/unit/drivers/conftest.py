"""Fixtures of the drivers' tests."""

from tests.fixtures.cloud.fixtures import cloud_conf, standin_servers, standins
from tests.fixtures.local import agent_conf, conf, short_dir

__all__ = ["agent_conf", "cloud_conf", "conf", "short_dir", "standin_servers", "standins"]
