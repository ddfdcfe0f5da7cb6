"""The engine's private key."""

from __future__ import annotations

import concurrent.futures
import pathlib

from trove.guestagent import certificates
from trove.guestagent.system import users


def test_whoever_asks_at_the_same_time_gets_the_one_key(tmp_path: pathlib.Path) -> None:
    owner = users.current()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        keys = list(
            pool.map(
                lambda _: certificates.ensure_key(tmp_path / "key.pem", owner=owner), range(16)
            )
        )
    assert len({key.private_numbers().private_value for key in keys}) == 1
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
