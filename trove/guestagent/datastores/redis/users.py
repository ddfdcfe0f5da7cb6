"""Who may use the server, and what for: the agent's list of users and the server's ACL rules.

The list lies on the volume, where only the agent can read it, and holds digests in place of
passwords. The server is told each change, and reads all users from a file that is written from the
list before each start: nobody can lock the agent out for longer than until then. The server's own
commands for users are refused to every tenant, so the list is always what counts.

Rules: https://redis.io/docs/latest/operate/oss_and_stack/management/security/acl/
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from trove.common import exception
from trove.datastores import redis as facts
from trove.guestagent import state
from trove.guestagent.datastores.redis import connection
from trove.guestagent.system import filesystem

#: The list in a data directory that was restored; it counts from the first start on it.
RESTORED = "users.restored.json"
#: What nobody but the agent may do: configure, load code, copy to other servers, stop, block all
#: clients, change users. SCRIPT DEBUG can stop the server as a whole.
_NOBODY = ("+@all", "-@admin", "-@dangerous", "-script|debug")
#: Of that what only tells something, or works on the keys that were granted.
_HARMLESS = ("+info", "+role", "+lastsave", "+sort", "+sort_ro")
#: What works on all keys at once, and shows their names.
_WHOLE = ("+keys", "+flushdb", "+flushall", "+swapdb")
#: The same of what is not dangerous by the server's own judgement.
_NOT_PART = ("-scan", "-randomkey", "-function", "-script|flush", "-script|kill")
_SUPERUSER = (
    *("+restore", "+monitor", "+client|list", "+client|kill", "+client|no-evict"),
    *("+client|unblock", "+slowlog|get", "+slowlog|len", "+slowlog|reset"),
    *("+latency|doctor", "+latency|graph", "+latency|histogram", "+latency|history"),
    *("+latency|latest", "+latency|reset"),
)
#: While the disk is nearly full: no writes but those that delete.
_READ_ONLY = (
    "-@write",
    *("+del", "+unlink", "+expire", "+pexpire", "+expireat", "+pexpireat", "+getdel"),
    *("+hdel", "+srem", "+spop", "+lpop", "+rpop", "+lrem", "+ltrim", "+xdel", "+xtrim"),
    *("+zrem", "+zpopmin", "+zpopmax", "+zremrangebyrank", "+zremrangebyscore"),
    "+zremrangebylex",
)
_READ_ONLY_WHOLE = ("+flushdb", "+flushall")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A user of the tenant's: a password by its digest, and patterns of keys."""

    name: str
    sha256: str = dataclasses.field(repr=False)
    patterns: tuple[str, ...] = ()


def digest(password: str) -> str:
    """Return how the server keeps a password: SHA-256 of its bytes, hexadecimal."""
    return hashlib.sha256(password.encode()).hexdigest()


def _reach(patterns: Iterable[str]) -> list[str]:
    """Return the rules for patterns of keys; channels follow the same patterns."""
    wanted = sorted(set(patterns))
    if facts.EVERYTHING in wanted:
        # the server takes no pattern beside the one for everything
        wanted = [facts.EVERYTHING]
    return [f"{kind}{pattern}" for kind in "~&" for pattern in wanted]


def rules(user: User, *, is_read_only: bool = False) -> list[str]:
    """Return the rules of a user, each one argument of ACL SETUSER."""
    is_whole = facts.EVERYTHING in user.patterns
    found = ["on", f"#{user.sha256}", *_reach(user.patterns), *_NOBODY, *_HARMLESS]
    found += _WHOLE if is_whole else _NOT_PART
    if is_read_only:
        found += [*_READ_ONLY, *(_READ_ONLY_WHOLE if is_whole else ())]
    return found


def root_rules(sha256: str | None, *, is_read_only: bool = False) -> list[str]:
    """Return the rules of the tenant's superuser; without a digest nobody is let in."""
    if sha256 is None:
        return ["off", "-@all"]
    found = ["on", f"#{sha256}", *_reach([facts.EVERYTHING])]
    found += [*_NOBODY, *_HARMLESS, *_WHOLE, *_SUPERUSER]
    if is_read_only:
        found += [*_READ_ONLY, *_READ_ONLY_WHOLE]
    return found


def parse(document: Any) -> tuple[dict[str, User], str | None]:
    """Return users by name, and the superuser's digest; raises ValueError, KeyError, TypeError."""
    users = {}
    for each in document["users"]:
        user = User(name=each["name"], sha256=each["sha256"], patterns=tuple(each["patterns"]))
        if facts.check_user_name(user.name) or user.name in facts.RESERVED_USERS:
            raise ValueError("a name of a user that nobody can have")
        if any(facts.check_pattern(pattern) for pattern in user.patterns):
            raise ValueError("a pattern that nobody can have")
        _check_digest(user.sha256)
        users[user.name] = user
    root = document["root"]
    if root is not None:
        _check_digest(root)
    return users, root


def _check_digest(text: str) -> None:
    if len(bytes.fromhex(text)) != hashlib.sha256().digest_size:
        raise ValueError("no digest of a password")


def _document(users: Mapping[str, User], root: str | None) -> dict[str, Any]:
    return {"users": [dataclasses.asdict(users[name]) for name in users], "root": root}


def _agent_rules(sha256: str) -> list[str]:
    return ["on", f"#{sha256}", "~*", "&*", "+@all"]


class UserList:
    """The users of one instance; changes are made under :attr:`lock`."""

    def __init__(
        self, layout: state.Layout, connector: connection.Connector, *, password: str
    ) -> None:
        """Take where the list lies, what connects to the server, and the agent's password."""
        self._layout = layout
        self._connector = connector
        self._agent_sha256 = digest(password)
        self._is_read_only = False
        self.lock = threading.RLock()

    # -- the list -----

    def _load(self) -> tuple[dict[str, User], str | None]:
        try:
            text = (self._layout.volume_agent_dir / "users.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}, None
        try:
            return parse(json.loads(text))
        except (ValueError, KeyError, TypeError):
            # replaced as a whole, so only a broken disk does this: nobody is let in by mistake
            raise exception.GuestError(
                reason="the list of users on the volume, agent/users.json, is damaged: restore it"
                " from a backup of the volume, or remove it and create the users again"
            ) from None

    def _save(self, users: Mapping[str, User], root: str | None) -> None:
        self._layout.make_volume_agent_dir()
        path = self._layout.volume_agent_dir / "users.json"
        filesystem.write_file(path, json.dumps(_document(users, root)), mode=0o600)

    def all(self) -> dict[str, User]:
        """Return all users by name."""
        return self._load()[0]

    def document(self) -> dict[str, Any]:
        """Return the list, for a backup."""
        with self.lock:
            return _document(*self._load())

    def adopt(self, *, former_data_dir: pathlib.Path) -> None:
        """Have the list that came with restored data; nothing where there is none.

        While the data from before are kept in ``former_data_dir``, their list is kept with them, to
        come back as they do. Whatever the server itself put there is no list.
        """
        path = self._layout.data_dir / RESTORED
        with self.lock:
            try:
                if path.lstat().st_uid != os.geteuid() or path.is_symlink():
                    return
                users, root = parse(json.loads(path.read_text(encoding="utf-8")))
            except FileNotFoundError:
                return
            except (ValueError, KeyError, TypeError):
                raise exception.GuestError(
                    reason="the list of users of the restored backup is damaged: restore another"
                ) from None
            kept = former_data_dir / RESTORED
            if former_data_dir.is_dir() and not kept.exists():
                filesystem.write_file(kept, json.dumps(_document(*self._load())), mode=0o600)
            self._save(users, root)
            path.unlink()
            filesystem.sync_directory(path.parent)

    # -- changes -----

    def replace(self, changed: Mapping[str, User | None]) -> None:
        """Have these users, and not those that are None: all of it or nothing.

        The server is told first; the list counts from the next start on. Raises GuestError.
        """
        users, root = self._load()
        before = {name: users.get(name) for name in changed}
        kept = {name: user for name, user in users.items() if name not in changed}
        kept.update((name, user) for name, user in changed.items() if user is not None)
        self._change(
            lambda client: self._tell(client, changed),
            lambda client: self._tell(client, before),
            lambda: self._save(kept, root),
        )

    def set_root(self, sha256: str | None) -> None:
        """Have the superuser let in with a password of this digest, or not at all."""
        users, before = self._load()

        def tell(client: connection.Client, wanted: str | None) -> None:
            _set_user(client, facts.ROOT_NAME, root_rules(wanted, is_read_only=self._is_read_only))
            if wanted is None:
                # those who listen to channels would go on to
                client.execute("CLIENT", "KILL", "USER", facts.ROOT_NAME)

        self._change(
            lambda client: tell(client, sha256),
            lambda client: tell(client, before),
            lambda: self._save(users, sha256),
        )

    def _change(
        self,
        tell: Callable[[connection.Client], None],
        undo: Callable[[connection.Client], None],
        save: Callable[[], None],
    ) -> None:
        with self._connector.session() as client:
            try:
                tell(client)
                save()
            except connection.ServerError:
                undo(client)
                raise
            except OSError as e:
                undo(client)
                reason = filesystem.explain(e, "keeping the list of users")
                raise exception.GuestError(reason=reason) from e

    def _tell(self, client: connection.Client, changed: Mapping[str, User | None]) -> None:
        for name, user in changed.items():
            if user is None:
                client.execute("ACL", "DELUSER", name)
            else:
                _set_user(client, name, rules(user, is_read_only=self._is_read_only))

    # -- the server -----

    def set_read_only(self, is_read_only: bool) -> None:
        """Have the running server refuse or take writes of all users; raises GuestError."""
        with self.lock, self._connector.session() as client:
            self._is_read_only = is_read_only
            users, root = self._load()
            self._tell(client, users)
            _set_user(client, facts.ROOT_NAME, root_rules(root, is_read_only=is_read_only))

    def synchronize(self, client: connection.Client) -> None:
        """Have a running server, found by a new agent, know exactly the users of the list."""
        with self.lock:
            users, root = self._load()
            known = {str(name) for name in client.execute("ACL", "USERS")}
            strangers = known - set(users) - facts.RESERVED_USERS
            self._tell(client, {**users, **dict.fromkeys(strangers)})
            _set_user(client, facts.ROOT_NAME, root_rules(root, is_read_only=self._is_read_only))

    def write_file(self) -> None:
        """Write what the server reads at its start; it takes writes then."""
        with self.lock:
            users, root = self._load()
            self._is_read_only = False
            lines = [
                _line(facts.AGENT_USER, _agent_rules(self._agent_sha256)),
                _line(facts.ROOT_NAME, root_rules(root)),
                *(_line(user.name, rules(user)) for user in users.values()),
            ]
        owner = self._layout.engine_user
        text = "".join(f"{line}\n" for line in lines)
        filesystem.ensure_file(self.path, text, mode=0o600, owner=owner)

    @property
    def path(self) -> pathlib.Path:
        """The file that the server reads at its start."""
        return self._layout.secret_dir / "users.acl"


def _set_user(client: connection.Client, name: str, wanted: Iterable[str]) -> None:
    """Give a user exactly these rules, in one step."""
    client.execute("ACL", "SETUSER", name, "reset", *wanted)


def _line(name: str, wanted: Iterable[str]) -> str:
    """Return a line of the server's file: names, patterns and digests hold no blanks."""
    return " ".join(("user", name, *wanted))
