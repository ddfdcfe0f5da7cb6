"""zstd, with threads, in flat memory; the library is loaded when a backup or a restore begins."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Protocol

from trove.common import exception

#: Most threads of one backup: the engine needs the processors, too.
_MOST_THREADS = 4
#: Largest window, in bits: what compressing and restoring need of memory depends on it.
_MOST_WINDOW_LOG = 22
#: What a thread works on at a time, the least that zstd takes; more where a window needs it.
_JOB_BYTES = 512 * 1024


class Source(Protocol):
    """What gives compressed bytes."""

    def read(self, most: int) -> bytes:
        """Return up to ``most`` bytes, none at the end."""


def _library() -> ModuleType:
    """Return what an idle agent has no memory for."""
    import zstandard

    return zstandard


class Compressor:
    """Compresses one stream; what is compressed has a checksum of its own."""

    def __init__(self, *, level: int, threads: int | None = None) -> None:
        """Begin; the threads are as many as there are processors, within bounds."""
        zstandard = _library()
        if threads is None:
            threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
        parameters = zstandard.ZstdCompressionParameters
        window_log = min(parameters.from_level(level).window_log, _MOST_WINDOW_LOG)
        self._compressor = zstandard.ZstdCompressor(
            compression_params=parameters.from_level(
                level,
                window_log=window_log,
                threads=threads,
                job_size=_JOB_BYTES if threads else 0,
                write_checksum=True,
                write_content_size=False,
            )
        ).compressobj()

    def add(self, content: bytes) -> bytes:
        """Take some of the stream; return what is compressed by now."""
        compressed: bytes = self._compressor.compress(content)
        return compressed

    def finish(self) -> bytes:
        """Return the rest."""
        rest: bytes = self._compressor.flush()
        return rest


class Decompressor:
    """Decompresses one stream, no more of it at a time than is asked for."""

    def __init__(self, source: Source) -> None:
        """Take what gives the compressed bytes."""
        zstandard = _library()
        self._error = zstandard.ZstdError
        self._reader = zstandard.ZstdDecompressor(
            max_window_size=1 << _MOST_WINDOW_LOG
        ).stream_reader(source, read_size=256 * 1024, closefd=False)

    def read(self, most: int) -> bytes:
        """Return up to ``most`` bytes, none at the end; raises GuestError for what is damaged."""
        try:
            content: bytes = self._reader.read(most)
        except self._error as e:
            raise exception.GuestError(reason=f"what is stored is no stream of zstd ({e})") from e
        return content
