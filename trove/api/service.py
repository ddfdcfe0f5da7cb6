"""The process of trove-api: the application behind an HTTP server of native threads.

Everything is made after the fork but the listening socket: the workers share the one that the main
process bound, so that a port already taken is told before anything starts.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import threading
from wsgiref.types import WSGIApplication

import cotyledon
from cheroot import server, wsgi
from oslo_config import cfg
from oslo_context import context as oslo_context
from oslo_log import log

from trove import policies
from trove.api import app, auth, faults
from trove.common import concurrency, crypto, exception
from trove.db import base, guest_keys
from trove.drivers import factory
from trove.rpc import guest, notifier, taskmanager, transport
from trove.storage import factory as storage_factory

LOG = log.getLogger(__name__)

_BACKLOG = 128
_MOST_HEADER_BYTES = 64 * 1024
#: A key that was dropped works for at most this long, and one that was replaced fails calls.
_KEY_MAX_AGE_S = 1.0
_PRUNE_INTERVAL_S = 3600.0


def check(conf: cfg.ConfigOpts) -> None:
    """Raise ConfigurationError when the API cannot run with these options."""
    crypto.KeyRing.from_config(conf.guest.key_encryption_keys)
    base.Database.from_config(conf)
    transport.control_transport(conf)
    transport.guest_transport(conf)
    auth.make_strategy(conf)
    factory.load_compute(conf)
    factory.load_secrets(conf)
    storage_factory.load(conf)


def listen(conf: cfg.ConfigOpts) -> socket.socket:
    """Return a socket that listens where the configuration says.

    Raises ConfigurationError when the address is not to be had.
    """
    host, port = conf.api.bind_host, conf.api.bind_port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as e:
        raise exception.ConfigurationError(
            reason=f"cannot listen on {host} port {port}: {e.strerror}; end what uses it or choose"
            " another [api] bind_host and bind_port"
        ) from None


class Api:
    """All parts of one API process, without a server around them."""

    def __init__(self, conf: cfg.ConfigOpts, *, clock: concurrency.Clock | None = None) -> None:
        """Make the parts; raises ConfigurationError when an option is missing or wrong."""
        clock = clock or concurrency.SystemClock()
        ring = crypto.KeyRing.from_config(conf.guest.key_encryption_keys)
        self._database = base.Database.from_config(conf)
        self._database.notifies = notifier.is_enabled(conf)
        keys = guest_keys.GuestKeys(self._database, ring, clock=clock, max_age_s=_KEY_MAX_AGE_S)
        self._guest = guest.GuestClient(conf, keys.key_of)
        self._taskmanager = taskmanager.TaskManagerClient(conf)
        built = app.build(
            conf,
            app.Collaborators(
                database=self._database,
                guest=self._guest,
                taskmanager=self._taskmanager,
                enforcer=policies.make_enforcer(conf),
                key_ring=ring,
                compute=factory.load_compute(conf),
                secrets=factory.load_secrets(conf),
                objects=storage_factory.load(conf),
                volumes=factory.load_volume(conf),
                images=factory.load_image(conf),
                network=factory.load_network(conf),
                clock=clock,
            ),
        )
        self.wsgi: WSGIApplication = built.wsgi
        self._pruning = concurrency.PeriodicThread(
            "prune", built.limiter.prune, interval_s=_PRUNE_INTERVAL_S
        )
        self._pruning.start()
        self._remembered = built.remembered
        for each in self._remembered:
            each.start()

    def close(self) -> None:
        """Close all connections."""
        self._pruning.stop()
        for each in self._remembered:
            each.stop()
        self._guest.close()
        self._taskmanager.close()
        self._database.dispose()


class _Request(server.HTTPRequest):
    """Refuses what is not HTTP in the form of all errors of this API."""

    def simple_response(self, status: object, msg: str = "") -> None:
        """Answer a request that does not reach the application, and end the connection."""
        line = str(status)
        body = faults.refuse(int(line[:3]), msg or line[4:])
        self.close_connection = True
        head = (
            f"{self.server.protocol} {line}\r\n"
            f"Content-Length: {len(body)}\r\n"
            "Content-Type: application/json\r\n"
            f"x-openstack-request-id: {oslo_context.generate_request_id()}\r\n"
            "Connection: close\r\n\r\n"
        )
        # who sent that may be gone
        with contextlib.suppress(OSError):
            self.conn.wfile.write(head.encode("latin-1") + body)


class _Connection(server.HTTPConnection):
    """Takes absolute URLs, and paths with two slashes at the front, which look like half of one."""

    RequestHandlerClass = functools.partial(_Request, strict_mode=False)


class HttpServer(wsgi.Server):
    """cheroot on a socket that exists already."""

    ConnectionClass = _Connection

    def __init__(
        self, application: WSGIApplication, *, listener: socket.socket, threads: int
    ) -> None:
        """Take the application; ``start`` serves until ``stop``."""
        super().__init__(
            listener.getsockname()[:2],
            application,
            numthreads=threads,
            server_name="trove-api",
            request_queue_size=_BACKLOG,
        )
        self.max_request_header_size = _MOST_HEADER_BYTES
        self._listener = listener

    def bind(self, family: int, type: int, proto: int = 0) -> socket.socket:  # noqa: A002
        """Use the given socket.

        Headers and body are two writes: with Nagle's algorithm the second would wait for the
        client's delayed acknowledgement, 40 ms.
        """
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = self._listener
        return self._listener

    def error_log(self, msg: str = "", level: int = 20, traceback: bool = False) -> None:
        """Write what goes wrong below the application to the log."""
        LOG.log(level, "HTTP server: %s", msg, exc_info=traceback)


class ApiService(cotyledon.Service):
    """One worker of trove-api under cotyledon."""

    name = "trove-api"
    graceful_shutdown_timeout = 30

    def __init__(
        self, worker_id: int, conf: cfg.ConfigOpts, listener: socket.socket | None = None
    ) -> None:
        """Make the parts in the worker's own process; without a socket it makes its own."""
        super().__init__(worker_id)
        self._api = Api(conf)
        self._server = HttpServer(
            self._api.wsgi, listener=listener or listen(conf), threads=conf.api.threads
        )
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)

    def run(self) -> None:
        """Begin; threads do the work."""
        self._server.prepare()
        self._thread.start()
        LOG.info("api worker serves on %s port %s", *self._server.bind_addr)

    def terminate(self) -> None:
        """Finish the requests under way and close everything."""
        self._server.stop()
        self._thread.join(10)
        self._api.close()

    def _serve(self) -> None:
        try:
            self._server.serve()
        except Exception:
            LOG.exception("the HTTP server ended")
