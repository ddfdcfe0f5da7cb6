"""The verifier of a host: runs the proofs that are pinned to it, and keeps nothing else there.

It is a task manager of one kind of operation alone, whose drivers make processes and directories of
this host, in a directory of its own. What it finds there that belongs to no operation pinned to
this host is removed: what an operation left that ended without it, or was taken from it.
"""

from __future__ import annotations

import collections
import json
import os
import pathlib
import socket
import stat
from collections.abc import Mapping, Sequence

from oslo_config import cfg
from oslo_log import log

from trove.common import concurrency, exception
from trove.datastores import spec
from trove.db import base, operations, verifier_hosts
from trove.drivers import local_state
from trove.drivers.image import local as local_image
from trove.taskmanager.operations import engine, verify_on_host

LOG = log.getLogger(__name__)

#: Engines by manager, each as program and version.
Engines = Mapping[str, Sequence[tuple[str, str]]]

#: Says that a directory is a verifier's, and all in it may be removed.
_MARK = "verifier.json"
_CLEAN_INTERVAL_S = 2.0


def host_name(conf: cfg.ConfigOpts) -> str:
    """Return the name of this host."""
    return str(conf.verifier.name or socket.gethostname())


def prepare_directory(conf: cfg.ConfigOpts, *, group: int | None = None) -> pathlib.Path:
    """Return the directory of a verifier, made when it is missing; nobody else looks in.

    The group of the user that proofs run as, ``group``, may pass through; without one, where this
    process is root, engines may do so that run as users of their own. Raises ConfigurationError
    for a directory that something else is in, and one that they do not get to.
    """
    path = pathlib.Path(conf.verifier.state_dir).absolute()
    is_root = os.geteuid() == 0
    try:
        path.mkdir(parents=True, exist_ok=True)
        if group is not None:
            os.chown(path, -1, group)
            path.chmod(0o710)
        else:
            path.chmod(0o711 if is_root else 0o700)
        closed = [each for each in path.parents if not each.stat().st_mode & stat.S_IXOTH]
        if closed and is_root:
            raise exception.ConfigurationError(
                reason=f"[verifier] state_dir: {closed[-1]} is closed to other users, and proofs do"
                " not run as root: name another directory, or run 'chmod o+x' on it"
            )
        if not (path / _MARK).exists():
            if local_state.names(path):
                raise exception.ConfigurationError(
                    reason=f"[verifier] state_dir: {path} holds something else; name a directory"
                    " of its own, since all in it is removed"
                )
            local_state.replace(path / _MARK, json.dumps({"host": host_name(conf)}))
    except OSError as e:
        raise exception.ConfigurationError(
            reason=f"[verifier] state_dir: {path} cannot be used: {e.strerror}"
        ) from None
    return path


def find_engines(conf: cfg.ConfigOpts) -> Engines:
    """Return the engines of this host.

    Raises ConfigurationError for one that is configured and not there.
    """
    named: dict[str, list[str]] = collections.defaultdict(list)
    for line in conf.verifier.engines:
        manager, _, file = line.partition(":")
        named[manager.strip()].append(file.strip())
    found: dict[str, list[tuple[str, str]]] = {}
    for manager in sorted(spec.registry()):
        try:
            found[manager] = list(local_image.find_engines(manager, None))
        except local_state.LocalDriverError as e:
            found[manager] = []
            LOG.info("backups of %s: %s", manager, e.kwargs["reason"])
    for manager, files in named.items():
        for file in files:
            try:
                more = local_image.find_engines(manager, file)
            except local_state.LocalDriverError as e:
                raise exception.ConfigurationError(
                    reason=f"[verifier] engines: {e.kwargs['reason']}"
                ) from None
            found[manager] += [each for each in more if each not in found[manager]]
    return {manager: engines for manager, engines in found.items() if engines}


class Verifier:
    """Proves backups until it is stopped."""

    def __init__(
        self, tools: engine.Tools, *, name: str, engines: Mapping[str, Sequence[str]]
    ) -> None:
        """Take the tools, with drivers of this host, and the versions that are installed here."""
        self._tools = tools
        self._name = name
        self._engines = engines
        #: What is being removed.
        self._told: set[str] = set()
        self.runner = engine.Runner(tools, [verify_on_host.FLOW], host=name)
        self._reporting = concurrency.PeriodicThread(
            "report",
            lambda: engine.tell_troubles("telling of this host", self.report),
            interval_s=tools.conf.verifier.report_interval_s,
        )
        self._cleaning = concurrency.PeriodicThread(
            "cleaning",
            lambda: engine.tell_troubles("removing what is left over", self.clean),
            interval_s=_CLEAN_INTERVAL_S,
        )

    @base.retry_on_conflict
    def report(self) -> None:
        """Tell that this host is there."""
        with self._tools.database.writer() as session:
            verifier_hosts.report(
                session,
                self._name,
                at_once=self._tools.conf.verifier.at_once,
                engines=self._engines,
                now=self._tools.clock.now(),
            )

    def clean(self) -> None:
        """Go one step towards the end of what belongs to no proof of this host."""
        compute, volume = self._tools.drivers.compute, self._tools.drivers.volume
        # in this order: what is made is made by an operation that is pinned before
        found = {each.instance_id for each in compute.list_servers()}
        found |= {each.instance_id for each in volume.list_volumes()}
        if not found:
            return
        with self._tools.database.reader() as session:
            own = operations.list_pinned(session, self._name)
        for instance_id in sorted(found - own):
            if instance_id not in self._told:
                LOG.warning("removing what is left over of proof %s", instance_id)
            self._told.add(instance_id)
            server = compute.find_server(instance_id)
            # without a server there may be its processes
            compute.delete_server(instance_id if server is None else server.id)
            if compute.find_server(instance_id) is not None:
                continue
            data = volume.find_volume(instance_id)
            if data is not None:
                volume.delete_volume(data.id)
            self._told.discard(instance_id)

    def start(self) -> None:
        """Begin: what is left over goes first."""
        engine.tell_troubles("removing what is left over", self.clean)
        self.runner.start()
        self._reporting.start()
        self._cleaning.start()

    def stop(self) -> None:
        """Let the steps in work end and stop; proofs go on when it is back."""
        self._cleaning.stop()
        self._reporting.stop()
        self.runner.stop()
