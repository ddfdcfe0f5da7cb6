"""What a backup says of the server that it is of, beside the server that is installed here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trove.common import exception
from trove.guestagent.datastores.mysql import dialect as dialects
from trove.guestagent.datastores.mysql import template


def read(
    facts: Mapping[str, Any], dialect: dialects.Dialect, *, format_: int, basedir: str | None
) -> tuple[str, str]:
    """Return the versions of the server that was copied, as the backup tells it, and of this one.

    Raises GuestError for a backup of another engine, or one in another than the known ``format_``.
    """
    manager = dialect.spec.manager
    if facts.get("manager") != manager:
        raise exception.GuestError(
            reason=f"this is a backup of {facts.get('manager')}, not of {manager}"
        )
    if facts.get("format") != format_:
        raise exception.GuestError(
            reason="this backup was made by a later release of the service: upgrade this one"
        )
    program = template.find_server(dialect, basedir=basedir)
    return str(facts.get("engine_version")), template.server_version(program)


def refusal(version: str, installed: str, *, needed: str) -> exception.GuestError:
    """Return why a backup of one version is not restored by another; ``needed`` tells which can."""
    return exception.GuestError(
        reason=f"this is a backup of version {version}, which {installed} cannot restore:"
        f" restore it to an instance of {needed}"
    )
