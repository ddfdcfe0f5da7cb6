"""Choose native threads before any test imports oslo.messaging."""

import logging

from trove.common import concurrency

concurrency.use_native_threads()

# one broker, one MariaDB server and so on for the whole run, or for each of its workers: a plugin's
# fixtures are made once, imported ones once for each module that imports them
pytest_plugins = (
    "tests.fixtures.database",
    "tests.fixtures.distribution",
    "tests.fixtures.rabbit",
)


def pytest_unconfigure() -> None:
    """Let pytest's summary be the last that is printed.

    The driver's threads look for a broker for as long as the process lives, and would say so, or
    complain that the stream they log to is closed.
    """
    logging.disable()
    logging.raiseExceptions = False
