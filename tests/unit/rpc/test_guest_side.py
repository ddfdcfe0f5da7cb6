"""The guest image carries no control plane."""

from __future__ import annotations

import subprocess
import sys


def test_the_channel_of_an_agent_imports_no_control_plane() -> None:
    code = (
        "import sys; from trove.common import concurrency; concurrency.use_native_threads();"
        "import trove.rpc.conductor; print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "oslo_messaging" in loaded
    for banned in ("sqlalchemy", "oslo_db", "pecan", "trove.db", "trove.drivers", "trove.services"):
        assert banned not in loaded
