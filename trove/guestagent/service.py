"""The agent, put together: engine, supervisor, journal, reports, and the end of all of them.

SIGTERM ends the agent only; the engine keeps running and is adopted by the next agent. SIGPWR is
the end of the machine: the engine is stopped cleanly first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import signal
import threading
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

from oslo_config import cfg
from oslo_log import log

from trove import states
from trove.common import concurrency, crypto, exception
from trove.datastores import loading
from trove.guestagent import (
    channel,
    figures,
    heartbeat,
    journal,
    manager,
    software,
    state,
    supervisor,
    upgrade,
    volume,
)
from trove.guestagent.backup import archiver as archivers
from trove.guestagent.backup import jobs as backup_jobs
from trove.guestagent.datastores import base
from trove.guestagent.system import filesystem, process, users
from trove.rpc import payloads

LOG = log.getLogger(__name__)

NAMESPACE = "trove.guestagent.datastores"
#: How often the files of a volume that is a mere directory are counted.
_COUNT_INTERVAL_S = 30.0
#: How often the logs are looked at, which a busy database fills by the second.
_LOGS_INTERVAL_S = 2.0
#: Longest the engine may take to stop when the machine goes down.
_POWER_OFF_TIMEOUT_S = 120.0
#: Longest another release waits for the outcomes of jobs to be known, and how often it looks.
_SETTLE_S = 15.0
_SETTLE_LOOK_S = 0.1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whom this agent speaks for."""

    instance_id: str
    key: bytes = dataclasses.field(repr=False)


def read_identity(conf: cfg.ConfigOpts) -> Identity:
    """Return the instance and its key; raises ConfigurationError when one is missing."""
    for option in ("instance_id", "key_file"):
        if not conf.guestagent[option]:
            raise exception.ConfigurationError(reason=f"[guestagent] {option} is not set")
    path = pathlib.Path(conf.guestagent.key_file)
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as e:
        raise exception.ConfigurationError(
            reason=f"the key of the instance cannot be read from {path}: {type(e).__name__}"
        ) from None
    return Identity(instance_id=conf.guestagent.instance_id, key=crypto.decode_key(text))


def load_datastore(name: str) -> Callable[[base.Environment], base.Datastore]:
    """Return the maker of a datastore by its manager; raises ConfigurationError."""
    for entry_point in _find_entry_points(name):
        make: Callable[[base.Environment], base.Datastore] = entry_point.load()
        return make
    raise exception.ConfigurationError(
        reason=f"[guestagent] datastore_manager {name} is not installed in this image"
    )


def _find_entry_points(name: str) -> metadata.EntryPoints:
    """Look in this package first: asking all that are installed takes long."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        own = metadata.distribution("trove").entry_points.select(group=NAMESPACE, name=name)
        if own:
            return own
    return metadata.entry_points(group=NAMESPACE, name=name)


class Agent:
    """All parts of the agent of one instance."""

    def __init__(
        self,
        datastore: base.Datastore,
        environment: base.Environment,
        conductor: heartbeat.Conductor,
        *,
        clock: concurrency.Clock,
        heartbeat_interval_s: float,
        probe_interval_s: float,
        bundle_public_keys: Sequence[str] = (),
    ) -> None:
        """Put the parts together; the directories of the layout must exist."""
        #: Called when the agent is to go on as another release.
        self.on_release: Callable[[], object] = lambda: None
        self.software = software.Software(environment.layout.state_dir)
        self._datastore = datastore
        self._layout = environment.layout
        self._store = environment.store
        self._clock = clock
        self._counted_bytes = 0
        self._next_count = 0.0
        self._boot = environment.store.count_boot(first=environment.first_boot)
        self._version = _agent_version()
        self._upgrader = upgrade.Upgrader(
            self.software, version=self._version, public_keys=bundle_public_keys
        )
        self.journal = journal.Journal(self._layout.jobs_dir)
        self._volume = volume.DataVolume(
            self._layout.mount_point,
            volume_id=environment.volume_id,
            store=environment.store,
            # the agent reported in an earlier server, so the volume is not new
            must_hold_data=environment.first_boot > 1,
            clock=clock,
        )
        self.supervisor = supervisor.Supervisor(
            datastore.service,
            layout=environment.layout,
            store=environment.store,
            clock=clock,
            probe_interval_s=probe_interval_s,
            on_change=self._poke,
            data_volume=self._volume,
        )
        self._figures = figures.Figures(datastore.metrics, clock=clock)
        self.reporter = heartbeat.Reporter(
            conductor,
            self.journal,
            clock=clock,
            interval_s=heartbeat_interval_s,
            make_heartbeat=self._make_heartbeat,
            make_csr=datastore.service.certificate_request,
            on_hello=self._confirm_release,
        )
        storage = backup_jobs.Storage(conductor.grant, clock=clock)
        self.archiver = archivers.Archiver(
            datastore.archive,
            instance_id=environment.instance_id,
            layout=self._layout,
            make_put=storage.make_put,
            is_running=self._is_running,
            has_volume=lambda: self._volume.is_ready,
            clock=clock,
            on_change=self._poke,
        )
        self.manager = manager.Manager(
            datastore,
            self.supervisor,
            self.journal,
            archiver=self.archiver,
            storage=storage,
            store=environment.store,
            make_heartbeat=self.reporter.next_heartbeat,
            rekey=conductor.rekey,
            on_change=self._poke,
            data_volume=self._volume,
            upgrade=self._install,
        )
        self._logs_keeper = (
            concurrency.PeriodicThread("logs", self._tend_logs, interval_s=_LOGS_INTERVAL_S)
            if isinstance(datastore.logs, base.Logs)
            else None
        )
        self._anticipation = threading.Thread(
            target=self._anticipate, name="anticipation", daemon=True
        )

    def _poke(self) -> None:
        self.reporter.poke()

    def _is_running(self) -> bool:
        """Tell whether the engine can be asked."""
        return not self.manager.is_frozen and self.supervisor.snapshot().status in (
            states.ServiceStatus.HEALTHY,
            states.ServiceStatus.BLOCKED,
        )

    def _install(self, job: payloads.UpgradeAgentJob) -> None:
        if self._upgrader.install(job):
            self.on_release()

    def _confirm_release(self) -> None:
        if self.software.confirm():
            LOG.info("this release of the agent has proved itself")

    def settle(self, timeout_s: float) -> None:
        """Wait until nothing is being done and all outcomes are known, for some time at most."""
        until_s = self._clock.monotonic() + timeout_s
        moment = threading.Event()
        while self._clock.monotonic() < until_s and (
            self.manager.current_job_id is not None or self.journal.unreported()
        ):
            moment.wait(_SETTLE_LOOK_S)

    def _anticipate(self) -> None:
        """Mount the volume and prepare for a job that is likely to come."""
        try:
            self._volume.ensure()
        except exception.GuestError as e:
            # the supervisor and every job that needs it try again; heartbeats tell what is wrong
            LOG.warning("%s", e.kwargs["reason"])
            self._poke()
            return
        self._poke()
        self._datastore.service.anticipate()

    def _tend_logs(self) -> None:
        if self.manager.is_frozen:
            return
        if self._volume.is_ready and isinstance(self._datastore.logs, base.Logs):
            self._datastore.logs.tend()

    def start(self) -> None:
        """Begin: supervise, report, do jobs."""
        self.manager.recover()
        if isinstance(self._datastore.logs, base.Logs):
            self._datastore.logs.open()
        self.supervisor.start()
        self.reporter.start()
        self.manager.start()
        self.archiver.start()
        self._anticipation.start()
        if self._logs_keeper is not None:
            self._logs_keeper.start()

    def close(self) -> None:
        """End the agent; the engine keeps running."""
        self.manager.begin_closing()
        self._volume.close()
        self._figures.close()
        if self._anticipation.is_alive():
            self._anticipation.join(2.0)
        self._close_logs()
        self.archiver.close()
        self.manager.close()
        self.supervisor.close()
        self.reporter.close()

    def _close_logs(self) -> None:
        if self._logs_keeper is not None:
            self._logs_keeper.stop(2.0)
        if isinstance(self._datastore.logs, base.Logs):
            self._datastore.logs.close()

    def power_off(self) -> None:
        """Stop the engine cleanly for the end of the machine, say so, and end the agent."""
        self.manager.begin_closing()
        self._volume.close()
        self._figures.close()
        self._close_logs()
        self.archiver.close()
        self.manager.close()
        try:
            self.supervisor.power_off(_POWER_OFF_TIMEOUT_S)
        except exception.GuestError as e:
            LOG.error("the engine was not stopped: %s", e)
        self.reporter.close(last_words=True)
        self.supervisor.close()

    def _make_heartbeat(self, sequence: int) -> payloads.Heartbeat:
        snapshot = self.manager.snapshot()
        used_bytes = total_bytes = None
        message = snapshot.message or self._volume.problem
        try:
            disk = self._disk_use() if self._volume.is_ready else None
            if disk is not None:
                used_bytes, total_bytes = disk.used_bytes, disk.total_bytes
            if message is None and disk is not None and disk.is_nearly_full:
                message = (
                    f"The disk is nearly full: {disk.available_bytes // (1024 * 1024)} MiB are"
                    " left. Resize the volume or delete data."
                )
        except OSError as e:
            message = message or filesystem.explain(e, "looking at the data volume")
        runs = snapshot.status is states.ServiceStatus.HEALTHY and not self.manager.is_frozen
        progress = self.manager.progress
        return payloads.Heartbeat(
            boot=self._boot,
            sequence=sequence,
            service_status=str(snapshot.status),
            engine_version=snapshot.version,
            agent_version=self._version,
            disk_used_bytes=used_bytes,
            disk_total_bytes=total_bytes,
            job_id=self.manager.current_job_id,
            job_progress_percent=None if progress is None else progress.percent,
            job_done_bytes=None if progress is None else progress.done_bytes,
            job_total_bytes=None if progress is None else progress.total_bytes,
            message=message or self.archiver.problem,
            archive=self.archiver.state(),
            metrics=self._figures.read() if runs else {},
        )

    def _disk_use(self) -> filesystem.DiskUse:
        """Return how full the volume is; one that is a mere directory is counted by its files."""
        disk = filesystem.disk_use(self._layout.mount_point)
        if self._layout.mount_point.is_mount():
            return disk
        now = self._clock.monotonic()
        if now >= self._next_count or self._counted_bytes == 0:
            self._counted_bytes = filesystem.tree_bytes(self._layout.mount_point)
            self._next_count = now + _COUNT_INTERVAL_S
        volume_gib = (self._store.find("settings") or {}).get("volume_size_gib")
        total_bytes = disk.total_bytes if volume_gib is None else int(volume_gib) << 30
        return dataclasses.replace(disk, used_bytes=self._counted_bytes, total_bytes=total_bytes)


def _agent_version() -> str | None:
    try:
        return metadata.version("trove")
    except metadata.PackageNotFoundError:
        return None


def make_environment(conf: cfg.ConfigOpts, identity: Identity) -> base.Environment:
    """Return where and as whom the engine runs; makes the agent's directories.

    Raises ConfigurationError when another agent runs on them.
    """
    options = conf.guestagent
    spec = loading.find_spec(options.datastore_manager)
    if spec is None:
        raise exception.ConfigurationError(
            reason=f"[guestagent] datastore_manager {options.datastore_manager} is unknown"
        )
    layout = state.Layout(
        state_dir=pathlib.Path(options.state_dir).absolute(),
        mount_point=pathlib.Path(options.mount_point).absolute(),
        engine_user=users.engine_user(options.engine_user or spec.system_user),
    )
    layout.make_state()
    # held, and inherited by nobody, until this process ends
    if filesystem.lock_file(layout.agent_dir / "lock") is None:
        raise exception.ConfigurationError(
            reason=f"another agent runs on {layout.state_dir}: stop it first"
        )
    return base.Environment(
        instance_id=identity.instance_id,
        layout=layout,
        store=state.Store(layout),
        bind_address=str(options.bind_address),
        port=options.port or spec.port,
        basedir=options.basedir,
        template_dir=pathlib.Path(options.template_dir) if options.template_dir else None,
        first_boot=options.first_boot,
        volume_id=options.volume_id,
        former_basedirs=options.former_basedirs,
    )


def make_agent(
    conf: cfg.ConfigOpts,
    identity: Identity,
    conductor: heartbeat.Conductor,
    *,
    make_datastore: Callable[[base.Environment], base.Datastore] | None = None,
) -> Agent:
    """Return the agent that ``conf`` describes; without a maker the installed one is used."""
    environment = make_environment(conf, identity)
    make = make_datastore or load_datastore(conf.guestagent.datastore_manager)
    return Agent(
        make(environment),
        environment,
        conductor,
        clock=concurrency.SystemClock(),
        heartbeat_interval_s=conf.guest.heartbeat_interval_s,
        probe_interval_s=conf.guestagent.probe_interval_s,
        bundle_public_keys=conf.guestagent.bundle_public_keys,
    )


def run(agent: Agent, wire: channel.Channel) -> None:
    """Run until a signal comes, then end as it says, or go on as another release.

    Does not return.
    """
    process.save_memory()
    ended = threading.Event()
    received: list[int] = []

    def on_signal(number: int, frame: Any) -> None:
        received.append(number)
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPWR):
        signal.signal(number, on_signal)
    agent.on_release = ended.set
    wire.listen(agent.manager.handlers, agent.manager.on_job)
    agent.start()
    ended.wait()
    if not received:
        agent.settle(_SETTLE_S)
    if not received:
        LOG.info("going on as another release")
        agent.close()
        log.logging.shutdown()
        software.restart()
    LOG.info("ending on signal %d", received[0])
    agent.software.pause()
    if signal.SIGPWR in received:
        agent.power_off()
    else:
        agent.close()
    # threads of the messaging library may wait for a broker for ever: there is nothing to lose
    log.logging.shutdown()
    os._exit(0)
