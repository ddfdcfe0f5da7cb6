"""Backups of the Redis family: a snapshot of our own, and the users.

A backup is a snapshot (RDB) that the server writes for it (``BGSAVE``). The stream of replication
(``redis-cli --rdb``) would need no disk, but its child, which holds a copy of every page that is
written meanwhile, would live as long as the upload, and be ended by the server when the storage
stands still for a minute. The snapshot goes to the file that the server keeps anyway, under
another name until it is complete; it is read by a descriptor, so later ones do not matter.

Users are in no snapshot. The agent's list of them, with digests in place of passwords, stands at
the head of the stream; it takes effect when the server starts on the restored data. The agent's own
user is no part of it: that is written before each start.

A server that is to log its writes ignores a snapshot. So a restored one is put into the place of
the log's base file, which has the same format, with a manifest that names it.

Redis and Valkey are not mixed, although Valkey reads what Redis 7.2 and earlier write: which one a
tenant has is a decision of its own, and there is no way back.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import struct
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from trove.common import exception
from trove.guestagent import state
from trove.guestagent.datastores import base
from trove.guestagent.datastores.redis import connection, service, template
from trove.guestagent.datastores.redis import dialect as dialects
from trove.guestagent.datastores.redis import users as user_lists
from trove.guestagent.system import facts as machine
from trove.guestagent.system import filesystem, process

_MAGIC = b"TROVERDB"
_LENGTH = struct.Struct(">I")
_MOST_HEAD_BYTES = 256 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
#: The last bytes of a snapshot: "end of file" and a checksum (rdb.h, RDB_OPCODE_EOF).
_END = 0xFF
_CHECKSUM_BYTES = 8
_LOOK_S = 0.05
_SAVE_TIMEOUT_S = 6 * 3600.0
_CHECK_TIMEOUT_S = 6 * 3600.0
_START_TIMEOUT_S = 3600.0
_STOP_TIMEOUT_S = 60.0
_LOG_DIRECTORY = "appendonlydir"
_BASE_FILE = "appendonly.aof.1.base.rdb"
_MANIFEST = "appendonly.aof.manifest"
#: How many parts of ten of the memory that is left a throw-away server may take.
_SHARE_OF_MEMORY = 8


class RdbStream(base.Stream):
    """The users, then a snapshot that is complete on the disk."""

    def __init__(self, snapshot: int, head: bytes, facts: dict[str, Any]) -> None:
        """Take the snapshot's descriptor, what goes before it, and what is known of both."""
        self._snapshot: int | None = snapshot
        self._head = head
        self._facts = facts
        self._size = os.fstat(snapshot).st_size
        self._done = 0
        self._tail = b""

    def read(self, most: int) -> bytes:
        """Return some of it."""
        if self._head:
            part, self._head = self._head[:most], self._head[most:]
            return part
        if self._snapshot is None:
            raise exception.GuestError(reason="the backup was closed")
        try:
            part = os.read(self._snapshot, min(most, _CHUNK_BYTES))
        except OSError as e:
            reason = filesystem.explain(e, "reading the snapshot")
            raise exception.GuestError(reason=reason) from None
        self._done += len(part)
        self._tail = (self._tail + part)[-_CHECKSUM_BYTES - 1 :]
        return part

    def finish(self) -> dict[str, Any]:
        """Return the facts once all of a whole snapshot was read."""
        if self._head or self._done != self._size or self._tail[:1] != bytes([_END]):
            raise exception.GuestError(
                reason=f"the snapshot is not whole: {self._done} of {self._size} bytes were read"
            )
        return {**self._facts, "rdb_bytes": self._size}

    def close(self) -> None:
        """Close the snapshot, which stays where it is."""
        if self._snapshot is not None:
            os.close(self._snapshot)
            self._snapshot = None


class RedisBackup(base.Backup):
    """Snapshots of one server, and data directories from them."""

    def __init__(
        self,
        dialect: dialects.Dialect,
        server: service.RedisService,
        environment: base.Environment,
    ) -> None:
        """Take the member of the family, its server and where it runs."""
        self._dialect = dialect
        self._server = server
        self._environment = environment
        self._layout: state.Layout = environment.layout
        self._pause = threading.Event()

    # -- backing up -----

    def estimate_bytes(self) -> int:
        """Return the size of the data in memory; a snapshot is smaller more often than not."""
        with self._server.connector.session() as client:
            return int(client.info("memory")["used_memory_dataset"])

    def open_full(self) -> RdbStream:
        """Have the server write a snapshot and open it."""
        with self._server.connector.session() as client:
            self._check_space()
            # those who are added meanwhile are of no use without their data, and do no harm
            document = self._server.users.document()
            about = client.info("server")
            memory = client.info("memory")
            self._save(client)
            keys = _keys(client)
        try:
            snapshot = os.open(self._snapshot, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as e:
            reason = filesystem.explain(e, "opening the snapshot")
            raise exception.GuestError(reason=reason) from None
        try:
            magic = os.pread(snapshot, 9, 0)
            if not magic.startswith((b"REDIS", b"VALKEY")):
                raise exception.GuestError(reason="the server wrote something else than a snapshot")
            facts = {
                "engine": self._dialect.spec.manager,
                "version": about[self._dialect.version_field],
                "rdb_version": int(magic.lstrip(b"REDISVALKY")),
                # counted just after it
                "keys": keys,
                "users": len(document["users"]),
                "memory_bytes": int(memory["used_memory"]),
            }
            document["memory_bytes"] = facts["memory_bytes"]
            text = json.dumps(document).encode()
            return RdbStream(snapshot, _MAGIC + _LENGTH.pack(len(text)) + text, facts)
        except BaseException:
            os.close(snapshot)
            raise

    @property
    def _snapshot(self) -> pathlib.Path:
        return self._layout.data_dir / "dump.rdb"

    def _check_space(self) -> None:
        """Refuse when not even the last snapshot would fit: a failed one ends all writes."""
        with contextlib.suppress(FileNotFoundError):
            needed = self._snapshot.stat().st_size
            left = filesystem.disk_use(self._layout.mount_point).available_bytes
            if left < needed:
                raise exception.GuestError(
                    reason=f"the disk has {left // 2**20} MiB left, a snapshot needs about"
                    f" {needed // 2**20} MiB: delete data or resize the volume"
                )

    def _save(self, client: connection.Client) -> None:
        """Have a snapshot written that begins after this call."""
        deadline = time.monotonic() + _SAVE_TIMEOUT_S
        while not self._try_save(client):
            self._wait(deadline)
        while True:
            info = client.info("persistence")
            if info["rdb_bgsave_in_progress"] == "0":
                break
            self._wait(deadline)
        if info["rdb_last_bgsave_status"] != "ok":
            raise exception.GuestError(
                reason="the server could not write a snapshot, most likely because the disk is"
                " full; until one succeeds it refuses writes. It says: "
                + filesystem.read_tail(self._layout.log, max_bytes=600).strip()[-400:]
            )

    def _try_save(self, client: connection.Client) -> bool:
        """Begin a snapshot; False while another child of the server is in the way."""
        info = client.info("persistence")
        if "1" in (info["rdb_bgsave_in_progress"], info["aof_rewrite_in_progress"]):
            return False
        try:
            client.execute("BGSAVE")
        except connection.Lost:
            raise
        except connection.ServerError as e:
            if "in progress" in str(e) or "child process" in str(e):
                return False
            raise exception.GuestError(
                reason="the server could not begin a snapshot: most likely the system has too"
                " little memory for another process; free some or resize the instance."
                f" It says: {str(e)[:200]}"
            ) from None
        return True

    def _wait(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise exception.GuestError(reason="the server did not finish a snapshot in time")
        self._pause.wait(_LOOK_S)

    # -- snapshots of the volume -----

    @contextlib.contextmanager
    def quiesce(self) -> Iterator[Mapping[str, Any]]:
        """Do nothing: what was answered stands in the log of writes; see to it that there is one.

        Raises GuestError while the server is making it, after it was restored.
        """
        with self._server.connector.session() as client:
            info = client.info("persistence")
        manifest = self._layout.data_dir / _LOG_DIRECTORY / _MANIFEST
        if info["aof_enabled"] != "1" or not manifest.exists():
            raise exception.GuestError(
                reason="the server does not log its writes yet: make the snapshot a little later"
            )
        yield {}

    def adopt(self, work: pathlib.Path, kept: pathlib.Path) -> None:
        """Take the users over, which the server itself does not keep."""
        with contextlib.suppress(FileNotFoundError):
            text = (kept / "users.json").read_text(encoding="utf-8")
            filesystem.write_file(work / user_lists.RESTORED, text, mode=0o600)

    # -- restoring -----

    def check(self, facts: Mapping[str, Any]) -> None:
        """Refuse snapshots of the other engine and of a newer series of this one."""
        manager = self._dialect.spec.manager
        if facts.get("engine") != manager:
            raise exception.GuestError(
                reason=f"the backup is one of {facts.get('engine')}, this is {manager}: restore it"
                " into an instance of that datastore"
            )
        here = template.server_version(self._server.find_server())
        there = str(facts.get("version"))
        if _series(there) > _series(here):
            raise exception.GuestError(
                reason=f"the backup is of {manager} {there}, which is newer than {here}: restore it"
                " into an instance of that version"
            )

    def restore(self, recovery: base.Recovery, work: pathlib.Path) -> dict[str, Any]:
        """Put the snapshot where the server looks for its log, and the users beside it."""
        if (
            len(recovery.chain) != 1
            or recovery.logs is not None
            or recovery.target != base.Target()
        ):
            raise exception.GuestError(
                reason=f"{self._dialect.spec.manager} is restored to full backups only: there are"
                " no increments and no log of it"
            )
        (full,) = recovery.chain
        self.check(full.facts)
        owner = self._layout.engine_user
        if not process.end_by_argument(str(work), timeout_s=_STOP_TIMEOUT_S):
            raise exception.GuestError(reason="a server of an earlier attempt does not end")
        try:
            # what it wrote since somebody removed all of it
            filesystem.remove_tree(work)
            filesystem.ensure_directory(work, mode=0o700, owner=owner)
            directory = work / _LOG_DIRECTORY
            filesystem.ensure_directory(directory, mode=0o700, owner=owner)
            with full.open() as content:
                document = _read_head(content)
                _write_snapshot(content, directory / _BASE_FILE, owner=owner)
            self._check_snapshot(directory / _BASE_FILE)
            manifest = f"file {_BASE_FILE} seq 1 type b\n"
            filesystem.write_file(directory / _MANIFEST, manifest, mode=0o600, owner=owner)
            filesystem.write_file(work / user_lists.RESTORED, json.dumps(document), mode=0o600)
            filesystem.sync_file_system(work)
        except OSError as e:
            reason = filesystem.explain(e, "restoring a backup")
            raise exception.GuestError(reason=reason) from None
        return {"users": len(document["users"])}

    def _check_snapshot(self, path: pathlib.Path) -> dict[str, int]:
        """Have the engine's tool read all of a snapshot; raises GuestError for what is damaged."""
        name = self._dialect.server_program.replace("-server", "-check-rdb")
        tool = process.find_program(name, basedir=self._environment.basedir)
        if tool is None:
            raise exception.ProgramMissing(
                reason=f"the program {name} is missing: install it, or rebuild the image"
            )
        try:
            result = process.run(
                [str(tool), str(path)], timeout_s=_CHECK_TIMEOUT_S, user=self._layout.engine_user
            )
        except (OSError, TimeoutError) as e:
            raise exception.GuestError(reason=f"{name} failed: {e}") from None
        if result.return_code != 0 or "RDB looks OK" not in result.output:
            words = " ".join(result.output.split())[-400:]
            raise exception.GuestError(reason=f"the snapshot is damaged: {name} says {words}")
        counts = {}
        for line in result.output.splitlines():
            words_of = line.split()
            if words_of[:1] == ["[info]"] and len(words_of) > 2 and words_of[1].isdigit():
                counts["_".join(words_of[2:])] = int(words_of[1])
        return counts

    # -- verifying -----

    def verify(self, work: pathlib.Path) -> dict[str, Any]:
        """Check the snapshot by the engine's tool, and have a server load it.

        A server is not started when its data do not fit into the memory that is left beside the
        one that runs: ``loaded`` is False then.
        """
        document = _read_users(work)
        counts = self._check_snapshot(_find_base(work))
        found: dict[str, Any] = {
            "check": self._dialect.server_program.replace("-server", "-check-rdb"),
            "objects": counts.get("keys_read", 0),
            "users": len(user_lists.parse(document)[0]),
            "loaded": False,
        }
        # of a snapshot of a volume nobody wrote that down: it fits where it is proven
        if int(document.get("memory_bytes", 0)) < _available_bytes() * _SHARE_OF_MEMORY // 10:
            keys = self._load(work)
            # what was written since is in the log behind it
            objects = max(found["objects"], sum(keys.values()))
            found |= {"loaded": True, "keys": keys, "objects": objects}
        return found

    def _load(self, work: pathlib.Path) -> dict[str, int]:
        """Start a server on the data, alone on a socket; returns the keys of each database."""
        owner = self._layout.engine_user
        run = pathlib.Path(tempfile.mkdtemp(prefix="trove-", dir="/tmp"))
        try:
            filesystem.ensure_directory(run, mode=0o700, owner=owner)
            log = run / "server.log"
            filesystem.ensure_log(log, owner=owner)
            configuration = run / "engine.conf"
            options = {
                "port": "0",
                "unixsocket": str(run / "engine.sock"),
                "unixsocketperm": "700",
                "appendonly": "yes",
                "save": '""',
                "auto-aof-rewrite-percentage": "0",
                "set-proc-title": "no",
                "databases": "16",
            }
            text = "".join(f"{name} {value}\n" for name, value in options.items())
            filesystem.write_file(configuration, text, mode=0o600, owner=owner)
            command = process.Command(
                # the directory is told here, so that a later agent finds what this one leaves
                argv=(str(self._server.find_server()), str(configuration), "--dir", str(work)),
                marker=str(configuration),
                user=owner,
                log=log,
                directory=work,
                environment={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TZ": "UTC"},
            )
            return self._count(command, run / "engine.sock")
        except OSError as e:
            reason = filesystem.explain(e, "starting a server on the restored data")
            raise exception.GuestError(reason=reason) from None
        finally:
            filesystem.remove_tree(run)

    def _count(self, command: process.Command, listening: pathlib.Path) -> dict[str, int]:
        running = process.spawn(command)
        try:
            deadline = time.monotonic() + _START_TIMEOUT_S
            while True:
                if running.has_ended() or time.monotonic() > deadline:
                    words = filesystem.read_tail(command.log, max_bytes=800).strip()
                    raise exception.GuestError(
                        reason=f"a server does not start on the restored data: {words[-400:]}"
                    )
                with contextlib.suppress(connection.ServerError):
                    client = connection.connect(listening, timeout_s=_STOP_TIMEOUT_S)
                    with contextlib.closing(client):
                        client.execute("DBSIZE")
                        return _keys(client)
                self._pause.wait(_LOOK_S)
        finally:
            running.signal(signal.SIGKILL)
            running.wait(_STOP_TIMEOUT_S)
            running.close()


def _read_users(work: pathlib.Path) -> dict[str, Any]:
    """Return the list of users beside restored data; raises GuestError."""
    path = work / user_lists.RESTORED
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        # a server that never had any has no list on its volume
        return {"users": [], "root": None}
    except (OSError, ValueError) as e:
        raise exception.GuestError(reason=f"the users cannot be read: {e}") from None
    return document


def _find_base(work: pathlib.Path) -> pathlib.Path:
    """Return the snapshot that a log of writes begins with; raises GuestError."""
    directory = work / _LOG_DIRECTORY
    try:
        lines = (directory / _MANIFEST).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as e:
        raise exception.GuestError(reason=f"the log of writes cannot be read: {e}") from None
    for line in lines:
        words = line.split()
        # file <name> seq <number> type <b, h or i>
        if words[:1] == ["file"] and words[-2:] == ["type", "b"]:
            return directory / pathlib.PurePath(words[1]).name
    raise exception.GuestError(reason="the log of writes begins with no snapshot")


def _series(version: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in version.split(".")[:2])
    except ValueError:
        raise exception.GuestError(reason=f"the backup's version {version!r} is none") from None


def _keys(client: connection.Client) -> dict[str, int]:
    """Return how many keys there are, by the number of the database."""
    found = client.info("keyspace")
    return {
        name.removeprefix("db"): int(text.split(",")[0].partition("=")[2])
        for name, text in found.items()
        if name.startswith("db")
    }


def _read_exactly(content: base.Content, size: int) -> bytes:
    parts = []
    while size:
        part = content.read(size)
        if not part:
            raise exception.GuestError(reason="the backup ends before its end")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _read_head(content: base.Content) -> dict[str, Any]:
    """Return what stands before the snapshot: the users."""
    if _read_exactly(content, len(_MAGIC)) != _MAGIC:
        raise exception.GuestError(reason="the backup is none of this engine")
    (size,) = _LENGTH.unpack(_read_exactly(content, _LENGTH.size))
    if size > _MOST_HEAD_BYTES:
        raise exception.GuestError(reason="the backup's list of users makes no sense")
    try:
        document = json.loads(_read_exactly(content, size))
        user_lists.parse(document)
        int(document["memory_bytes"])
    except (ValueError, KeyError, TypeError):
        raise exception.GuestError(reason="the backup's list of users makes no sense") from None
    found: dict[str, Any] = document
    return found


def _write_snapshot(content: base.Content, path: pathlib.Path, *, owner: Any) -> None:
    with open(path, "xb") as stream:
        os.fchmod(stream.fileno(), 0o600)
        if not owner.is_current:
            os.fchown(stream.fileno(), owner.uid, owner.gid)
        while part := content.read(_CHUNK_BYTES):
            stream.write(part)


def _available_bytes() -> int:
    """Return the memory that new programs may take: of the machine, or of a lower limit."""
    limit = machine.read_hardware().memory_mib << 20
    for line in pathlib.Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return min(int(rest.split()[0]) * 1024, limit)
    return 0
