"""The server process of ``api.py`` and ``create.py``: trove-api, and questions about this process.

``/_bench/cpu`` tells the CPU time used so far; ``/_bench/count-on`` and ``count-off`` bracket
a count of SQL statements; nothing is counted outside, so that counting costs nothing while time is
measured. Prints its port.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import harness  # noqa: F401 - makes the source tree importable
import sqlalchemy as sa

from trove.common import concurrency

concurrency.use_native_threads()

from trove import conf as trove_conf  # noqa: E402 - after the threads are chosen
from trove import policies  # noqa: E402
from trove.api import app, service  # noqa: E402
from trove.common import crypto  # noqa: E402
from trove.db import base  # noqa: E402
from trove.rpc import guest, payloads, taskmanager  # noqa: E402


class DeadGuest(guest.GuestApi):
    """Nobody is there: whoever asks has a defect."""

    def call(
        self,
        instance_id: str,
        method: str,
        request: payloads.Payload,
        *,
        timeout_s: float | None = None,
    ) -> payloads.Payload:
        """Refuse."""
        raise AssertionError(f"a read called the guest: {method}")

    def send_job(self, instance_id: str, job: payloads.Job) -> None:
        """Refuse."""
        raise AssertionError(f"a read sent a job: {job.kind}")


class DeadTaskManager(taskmanager.TaskManagerApi):
    """Nobody is there: whoever asks has a defect."""

    def run_operation(self, operation_id: str) -> None:
        """Refuse, unless changes are measured: then hints go nowhere."""
        if "--changes" not in sys.argv:
            raise AssertionError("a read hinted at an operation")


class Measuring:
    """WSGI: the application, with questions about the process below ``/_bench``."""

    def __init__(self, application: WSGIApplication) -> None:
        """Wrap ``application``."""
        self._application = application
        self._statements = 0

    def _count(self, connection: Any, cursor: Any, statement: str, *args: Any) -> None:
        if statement.split(maxsplit=1)[0].upper() not in ("BEGIN", "COMMIT", "ROLLBACK"):
            self._statements += 1

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer."""
        path = environ["PATH_INFO"]
        if not path.startswith("/_bench/"):
            return self._application(environ, start_response)
        if path == "/_bench/count-on":
            self._statements = 0
            sa.event.listen(sa.Engine, "before_cursor_execute", self._count)
        elif path == "/_bench/count-off":
            sa.event.remove(sa.Engine, "before_cursor_execute", self._count)
        document = {"seconds": time.process_time(), "statements": self._statements}
        body = json.dumps(document).encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]


def main() -> int:
    """Serve until ended."""
    conf = trove_conf.new()
    conf([], project="trove", prog="trove-api", default_config_files=[sys.argv[1]])
    database = base.Database.from_config(conf)
    built = app.build(
        conf,
        app.Collaborators(
            database=database,
            guest=DeadGuest(),
            taskmanager=DeadTaskManager(),
            enforcer=policies.make_enforcer(conf),
            key_ring=crypto.KeyRing([crypto.generate_key()]),
        ),
    )
    # as trove-api does when it starts, which opens the first connection for writing
    built.limiter.prune()
    server = service.HttpServer(
        Measuring(built.wsgi),
        listener=service.listen(conf),
        threads=conf.api.threads,
    )
    server.prepare()
    print(server.bind_addr[1], flush=True)
    try:
        server.serve()
    finally:
        server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
