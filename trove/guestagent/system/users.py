"""Which system user an engine runs as."""

from __future__ import annotations

import dataclasses
import os
import pwd

from trove.common import exception


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SystemUser:
    """A user of the operating system."""

    name: str
    uid: int
    gid: int

    @property
    def is_current(self) -> bool:
        """Tell whether this process runs as that user."""
        return self.uid == os.geteuid()


def current() -> SystemUser:
    """Return the user this process runs as; one without an account gets its number as name."""
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return SystemUser(name=name, uid=uid, gid=os.getegid())


def engine_user(name: str) -> SystemUser:
    """Return the user to run an engine as: ``name`` when we are root, else ourselves.

    Raises ConfigurationError when there is no such user, or when it is root.
    """
    if os.geteuid() != 0:
        return current()
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise exception.ConfigurationError(
            reason=f"[guestagent] engine_user {name} does not exist on this machine: install the"
            " engine's package, or name another user"
        ) from None
    if entry.pw_uid == 0:
        raise exception.ConfigurationError(reason="[guestagent] engine_user must not be root")
    return SystemUser(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
