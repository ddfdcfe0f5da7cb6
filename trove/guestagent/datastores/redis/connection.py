"""Connections of the agent to its server, over the local socket as the agent's own user.

Commands are sent as lists of arguments with their lengths: nothing in a name or a password can be
taken for another argument. The protocol is hiredis's, which weighs a 40th of the whole client
library; what an agent needs beyond it is on this page.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import hiredis

from trove.common import exception
from trove.datastores import redis as facts
from trove.guestagent.datastores import base

_CONNECT_TIMEOUT_S = 3.0
_COMMAND_TIMEOUT_S = 30.0
_CHUNK_BYTES = 65536


class ServerError(Exception):
    """What a server refused, or that it did not answer; holds no argument of the command."""


class Lost(ServerError):
    """The server did not answer at all."""


def explain(error: ServerError) -> str:
    """Return what an error of the server means for people; commands are not repeated."""
    if isinstance(error, Lost):
        return "the database does not answer: see the status of the instance"
    text = str(error)
    if text.startswith(("NOAUTH", "WRONGPASS")):
        return "the database refuses the service's own account: restart the instance"
    if text.startswith("LOADING"):
        return "the database is loading its data"
    if text.startswith("BUSY"):
        return "a script has been running for long: end it with SCRIPT KILL, or restart"
    if "max number of clients" in text:
        return "the database takes no more connections: end some, or resize to a larger flavor"
    if text.startswith("MISCONF"):
        return (
            "the database takes no writes because it cannot store them: most likely the disk is"
            " full; delete data or resize the volume"
        )
    return f"the database says {text[:300]}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SlowCommand:
    """An entry of the server's slow log; the duration is microseconds."""

    id: int
    started_s: int
    duration_us: int
    arguments: tuple[str, ...]
    client: str


class Client:
    """An open connection. Methods raise ServerError."""

    def __init__(self, channel: socket.socket) -> None:
        """Use a channel on which nothing was said yet."""
        self._channel = channel
        self._reader = hiredis.Reader(encoding="utf-8", errors="backslashreplace")

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def execute(self, *arguments: str) -> Any:
        """Send one command and return its answer."""
        try:
            # its stub says that a command is one word
            self._channel.sendall(hiredis.pack_command(arguments))  # type: ignore[arg-type]
            # False is no answer of the protocol's second version
            while (answer := self._reader.gets()) is False:
                chunk = self._channel.recv(_CHUNK_BYTES)
                if not chunk:
                    raise Lost("the server ended the connection")
                self._reader.feed(chunk)
        except OSError as e:
            raise Lost(type(e).__name__) from None
        except hiredis.ProtocolError:
            raise Lost("the answer makes no sense") from None
        if isinstance(answer, hiredis.ReplyError):
            raise ServerError(str(answer))
        return answer

    def config_get(self, pattern: str) -> dict[str, str]:
        """Return the options whose names match a pattern."""
        words = self.execute("CONFIG", "GET", pattern)
        return dict(zip(words[::2], words[1::2], strict=True))

    def config_set(self, values: dict[str, str]) -> None:
        """Set all options or none."""
        self.execute("CONFIG", "SET", *(word for item in values.items() for word in item))

    def info(self, section: str = "default") -> dict[str, str]:
        """Return what the server tells of itself."""
        lines = str(self.execute("INFO", section)).splitlines()
        pairs = (line.partition(":") for line in lines if ":" in line and line[0] != "#")
        return {name: value for name, _, value in pairs}

    def slow_commands(self, count: int) -> Sequence[SlowCommand]:
        """Return the newest entries of the slow log, newest first."""
        return [
            SlowCommand(
                id=entry[0],
                started_s=entry[1],
                duration_us=entry[2],
                arguments=tuple(map(str, entry[3])),
                client=str(entry[4]),
            )
            for entry in self.execute("SLOWLOG", "GET", str(count))
        ]


class Connector:
    """Opens connections to the server of an instance."""

    def __init__(self, path: pathlib.Path, *, password: str, version_field: str) -> None:
        """Take where the server listens and the password of the agent's user.

        ``version_field`` is the field of INFO that has the version.
        """
        self._path = path
        self._password = password
        self._version_field = version_field
        self._kept: Client | None = None
        self._version = ""
        #: Nobody has this key: to delete it is a write that changes nothing.
        self._nothing = f"trove:{secrets.token_hex(16)}"
        self._lock = threading.Lock()

    def connect(self, *, timeout_s: float = _COMMAND_TIMEOUT_S) -> Client:
        """Open a connection as the agent's user; raises ServerError."""
        client = connect(self._path, timeout_s=timeout_s)
        try:
            client.execute("AUTH", facts.AGENT_USER, self._password)
        except BaseException:
            client.close()
            raise
        return client

    @contextlib.contextmanager
    def session(self) -> Iterator[Client]:
        """Open a connection for some commands; raises GuestError for what the server refuses.

        Where there is no room for another one, as tenants take all there are, it is the kept one.
        """
        try:
            try:
                client = self.connect()
            except ServerError:
                if self._kept is None:
                    raise
                with self._borrowed() as kept:
                    yield kept
                return
            with contextlib.closing(client):
                yield client
        except ServerError as e:
            raise exception.GuestError(reason=explain(e)) from None

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[Client]:
        """Use the kept connection; raises ServerError when there is none any more."""
        with self._lock:
            if self._kept is None:
                raise Lost("no connection is kept")
            try:
                yield self._kept
            except Lost:
                self._drop()
                raise

    def ping(self, *, greet: Callable[[Client], None]) -> str:
        """Ask the server something that it answers with all its data loaded; returns its version.

        A new connection is first given to ``greet``, which may raise NotReady. Raises NotReady.
        """
        with self._lock:
            try:
                if self._kept is None:
                    self._kept = self._greeted(greet)
                self._kept.execute("DBSIZE")
            except ServerError as e:
                self._drop()
                raise base.NotReady(reason=explain(e)) from None
            return self._version

    def _greeted(self, greet: Callable[[Client], None]) -> Client:
        client = self.connect(timeout_s=_CONNECT_TIMEOUT_S)
        try:
            self._version = client.info("server")[self._version_field]
            greet(client)
        except BaseException:
            client.close()
            raise
        return client

    def prove_write(self) -> None:
        """Have the server take a write that changes nothing; raises NotReady."""
        self._ask_kept(lambda client: client.execute("UNLINK", self._nothing))

    def info(self) -> dict[str, str]:
        """Return what the server tells of itself, over the kept connection; raises NotReady."""
        found: dict[str, str] = self._ask_kept(lambda client: client.info())
        return found

    def _ask_kept(self, ask: Callable[[Client], Any]) -> Any:
        with self._lock:
            if self._kept is None:
                raise base.NotReady(reason="the database does not answer: see its status")
            try:
                return ask(self._kept)
            except ServerError as e:
                if isinstance(e, Lost):
                    self._drop()
                raise base.NotReady(reason=explain(e)) from None

    def disconnect(self) -> None:
        """Close the kept connection."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._kept is not None:
            kept, self._kept = self._kept, None
            kept.close()


def connect(path: pathlib.Path, *, timeout_s: float) -> Client:
    """Open a connection to a server's socket as nobody yet; raises Lost."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        channel.settimeout(min(timeout_s, _CONNECT_TIMEOUT_S))
        channel.connect(str(path))
        channel.settimeout(timeout_s)
    except OSError as e:
        channel.close()
        raise Lost(type(e).__name__) from None
    return Client(channel)
