"""Users of the operating system that agents run as instead of this process's own."""

from __future__ import annotations

import dataclasses
import os
import pwd

from trove.common import exception


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A user of this machine, by its numbers."""

    name: str
    uid: int
    gid: int


def find(name: str | None) -> User | None:
    """Return the user that agents are to run as; None: as that of this process.

    Raises ConfigurationError when there is no such user, or this process cannot be another one.
    """
    if not name:
        return None
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise exception.ConfigurationError(
            reason=f"agents are to run as the user {name}, which this machine does not have: run"
            f" 'useradd --system --user-group --no-create-home --shell /usr/sbin/nologin {name}'"
            " as root"
        ) from None
    if entry.pw_uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise exception.ConfigurationError(
            reason=f"agents are to run as the user {name}: only root can have them do that"
        )
    return User(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
