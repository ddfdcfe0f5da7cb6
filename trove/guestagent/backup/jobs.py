"""What the agent does with backups: makes them, makes databases of them, proves them.

Everything here is run by the one worker of jobs and can be done again after a crash. A backup that
an earlier agent was killed at is made anew, and what that one stored is removed; one that was
complete but not reported is reported.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, TypeVar

from oslo_log import log

from trove import states
from trove.common import concurrency, crypto, exception
from trove.guestagent import state
from trove.guestagent import supervisor as supervisors
from trove.guestagent.backup import archiver as archivers
from trove.guestagent.backup import pieces, probes, reader, restoring, writer
from trove.guestagent.backup import place as places
from trove.guestagent.backup import progress as progresses
from trove.guestagent.datastores import base
from trove.guestagent.datastores import upgrade as engine_upgrade
from trove.guestagent.system import process
from trove.rpc import payloads
from trove.storage import manifests

LOG = log.getLogger(__name__)

#: Longest an engine may take to start on restored data, and to stop.
_START_TIMEOUT_S = 600.0
_STOP_TIMEOUT_S = 150.0
#: Longest that the storage may fail before what is on its way to the archive is given up; the next
#: look tries again.
_ARCHIVE_PATIENCE_S = 10.0
_DOCUMENT = "backup"
#: Health of an engine that the supervisor is about to have running.
_ON_ITS_WAY = (states.ServiceStatus.RESTARTING, states.ServiceStatus.CRASHED)

Grant = Callable[[payloads.GrantRequest], payloads.GrantAnswer]
_T = TypeVar("_T")


class Storage:
    """Opens places of the storage by grants, which the control plane renews."""

    def __init__(self, grant: Grant, *, clock: concurrency.Clock) -> None:
        """Take what asks for a grant."""
        self._grant = grant
        self._clock = clock

    def open(self, request: payloads.GrantRequest, storage: payloads.ObjectStorage) -> places.Place:
        """Return the objects of a backup or an archive."""
        return places.Place(storage, renew=self._renewer(request), clock=self._clock)

    def make_put(
        self, archive: payloads.LogArchive, progress: progresses.Progress
    ) -> archivers.Put:
        """Return what stores pieces of an archive."""
        place = places.Place(
            archive.storage,
            renew=self._renewer(payloads.GrantRequest(epoch=archive.epoch)),
            clock=self._clock,
            patience_s=_ARCHIVE_PATIENCE_S,
        )
        key = crypto.decode_key(archive.key)

        def put(sequence: int, piece: base.Piece) -> int:
            return pieces.put(
                place, sequence, piece, key=key, epoch=archive.epoch, progress=progress
            )

        return put

    def _renewer(self, request: payloads.GrantRequest) -> places.Renew:
        def renew(names: Sequence[str]) -> payloads.ObjectStorage | None:
            return self._grant(dataclasses.replace(request, names=tuple(names))).storage

        return renew


class Backups:
    """The jobs about backups of one instance."""

    def __init__(
        self,
        datastore: base.Datastore,
        supervisor: supervisors.Supervisor,
        *,
        store: state.Store,
        transition: engine_upgrade.Transition,
        archiver: archivers.Archiver,
        storage: Storage,
        clock: concurrency.Clock,
    ) -> None:
        """Take the collaborators."""
        self._manager = datastore.spec.manager
        self._part = datastore.backup
        self._service = datastore.service
        self._supervisor = supervisor
        self._store = store
        self._transition = transition
        self._archiver = archiver
        self._storage = storage
        self._clock = clock
        layout = supervisor.layout
        self._restorer = restoring.Restorer(
            datastore.backup,
            manager=self._manager,
            layout=layout,
            open_place=storage.open,
            check_version=transition.check_restored,
        )
        self._new = restoring.NewDatabase(self._restorer, layout)
        self._replacement = restoring.Replacement(self._restorer, layout)
        self._progress: progresses.Progress | None = None
        self._is_closing = False

    def begin(self) -> None:
        """Be the only one at work on this instance, before anything else is done."""
        self._restorer.end_left()

    def await_engine(self) -> None:
        """Wait for an engine that is on its way up: after a restart of the machine, it may be.

        So is one that crashed, unless it does so again and again.
        """
        if self._supervisor.snapshot().status in _ON_ITS_WAY:
            with contextlib.suppress(exception.GuestError):
                self._supervisor.ensure_running(_START_TIMEOUT_S)

    @property
    def progress(self) -> progresses.Progress | None:
        """How far the job is that is being done, if it is one of these."""
        return self._progress

    def cancel(self) -> None:
        """Have the job end that is being done, if it is one of these."""
        progress = self._progress
        if progress is not None:
            progress.cancel()

    def close(self) -> None:
        """End what is being done; the next agent does it again."""
        self._is_closing = True
        self.cancel()

    @contextlib.contextmanager
    def _working(self, total_bytes: int | None = None) -> Iterator[progresses.Progress]:
        """Show how far it is, and let it be cancelled."""
        progress = progresses.Progress(total_bytes, clock=self._clock)
        self._progress = progress
        try:
            if self._is_closing:
                progress.cancel()
            yield progress
        except progresses.Cancelled as e:
            raise progresses.cancelled() from e
        finally:
            self._progress = None

    # -- making backups -----

    def backup(self, job: payloads.BackupJob) -> dict[str, Any]:
        """Back the engine up; the result is as the docstring of the job says."""
        self.await_engine()
        key = crypto.decode_key(job.key)
        place = self._storage.open(payloads.GrantRequest(backup_id=job.backup_id), job.storage)
        with self._working() as progress:
            done = self._end_former(job, place, key, progress)
            if done is None:
                done = self._make(job, place, key, progress)
        return _result_of(done)

    def _end_former(
        self,
        job: payloads.BackupJob,
        place: places.Place,
        key: bytes,
        progress: progresses.Progress,
    ) -> manifests.Manifest | None:
        """Return the backup if an earlier agent completed it; else remove what that one stored."""
        remembered = self._store.find(_DOCUMENT) or {}
        if remembered.get("backup_id") != job.backup_id:
            return None
        attempt = str(remembered["attempt"])
        try:
            manifest = reader.open_backup(
                place,
                key=key,
                backup_id=job.backup_id,
                manifest_sha256=None,
                progress=progress,
            ).manifest
        except progresses.Cancelled:
            raise
        except exception.GuestError as e:
            LOG.info("backup %s was not completed: %s", job.backup_id, e)
        else:
            if manifest.attempt == attempt:
                LOG.info("backup %s was completed by an earlier agent", job.backup_id)
                return manifest
        number = 0
        # they are stored in order
        while place.delete(manifests.segment_name(attempt, number)):
            number += 1
            progress.check()
        LOG.info("removed %d segments of an earlier try at backup %s", number, job.backup_id)
        return None

    def _make(
        self,
        job: payloads.BackupJob,
        place: places.Place,
        key: bytes,
        progress: progresses.Progress,
    ) -> manifests.Manifest:
        attempt = secrets.token_hex(8)
        self._store.save(_DOCUMENT, {"backup_id": job.backup_id, "attempt": attempt})
        is_probed = self._write_probe(attempt)
        # before the stream begins: what is written during it is in the log from there on
        mark = self._archiver.mark()
        version = self._supervisor.snapshot().version or ""
        with self._open(job, progress) as stream:
            description = writer.Description(
                kind=_kind_of(job),
                manager=self._manager,
                engine_version=version,
                wrapped_key=job.wrapped_key,
                parent_id=None if job.parent is None else job.parent.backup_id,
                archive=None if mark is None else manifests.ArchiveStart(**mark),
                about=job.about,
            )
            return writer.store(
                probes.Probed(stream, attempt) if is_probed else stream,
                place,
                key=key,
                backup_id=job.backup_id,
                describe=lambda facts: description,
                options=writer.Options(
                    segment_bytes=job.segment_bytes,
                    compression_level=job.compression_level,
                    rate_limit_bytes_s=job.rate_limit_bytes_s,
                    attempt=attempt,
                ),
                progress=progress,
            )

    def _write_probe(self, mark: str) -> bool:
        """Mark the database; one that takes no writes can be backed up all the same."""
        try:
            return self._part.write_probe(mark)
        except exception.TroveError as e:
            LOG.warning("the backup has no probe: %s", e)
            return False

    def _open(self, job: payloads.BackupJob, progress: progresses.Progress) -> base.Stream:
        if job.parent is not None:
            return self._part.open_increment(self._restorer.find_facts(job.parent, progress))
        try:
            progress.set_total(self._part.estimate_bytes())
        except exception.TroveError as e:
            # only what is shown depends on it
            LOG.warning("the size of the backup is not known: %s", e)
        return self._part.open_full()

    # -- making databases -----

    def settle(self) -> None:
        """Have the database again that a restoration was to replace, if nobody goes on with it.

        That is so when the server was made anew meanwhile, with all that its agent remembered.
        """
        if self._replacement.has_former and not self._replacement.has_data:
            LOG.warning("a restoration was not completed: the former database is back")
            self._replacement.revert(self._replacement.find(), reason="it was not completed")
            self._replacement.forget()

    def install(self, job: payloads.PrepareJob, restoration: payloads.Restoration) -> None:
        """Install the engine with a database from backups; raises GuestError."""
        with self._working() as progress:
            self._service.install(job, restore=lambda: self._place_new(restoration, progress))

    def _place_new(self, restoration: payloads.Restoration, progress: progresses.Progress) -> None:
        made = self._new.make(restoration, progress)
        self._archiver.lose("the database was restored from a backup")
        self._transition.adopt(made["engine_version"])
        self._transition.enter()

    def restore(self, job: payloads.RestoreJob, *, job_id: str) -> dict[str, Any]:
        """Do a phase of a restoration in the place of the database."""
        match job.phase:
            case "restore" if job.restoration is not None:
                with self._archiver.held():
                    facts = self._replace(job.restoration, job_id)
            case "commit":
                facts = {}
                self._commit()
            case "revert":
                facts = {}
                with self._archiver.held():
                    self._revert()
            case _:
                raise exception.UnknownJob(reason=f"a restoration has no phase {job.phase}")
        return {"facts": facts, "engine_version": self._supervisor.snapshot().version}

    def _replace(self, restoration: payloads.Restoration, job_id: str) -> dict[str, Any]:
        memory = self._replacement.find()
        if memory is not None and memory.job_id != job_id:
            self._end_other(memory)
            memory = None
        if memory is None:
            if self._replacement.has_former:
                raise exception.GuestError(
                    reason="the database from before another restoration is kept, of which nothing"
                    " else is known: have the operator look at the volume"
                )
            memory = self._restore_beside(restoration, job_id)
        if memory.phase is restoring.Phase.REVERTING:
            self._give_up(memory)
        try:
            self._place(memory)
        except (exception.TroveError, OSError) as e:
            if self._is_closing:
                raise
            cause = e.kwargs.get("reason", e) if isinstance(e, exception.TroveError) else e
            reason = f"{str(cause).rstrip('.')}{self._restorer.describe_shortage()}"
            LOG.warning("the restored database does not run, having the former: %s", reason)
            self._give_up(memory, f"the restored database does not run: {reason}")
        return memory.facts

    def _end_other(self, memory: restoring.Memory) -> None:
        """End a restoration that was given up or completed without this agent being told."""
        LOG.warning("another restoration comes, the one before was %s", memory.phase)
        if memory.phase is restoring.Phase.PLACED:
            self._commit()
        else:
            self._take_back(memory, "another one came")

    def _restore_beside(self, restoration: payloads.Restoration, job_id: str) -> restoring.Memory:
        """Restore beside the database, with the engine stopped; it runs again when that fails."""
        self._replacement.clear()
        try:
            with self._working() as progress:
                checked = self._restorer.check(restoration, progress)
                self._restorer.check_space(checked)
                self._archiver.ship()
                self._supervisor.ensure_stopped(_STOP_TIMEOUT_S)
                facts = self._restorer.restore(checked, self._restorer.work, progress)
        except Exception:
            # an agent that was killed here may have stopped it
            if not self._is_closing:
                self._start_former()
            raise
        former = self._transition.find()
        return restoring.Memory(
            job_id=job_id,
            phase=restoring.Phase.PLACING,
            facts=facts,
            engine_version=checked.engine_version,
            former_version=None if former is None else former.version,
        )

    def _start_former(self) -> None:
        try:
            self._supervisor.ensure_running(_START_TIMEOUT_S)
        except exception.GuestError as e:
            # its status tells; why it was stopped is what is to be reported
            LOG.error("the database does not run again: %s", e)

    def _place(self, memory: restoring.Memory) -> None:
        """Have the engine run on the restored data."""
        self._supervisor.ensure_stopped(_STOP_TIMEOUT_S)
        memory = self._replacement.place(memory)
        # before the engine writes another log than the one that was archived
        self._archiver.lose("the database was restored from a backup")
        self._transition.adopt(memory.engine_version)
        self._transition.enter()
        self._supervisor.ensure_running(_START_TIMEOUT_S)
        self._transition.leave(self._supervisor.snapshot().version)
        self._transition.commit()

    def _give_up(self, memory: restoring.Memory, reason: str | None = None) -> None:
        """Have the former database again; always raises GuestError."""
        self._supervisor.ensure_stopped(_STOP_TIMEOUT_S)
        memory = self._replacement.revert(memory, reason=reason) or memory
        self._transition.adopt(memory.former_version)
        self._start_former()
        self._replacement.forget()
        raise exception.GuestError(
            reason=f"{memory.reason}; the database is as it was before the restoration"
        )

    def _commit(self) -> None:
        self._replacement.commit()
        self._replacement.forget()

    def _revert(self) -> None:
        """Have the former database, and have it run; nothing more when there is no other."""
        memory = self._replacement.find()
        if memory is None and not self._replacement.has_former:
            self._replacement.clear()
            self._supervisor.ensure_running(_START_TIMEOUT_S)
            return
        self._take_back(memory, "it was taken back")

    def _take_back(self, memory: restoring.Memory | None, reason: str) -> None:
        self._supervisor.ensure_stopped(_STOP_TIMEOUT_S)
        if self._replacement.has_former:
            self._archiver.lose("a restored database was replaced by the former one")
        self._replacement.revert(memory, reason=reason)
        if memory is not None:
            self._transition.adopt(memory.former_version)
        self._supervisor.ensure_running(_START_TIMEOUT_S)
        self._replacement.forget()

    # -- proving -----

    def verify(self, job: payloads.VerifyBackupJob) -> dict[str, Any]:
        """Restore a backup beside the engine, check it, throw it away."""
        with self._working() as progress:
            return _nicely(lambda: self._restorer.verify(job.restoration, progress))


def _nicely(function: Callable[[], _T]) -> _T:
    """Do something, and all programs that it starts, behind what else the machine has to do."""
    with futures.ThreadPoolExecutor(
        1, thread_name_prefix="verification", initializer=process.yield_to_others
    ) as executor:
        return executor.submit(function).result()


def _kind_of(job: payloads.BackupJob) -> states.BackupKind:
    return states.BackupKind.FULL if job.parent is None else states.BackupKind.INCREMENT


def _result_of(manifest: manifests.Manifest) -> dict[str, Any]:
    archive: Mapping[str, Any] | None = None
    if manifest.archive is not None:
        archive = {"epoch": manifest.archive.epoch, "sequence": manifest.archive.sequence}
    return {
        "manifest_sha256": manifest.sha256,
        "stored_bytes": manifest.stored_bytes,
        "data_bytes": manifest.data_bytes,
        "facts": dict(manifest.facts),
        "archive": archive,
        "engine_version": manifest.engine_version,
    }
