"""The logs of an instance, put together from those that its engine writes.

USER logs lie on the volume, in a directory that the engine writes; the agent makes pieces of them
in a directory that only the agent enters. The engine's errors and the agent's own log are SYS logs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from trove.datastores import spec as datastore_spec
from trove.guestagent.datastores import base
from trove.guestagent.logs import own, part, stream
from trove.guestagent.system import filesystem

_MIB = 1024 * 1024
#: System logs are small.
_SYSTEM_BOUNDS = stream.Bounds(total_bytes=8 * _MIB, piece_bytes=_MIB)


def _bounds(environment: base.Environment) -> stream.Bounds:
    """Return how much of the volume a log may take: a 32nd, 16 to 256 MiB."""
    volume_gib = (environment.store.find("settings") or {}).get("volume_size_gib") or 1
    total = max(16, min(int(volume_gib) * 32, 256)) * _MIB
    return stream.Bounds(total_bytes=total, piece_bytes=total // 8)


def _is_nearly_full(environment: base.Environment) -> bool:
    try:
        return filesystem.disk_use(environment.layout.mount_point).is_nearly_full
    except FileNotFoundError:
        # nothing is installed yet
        return False


def compose(
    environment: base.Environment,
    *,
    switched: Mapping[str, stream.Stream],
    switch: Callable[[str, bool], None],
    error_log: str,
    reopen_errors: Callable[[], None],
    make_error_log: Callable[[], None],
    collect: Callable[[], None] = lambda: None,
) -> part.StreamLogs:
    """Return the logs of an instance.

    ``switched`` are the USER logs by name, ``switch`` has the running engine write one or not;
    ``error_log`` is the name of what the engine writes to the layout's log, ``reopen_errors`` has
    it open that file anew and ``make_error_log`` makes it. ``collect`` brings what an engine wrote
    elsewhere into the logs, and may raise OSError.
    """
    layout = environment.layout
    own_dir = layout.agent_dir / "logs"
    own_log = own.OwnLog(own_dir / "guest.log")
    users = tuple(
        part.Source(
            spec=datastore_spec.LogSpec(name=name, type=datastore_spec.LogType.USER),
            stream=source,
            bounds=functools.partial(_bounds, environment),
            switch=functools.partial(switch, name),
        )
        for name, source in switched.items()
    )
    error = part.Source(
        spec=datastore_spec.LogSpec(name=error_log, type=datastore_spec.LogType.SYS),
        stream=stream.Stream(
            layout.log, own_dir / error_log, reopen=reopen_errors, make_active=make_error_log
        ),
        bounds=lambda: _SYSTEM_BOUNDS,
        keeps_published=True,
    )
    guest = part.Source(
        spec=datastore_spec.GUEST_LOG,
        stream=stream.Stream(
            own_dir / "guest.log",
            own_dir / datastore_spec.GUEST_LOG.name,
            reopen=own_log.reopen,
        ),
        bounds=lambda: _SYSTEM_BOUNDS,
        keeps_published=True,
    )
    return part.StreamLogs(
        (*users, error, guest),
        is_nearly_full=functools.partial(_is_nearly_full, environment),
        own_log=own_log,
        collect=collect,
    )
