"""Nova's API as the driver uses it: pinned versions, all pages, errors that can be told.

Two versions are used. ``acting`` has what is asked for (tags at create, policies of server groups,
the host of a migration). ``reading`` is the last one whose servers name their flavor by its id.
Nova serves both for as long as it has the v2.1 API.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any
from urllib import parse

from novaclient import client
from novaclient import exceptions as nova_exceptions
from oslo_config import cfg

from trove.drivers import cloud

SERVICE = "Nova"
#: At most those of Zed, 2.93.
ACTING = "2.90"
READING = "2.46"
_PAGE = 1000


class NovaApi:
    """Nova with the service's own credential; connects on first use, after any fork."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Take the configuration; raises ConfigurationError when it names no credential."""
        self._cloud = cloud.Cloud(conf)
        self._lock = threading.Lock()
        self._clients: dict[str, Any] = {}

    @property
    def acting(self) -> Any:
        """Return the client for everything that is asked for."""
        return self._client(ACTING)

    @property
    def reading(self) -> Any:
        """Return the client for reading servers and flavors."""
        return self._client(READING)

    def _client(self, version: str) -> Any:
        with self._lock:
            if version not in self._clients:
                self._clients[version] = client.Client(
                    version,
                    session=self._cloud.session,
                    region_name=self._cloud.region_name,
                    endpoint_type=self._cloud.interface,
                )
            return self._clients[version]

    def pages(
        self, path: str, key: str, *, action: str, query: Mapping[str, str] | None = None
    ) -> Iterator[Mapping[str, Any]]:
        """Yield everything of a list, page after page; a single request where one will do.

        The client's own lists ask for one more page to see that it is empty.
        """
        wanted = {**(query or {}), "limit": str(_PAGE)}
        while True:
            with told(action):
                _, document = self.reading.client.get(f"{path}?{parse.urlencode(wanted)}")
            yield from document[key]
            links = document.get(f"{key}_links") or ()
            following = next((link["href"] for link in links if link["rel"] == "next"), None)
            if following is None:
                return
            wanted = dict(parse.parse_qsl(parse.urlsplit(following).query))

    def list_groups(self) -> Iterator[Mapping[str, Any]]:
        """Yield all server groups of the service's project; their list has no links."""
        offset = 0
        while True:
            with told("list server groups"):
                found = self.acting.server_groups.list(limit=_PAGE, offset=offset)
            for each in found:
                yield each.to_dict()
            offset += len(found)
            if len(found) < _PAGE:
                return


@contextlib.contextmanager
def told(action: str) -> Iterator[None]:
    """Turn errors of novaclient and keystoneauth1 into a CloudError that says what was asked."""
    try:
        with cloud.told(SERVICE, action):
            yield
    except nova_exceptions.ClientException as e:
        raise cloud.refused(
            SERVICE,
            action,
            status=int(e.code),
            reason=str(e.message or ""),
            request_id=e.request_id,
        ) from e
