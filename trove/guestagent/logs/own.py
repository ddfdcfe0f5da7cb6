"""The guest agent's own log as a log of the instance: a file that this process itself writes."""

from __future__ import annotations

import logging
import os
import pathlib
import time

from trove.guestagent.system import filesystem


class OwnLog(logging.Handler):
    """Writes what the agent logs to a file, and opens it anew when asked."""

    def __init__(self, path: pathlib.Path) -> None:
        """Take the file; its directory must exist when something is logged."""
        super().__init__(logging.INFO)
        formatter = logging.Formatter(
            "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S"
        )
        formatter.converter = time.gmtime
        self.setFormatter(formatter)
        self._path = path
        self._descriptor: int | None = None

    def install(self) -> None:
        """Begin to write what all loggers of this process say."""
        filesystem.ensure_directory(self._path.parent, mode=0o700)
        logging.getLogger().addHandler(self)

    def remove(self) -> None:
        """Write nothing more."""
        logging.getLogger().removeHandler(self)
        self.reopen()

    def emit(self, record: logging.LogRecord) -> None:
        """Append a line; a full disk costs the line and nothing else."""
        try:
            line = f"{self.format(record)}\n".encode("utf-8", "backslashreplace")
            if self._descriptor is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
                self._descriptor = os.open(self._path, flags, 0o600)
            os.write(self._descriptor, line)
        except (OSError, ValueError, TypeError):
            # the other handlers say it as well
            return

    def reopen(self) -> None:
        """Write to a new file of the same name from the next line on."""
        self.acquire()
        try:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
        finally:
            self.release()
