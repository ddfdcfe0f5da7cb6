"""Schemas of TLS."""

from __future__ import annotations

from trove.api.schemas import common
from trove.api.validation import Schema

_URL = {
    "type": ["string", "null"],
    "pattern": "^https?://[^\\s/]+/\\S+$",
    "maxLength": 2048,
    "x-reason": "must be the URL of a secret",
}

CHANGE = Schema(
    common.wrapped(
        "ssl",
        {
            "type": "object",
            "properties": {
                "enable": common.BOOL,
                "disable": common.BOOL,
                "rollback": common.BOOL,
                "mode": {"enum": ["basic", "enforced", "mtls"]},
                "container_ref": _URL,
                "password_ref": _URL,
            },
        },
    )
)

_ON_OR_OFF = {"enum": ["on", "off"]}
_MODE = {"enum": ["builtin", "basic", "enforced", "mtls"]}

SHOW = Schema(
    common.closed(
        {
            "ssl": common.closed(
                {"status": _ON_OR_OFF, "mode": _MODE},
                {
                    "certificate": common.closed(
                        {
                            "cn": common.STRING,
                            "expire_at": common.TIMESTAMP,
                            "san": {"type": ["array", "null"], "items": common.STRING},
                        },
                        {"payload": common.STRING},
                    )
                },
            )
        }
    )
)
CHANGED = Schema(
    common.closed(
        {
            "ssl": common.closed(
                {"restart_required": common.BOOL, "status": _ON_OR_OFF, "mode": _MODE}
            )
        }
    )
)
