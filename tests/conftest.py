"""Choose native threads before any test imports oslo.messaging."""

from trove.common import concurrency

concurrency.use_native_threads()
