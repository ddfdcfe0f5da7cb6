"""Mains: each under 40 lines.

Importing this package chooses native threads, so every main has them before any oslo library, and
has what those libraries hardly ever use loaded at its first use.
"""

from trove.common import late

late.import_late()

from trove.common import concurrency  # noqa: E402 (it imports those libraries)

concurrency.use_native_threads()
