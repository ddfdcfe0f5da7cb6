"""HTTP as guests send it to an object store: the standard library, a connection a request."""

from __future__ import annotations

import functools
import http.client
import ssl
import urllib.parse
from collections.abc import Mapping
from typing import Any, Self

from trove.storage import base

_TIMEOUT_S = 30.0
_BLOCK_BYTES = 64 * 1024
#: How stores call the id of a request in their logs.
_REQUEST_IDS = ("x-trans-id", "x-amz-request-id")


class Answer:
    """What the store said; closes its connection."""

    def __init__(
        self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse
    ) -> None:
        """Take an answer whose body was not read."""
        self._connection = connection
        self._response = response
        self.status = response.status
        #: By their names in lower case.
        self.headers: Mapping[str, str] = {k.lower(): v for k, v in response.getheaders()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def read(self, most: int) -> bytes:
        """Read some of the body; raises StorageError."""
        try:
            return self._response.read(most)
        except (OSError, http.client.HTTPException) as e:
            raise _broken(e) from e

    def close(self) -> None:
        """Close the connection."""
        self._response.close()
        self._connection.close()

    def require(self, *statuses: int, refused: str) -> None:
        """Raise StorageError for any other status; ``refused`` is what 401 and 403 mean."""
        if self.status in statuses:
            return
        reason = refused if self.status in (401, 403) else f"it answered {self.status}"
        request = next((self.headers[each] for each in _REQUEST_IDS if each in self.headers), None)
        raise base.StorageError(reason=f"{reason} (request {request})" if request else reason)


def send(
    method: str,
    url: str,
    target: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: Any = None,
    ca_pem: str | None = None,
) -> Answer:
    """Return the answer to a request for a target at a URL without a path; raises StorageError.

    ``ca_pem`` are the authorities that servers are checked by, None: the system's.
    """
    connection = _connect(urllib.parse.urlsplit(url), ca_pem)
    try:
        connection.request(
            method,
            target,
            body=body,
            headers=dict(headers or {}),
            encode_chunked="Transfer-Encoding" in (headers or {}),
        )
        return Answer(connection, connection.getresponse())
    except (OSError, http.client.HTTPException) as e:
        connection.close()
        raise _broken(e) from e
    except BaseException:
        connection.close()
        raise


def _connect(split: urllib.parse.SplitResult, ca_pem: str | None) -> http.client.HTTPConnection:
    host = split.hostname or ""
    if split.scheme == "http":
        return http.client.HTTPConnection(
            host, split.port, timeout=_TIMEOUT_S, blocksize=_BLOCK_BYTES
        )
    return http.client.HTTPSConnection(
        host,
        split.port,
        timeout=_TIMEOUT_S,
        blocksize=_BLOCK_BYTES,
        context=_tls_context(ca_pem),
    )


@functools.lru_cache(maxsize=4)
def _tls_context(ca_pem: str | None) -> ssl.SSLContext:
    """Return what servers are checked by; reading the system's authorities takes long."""
    return ssl.create_default_context(cadata=ca_pem)


def _broken(error: Exception) -> base.StorageError:
    return base.StorageError(reason=f"it cannot be reached ({type(error).__name__}: {error})")
