"""What Nova says of a server, and what it means here.

Nova's status is of the server, its task says what happens to it; where the status lies about what
is to be expected, the task decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trove import states
from trove.drivers.compute.nova_api import SERVICE

_Status = states.ServerStatus

_STATUSES: Mapping[str, states.ServerStatus] = {
    "ACTIVE": _Status.ACTIVE,
    "PASSWORD": _Status.ACTIVE,
    "BUILD": _Status.BUILD,
    "REBUILD": _Status.BUILD,
    "REBOOT": _Status.REBOOT,
    "HARD_REBOOT": _Status.REBOOT,
    "RESIZE": _Status.RESIZE,
    "REVERT_RESIZE": _Status.RESIZE,
    # it may still fail and stay: only ACTIVE says that a move has ended
    "MIGRATING": _Status.RESIZE,
    "VERIFY_RESIZE": _Status.VERIFY_RESIZE,
    "SHUTOFF": _Status.SHUTOFF,
    "ERROR": _Status.ERROR,
    # what only an administrator of the cloud does (PAUSED, SUSPENDED, SHELVED, RESCUE ...) is not
    # undone behind his back: it is shown as UNKNOWN
}
#: Status, task -> what it means; asked before the statuses.
_TASKS: Mapping[tuple[str, str], states.ServerStatus] = {
    ("SHUTOFF", "powering-on"): _Status.REBOOT,
}
#: Tasks of a server that is going, whatever its status is still.
_GOING = frozenset({"deleting", "soft-deleting"})

_REMEDIES = (
    (
        "no valid host",
        "Choose a smaller flavor or another availability zone, or have the operator add capacity",
    ),
    (
        "quota",
        "The operator raises this service's quota in Nova, or frees some",
    ),
)
_REMEDY = "The operator finds the cause in Nova's logs"


def status_of(document: Mapping[str, Any]) -> states.ServerStatus:
    """Return the status of a server from Nova's document."""
    status, task = document.get("status") or "UNKNOWN", task_of(document)
    if task in _GOING:
        return _Status.UNKNOWN
    return _TASKS.get((status, task or "")) or _STATUSES.get(status, _Status.UNKNOWN)


def task_of(document: Mapping[str, Any]) -> str | None:
    """Return what happens to a server now, in Nova's words, or None."""
    task: str | None = document.get("OS-EXT-STS:task_state")
    return task


def is_going(document: Mapping[str, Any]) -> bool:
    """Tell whether a server is being deleted."""
    return task_of(document) in _GOING or document.get("status") in ("DELETED", "SOFT_DELETED")


def fault_of(
    document: Mapping[str, Any], *, action: str | None = None, request_id: str | None = None
) -> str | None:
    """Return why a server is not as it should be, with what helps; None when it is.

    ``action`` is what Nova did with it last, under ``request_id``.
    """
    status = document.get("status")
    if status == "ERROR":
        message = (document.get("fault") or {}).get("message")
        if message is None and action is None:
            # from a list, which need not have it
            return None
        return setback(action, message, request_id)
    if status_of(document) is _Status.UNKNOWN and not is_going(document):
        return f"{SERVICE} has the server in status {status}, which this service does not change"
    return None


def setback(action: str | None, reason: str | None, request_id: str | None) -> str:
    """Return what failed and why, in the words that all faults have, with what helps."""
    said = str(reason or "it gave no reason").rstrip(". ")
    request = f" (request {request_id})" if request_id else ""
    lowered = said.lower()
    remedy = next((text for words, text in _REMEDIES if words in lowered), _REMEDY)
    return f"{SERVICE} failed to {action or 'run'} the server: {said}{request}. {remedy}"
