"""The search for secrets finds what there is, in any form, and where blocks meet."""

from __future__ import annotations

import base64
import pathlib
import secrets
import shutil
import subprocess
import sys

import pytest

from tests.fixtures import guest_search

_SECRET = b"of-nobody-but-the-operator"


def test_arguments_and_memory_of_a_program_are_searched() -> None:
    told, kept = secrets.token_hex(16), secrets.token_hex(16)
    code = f"import sys; kept = '{kept}'[::-1]; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, told], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        program.stdout.readline()
        guest = guest_search.Guest(pid=program.pid, disks=())
        search = guest_search.Search(
            {"told": [told], "computed": [kept[::-1]], "other": [secrets.token_hex(16)]}
        )
        found = search.memory(guest)
        program.communicate()
    assert found.counts.keys() == {"told", "computed"}
    assert found.bytes_read > 1 << 20


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="there is no qemu-img")
def test_every_form_of_a_secret_on_a_disk_is_found(tmp_path: pathlib.Path) -> None:
    raw, disk = tmp_path / "raw", tmp_path / "disk.qcow2"
    token = b"gAAAAA" + b"x" * 100
    forms = [
        _SECRET,
        _SECRET.hex().encode(),
        *(base64.b64encode(b"{" * before + _SECRET + b"}") for before in range(4)),
    ]
    with raw.open("wb") as file:
        file.truncate(16 << 20)
        for number, form in enumerate(forms):
            file.seek(number * 100_000)
            file.write(form)
        # where two blocks meet
        file.seek((4 << 20) - 10)
        file.write(_SECRET)
        file.seek(9 << 20)
        file.write(token + b" /v1/AUTH_" + b"a" * 32 + b"/box/" + b"b" * 36)
        file.write(b"?temp_url_expires=1700000000")
    subprocess.run(
        ["qemu-img", "convert", "-c", "-O", "qcow2", str(raw), str(disk)],
        check=True,
        capture_output=True,
        timeout=60,
    )
    found = guest_search.Search({"secret": [_SECRET]}).disk(disk, tmp_path)
    assert found.counts == {"secret": len(forms) + 1}
    assert found.tokens == {token.decode()}
    assert found.objects == {("box", "b" * 36)}
    assert found.expiries == {1700000000}
