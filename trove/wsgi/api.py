"""trove-api for WSGI servers that bring their own processes (mod_wsgi, uWSGI)."""

from __future__ import annotations

from collections.abc import Sequence
from wsgiref.types import WSGIApplication

from trove import conf as trove_conf
from trove.api import service
from trove.drivers import factory
from trove.rpc import transport


def make_application(*, default_config_files: Sequence[str] | None = None) -> WSGIApplication:
    """Return the application made from the configuration files of this machine."""
    conf = trove_conf.load([], prog="trove-api", default_config_files=default_config_files)
    transport.prepare(conf)
    factory.resolve_keys(conf)
    return service.Api(conf).wsgi
