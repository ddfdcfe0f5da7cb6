"""Choose native threads before any test imports oslo.messaging."""

import logging

from trove.common import concurrency

concurrency.use_native_threads()

# one MariaDB server and one broker for the whole run: plugins are loaded once, imported fixtures
# are not
pytest_plugins = ("tests.fixtures.database", "tests.fixtures.rabbit")


def pytest_unconfigure() -> None:
    """Let pytest's summary be the last that is printed.

    The driver's threads look for a broker for as long as the process lives, and would complain that
    the stream they log to is closed.
    """
    logging.raiseExceptions = False
