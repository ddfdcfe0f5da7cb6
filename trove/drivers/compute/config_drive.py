"""What a server of a cloud finds on its config drive: user data with the files of its agent.

The user data is one JSON document; ``trove-guest-init`` of the guest image reads it. It is told by
its "trove" key from what an administrator may have put there.
"""

from __future__ import annotations

import base64
import configparser
import io
import json
from collections.abc import Mapping

from trove.drivers.compute import base

#: Version of the document.
VERSION = 1
#: What Nova takes, encoded.
MAX_ENCODED_BYTES = 65535

GUEST_CONF = "guest.conf"


class TooLarge(ValueError):
    """The files of a server do not fit; the text says how large they are."""


def user_data(spec: base.ServerSpec) -> str:
    """Return the user data of a server, with what its agent must know of it; raises TooLarge.

    Where things lie in the server is the image's matter. The document holds secrets.
    """
    files = dict(spec.files)
    files[GUEST_CONF] = _complete(
        files.get(GUEST_CONF, ""),
        {
            "bind_address": spec.address,
            **({"volume_id": spec.volume_id} if spec.volume_id else {}),
        },
    )
    document = json.dumps({"trove": VERSION, "files": files})
    encoded = len(base64.b64encode(document.encode()))
    if encoded > MAX_ENCODED_BYTES:
        raise TooLarge(f"{encoded} bytes of user data, at most {MAX_ENCODED_BYTES} are taken")
    return document


def _complete(text: str, values: Mapping[str, str]) -> str:
    """Add options of the group guestagent to a file, where it does not have them."""
    parser = configparser.RawConfigParser(default_section="", strict=False)
    parser.read_string(text)
    if not parser.has_section("guestagent"):
        parser.add_section("guestagent")
    for name, value in values.items():
        if not parser.has_option("guestagent", name):
            # oslo.config substitutes $name
            parser.set("guestagent", name, value.replace("$", "$$"))
    out = io.StringIO()
    parser.write(out)
    return out.getvalue()
