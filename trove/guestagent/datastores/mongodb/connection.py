"""Connections of the agent to its engine, over the local socket.

The agent is ``__system``, the identity that members of a replica set have by the key of their key
file. It is in no list of users: no tenant, however privileged, can change its password, lock it or
drop it, and nobody can be it without the key, which never leaves the guest.

Commands are documents: names and passwords never become part of a statement.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pymongo
import pymongo.errors

from trove.common import exception
from trove.guestagent.datastores import base

Client = pymongo.MongoClient[dict[str, Any]]

#: Codes that the agent tells apart (src/mongo/base/error_codes.yml).
USER_NOT_FOUND = 11
NAMESPACE_NOT_FOUND = 26
CAPPED_POSITION_LOST = 136
DUPLICATE_KEY = 11000
DATABASE_DIFFERS_IN_CASE = 13297
USER_EXISTS = 51003
NOT_YET_INITIALIZED = 94
_OUT_OF_DISK_SPACE = 14031

_SYSTEM_USER = "__system"
_CONNECT_TIMEOUT_S = 3
_COMMAND_TIMEOUT_S = 30
#: A ping that takes longer has failed.
_PING_TIMEOUT_S = 3


class Connector:
    """Gives the client of one server; it is made when first used and kept until disconnected."""

    def __init__(
        self,
        path: pathlib.Path,
        *,
        key: str,
        find_certificate: Callable[[], pathlib.Path | None],
    ) -> None:
        """Take the socket and the key of the key file.

        ``find_certificate`` returns the file (PEM) of the agent's own key and certificate when the
        server does TLS; once it demands TLS, the socket is no exception.
        """
        self._path = path
        self._key = key
        self._find_certificate = find_certificate
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._directory: int | None = None
        self._answered = False

    def _make_client(self) -> Client:
        options: dict[str, Any] = {}
        certificate = self._find_certificate()
        if certificate is not None:
            # who can write to the directory of the socket is the server: nothing to verify
            options = {
                "tls": True,
                "tlsAllowInvalidCertificates": True,
                "tlsCertificateKeyFile": str(certificate),
            }
        if self._directory is None:
            self._directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        # the driver names the path in its handshake, where names have at most 63 characters
        path = f"/proc/self/fd/{self._directory}/{self._path.name}"
        return pymongo.MongoClient(
            f"mongodb://{urllib.parse.quote(path, safe='')}",
            username=_SYSTEM_USER,
            password=self._key,
            authSource="local",
            authMechanism="SCRAM-SHA-256",
            directConnection=True,
            appname="trove-guestagent",
            retryWrites=False,
            maxPoolSize=8,
            serverMonitoringMode="poll",
            heartbeatFrequencyMS=60_000,
            connectTimeoutMS=_CONNECT_TIMEOUT_S * 1000,
            serverSelectionTimeoutMS=_CONNECT_TIMEOUT_S * 1000,
            waitQueueTimeoutMS=_COMMAND_TIMEOUT_S * 1000,
            socketTimeoutMS=_COMMAND_TIMEOUT_S * 1000,
            **options,
        )

    def _ensure_client(self) -> Client:
        with self._lock:
            if self._client is None:
                self._client = self._make_client()
            return self._client

    def _check_listening(self) -> None:
        """Raise NotReady unless the server takes connections: it listens once it has recovered.

        The driver itself would look twice a second only.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(_PING_TIMEOUT_S)
            try:
                probe.connect(str(self._path))
            except OSError as e:
                raise base.NotReady(reason=e.strerror or type(e).__name__) from None

    @contextlib.contextmanager
    def session(self, *, timeout_s: float = _COMMAND_TIMEOUT_S) -> Iterator[Client]:
        """Give the client for some commands; errors of the driver become GuestError.

        What a caller does not catch itself becomes a GuestError: never with a document in it.
        """
        try:
            client = self._ensure_client()
            with pymongo.timeout(timeout_s):
                yield client
        except pymongo.errors.PyMongoError as e:
            raise exception.GuestError(reason=explain(e)) from None

    @contextlib.contextmanager
    def ping_session(self) -> Iterator[Client]:
        """Give the client for a quick look; errors of the driver become NotReady."""
        # a connection of its own each time would fill the server's log
        if not self._answered:
            self._check_listening()
        self._answered = False
        try:
            client = self._ensure_client()
            with pymongo.timeout(_PING_TIMEOUT_S):
                yield client
        except pymongo.errors.PyMongoError as e:
            raise base.NotReady(reason=explain(e)) from None
        self._answered = True

    def disconnect(self) -> None:
        """Close all connections; the next use makes new ones."""
        with self._lock:
            client, self._client = self._client, None
            directory, self._directory = self._directory, None
            self._answered = False
        if client is not None:
            client.close()
        if directory is not None:
            os.close(directory)


def explain(error: pymongo.errors.PyMongoError) -> str:
    """Return what the engine refused, for people; never a document, which may hold a password."""
    if isinstance(error, pymongo.errors.ConnectionFailure):
        return "the database does not answer"
    if isinstance(error, pymongo.errors.OperationFailure):
        if error.code == _OUT_OF_DISK_SPACE:
            return "the disk is full: resize the volume or delete data"
        details = error.details or {}
        return f"the database says {str(details.get('errmsg', ''))[:300]} (code {error.code})"
    return f"the database's client failed ({type(error).__name__})"
