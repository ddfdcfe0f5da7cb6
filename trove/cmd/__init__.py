"""Mains: each under 40 lines.

Importing this package chooses native threads, so every main has them before any oslo library.
"""

from trove.common import concurrency

concurrency.use_native_threads()
