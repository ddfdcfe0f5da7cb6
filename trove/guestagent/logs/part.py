"""The logs of an engine, put together from streams: list, show, switch, publish, discard."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping

from oslo_log import log

from trove.common import concurrency, exception
from trove.datastores import spec as datastore_spec
from trove.guestagent.datastores import base
from trove.guestagent.logs import own, publisher
from trove.guestagent.logs import stream as streams
from trove.guestagent.system import filesystem
from trove.rpc import payloads
from trove.storage import base as storage
from trove.storage import factory

LOG = log.getLogger(__name__)

#: How long a request waits for another one that publishes the same log.
_LOCK_TIMEOUT_S = 3.0
#: What remains of a log while the disk is nearly full.
_HARDLY_ANYTHING = streams.Bounds(total_bytes=0, piece_bytes=64 * 1024)


class Status(enum.StrEnum):
    """How a log is, in the words of the API."""

    DISABLED = "Disabled"
    ENABLED = "Enabled"
    UNAVAILABLE = "Unavailable"
    READY = "Ready"
    PUBLISHED = "Published"
    PARTIAL = "Partial"
    ROTATED = "Rotated"
    RESTART_REQUIRED = "Restart Required"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A log of an engine.

    ``switch`` enables and disables it in the running engine, and raises GuestError; None when it is
    always written. ``keeps_published``: lines stay on the disk, within the bounds, when published.
    """

    spec: datastore_spec.LogSpec
    stream: streams.Stream
    bounds: Callable[[], streams.Bounds]
    switch: Callable[[bool], None] | None = None
    keeps_published: bool = False


class StreamLogs(base.Logs):
    """The logs of one instance."""

    capabilities = frozenset({datastore_spec.Capability.LOGS})

    def __init__(
        self,
        sources: tuple[Source, ...],
        *,
        is_nearly_full: Callable[[], bool],
        own_log: own.OwnLog,
        clock: concurrency.Clock | None = None,
        collect: Callable[[], None] = lambda: None,
        open_grant: Callable[[str, Mapping[str, object]], storage.Account] = factory.open_grant,
    ) -> None:
        """Take the logs in the order they are listed in, and the agent's own.

        ``collect`` brings what the engine wrote elsewhere into the logs.
        """
        self._collect = collect
        self._clock = clock or concurrency.SystemClock()
        self._sources = {source.spec.name: source for source in sources}
        self._publishers = {
            source.spec.name: publisher.Publisher(
                source.spec.name, source.stream, clock=self._clock
            )
            for source in sources
        }
        self._is_nearly_full = is_nearly_full
        self._own_log = own_log
        self._open_grant = open_grant

    def open(self) -> None:
        """Begin to write the agent's own log."""
        self._own_log.install()

    def close(self) -> None:
        """End the agent's own log."""
        self._own_log.remove()

    # -- what is asked -----

    def list_logs(self) -> payloads.Logs:
        """Return all logs."""
        self._bring()
        return payloads.Logs(logs=tuple(self._show(each) for each in self._sources.values()))

    def show_log(self, request: payloads.LogRequest) -> payloads.Log:
        """Return one log, and note what an earlier agent had stored; raises GuestError."""
        source = self._find(request.name)
        self._bring()
        self._acquire(source)
        try:
            if request.storage is not None:
                account = self._open(request.storage)
                self._publishers[request.name].catch_up(account, request.storage)
        except (storage.StorageError, OSError) as e:
            # what is known without the store is shown all the same
            LOG.warning("the object store of the log %s cannot be read: %s", request.name, e)
        finally:
            source.stream.lock.release()
        return self._show(source)

    def change_log(self, request: payloads.LogRequest) -> payloads.Log:
        """Discard, disable, enable, publish, in this order; raises GuestError."""
        source, until_s = self._find(request.name), self._clock.monotonic() + request.budget_s
        if (request.enable or request.disable) and source.switch is None and not request.publish:
            raise exception.GuestError(reason=f"the log {request.name} is always written")
        self._bring()
        self._acquire(source)
        try:
            wanted = self._change(source, request, until_s)
        except storage.StorageError as e:
            raise exception.GuestError(reason=str(e)) from e
        except OSError as e:
            reason = filesystem.explain(e, f"working on the log {request.name}")
            raise exception.GuestError(reason=reason) from e
        finally:
            source.stream.lock.release()
        return dataclasses.replace(self._show(source), wanted=wanted)

    def _bring(self) -> None:
        try:
            self._collect()
        except (exception.TroveError, OSError) as e:
            # what is in the logs already is as good as before
            LOG.warning("what the engine wrote last is not in its logs yet: %s", e)

    def _change(
        self, source: Source, request: payloads.LogRequest, until_s: float
    ) -> tuple[str, ...]:
        """Do what is asked for; return the objects that the grant has to be for to go on."""
        wanted = None
        log_publisher = self._publishers[request.name]
        if request.discard:
            where = self._require(request)
            log_publisher.discard(self._open(where), where, until_s)
        if source.switch is not None:
            if request.disable:
                self._switch(source, enabled=False)
            elif request.enable or (request.publish and not source.stream.record.enabled):
                self._switch(source, enabled=True)
        if request.publish:
            where = self._require(request)
            wanted = log_publisher.publish(self._open(where), where, until_s)
            if not source.keeps_published:
                source.stream.forget_published()
        return () if wanted is None else (wanted,)

    def _require(self, request: payloads.LogRequest) -> payloads.LogStorage:
        if request.storage is None:
            raise exception.GuestError(reason="there is no object store to publish to")
        return request.storage

    def _open(self, where: payloads.LogStorage) -> storage.Account:
        return self._open_grant(where.kind, where.grant)

    def _find(self, name: str) -> Source:
        source = self._sources.get(name)
        if source is None:
            raise exception.GuestError(reason=f"the log {name[:64]!r} is not defined")
        return source

    def _acquire(self, source: Source) -> None:
        if not source.stream.lock.acquire(timeout=_LOCK_TIMEOUT_S):
            raise exception.GuestError(
                reason=f"the log {source.spec.name} is being published; ask again in a moment"
            )

    def _switch(self, source: Source, *, enabled: bool) -> None:
        """Have a log written or not, now and after every start of the engine."""
        assert source.switch is not None  # noqa: S101 (for the type checker)
        record = source.stream.record
        before = record.enabled
        # remembered first: an engine that starts in between reads it from its configuration
        record.enabled, record.switching = enabled, True
        source.stream.save()
        try:
            source.switch(enabled)
        except exception.TroveError:
            record.enabled, record.switching = before, False
            source.stream.save()
            raise
        record.switching = False
        source.stream.save()
        LOG.info("the log %s is %s", source.spec.name, "enabled" if enabled else "disabled")

    # -- what goes on by itself -----

    def tend(self) -> None:
        """Keep all logs within their bounds; called every few seconds."""
        self._bring()
        is_nearly_full = self._is_nearly_full()
        for source in self._sources.values():
            # one that is being published is looked at the next time
            if source.stream.lock.acquire(blocking=False):
                try:
                    self._finish_switching(source)
                    source.stream.tend(_HARDLY_ANYTHING if is_nearly_full else source.bounds())
                finally:
                    source.stream.lock.release()

    def _finish_switching(self, source: Source) -> None:
        """Tell the engine what the last agent could not."""
        record = source.stream.record
        if not record.switching or source.switch is None:
            return
        try:
            source.switch(record.enabled)
        except exception.TroveError as e:
            LOG.info("the log %s is switched later: %s", source.spec.name, e)
            return
        record.switching = False
        source.stream.save()

    # -- showing -----

    def _show(self, source: Source) -> payloads.Log:
        record = source.stream.record
        pending = source.stream.pending_bytes()
        is_published = record.account is not None and record.published_bytes > 0
        return payloads.Log(
            name=source.spec.name,
            type=source.spec.type.value,
            status=_status(source, pending=pending, is_published=is_published).value,
            published_bytes=record.published_bytes,
            pending_bytes=pending,
            dropped_bytes=record.dropped_bytes,
            container=record.container if is_published else None,
            prefix=record.prefix if is_published else None,
        )


def _status(source: Source, *, pending: int, is_published: bool) -> Status:
    record = source.stream.record
    if source.switch is not None and not record.enabled:
        return Status.DISABLED
    if record.unseen_bytes:
        return Status.ROTATED
    if is_published:
        return Status.PARTIAL if pending else Status.PUBLISHED
    if pending:
        return Status.READY
    if source.switch is not None:
        return Status.ENABLED
    return Status.READY if source.stream.exists() else Status.UNAVAILABLE
