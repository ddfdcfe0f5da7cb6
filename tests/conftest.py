"""Choose native threads before any test imports oslo.messaging."""

from trove.common import concurrency

concurrency.use_native_threads()

# one MariaDB server and one broker for the whole run: plugins are loaded once, imported fixtures
# are not
pytest_plugins = ("tests.fixtures.database", "tests.fixtures.rabbit")
