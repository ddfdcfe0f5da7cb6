"""What an agent for MongoDB does not load."""

from __future__ import annotations

import subprocess
import sys

_LOOK = """
import sys
import trove.guestagent.datastores.mongodb.backup
print(sorted(name for name in sys.modules if name.startswith("pymongo.asynchronous.")))
"""


def test_the_other_half_of_the_driver_is_left_out() -> None:
    argv = [sys.executable, "-W", "ignore", "-c", _LOOK]
    found = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == str(
        ["pymongo.asynchronous.helpers", "pymongo.asynchronous.mongo_client"]
    )
