"""Connections of the agent to its server, over the local socket as the agent's own user.

Commands are sent as lists of arguments with their lengths: nothing in a name or a password can be
taken for another argument.
"""

from __future__ import annotations

import contextlib
import pathlib
import secrets
import threading
from collections.abc import Callable, Iterator
from typing import Any

import redis as driver
import redis.backoff
import redis.exceptions
import redis.retry

from trove.common import exception
from trove.datastores import redis as facts
from trove.guestagent.datastores import base

#: A connection on which commands are sent.
Client = driver.Redis
#: What a server refuses, or that it cannot be asked, as the driver raises it.
ServerError = redis.exceptions.RedisError
_CONNECT_TIMEOUT_S = 3.0
_COMMAND_TIMEOUT_S = 30.0
#: Client and server end a connection with these; all else was answered.
_LOST = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)


def is_lost(error: ServerError) -> bool:
    """Tell whether the server did not answer at all."""
    return isinstance(error, _LOST) and not isinstance(
        error, redis.exceptions.AuthenticationError | redis.exceptions.BusyLoadingError
    )


def explain(error: ServerError) -> str:
    """Return what an error of the server means for people; commands are not repeated."""
    text = str(error)
    if isinstance(error, redis.exceptions.AuthenticationError) or text.startswith("NOAUTH"):
        return "the database refuses the service's own account: restart the instance"
    if isinstance(error, redis.exceptions.BusyLoadingError):
        return "the database is loading its data"
    if is_lost(error):
        return "the database does not answer: see the status of the instance"
    if text.startswith("BUSY"):
        return "a script has been running for long: end it with SCRIPT KILL, or restart"
    if "MISCONF" in text:
        return (
            "the database takes no writes because it cannot store them: most likely the disk is"
            " full; delete data or resize the volume"
        )
    return f"the database says {text[:300]}"


def execute(client: Client, *arguments: str) -> Any:
    """Send one command and return its answer; raises ServerError."""
    return client.execute_command(*arguments)  # type: ignore[no-untyped-call]


class Connector:
    """Opens connections to the server of an instance."""

    def __init__(self, path: pathlib.Path, *, password: str, version_field: str) -> None:
        """Take where the server listens and the password of the agent's user."""
        self._path = path
        self._password = password
        self._version_field = version_field
        self._kept: Client | None = None
        self._version = ""
        #: Nobody has this key: to delete it is a write that changes nothing.
        self._nothing = f"trove:{secrets.token_hex(16)}"
        self._lock = threading.Lock()

    def connect(
        self, *, path: pathlib.Path | None = None, timeout_s: float = _COMMAND_TIMEOUT_S
    ) -> Client:
        """Return a client that connects at its first command.

        With a ``path`` it is for another server there, that lets everybody in.
        """
        return driver.Redis(
            unix_socket_path=str(path or self._path),
            username=facts.AGENT_USER if path is None else None,
            password=self._password if path is None else None,
            socket_timeout=timeout_s,
            socket_connect_timeout=_CONNECT_TIMEOUT_S,
            retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
            decode_responses=True,
            encoding_errors="backslashreplace",
            client_name="trove-guestagent",
            max_connections=1,
            protocol=2,
        )

    @contextlib.contextmanager
    def session(self) -> Iterator[Client]:
        """Open a connection for some commands; raises GuestError for what the server refuses."""
        client = self.connect()
        try:
            yield client
        except ServerError as e:
            # from None: the chain may hold the arguments of the command
            raise exception.GuestError(reason=explain(e)) from None
        finally:
            client.close()

    def ping(self, *, greet: Callable[[Client], None]) -> str:
        """Ask the server something that it answers with all its data loaded; returns its version.

        A new connection is first given to ``greet``, which may raise NotReady. Raises NotReady.
        """
        with self._lock:
            try:
                if self._kept is None:
                    self._kept = self._greeted(greet)
                self._kept.dbsize()
            except ServerError as e:
                self._drop()
                raise base.NotReady(reason=explain(e)) from None
            return self._version

    def prove_write(self) -> None:
        """Have the server take a write that changes nothing; raises NotReady."""
        with self._lock:
            if self._kept is None:
                raise base.NotReady(reason="the database does not answer: see its status")
            try:
                self._kept.unlink(self._nothing)
            except ServerError as e:
                raise base.NotReady(reason=explain(e)) from None

    def _greeted(self, greet: Callable[[Client], None]) -> Client:
        client = self.connect(timeout_s=_CONNECT_TIMEOUT_S)
        try:
            self._version = str(client.info("server")[self._version_field])
            greet(client)
        except BaseException:
            client.close()
            raise
        return client

    def info(self) -> dict[str, Any]:
        """Return what the server tells of itself, over the kept connection; raises NotReady."""
        with self._lock:
            if self._kept is None:
                raise base.NotReady(reason="the database does not answer: see its status")
            try:
                return dict(self._kept.info())
            except ServerError as e:
                self._drop()
                raise base.NotReady(reason=explain(e)) from None

    def disconnect(self) -> None:
        """Close the kept connection."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._kept is not None:
            kept, self._kept = self._kept, None
            with contextlib.suppress(ServerError, OSError):
                kept.close()
