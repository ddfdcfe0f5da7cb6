"""Backups of MongoDB: a dump with the oplog of the time that it took.

The other way would be to copy the files while the server is locked (``fsyncLock``): it refuses
all writes for as long as the copy takes, which over a network is long. MongoDB's cursors for
backups, which need no lock, are not in the edition that is free. A dump stops nobody; it is
consistent as of its end, when what changed meanwhile is replayed. It is logical: indexes are made
again, which takes the longer part of a restore.

``mongodump`` is not asked for the oplog: the agent reads it (see
:mod:`trove.guestagent.datastores.mongodb.dumps`), so that where it ends, and the shipped log goes
on, is exact. What a replay could not make good is refused as ``mongodump`` would: a collection that
is renamed under its hands, unless all of it was made meanwhile (``$out`` does so).

The oplog is kept while a dump is made, however large it gets. Users and roles are in the dump, the
agent's identity is not: it is the key of the set, which restored data have none of. They become a
new set at the first start.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

from pymongo import errors

from trove.common import exception
from trove.datastores import mongodb_configuration
from trove.guestagent import templates
from trove.guestagent.datastores import base
from trove.guestagent.datastores.mongodb import (
    connection,
    dumps,
    oplog,
    retention,
    service,
    template,
)
from trove.guestagent.system import filesystem, pipes, process

_PACKAGE = "mongodb-database-tools"
_CHUNK_BYTES = 1024 * 1024
_OPLOG_PART_BYTES = 8 * 1024 * 1024
#: Seconds until mongodump ends that has no more to write.
_TOOL_END_TIMEOUT_S = 60.0
_LOOK_S = 1.0
_STALL_S = 120.0
#: What mongorestore calls itself to the server, and says when it has lost its way in an archive.
_TOOL = "mongorestore"
_DONE = "document(s) restored successfully"
_GIVEN_UP = "demux finishing when there are still outs"
#: Of the cache of a server beside the one that runs.
_SMALL_CACHE_GIB = 0.25
#: No commands on a collection, but on what it is known by.
_NOT_REPLAYED = ("importCollection", "upgradeDowngradeViewlessTimeseries")


class MongodbStream(base.Stream):
    """A dump and the oplog behind it."""

    def __init__(self, backup: MongodbBackup) -> None:
        """Begin to keep the oplog, and the dump."""
        self._backup = backup
        self._opened = contextlib.ExitStack()
        self._pending = memoryview(b"")
        self._facts: dict[str, Any] | None = None
        try:
            self._start = backup.begin(self._opened)
            self._output = self._opened.enter_context(backup.dump(self._opened))
        except BaseException:
            self._opened.close()
            raise
        self._parts = self._produce()

    def read(self, most: int) -> bytes:
        """Return some of it."""
        try:
            if not self._pending:
                self._pending = memoryview(next(self._parts, b""))
        except (OSError, TimeoutError) as e:
            raise exception.GuestError(reason=f"mongodump failed: {e}") from None
        part, self._pending = bytes(self._pending[:most]), self._pending[most:]
        return part

    def _produce(self) -> Iterator[bytes]:
        yield dumps.MAGIC
        watch = dumps.Watch()
        while data := self._output.read(_CHUNK_BYTES):
            watch.see(data)
            yield dumps.frame(dumps.ARCHIVE, data)
        code = self._output.wait(_TOOL_END_TIMEOUT_S)
        said = self._backup.words(self._output.said())
        if code != 0:
            raise exception.GuestError(reason=f"mongodump failed with code {code}: {said}")
        if not watch.is_whole():
            raise exception.GuestError(
                reason="mongodump ended before the end of its archive, and said it succeeded:"
                f" {said}"
            )
        log = _Followed(self._backup, self._start)
        size = 0
        for data in log.read():
            size += len(data)
            yield dumps.frame(dumps.OPLOG, data)
        yield dumps.frame(dumps.END, json.dumps(dumps.summary(watch.size, size)).encode())
        self._facts = {
            "engine": "mongodb",
            "version": self._backup.version(),
            "from": str(self._start),
            "until": str(log.until),
            "until_s": log.until_s,
            "collections": watch.collections,
            "oplog_bytes": size,
        }

    def finish(self) -> dict[str, Any]:
        """Return what was dumped, and from when to when the oplog is in it."""
        if self._facts is None:
            raise exception.GuestError(reason="the dump was not read to its end")
        return self._facts

    def close(self) -> None:
        """End mongodump; the oplog may be overwritten again."""
        self._parts.close()  # type: ignore[attr-defined]
        self._opened.close()


class _Followed:
    """The oplog from the beginning of a dump to its end, with a look at what cannot be replayed."""

    def __init__(self, backup: MongodbBackup, start: oplog.OpTime) -> None:
        """Take from when on."""
        self._backup = backup
        self.until = start
        self.until_s = 0.0
        self._made: set[str] = set()

    def read(self) -> Iterator[bytes]:
        """Return whole entries, some at once; raises GuestError."""
        with self._backup.connector.session() as client:
            head = oplog.newest(client)
        first = True
        while first or self.until < head.time:
            with self._backup.connector.session() as client:
                data = self._read(client, head.time)
            first = False
            for each in oplog.split(data):
                entry = oplog.read_entry(each)
                self._look(entry)
                self.until, self.until_s = entry.time, entry.wall_s
            if data:
                yield data

    def _read(self, client: connection.Client, end: oplog.OpTime) -> bytes:
        try:
            if not self.until_s:
                self.until_s = oplog.entry_at(client, self.until).wall_s
            if self.until == end:
                return b""
            return oplog.read_range(
                client, self.until, end, most_bytes=_OPLOG_PART_BYTES, term=None
            )
        except base.LogLost as e:
            raise exception.GuestError(
                reason=f"{e}: what changed while the dump was made is not known"
            ) from None

    def _look(self, entry: oplog.Entry) -> None:
        document = entry.document
        if document["op"] != "c":
            if document["ns"] == "admin.system.version":
                raise exception.GuestError(
                    reason="the database was being upgraded while the dump was made: make another"
                )
            return
        command = document["o"]
        database = str(document["ns"]).partition(".")[0]
        if "create" in command:
            self._made.add(f"{database}.{command['create']}")
        elif "renameCollection" in command:
            source, target = command["renameCollection"], command["to"]
            if source not in self._made:
                raise exception.GuestError(
                    reason="a collection was renamed while the dump was made, which no dump can"
                    " follow: make another backup while none is renamed"
                )
            self._made.add(target)
        elif any(name in command for name in _NOT_REPLAYED):
            raise exception.GuestError(
                reason="something was done to a collection while the dump was made that no dump"
                " can follow: make another backup"
            )


@dataclasses.dataclass(slots=True)
class _Replay:
    """Which entries of the oplog are replayed, in order, up to a target."""

    target: base.Target
    wanted: oplog.OpTime | None
    last: oplog.OpTime
    last_s: float
    is_over: bool = False
    entries: int = 0

    def takes(self, data: bytes) -> bool:
        """Tell whether an entry is replayed; nothing is behind the first that lies too late."""
        entry = oplog.read_entry(data)
        if self.is_over or entry.time <= self.last:
            return False
        too_late = self.target.time_s is not None and entry.wall_s > self.target.time_s
        if too_late or (self.wanted is not None and entry.time > self.wanted):
            self.is_over = True
            return False
        self.last, self.last_s = entry.time, entry.wall_s
        self.entries += 1
        return True


class _Guard:
    """Ends mongorestore when it stands still, which it does after damage instead of failing.

    A context manager. It stands still when it takes nothing, or does not end, while the server has
    nothing to do for it.
    """

    def __init__(self, tool: pipes.Program, client: connection.Client) -> None:
        """Take the tool, and a client of the server that it fills."""
        self._tool = tool
        self._client = client
        self._over = threading.Event()
        self._waiting_since: float | None = None
        self._thread = threading.Thread(target=self._look, name="mongorestore", daemon=True)
        #: What it was ended for.
        self.finding: str | None = None

    def write(self, data: bytes) -> None:
        """Have the tool read data; raises BrokenPipeError when it has ended."""
        self._waiting_since = time.monotonic()
        try:
            self._tool.write(data)
        finally:
            self._waiting_since = None

    def wait(self) -> int:
        """Tell the tool that there is nothing more; returns its exit code."""
        self._waiting_since = time.monotonic()
        with contextlib.suppress(BrokenPipeError):
            self._tool.end_input()
        return self._tool.wait()

    def _look(self) -> None:
        idle_s = 0.0
        while not self._over.wait(_LOOK_S):
            if _GIVEN_UP in self._tool.said():
                self.finding = "found damage in the archive"
            else:
                since = self._waiting_since
                waits = since is not None and time.monotonic() - since > _LOOK_S
                idle_s = idle_s + _LOOK_S if waits and not self._is_served() else 0.0
                if idle_s >= _STALL_S:
                    self.finding = f"did nothing for {_STALL_S:.0f} s"
            if self.finding is not None:
                # not close: the pipe is in use
                self._tool.kill()
                return

    def _is_served(self) -> bool:
        """Tell whether the server has something to do for the tool; one that fails has not."""
        with contextlib.suppress(errors.PyMongoError):
            stages: list[dict[str, Any]] = [
                {"$currentOp": {}},
                {"$match": {"appName": _TOOL, "active": True}},
            ]
            with self._client.admin.aggregate(stages) as found:
                return any(True for _ in found)
        return False

    def __enter__(self) -> _Guard:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()


class MongodbBackup(base.Backup):
    """Dumps of one server, and data directories from them."""

    def __init__(
        self,
        server: service.MongodbService,
        environment: base.Environment,
        retained: retention.Retention,
    ) -> None:
        """Take the server, where it runs, and what has it keep its oplog."""
        self._server = server
        self.connector = server.connector
        self._environment = environment
        self._layout = environment.layout
        self._retention = retained

    def _find_tool(self, name: str) -> pathlib.Path:
        for basedir in dict.fromkeys((self._environment.basedir, None)):
            found = process.find_program(name, basedir=basedir)
            if found is not None:
                return found
        raise exception.ProgramMissing(
            reason=f"the program {name} is missing: install the package {_PACKAGE}, or rebuild the"
            " image"
        )

    def version(self) -> str:
        """Return the version of the programs that are installed here; raises GuestError."""
        program = template.find_server(basedir=self._environment.basedir)
        return template.server_version(program)

    # -- backing up -----

    def estimate_bytes(self) -> int:
        """Return the size of all documents."""
        with self.connector.session() as client:
            names = client.list_database_names()
            return sum(
                int(client[name].command("dbStats")["dataSize"])
                for name in names
                if name != "local"
            )

    def open_full(self) -> MongodbStream:
        """Begin a dump."""
        return MongodbStream(self)

    @contextlib.contextmanager
    def quiesce(self) -> Iterator[Mapping[str, Any]]:
        """Have the server write all its pages; its journal has what comes after.

        A lock (``fsyncLock``) would outlive an agent that is killed, and adds nothing to what a
        snapshot of one volume has.
        """
        with self.connector.session() as client:
            client.admin.command({"fsync": 1})
        yield {}

    def begin(self, opened: contextlib.ExitStack) -> oplog.OpTime:
        """Have the oplog kept until ``opened`` is closed; returns its newest entry."""
        with self.connector.session() as client:
            self._retention.begin_copy(client)
            opened.callback(self._end_copy)
            return oplog.newest(client).time

    def _end_copy(self) -> None:
        # a server that is down forgets it anyway
        with contextlib.suppress(exception.GuestError), self.connector.session() as client:
            self._retention.end_copy(client)

    def dump(self, opened: contextlib.ExitStack) -> pipes.Program:
        """Start mongodump; what it is told stands in a file, removed when ``opened`` is closed."""
        program = self._find_tool("mongodump")
        configuration = self._layout.secret_dir / "mongodump.json"
        messages = self._layout.agent_dir / "mongodump.log"
        messages.unlink(missing_ok=True)
        owner = self._layout.engine_user
        for path in (configuration, messages):
            opened.callback(path.unlink, missing_ok=True)
        try:
            text = json.dumps({"uri": self._server.uri_for_tools()})
            filesystem.write_file(configuration, text, mode=0o600, owner=owner)
            return pipes.Program(
                [str(program), f"--config={configuration}", "--archive"],
                user=owner,
                messages=messages,
                directory=self._server.run_dir,
            )
        except OSError as e:
            reason = filesystem.explain(e, "starting mongodump")
            raise exception.GuestError(reason=reason) from None

    def words(self, said: str) -> str:
        """Return the last of what a tool said, for people."""
        return self._server.without_secrets(_last_words(said))

    # -- restoring -----

    def check(self, facts: Mapping[str, Any]) -> None:
        """Refuse dumps of other engines and of another series of this one."""
        if facts.get("engine") != "mongodb":
            raise exception.GuestError(
                reason=f"the backup is one of {facts.get('engine')}, this is mongodb: restore it"
                " into an instance of that datastore"
            )
        here, there = self.version(), str(facts.get("version"))
        if here.split(".")[:2] != there.split(".")[:2]:
            raise exception.GuestError(
                reason=f"the backup is of MongoDB {there}, this is {here}: restore it into an"
                " instance of that series, and upgrade that"
            )
        self._find_tool("mongorestore")

    def restore(self, recovery: base.Recovery, work: pathlib.Path) -> dict[str, Any]:
        """Have a server of its own fill ``work`` from the dump and replay the log."""
        if len(recovery.chain) != 1:
            raise exception.GuestError(reason="MongoDB has no incremental backups")
        facts = recovery.chain[0].facts
        self.check(facts)
        replay = _begin_replay(recovery)
        try:
            self._begin_data(work)
            with self._alone(work, is_beside=False) as listening:
                self._restore(recovery, replay, listening)
            (work / "mongod.lock").unlink(missing_ok=True)
            filesystem.sync_file_system(work)
        except OSError as e:
            reason = filesystem.explain(e, "restoring a backup")
            raise exception.GuestError(reason=reason) from None
        return {
            "restored_to_s": replay.last_s,
            "position": str(replay.last),
            "entries": replay.entries,
        }

    def _begin_data(self, work: pathlib.Path) -> None:
        """Make a data directory with nothing in it, from the template where there is one."""
        template.end_former(work)
        # what it wrote since somebody removed all of it
        filesystem.remove_tree(work)
        owner = self._layout.engine_user
        source = self._environment.template_dir
        if source is None or not source.is_dir():
            filesystem.ensure_directory(work, mode=0o700, owner=owner)
            return
        templates.check(source)
        filesystem.copy_tree(source, work, owner=owner)
        (work / templates.SEAL).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _alone(self, data: pathlib.Path, *, is_beside: bool) -> Iterator[pathlib.Path]:
        """Have a server on ``data``, without accounts, in a directory that nobody else enters."""
        owner = self._layout.engine_user
        run = pathlib.Path(tempfile.mkdtemp(prefix="trove-", dir="/tmp"))
        options: dict[str, Any] = mongodb_configuration.sized_options(512, 1)
        settings = self._server.find_settings()
        if settings is not None:
            options = {
                **mongodb_configuration.sized_options(
                    settings.memory_mib, settings.volume_size_gib
                ),
                **{
                    name: value
                    for name, value in mongodb_configuration.overrides(settings.overrides).items()
                    if name.startswith("storage.wiredTiger.")
                },
            }
        options.pop("replication.oplogSizeMB")
        if is_beside:
            options["storage.wiredTiger.engineConfig.cacheSizeGB"] = _SMALL_CACHE_GIB
        try:
            filesystem.ensure_directory(run, mode=0o700, owner=owner)
            with template.alone(
                template.find_server(basedir=self._environment.basedir),
                options,
                # nothing is to be deleted because of its age
                {"ttlMonitorEnabled": False},
                data=data,
                run=run,
                user=owner,
            ) as listening:
                yield listening
        finally:
            filesystem.remove_tree(run)

    def _restore(self, recovery: base.Recovery, replay: _Replay, listening: pathlib.Path) -> None:
        program = self._find_tool("mongorestore")
        argv = [
            *(str(program), f"--uri={_uri(listening)}", "--archive", "--oplogReplay"),
            # a document that was deleted and inserted again while the dump was made may be in it
            # twice: the second is refused, the oplog has the right one
            *("--bypassDocumentValidation", "--numInsertionWorkersPerCollection=2"),
        ]
        messages = self._layout.agent_dir / "mongorestore.log"
        messages.unlink(missing_ok=True)
        with contextlib.ExitStack() as opened:
            opened.callback(messages.unlink, missing_ok=True)
            client = opened.enter_context(connection.Client(_uri(listening)))
            tool = opened.enter_context(
                pipes.Program(
                    argv,
                    user=self._layout.engine_user,
                    messages=messages,
                    directory=pathlib.Path("/"),
                    is_written_to=True,
                )
            )
            guard = opened.enter_context(_Guard(tool, client))
            try:
                _feed(recovery, replay, dumps.Writer(guard.write))
            except BrokenPipeError:
                # why is in what it said
                code = guard.wait() or -1
            else:
                code = guard.wait()
            said = tool.said()
        if guard.finding is not None:
            raise exception.GuestError(reason=f"mongorestore {guard.finding}: {_last_words(said)}")
        if code != 0 or _DONE not in said:
            raise exception.GuestError(
                reason=f"mongorestore failed with code {code}: {_last_words(said)}"
            )

    # -- verifying -----

    def verify(self, work: pathlib.Path) -> dict[str, Any]:
        """Have a server of its own validate every collection and all its indexes."""
        found = {"check": "validate", "objects": 0, "documents": 0, "indexes": 0}
        try:
            with (
                self._alone(work, is_beside=True) as listening,
                connection.Client(_uri(listening)) as client,
            ):
                for name in client.list_database_names():
                    _validate(client, name, found)
        except errors.PyMongoError as e:
            raise exception.GuestError(
                reason=f"the restored data are damaged: {connection.explain(e)}"
            ) from None
        except OSError as e:
            reason = filesystem.explain(e, "verifying a backup")
            raise exception.GuestError(reason=reason) from None
        return found


def _uri(listening: pathlib.Path) -> str:
    """Return how to connect to a server without accounts."""
    return f"mongodb://{urllib.parse.quote(str(listening), safe='')}/?directConnection=true"


def _validate(client: connection.Client, name: str, found: dict[str, Any]) -> None:
    database = client[name]
    for each in database.list_collections():
        if each["type"] != "collection":
            continue
        result = database.command({"validate": each["name"], "full": True})
        if not result["valid"]:
            raise exception.GuestError(
                reason=f"the collection {each['name']} of {name} is damaged:"
                f" {'; '.join(map(str, result['errors']))[:300]}"
            )
        found["objects"] += 1
        found["documents"] += int(result["nrecords"])
        found["indexes"] += int(result["nIndexes"])


def _begin_replay(recovery: base.Recovery) -> _Replay:
    """Return what is to be replayed; raises GuestError for a target that cannot be reached."""
    facts, target = recovery.chain[0].facts, recovery.target
    if target.name is not None:
        raise exception.GuestError(reason="MongoDB's log has no points with names: give a time")
    start, until = oplog.OpTime.parse(facts["from"]), oplog.OpTime.parse(facts["until"])
    wanted = None if target.position is None else oplog.OpTime.parse(target.position)
    if (target.time_s is not None and target.time_s < facts["until_s"]) or (
        wanted is not None and wanted < until
    ):
        raise exception.GuestError(
            reason="the backup was completed after the time that is asked for: take an older one"
        )
    if recovery.logs is None and target != base.Target():
        raise exception.GuestError(reason="there is no log behind the backup to replay")
    return _Replay(target=target, wanted=wanted, last=start, last_s=float(facts["until_s"]))


def _feed(recovery: base.Recovery, replay: _Replay, writer: dumps.Writer) -> None:
    """Give mongorestore the dump, and all entries of the oplog that are wanted."""
    full = recovery.chain[0]
    with full.open() as content:
        for kind, data in dumps.frames(content.read):
            if kind == dumps.ARCHIVE:
                writer.archive(data)
            else:
                _replay(oplog.split(data), replay, writer)
    until = oplog.OpTime.parse(full.facts["until"])
    if replay.last != until:
        raise exception.GuestError(
            reason=f"the backup's oplog ends at {replay.last}, not at {until}: it is damaged"
        )
    for piece in recovery.logs() if recovery.logs is not None else ():
        begin, end = (
            oplog.OpTime.parse(piece.facts["from"]),
            oplog.OpTime.parse(piece.facts["until"]),
        )
        if begin > replay.last:
            raise exception.GuestError(
                reason=f"the log has a gap between {replay.last} and {begin}"
            )
        if end <= replay.last:
            continue
        with piece.open() as content:
            _replay(oplog.documents(content.read), replay, writer)
        if replay.is_over:
            break
        if replay.last != end:
            raise exception.GuestError(
                reason=f"a piece of the log ends at {replay.last}, not at {end}: it is damaged"
            )
    if replay.wanted is not None and replay.last != replay.wanted:
        raise exception.GuestError(
            reason=f"the log has no entry at {replay.wanted}: it goes to {replay.last}"
        )
    writer.end()


def _replay(entries: Iterator[bytes], replay: _Replay, writer: dumps.Writer) -> None:
    for data in entries:
        if replay.takes(data):
            writer.entry(data)
        elif replay.is_over:
            return


def _last_words(said: str) -> str:
    """Return what a tool gave as the reason of its failure, else its last line."""
    lines = [line.partition("\t")[2] or line for line in said.strip().splitlines()] or ["nothing"]
    failures = [line for line in lines if line.startswith(("Failed", "error", "Error"))]
    return (failures or lines)[-1][:400]
