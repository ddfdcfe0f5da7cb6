"""Gives a server that recovers the log it asks for, file by file, as it comes from the storage.

A thread puts the bytes together to files in a directory on the volume of the data; the server takes
each by a rename, so nothing is there twice, and only a few are there before they are wanted. A
command of the server's waits for the next one. Bytes that were given before are passed over, a gap
is refused.
"""

from __future__ import annotations

import os
import pathlib
import shlex
import threading
from collections.abc import Callable, Iterator

from oslo_log import log

from trove.common import exception
from trove.guestagent.datastores import base
from trove.guestagent.datastores.postgresql import wal
from trove.guestagent.system import filesystem, users

LOG = log.getLogger(__name__)

_READ_BYTES = 1024 * 1024
#: Files that may be ready before they are wanted.
_MOST_READY = 16
_LOOK_S = 0.02
_COMMAND = """\
case %f in *.history) exit 1;; esac
while [ ! -e {give}/%f ]; do
if [ -e {taken}/%f ] || [ ! -d {give} ]; then exit 1; fi
if [ -e {end} ] && [ ! -e {give}/%f ]; then exit 1; fi
sleep 0.02
done
: > {taken}/%f && exec mv {give}/%f %p
"""


def _broken(what: str) -> exception.GuestError:
    return exception.GuestError(
        reason=f"the log behind the backup is not whole: {what}; restore to a time before that"
    )


class Feed:
    """The log from ``first`` on, which is the beginning of a file, for one recovery."""

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        pieces: Callable[[], Iterator[base.Kept]],
        owner: users.SystemUser,
        first: int,
        timeline: int,
        incarnation: str,
        segment_bytes: int,
        present: tuple[str, ...],
    ) -> None:
        """Take the pieces; ``present`` are files of the log that the data have already."""
        self._give, self._taken = directory / "give", directory / "taken"
        self._end_file = directory / "end"
        filesystem.ensure_directory(directory, mode=0o700, owner=owner)
        for each in (self._give, self._taken):
            filesystem.ensure_directory(each, mode=0o700, owner=owner)
        for name in present:
            (self._taken / name).touch()
        self._partial = directory / "partial"
        self._owner = owner
        self._pieces = pieces
        self._timeline = timeline
        self._incarnation = incarnation
        self._segment_bytes = segment_bytes
        #: Up to where the log was given.
        self.end = first
        #: Up to where replaying all of it must come: the end of the last record that is whole.
        self.whole_until: int | None = None
        #: Up to when everything that was committed was given.
        self.as_of_s: float | None = None
        self._file: int | None = None
        self.failure: BaseException | None = None
        #: Set when the recovery cannot go on, or need not.
        self.must_end = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-feed", daemon=True)

    def command(self) -> str:
        """Return the server's restore_command."""
        quoted = {
            name: shlex.quote(str(path)).replace("%", "%%")
            for name, path in (
                ("give", self._give),
                ("taken", self._taken),
                ("end", self._end_file),
            )
        }
        return _COMMAND.format(**quoted)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, whether all was given or not."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def raise_failure(self) -> None:
        """Raise what went wrong while the log was given."""
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            for piece in self._pieces():
                self._give_piece(piece)
                if self._stopping.is_set():
                    return
            self._publish()
            self._end_file.touch()
        except Exception as e:  # noqa: BLE001 (raised by who waits for the recovery)
            LOG.info("the log cannot be given to the recovering server: %s", e)
            self.failure = e
            self.must_end.set()

    def _give_piece(self, piece: base.Kept) -> None:
        facts = piece.facts
        if facts.get("incarnation") != self._incarnation:
            raise _broken("a piece of it is of another database, or of before it was restored")
        if facts.get("timeline") != self._timeline:
            raise _broken("a piece of it is of another history (timeline)")
        if facts.get("segment_bytes") != self._segment_bytes:
            raise _broken("a piece of it has files of another size")
        at, end = wal.parse(str(facts["from_lsn"])), wal.parse(str(facts["to_lsn"]))
        if at > self.end:
            raise _broken(f"it is missing from {wal.show(self.end)} to {wal.show(at)}")
        with piece.open() as content:
            while data := content.read(_READ_BYTES):
                new = data[max(0, self.end - at) :]
                at += len(data)
                self._write(new)
                if self._stopping.is_set():
                    return
        if at != end:
            raise _broken(f"a piece of it ends at {wal.show(at)} and not at {wal.show(end)}")
        if facts.get("is_whole"):
            self.whole_until = max(end, self.whole_until or 0)
        self.as_of_s = float(facts["as_of_s"])

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            within = self.end % self._segment_bytes
            if self._file is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
                self._file = os.open(self._partial, flags, 0o600)
                # what is never written of it is zeroes: the server takes that for the end
                os.ftruncate(self._file, self._segment_bytes)
            part = view[: self._segment_bytes - within]
            written = os.pwrite(self._file, part, within)
            self.end += written
            view = view[written:]
            if self.end % self._segment_bytes == 0:
                self._publish()

    def _publish(self) -> None:
        """Let the server have the file that was written."""
        if self._file is None:
            return
        if not self._owner.is_current:
            os.fchown(self._file, self._owner.uid, self._owner.gid)
        os.close(self._file)
        self._file = None
        name = wal.segment_name(self._timeline, self.end - 1, self._segment_bytes)
        while len(os.listdir(self._give)) >= _MOST_READY:
            if self._stopping.wait(_LOOK_S):
                return
        self._partial.rename(self._give / name)
