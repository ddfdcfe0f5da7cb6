"""What the control plane can ask of an agent: short calls and jobs.

Calls are answered in the caller's thread. Jobs are done one at a time, in the order they came, in
one worker thread; the journal makes them idempotent, the handlers can be run again after a crash
in between.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from oslo_log import log

from trove import states
from trove.common import concurrency, exception
from trove.guestagent import journal as journals
from trove.guestagent import modules as guest_modules
from trove.guestagent import state, volume
from trove.guestagent import supervisor as supervisors
from trove.guestagent.backup import adopting, freezing
from trove.guestagent.backup import archiver as archivers
from trove.guestagent.backup import jobs as backup_jobs
from trove.guestagent.backup import progress as progresses
from trove.guestagent.datastores import base
from trove.guestagent.datastores import upgrade as engine_upgrade
from trove.guestagent.system import facts, filesystem, process
from trove.rpc import payloads

LOG = log.getLogger(__name__)

#: Longest a job waits for the engine: crash recovery of a large database takes its time.
_START_TIMEOUT_S = 600.0
_STOP_TIMEOUT_S = 150.0
#: Seconds before a job is done again whose outcome could not be noted.
_RETRY_S = 5.0

P = TypeVar("P", bound=payloads.Payload)


class Manager:
    """Handles calls and jobs for one instance."""

    def __init__(
        self,
        datastore: base.Datastore,
        supervisor: supervisors.Supervisor,
        journal: journals.Journal,
        *,
        make_heartbeat: Callable[[], payloads.Heartbeat],
        on_change: Callable[[], object],
        rekey: Callable[[payloads.RekeyJob], None],
        data_volume: volume.DataVolume,
        upgrade: Callable[[payloads.UpgradeAgentJob], None],
        archiver: archivers.Archiver,
        storage: backup_jobs.Storage,
        store: state.Store,
    ) -> None:
        """Take the collaborators.

        ``on_change`` is called when there is something to report, ``rekey`` when there are a new
        key and a new account for the channel, ``upgrade`` when there is another release to install.
        ``storage`` opens what backups are kept in.
        """
        self._upgrade_agent = upgrade
        modules = guest_modules.Modules(supervisor.layout, clock=concurrency.SystemClock())
        self._modules = modules
        self._volume = data_volume
        self._datastore = datastore
        self._supervisor = supervisor
        self._transition = engine_upgrade.Transition(
            datastore.upgrade,
            layout=supervisor.layout,
            stop=lambda: supervisor.ensure_stopped(_STOP_TIMEOUT_S),
            on_return=lambda: archiver.lose("the data are those from before an upgrade"),
        )
        self._archiver = archiver
        self._backups = backup_jobs.Backups(
            datastore,
            supervisor,
            store=store,
            transition=self._transition,
            archiver=archiver,
            storage=storage,
            clock=concurrency.SystemClock(),
        )
        self._adoption = adopting.Adoption(
            datastore.backup, manager=datastore.spec.manager, layout=supervisor.layout
        )
        self._journal = journal
        self._on_change = on_change
        self._rekey_channel = rekey
        self._changed = threading.Condition()
        self._closing = False
        self._job: journals.Entry | None = None
        self._overlay: tuple[states.ServiceStatus, str | None] | None = None
        self._thread = threading.Thread(target=self._loop, name="jobs", daemon=True)
        self._freezer = freezing.Freezer(
            datastore,
            supervisor,
            store=store,
            clock=concurrency.SystemClock(),
            on_change=self._look_for_jobs,
        )
        accounts, root, logs = datastore.accounts, datastore.root, datastore.logs
        #: Short calls by name, as :data:`trove.rpc.payloads.CALLS` lists them.
        self.handlers: Mapping[str, Callable[[Any], payloads.Payload]] = {
            "ping": lambda request: make_heartbeat(),
            "list_databases": lambda page: accounts.list_databases(page),
            "create_databases": _empty(lambda r: accounts.create_databases(r.databases)),
            "delete_database": _empty(lambda r: accounts.delete_database(r.name)),
            "list_users": lambda page: accounts.list_users(page),
            "get_user": lambda user: accounts.get_user(user),
            "create_users": _empty(lambda r: accounts.create_users(r.users)),
            "update_user": _empty(lambda r: accounts.update_user(r.user, r.change)),
            "delete_user": _empty(lambda user: accounts.delete_user(user)),
            "grant": _empty(lambda r: accounts.grant(r.user, r.databases)),
            "revoke": _empty(lambda r: accounts.revoke(r.user, r.databases)),
            "enable_root": lambda r: payloads.RootUser(name=root.enable(r.password)),
            "disable_root": _empty(lambda r: root.disable()),
            "list_logs": lambda request: logs.list_logs(),
            "show_log": lambda request: logs.show_log(request),
            "change_log": lambda request: logs.change_log(request),
            "list_modules": lambda r: modules.list_results(include_contents=r.include_contents),
            "apply_modules": lambda r: modules.apply(r.modules, force=r.force),
            "remove_module": _empty(lambda r: modules.remove(r.id)),
            "diagnostics": lambda request: self._diagnose(make_heartbeat()),
            "hwinfo": lambda request: facts.read_hardware(),
            "top_queries": lambda request: datastore.queries.top(request),
            "cancel_job": _empty(lambda r: self._cancel(r.job_id)),
            "freeze": lambda r: self._freezer.freeze(r),
            "thaw": lambda r: self._freezer.thaw(r),
        }
        self._jobs: Mapping[str, Callable[[Any], dict[str, Any]]] = {
            payloads.RekeyJob.KIND: self._rekey,
            payloads.PrepareJob.KIND: self._prepare,
            payloads.ConfigureJob.KIND: self._configure,
            payloads.RestartJob.KIND: self._restart,
            payloads.StopJob.KIND: self._stop,
            payloads.StartJob.KIND: self._start_engine,
            payloads.ResizeJob.KIND: self._resize,
            payloads.GrowJob.KIND: self._grow,
            payloads.UnmountJob.KIND: self._unmount,
            payloads.MountJob.KIND: self._mount,
            payloads.SslJob.KIND: self._ssl,
            payloads.ModulesJob.KIND: self._apply_modules,
            payloads.UpgradeAgentJob.KIND: self._upgrade,
            payloads.UpgradeEngineJob.KIND: self._upgrade_engine,
            payloads.BackupJob.KIND: self._backup,
            payloads.RestoreJob.KIND: self._restore,
            payloads.VerifyBackupJob.KIND: self._verify_backup,
            payloads.ArchiveJob.KIND: self._archive,
        }

    def recover(self) -> None:
        """Have an engine go on that an earlier agent left standing still; before all else."""
        self._freezer.recover()

    @property
    def is_frozen(self) -> bool:
        """Tell whether the engine stands still, so that nothing can be asked of it."""
        return self._freezer.is_frozen

    def start(self) -> None:
        """Begin to do jobs; those interrupted by the last end of the agent come first."""
        self._thread.start()

    def begin_closing(self) -> None:
        """Begin no further job; a running one that fails from now on is left to the next agent."""
        self._freezer.give_up("the agent ended")
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def close(self, timeout_s: float = 2.0) -> None:
        """Begin no further job; a running one is done again by the next agent."""
        self.begin_closing()
        self._backups.close()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def on_job(self, job: payloads.Job) -> None:
        """Accept a job, durably; returns at once."""
        is_new = self._journal.add(job)
        LOG.info("job %s (%s) %s", job.job_id, job.kind, "came" if is_new else "came again")
        if is_new and job.kind == payloads.StopJob.KIND:
            # a start that is under way need not be waited for
            self._freezer.give_up("the database was to be stopped")
            self._supervisor.ask_to_stop()
        self._look_for_jobs()
        if not is_new:
            self._on_change()

    def _look_for_jobs(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _find_next(self) -> journals.Entry | None:
        """Return the next job; none is begun while the engine stands still."""
        return None if self._freezer.is_frozen else self._journal.find_next()

    def _cancel(self, job_id: str) -> None:
        """Have a job end, or never begin; one that cannot be ended half way goes on."""
        with self._changed:
            job = self._job
            if job is not None and job.job_id == job_id:
                self._backups.cancel()
                return
            is_news = self._journal.cancel(job_id, progresses.cancelled())
        if is_news:
            LOG.info("job %s was cancelled", job_id)
            self._on_change()

    @property
    def current_job_id(self) -> str | None:
        """The job that is being done."""
        job = self._job
        return job.job_id if job is not None else None

    @property
    def progress(self) -> progresses.Progress | None:
        """How far the job is that is being done, if it is one that can tell."""
        return self._backups.progress

    def snapshot(self) -> supervisors.Snapshot:
        """Return how the instance is: the engine, unless a job says otherwise."""
        snapshot = self._supervisor.snapshot()
        overlay = self._overlay
        if overlay is None:
            return snapshot
        return supervisors.Snapshot(status=overlay[0], version=snapshot.version, message=overlay[1])

    def _diagnose(self, heartbeat: payloads.Heartbeat) -> payloads.Diagnostics:
        agent = facts.read_process(os.getpid(), version=heartbeat.agent_version)
        identity = process.read_pid_file(self._supervisor.layout.pid_file)
        engine = None
        if identity is not None and process.is_alive(identity):
            engine = facts.read_process(identity.pid, version=heartbeat.engine_version)
        if agent is None:
            raise exception.GuestError(reason="the agent cannot read /proc/self/status")
        return payloads.Diagnostics(agent=agent, engine=engine)

    # -- the worker -----

    def _loop(self) -> None:
        try:
            self._backups.begin()
        except OSError:
            LOG.warning("the processes of the machine cannot be looked at", exc_info=True)
        while not self._closing:
            try:
                self._do_next()
            except Exception:
                # the outcome could not be noted: the job is still queued and is done again
                LOG.exception("the journal of jobs failed; going on")
                with self._changed:
                    self._changed.wait(_RETRY_S)

    def _do_next(self) -> None:
        """Do the oldest job, or wait for one."""
        with self._changed:
            entry = self._find_next()
            if entry is None:
                self._changed.wait_for(lambda: self._closing or self._find_next() is not None)
                return
            self._job = entry
        try:
            self._do(entry)
        except Exception as e:
            LOG.exception("job %s (%s) failed", entry.job_id, entry.kind)
            # the text of an unforeseen error may hold a secret: its type must do
            reason = f"the agent failed unexpectedly ({type(e).__name__}); see its log"
            self._journal.fail(entry.job_id, exception.GuestError(reason=reason))
        finally:
            self._job = None
            self._on_change()

    def _do(self, entry: journals.Entry) -> None:
        try:
            handler = self._jobs.get(entry.kind)
            if handler is None:
                raise exception.UnknownJob(reason=f"this agent knows no job {entry.kind}")
            result = handler(payloads.JOBS[entry.kind].from_wire(entry.payload))
        except exception.TroveError as e:
            if self._closing:
                # it may have failed for nothing but the agent's end
                LOG.info("job %s (%s) is left to the next agent", entry.job_id, entry.kind)
                return
            LOG.warning("job %s (%s) failed: %s", entry.job_id, entry.kind, e)
            self._journal.fail(entry.job_id, e)
            return
        except OSError as e:
            LOG.warning("job %s (%s) failed", entry.job_id, entry.kind, exc_info=True)
            reason = filesystem.explain(e, f"doing the job {entry.kind}")
            self._journal.fail(entry.job_id, exception.GuestError(reason=reason))
            return
        self._journal.succeed(entry.job_id, result)
        LOG.info("job %s (%s) is done", entry.job_id, entry.kind)

    # -- jobs -----

    def _rekey(self, job: payloads.RekeyJob) -> dict[str, Any]:
        self._rekey_channel(job)
        return {}

    def _prepare(self, job: payloads.PrepareJob) -> dict[str, Any]:
        """Make the engine; every part can be done again."""
        self._set_overlay(states.ServiceStatus.BUILDING)
        try:
            self._volume.ensure()
            self._backups.settle()
            self._transition.enter(job.engine_version)
            if job.restoration is None:
                self._datastore.service.install(job)
            elif job.restoration.snapshot is not None:
                self._adopt(job, job.restoration.snapshot)
            else:
                self._backups.install(job, job.restoration)
            self._supervisor.ensure_running(_START_TIMEOUT_S)
            self._complete_upgrade()
            if job.restoration is not None:
                # there is nothing to go back to
                self._transition.commit()
                self._adoption.forget()
            if job.databases:
                self._datastore.accounts.ensure_databases(job.databases)
            if job.users:
                self._datastore.accounts.ensure_users(job.users)
            if job.root_password is not None:
                self._datastore.root.enable(job.root_password)
            # only what is durable may be reported as made
            filesystem.sync_file_system(self._supervisor.layout.mount_point)
        except OSError as e:
            error = exception.GuestError(reason=filesystem.explain(e, "preparing the database"))
            self._set_overlay(states.ServiceStatus.FAILED, str(error.kwargs["reason"]))
            raise error from e
        except exception.TroveError as e:
            self._set_overlay(states.ServiceStatus.FAILED, str(e.kwargs.get("reason", e)))
            raise
        # a module that fails says so in the list of modules; the database is none the worse
        result = self._modules_result(job.modules)
        self._overlay = None
        result["overrides_digest"] = job.overrides_digest
        return {"engine_version": self._supervisor.snapshot().version, **result}

    def _adopt(self, job: payloads.PrepareJob, backup_id: str) -> None:
        """Have the database that the volume holds, which is of a snapshot."""
        if job.volume_size_gib is not None:
            self._volume.grow(job.volume_size_gib)
        done = self._adoption.find_done(backup_id)
        version = done or self._adoption.check(backup_id)
        if done is None:
            self._transition.check_restored(version)
            self._clear_adopted()

        def place() -> None:
            if done is None:
                self._adoption.place(backup_id, engine_version=version)
            self._transition.adopt(version)
            self._transition.enter()

        self._datastore.service.install(job, restore=place)

    def _clear_adopted(self) -> None:
        """Remove what was another instance's, its logs among it, which the agent's own go on."""
        logs = self._datastore.logs
        if not isinstance(logs, base.Logs):
            self._adoption.clear()
            return
        logs.close()
        try:
            self._adoption.clear()
        finally:
            logs.open()

    def _complete_upgrade(self) -> None:
        """Let an upgraded engine prove itself before tenants write what a return would lose."""
        service, version = self._datastore.service, self._supervisor.snapshot().version
        if not self._transition.loses_writes:
            self._transition.leave(version)
            return
        with contextlib.suppress(exception.TroveError):
            service.set_read_only(True)
        self._transition.leave(version)
        self._supervisor.release_writes()

    def _upgrade_engine(self, job: payloads.UpgradeEngineJob) -> dict[str, Any]:
        self._volume.ensure()
        version = self._supervisor.snapshot().version
        match job.phase:
            case "check":
                version = self._transition.check(running=version, new=job.version)
            case "begin":
                self._begin_upgrade(job.version)
            case "commit":
                self._transition.commit()
            case _:
                raise exception.UnknownJob(reason=f"an upgrade has no phase {job.phase}")
        return {"engine_version": version}

    def _begin_upgrade(self, version: str) -> None:
        """Make the data ready; the status says so until the engine is started on them."""
        self._set_overlay(states.ServiceStatus.UPGRADING)
        try:
            self._transition.enter(version)
        except BaseException:
            self._overlay = None
            raise

    def _configure(self, job: payloads.ConfigureJob) -> dict[str, Any]:
        """Apply a configuration; an engine that is down is started on it, if it should run."""
        if self._supervisor.snapshot().status is states.ServiceStatus.RESTARTING:
            with contextlib.suppress(exception.GuestError):
                self._supervisor.ensure_running(_START_TIMEOUT_S)
        status = self._supervisor.snapshot().status
        is_running = status in (states.ServiceStatus.HEALTHY, states.ServiceStatus.BLOCKED)
        restart_required = self._datastore.config.configure(job, is_running=is_running)
        if status is states.ServiceStatus.CRASHED and job.is_live:
            try:
                self._supervisor.restart(_START_TIMEOUT_S)
            except exception.GuestError as e:
                # what is wrong with it is seen in its status; the configuration counts anyway
                LOG.warning("the engine does not start with its new configuration: %s", e)
        return {"restart_required": restart_required, "overrides_digest": job.overrides_digest}

    def _restart(self, job: payloads.RestartJob) -> dict[str, Any]:
        self._overlay = None
        self._volume.ensure()
        self._supervisor.restart(_START_TIMEOUT_S)
        return {"engine_version": self._supervisor.snapshot().version}

    def _apply_modules(self, job: payloads.ModulesJob) -> dict[str, Any]:
        return self._modules_result(job.modules, force=job.force)

    def _modules_result(
        self, modules: tuple[payloads.Module, ...], *, force: bool = False
    ) -> dict[str, Any]:
        """Apply modules; a result must stay small, so it says no more than how each one is."""
        results = self._modules.apply(modules, force=force).modules
        return {"modules": [{"id": r.id, "md5": r.md5, "status": r.status} for r in results]}

    def _ssl(self, job: payloads.SslJob) -> dict[str, Any]:
        self._backups.await_engine()
        self._datastore.tls.apply(job)
        if self._datastore.tls.needs_restart():
            self._supervisor.restart(_START_TIMEOUT_S)
        return {}

    def _upgrade(self, job: payloads.UpgradeAgentJob) -> dict[str, Any]:
        self._upgrade_agent(job)
        return {"version": job.version}

    def _stop(self, job: payloads.StopJob) -> dict[str, Any]:
        self._overlay = None
        self._supervisor.ensure_stopped(_STOP_TIMEOUT_S)
        return {}

    def _start_engine(self, job: payloads.StartJob) -> dict[str, Any]:
        self._overlay = None
        self._volume.ensure()
        self._supervisor.ensure_running(_START_TIMEOUT_S)
        return {"engine_version": self._supervisor.snapshot().version}

    def _resize(self, job: payloads.ResizeJob) -> dict[str, Any]:
        self._overlay = None
        self._volume.ensure()
        self._datastore.service.resize(memory_mib=job.memory_mib, vcpus=job.vcpus)
        self._supervisor.restart(_START_TIMEOUT_S)
        return {"engine_version": self._supervisor.snapshot().version}

    def _grow(self, job: payloads.GrowJob) -> dict[str, Any]:
        self._volume.grow(job.volume_size_gib)
        self._datastore.service.resize(volume_size_gib=job.volume_size_gib)
        return {}

    def _unmount(self, job: payloads.UnmountJob) -> dict[str, Any]:
        self._overlay = None
        self._supervisor.ensure_stopped(_STOP_TIMEOUT_S)
        self._volume.release()
        return {}

    def _mount(self, job: payloads.MountJob) -> dict[str, Any]:
        self._overlay = None
        self._volume.take(job.volume_id, size_gib=job.volume_size_gib)
        self._datastore.service.resize(volume_size_gib=job.volume_size_gib)
        self._supervisor.ensure_running(_START_TIMEOUT_S)
        return {"engine_version": self._supervisor.snapshot().version}

    def _backup(self, job: payloads.BackupJob) -> dict[str, Any]:
        self._volume.ensure()
        return self._backups.backup(job)

    def _restore(self, job: payloads.RestoreJob) -> dict[str, Any]:
        """Restore in place; the engine's own status would say that somebody stopped it."""
        self._volume.ensure()
        job_id = self.current_job_id or ""
        if job.phase == "commit":
            return self._backups.restore(job, job_id=job_id)
        self._set_overlay(states.ServiceStatus.BUILDING)
        try:
            return self._backups.restore(job, job_id=job_id)
        finally:
            self._overlay = None

    def _verify_backup(self, job: payloads.VerifyBackupJob) -> dict[str, Any]:
        self._volume.ensure()
        backup_id = job.restoration.snapshot
        return self._backups.verify(job) if backup_id is None else self._verify_snapshot(backup_id)

    def _verify_snapshot(self, backup_id: str) -> dict[str, Any]:
        """Prove the database that the volume holds, which is of no use afterwards."""
        if self._supervisor.find_engine() is not None:
            raise exception.NotProven(reason="a snapshot is proven on a server of its own")
        version = self._adoption.check(backup_id)
        self._transition.check_restored(version)
        self._clear_adopted()
        return self._adoption.verify()

    def _archive(self, job: payloads.ArchiveJob) -> dict[str, Any]:
        self._volume.ensure()
        self._backups.await_engine()
        return self._archiver.begin(job)

    def _set_overlay(self, status: states.ServiceStatus, message: str | None = None) -> None:
        self._overlay = (status, message)
        self._on_change()


def _empty(function: Callable[[Any], object]) -> Callable[[Any], payloads.Payload]:
    """Make a handler of a function that has nothing to answer."""

    def handle(request: Any) -> payloads.Payload:
        function(request)
        return payloads.Empty()

    return handle
