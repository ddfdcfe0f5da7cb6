"""Publishing: a stream's lines become objects, each exactly once.

The name of an object is made from the stream's id and the offset of its first byte. What is about
to be stored is noted before, and that it is stored after: an agent that was ended in between looks
whether the object is there. If it is, it is noted now; if not, the same lines go to the same name.

Where the store signs each object, the name of the next is told to who asks for publishing, and what
is left is published when it asks again with a grant for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from oslo_log import log

from trove.common import concurrency, exception
from trove.guestagent.logs import stream as streams
from trove.rpc import payloads
from trove.storage import base as storage

LOG = log.getLogger(__name__)

#: Most bytes of a log in one object.
OBJECT_BYTES = 4 * 1024 * 1024
_PAGE = 1000


class Publisher:
    """Publishes one stream, and takes back what was published."""

    def __init__(
        self,
        name: str,
        stream: streams.Stream,
        *,
        clock: concurrency.Clock,
        object_bytes: int = OBJECT_BYTES,
        on_step: Callable[[str], None] = lambda step: None,
    ) -> None:
        """Take the log's name and its stream; ``on_step`` is for tests, which end us anywhere."""
        self._name = name
        self._stream = stream
        self._clock = clock
        self._object_bytes = object_bytes
        self._on_step = on_step

    def publish(
        self, account: storage.Account, where: payloads.LogStorage, until_s: float
    ) -> str | None:
        """Store what is pending, until a time of the clock; the rest stays pending.

        Returns the name of an object that the grant has to be for to go on, None otherwise. Raises
        StorageError, OSError.
        """
        wanted = self.catch_up(account, where)
        if wanted is not None:
            return wanted
        record = self._stream.record
        if record.account != where.account:
            # somewhere else it is published anew, from the oldest line that is kept
            record.position = record.first
            record.published_bytes = 0
            record.account, record.container = where.account, where.container
            record.prefix, record.uploading = where.prefix, None
            record.discarding = False
        # a busy log never ends: what comes from now on is for the next time
        end = max((piece.end for piece in self._stream.pieces()), default=0)
        while record.position < end:
            chunk = self._stream.next_chunk(self._object_bytes)
            if chunk is None:
                break
            name = self._name_of(chunk)
            if not account.reaches(where.container, name):
                wanted = name
                break
            self._store(account, name, chunk)
            if self._clock.monotonic() >= until_s:
                break
        if wanted is None:
            record.unseen_bytes = 0
        self._stream.save()
        if record.published_bytes:
            self._describe(account)
        return wanted

    def _name_of(self, chunk: streams.Chunk) -> str:
        record = self._stream.record
        return f"{record.prefix}{record.stream_id}-{chunk.start:015d}.log"

    def _store(self, account: storage.Account, name: str, chunk: streams.Chunk) -> None:
        record = self._stream.record
        assert record.container is not None  # noqa: S101 (for the type checker)
        # clients decode what they get: a byte that is no UTF-8 must not keep them from the rest
        text = chunk.content.decode("utf-8", "backslashreplace")
        metadata = {
            "lines": str(len(text.splitlines())),
            "log": self._name,
            "end": str(chunk.end),
            # what is missing before it, because it was too much for the instance to keep
            "dropped": str(record.unseen_bytes),
        }
        record.uploading = {"name": name, "start": chunk.start, "end": chunk.end}
        self._stream.save()
        self._on_step("noted")
        account.put(
            record.container, name, [text.encode()], content_type=storage.TEXT, metadata=metadata
        )
        self._on_step("stored")
        self._finish()

    def _finish(self) -> None:
        """Note that the object is stored."""
        record = self._stream.record
        assert record.uploading is not None  # noqa: S101 (for the type checker)
        start, end = int(record.uploading["start"]), int(record.uploading["end"])
        record.published_bytes += end - start
        record.position = end
        record.uploading = None
        record.unseen_bytes = 0
        self._stream.save()
        self._on_step("published")

    def catch_up(self, account: storage.Account, where: payloads.LogStorage) -> str | None:
        """Finish what an earlier agent has begun at this place; raises StorageError.

        Returns the name of an object that the grant has to be for, None otherwise.
        """
        record = self._stream.record
        if record.account != where.account or record.container is None:
            return None
        if record.discarding:
            self._discard(account)
        elif record.uploading is not None:
            name = str(record.uploading["name"])
            if not account.reaches(record.container, name):
                return name
            found = account.find(record.container, name)
            end = int(record.uploading["end"])
            if found is not None and found.metadata.get("end") == str(end):
                # it was stored before anything of it could be dropped unpublished
                again = max(0, min(record.first, end) - int(record.uploading["start"]))
                record.dropped_bytes = max(0, record.dropped_bytes - again)
                self._finish()
            else:
                record.uploading = None
                self._stream.save()
        return None

    def _describe(self, account: storage.Account) -> None:
        """Store the object that tells what is published."""
        record = self._stream.record
        assert record.container is not None and record.prefix is not None  # noqa: S101, PT018
        description = {
            "log": self._name,
            "published": record.published_bytes,
            "dropped": record.dropped_bytes,
            "prefix": record.prefix,
        }
        account.put(
            record.container,
            storage.metafile(record.prefix),
            [json.dumps(description).encode()],
            content_type="application/json",
        )

    def discard(self, account: storage.Account, where: payloads.LogStorage, until_s: float) -> None:
        """Delete what is published; what the instance still has of it becomes pending again.

        Raises StorageError, and GuestError when it is not done in time.
        """
        record = self._stream.record
        if record.account != where.account:
            record.account, record.container = where.account, where.container
            record.prefix = where.prefix
        record.discarding, record.uploading = True, None
        self._stream.save()
        self._on_step("discarding")
        self._discard(account, until_s)

    def _discard(self, account: storage.Account, until_s: float | None = None) -> None:
        record = self._stream.record
        assert record.container is not None and record.prefix is not None  # noqa: S101, PT018
        # where it cannot be listed from here, the control plane has deleted it before it asked
        while account.can_list and (
            objects := account.list(record.container, prefix=record.prefix, limit=_PAGE)
        ):
            for each in objects:
                account.delete(record.container, each.name)
                if until_s is not None and self._clock.monotonic() >= until_s:
                    raise exception.GuestError(
                        reason="not everything that was published could be deleted in time: ask"
                        " again"
                    )
        account.delete(record.container, storage.metafile(record.prefix))
        self._on_step("deleted")
        record.discarding = False
        record.published_bytes = 0
        record.position = record.first
        record.account = record.container = record.prefix = None
        self._stream.save()
        LOG.info("what was published of the log %s is deleted", self._name)
