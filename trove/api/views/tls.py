"""TLS as clients see it."""

from __future__ import annotations

from typing import Any

from trove.services import bundles
from trove.services.tls import TlsView

_TIME = "%Y-%m-%dT%H:%M:%S"


def _status(view: TlsView) -> dict[str, Any]:
    return {"status": "on" if view.is_on else "off", "mode": view.mode}


def show(view: TlsView, *, include_certificate: bool) -> dict[str, Any]:
    """Return how TLS is, with the facts of the certificate if there is one."""
    shown = _status(view)
    if view.certificate_pem is not None:
        facts = bundles.describe(view.certificate_pem)
        shown["certificate"] = {
            "cn": facts.common_name,
            "expire_at": facts.expires.strftime(_TIME),
            "san": list(facts.names) or None,
        }
        if include_certificate:
            shown["certificate"]["payload"] = view.certificate_pem
    return shown


def changed(view: TlsView) -> dict[str, Any]:
    """Return how TLS will be; it is changed under the running engine."""
    return {"restart_required": False, **_status(view)}
