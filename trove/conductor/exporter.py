"""Serves figures to Prometheus, from a process of its own beside the conductor's.

An answer for tens of thousands of instances takes seconds to make: it must not hold up those who
take heartbeats. Whoever may reach it sees the figures of all projects, so that an address of more
than this machine needs a token.
"""

from __future__ import annotations

import datetime
import hmac
import ipaddress
import socket
import threading
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

import cotyledon
import prometheus_client
from cheroot import wsgi
from oslo_config import cfg
from oslo_log import log

from trove.common import concurrency, exception
from trove.conductor import exposition
from trove.db import base

LOG = log.getLogger(__name__)

PATH = "/metrics"
_THREADS = 4
_PLAIN = ("Content-Type", "text/plain; charset=utf-8")


def is_enabled(conf: cfg.ConfigOpts) -> bool:
    """Tell whether figures are served."""
    return conf.prometheus.port is not None


def check(conf: cfg.ConfigOpts) -> None:
    """Raise ConfigurationError when figures cannot be served as configured."""
    if not is_enabled(conf):
        return
    host, port = conf.prometheus.bind_host, conf.prometheus.port
    if not _is_loopback(host) and not conf.prometheus.token:
        raise exception.ConfigurationError(
            reason=f"[prometheus] bind_host {host} can be reached by others: set a token, or use a"
            " loopback address"
        )
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except OSError as e:
        raise exception.ConfigurationError(
            reason=f"cannot listen on {host} port {port}: {e.strerror}; end what uses it or choose"
            " another [prometheus] bind_host and port"
        ) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        # a name may mean anything
        return False


class Application:
    """``GET /metrics``."""

    def __init__(self, figures: exposition.Exposition, *, token: str | None) -> None:
        """Take what to serve and the token that is asked for, if any."""
        self._figures = figures
        self._token = token

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        if environ.get("PATH_INFO") != PATH:
            return _refuse(start_response, "404 Not Found")
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            return _refuse(start_response, "405 Method Not Allowed", ("Allow", "GET, HEAD"))
        if not self._is_allowed(environ.get("HTTP_AUTHORIZATION", "")):
            return _refuse(start_response, "401 Unauthorized", ("WWW-Authenticate", "Bearer"))
        try:
            document = self._figures.document()
        except base.DatabaseError as e:
            LOG.error("figures cannot be told: the SQL backend fails (%s)", type(e).__name__)
            return _refuse(start_response, "503 Service Unavailable")
        headers = [("Content-Type", exposition.CONTENT_TYPE), ("Vary", "Accept-Encoding")]
        if prometheus_client.exposition.gzip_accepted(environ.get("HTTP_ACCEPT_ENCODING", "")):
            headers += [("Content-Encoding", "gzip"), ("Content-Length", str(len(document)))]
            start_response("200 OK", headers)
            return [document]
        start_response("200 OK", headers)
        return exposition.decompress(document)

    def _is_allowed(self, header: str) -> bool:
        if not self._token:
            return True
        scheme, _, sent = header.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(
            sent.strip().encode(), self._token.encode()
        )


def _refuse(start_response: StartResponse, status: str, *headers: tuple[str, str]) -> list[bytes]:
    body = f"{status}\n".encode()
    start_response(status, [_PLAIN, ("Content-Length", str(len(body))), *headers])
    return [body]


class _Server(wsgi.Server):
    """cheroot with our log."""

    def error_log(self, msg: str = "", level: int = 20, traceback: bool = False) -> None:
        """Write what goes wrong below the application to the log."""
        LOG.log(level, "HTTP server of figures: %s", msg, exc_info=traceback)


class Exporter:
    """The server with what it serves."""

    def __init__(self, conf: cfg.ConfigOpts, *, clock: concurrency.Clock | None = None) -> None:
        """Make the parts; nothing is served before the start."""
        self._database = base.Database.from_config(conf)
        figures = exposition.Exposition(
            self._database,
            clock=clock or concurrency.SystemClock(),
            expiry=datetime.timedelta(seconds=conf.api.agent_heartbeat_expiry_s),
            cache_s=conf.prometheus.cache_s,
            proof_age=(
                None
                if conf.backup.verify == "none"
                else datetime.timedelta(days=conf.backup.verify_max_age_days)
            ),
        )
        self._server = _Server(
            (conf.prometheus.bind_host, conf.prometheus.port),
            Application(figures, token=conf.prometheus.token),
            numthreads=_THREADS,
            server_name="trove",
        )
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)

    def start(self) -> None:
        """Begin to serve; raises OSError when the address is not to be had."""
        self._server.prepare()
        self._thread.start()
        LOG.info("figures are served on %s port %s", *self._server.bind_addr[:2])

    def stop(self) -> None:
        """End."""
        self._server.stop()
        self._thread.join(10)
        self._database.dispose()

    def _serve(self) -> None:
        try:
            self._server.serve()
        except Exception:
            LOG.exception("the HTTP server of figures ended")


class ExporterService(cotyledon.Service):
    """The process that serves figures, under cotyledon."""

    name = "trove-conductor-figures"
    graceful_shutdown_timeout = 30

    def __init__(self, worker_id: int, conf: cfg.ConfigOpts) -> None:
        """Make the parts in the process of its own."""
        super().__init__(worker_id)
        self._exporter = Exporter(conf)

    def run(self) -> None:
        """Begin; threads do the work."""
        self._exporter.start()

    def terminate(self) -> None:
        """End."""
        self._exporter.stop()
