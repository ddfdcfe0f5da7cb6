"""URLs that clients get to see."""

from __future__ import annotations

import dataclasses
import urllib.parse
from collections.abc import Mapping
from wsgiref.types import WSGIEnvironment

from trove.api import edge

VERSION = "v1.0"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Urls:
    """Where this API is for the caller of a request.

    ``base`` has no trailing slash; ``path`` is the path of the request below it, percent-encoded.
    ``query`` has all of its parameters, those that no handler reads as well.
    """

    base: str
    path: str
    project_id: str
    query: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def links(self, collection: str, resource_id: str) -> list[dict[str, str]]:
        """Return the ``links`` of a resource."""
        tail = f"{collection}/{resource_id}"
        return [
            {"href": f"{self.base}/{VERSION}/{self.project_id}/{tail}", "rel": "self"},
            {"href": f"{self.base}/{tail}", "rel": "bookmark"},
        ]

    def next_page(self, query: Mapping[str, str], marker: str) -> str:
        """Return the URL of the request with another marker."""
        parameters = {**self.query, **query, "marker": marker}
        return f"{self.base}{self.path}?{urllib.parse.urlencode(parameters)}"


def from_environ(
    environ: WSGIEnvironment, segments: list[str], *, public_endpoint: str | None
) -> Urls:
    """Return the URLs of a request: under ``public_endpoint``, else as the client asked."""
    base = (public_endpoint or _application_url(environ)).rstrip("/")
    return Urls(
        base=base,
        path="/" + "/".join(urllib.parse.quote(segment, safe="") for segment in segments),
        project_id=segments[1] if len(segments) > 1 else "",
        query=environ.get(edge.QUERY, {}),
    )


def _application_url(environ: WSGIEnvironment) -> str:
    scheme = environ["wsgi.url_scheme"]
    host = environ.get("HTTP_HOST")
    if not host:
        host = f"{environ['SERVER_NAME']}:{environ['SERVER_PORT']}"
    return f"{scheme}://{host}{urllib.parse.quote(environ.get('SCRIPT_NAME', ''))}"
