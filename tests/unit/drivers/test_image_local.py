"""Images of the local drivers: what is removed, and what is not."""

from __future__ import annotations

import json

import pytest
from oslo_config import cfg

from tests.fixtures.local import IMAGE_ID
from trove.common import exception
from trove.drivers import local_state
from trove.drivers.image.local import LocalImage


def test_an_image_is_not_removed_while_a_server_runs_from_it(agent_conf: cfg.ConfigOpts) -> None:
    state = local_state.LocalState(agent_conf.local.state_dir)
    driver = LocalImage(agent_conf)
    assert [image.id for image in driver.list_images()] == [IMAGE_ID]
    server = state.directory("servers") / "some-instance"
    server.mkdir()
    (server / "server.json").write_text(json.dumps({"image_id": IMAGE_ID}))
    with pytest.raises(exception.DriverError, match="some-instance"):
        driver.delete_image(IMAGE_ID)
    (server / "server.json").unlink()
    for _ in range(2):
        driver.delete_image(IMAGE_ID)
        assert list(driver.list_images()) == []
    assert not state.image(IMAGE_ID).exists()
