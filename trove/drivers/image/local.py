"""Images as engines found on this machine, each with a template of its data directory.

The id follows from engine, version and program, so that importing again gives the same image. The
template is made by the guest side's own program, in a process of its own, and appears complete or
not at all.
"""

from __future__ import annotations

import dataclasses
import glob
import json
import os
import pathlib
import pwd
import re
import secrets
import shutil
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from oslo_config import cfg
from oslo_log import log

from trove.common import exception
from trove.datastores import all as all_specs  # noqa: F401 (registers the specs)
from trove.datastores import spec as datastore_spec
from trove.drivers import local_state
from trove.drivers.image import base

LOG = log.getLogger(__name__)

_NAMESPACE = uuid.UUID("5f2f7b0e-8a63-5d3b-9d0a-3f4f0d3c6f11")
#: Programs live here even where the PATH of an ordinary user lacks it.
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
_TEMPLATE_TIMEOUT_S = 120


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Engine:
    """How the engine of a manager is found."""

    programs: tuple[str, ...]
    version: re.Pattern[str]
    #: Debian's package; None where Debian 12 has none.
    package: str | None
    #: What to do where no package of Debian's has it.
    advice: str = ""
    arguments: tuple[str, ...] = ("--version",)
    #: Where its packages put programs outside the PATH, one directory a version.
    directories: tuple[str, ...] = ()

    @property
    def how_to_install(self) -> str:
        """Return what a person can do about a missing engine."""
        if self.package is None:
            return self.advice
        return f"run 'apt-get install --no-install-recommends {self.package}' as root"


_MYSQL_ARGUMENTS = ("--no-defaults", "--version")
_ENGINES: Mapping[str, _Engine] = {
    "mariadb": _Engine(
        programs=("mariadbd",),
        version=re.compile(r"Ver (\d+\.\d+\.\d+)-MariaDB"),
        package="mariadb-server",
        arguments=_MYSQL_ARGUMENTS,
    ),
    "mysql": _Engine(
        programs=("mysqld",),
        version=re.compile(r"Ver (\d+\.\d+\.\d+)(?!\S*MariaDB)\b"),
        package=None,
        advice="Debian has no package of it: install MySQL's own (mysql-community-server)",
        arguments=_MYSQL_ARGUMENTS,
    ),
    "postgresql": _Engine(
        programs=("postgres",),
        version=re.compile(r"\(PostgreSQL\) (\d+\.\d+)"),
        package="postgresql-15",
        directories=("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin"),
    ),
    "redis": _Engine(
        programs=("redis-server",),
        version=re.compile(r"Redis server v=(\d+\.\d+\.\d+)"),
        package="redis-server",
    ),
    "valkey": _Engine(
        programs=("valkey-server",),
        version=re.compile(r"Valkey server v=(\d+\.\d+\.\d+)"),
        package=None,
        advice="Debian 12 has no package of it: install Valkey's own (valkey-server)",
    ),
    "mongodb": _Engine(
        programs=("mongod",),
        version=re.compile(r"db version v(\d+\.\d+\.\d+)"),
        package=None,
        advice="Debian has no package of it: install MongoDB's own (mongodb-org-server)",
    ),
}


class LocalImage(base.ImageDriver):
    """Engines of this machine, remembered under ``[local] state_dir``."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Take the configuration."""
        self._conf = conf
        self._state = local_state.LocalState(conf.local.state_dir)

    def import_image(
        self,
        *,
        manager: str,
        name: str,
        file: str | None,
        image_id: str | None,
        version: str | None = None,
    ) -> base.Image:
        """Find the engine of a manager and make its template; raises DriverError.

        Of several versions on this machine the newest is taken, unless ``file`` names another one's
        program, or the directory that it is installed in. ``image_id`` replaces the id that follows
        from what was found. The engine says its ``version`` itself.
        """
        program, version = find_engine(manager, file)
        if image_id is None:
            image_id = _id_of(manager, program, version)
        directory = self._state.image(image_id)
        with self._state.lock(f"image:{image_id}"):
            image = self._find(image_id)
            if image is not None and (image.manager, image.version) != (manager, version):
                raise local_state.LocalDriverError(
                    f"image {image_id} is {image.manager} {image.version} already, and {program} is"
                    f" {manager} {version}: use another id"
                )
            if image is None:
                self._make_template(manager, program, directory)
                self._write_record(
                    directory, manager=manager, name=name, program=program, version=version
                )
                LOG.info("image %s is %s %s at %s", image_id, manager, version, program)
        return self.get_image(image_id)

    def remember(self, engines: Mapping[str, Sequence[tuple[str, str]]]) -> None:
        """Know these engines alone, by manager, as program and version, without templates.

        For agents that never begin an engine on a data directory of their own making. One that is
        in use stays.
        """
        known = {each.id for each in self.list_images()}
        for manager, found in engines.items():
            for program, version in found:
                image_id = _id_of(manager, program, version)
                known.discard(image_id)
                directory = self._state.image(image_id)
                with local_state.told(directory):
                    self._state.directory("images")
                    directory.mkdir(exist_ok=True)
                self._write_record(
                    directory, manager=manager, name=manager, program=program, version=version
                )
        for image_id in known:
            try:
                self.delete_image(image_id)
            except local_state.LocalDriverError as e:
                LOG.info("%s", e.message)

    def get_image(self, image_id: str) -> base.Image:
        """Return an image by id; raises ImageNotFound."""
        image = self._find(image_id)
        if image is None:
            raise exception.ImageNotFound(image_id=image_id)
        return image

    def list_images(self) -> Sequence[base.Image]:
        """Return all images."""
        found = map(self._find, local_state.names(self._state.root / "images"))
        return [image for image in found if image is not None]

    def delete_image(self, image_id: str) -> None:
        """Remove the template of an engine; raises DriverError while a server runs from it."""
        directory = self._state.image(image_id)
        with self._state.lock(f"image:{image_id}"), local_state.told(directory):
            servers = self._state.root / "servers"
            users = [
                name
                for name in local_state.names(servers)
                if (local_state.read_json(servers / name / "server.json") or {}).get("image_id")
                == image_id
            ]
            if users:
                raise local_state.LocalDriverError(
                    f"image {image_id} is used by the servers of: {', '.join(users)}"
                )
            if directory.exists():
                # first the record: without it, the rest is nobody's
                (directory / "image.json").unlink(missing_ok=True)
                shutil.rmtree(directory)
                LOG.info("image %s removed", image_id)

    def _find(self, image_id: str) -> base.Image | None:
        record = local_state.read_json(self._state.image(image_id) / "image.json")
        if record is None:
            return None
        manager, version = str(record["manager"]), str(record["version"])
        return base.Image(
            id=str(record["id"]),
            name=str(record["name"]),
            manager=manager,
            version=version,
            tags=(manager, version),
        )

    @staticmethod
    def _write_record(directory: pathlib.Path, **record: str) -> None:
        text = json.dumps({"id": directory.name, **record})
        with local_state.told(directory):
            local_state.replace(directory / "image.json", text, mode=0o644)

    def _make_template(self, manager: str, program: str, directory: pathlib.Path) -> None:
        self._state.directory("images")
        fresh = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}")
        with local_state.told(directory):
            fresh.mkdir()
            fresh.chmod(0o711)
            try:
                _run_template_program(
                    [
                        *("--manager", manager, "--target", str(fresh / "template")),
                        *("--user", checked_engine_user(self._conf, manager)),
                        *("--basedir", _basedir(program)),
                    ]
                )
                # what an import that died left has no image.json and is nobody's
                shutil.rmtree(directory, ignore_errors=True)
                fresh.rename(directory)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)


def _id_of(manager: str, program: str, version: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"{manager} {version} {program}"))


def _basedir(program: str) -> str:
    return str(pathlib.Path(program).parent.parent)


def engine_user(conf: cfg.ConfigOpts, manager: str) -> str:
    """Return the user that agents run the engine of a manager as, where they are root."""
    configured: str | None = conf.local.engine_users.get(manager) or conf.guestagent.engine_user
    return configured or datastore_spec.registry()[manager].system_user


def checked_engine_user(conf: cfg.ConfigOpts, manager: str) -> str:
    """Return the user that agents run the engine as; raises DriverError when there is none."""
    name = engine_user(conf, manager)
    if os.geteuid() == 0:
        try:
            pwd.getpwnam(name)
        except KeyError:
            raise local_state.LocalDriverError(
                f"{manager} runs as the user {name}, which this machine does not have: run"
                " 'useradd --system --user-group --no-create-home --shell /usr/sbin/nologin"
                f" {name}' as root, or name another user in [local] engine_users"
            ) from None
    return name


def check_engine(state: local_state.LocalState, image_id: str) -> tuple[str, str]:
    """Return where the engine of an image is installed, as agents are told it, and its manager.

    Raises ImageNotFound, and DriverError when the engine is not there any more.
    """
    record = local_state.read_json(state.image(image_id) / "image.json")
    if record is None:
        raise exception.ImageNotFound(image_id=image_id)
    program, manager = str(record["program"]), str(record["manager"])
    if not os.access(program, os.X_OK):
        engine = _ENGINES.get(manager)
        package = (engine.package if engine is not None else None) or "its package"
        raise local_state.LocalDriverError(
            f"the engine {program} of image {image_id} is gone: install {package} again, or import"
            " another one with 'trove-manage image import'"
        )
    return _basedir(program), manager


def other_basedirs(state: local_state.LocalState, image_id: str) -> dict[str, str]:
    """Return where the engines of other images of the same manager are installed, by version."""
    records = {
        name: local_state.read_json(state.image(name) / "image.json")
        for name in local_state.names(state.root / "images")
    }
    own = records.get(image_id)
    return {
        str(record["version"]): _basedir(str(record["program"]))
        for name, record in records.items()
        if record is not None
        and own is not None
        and name != image_id
        and record["manager"] == own["manager"]
        and not set(",:") & set(str(record["program"]))
    }


def find_engine(manager: str, file: str | None) -> tuple[str, str]:
    """Return the program of a manager's engine and its version, of several the newest.

    ``file`` is a program or the directory that it is installed in. Raises DriverError.
    """
    return max(find_engines(manager, file), key=lambda each: _numbers(each[1]))


def find_engines(manager: str, file: str | None) -> Sequence[tuple[str, str]]:
    """Return the programs of a manager's engine with their versions, as :func:`find_engine`."""
    engine = _ENGINES.get(manager)
    if engine is None:
        known = ", ".join(sorted(_ENGINES))
        raise local_state.LocalDriverError(
            f"the datastore manager {manager!r} is unknown here; known are: {known}"
        )
    wanted = engine.programs if file is None else (file,)
    programs = _programs(engine, file)
    if not programs:
        raise local_state.LocalDriverError(
            f"no {' or '.join(wanted)} is installed: {engine.how_to_install}, and try again; where"
            " it is installed in a place of its own, name that by --file"
        )
    found: list[tuple[str, str]] = []
    wrong: list[str] = []
    for program in programs:
        text = _output([program, *engine.arguments])
        match = engine.version.search(text)
        if match is None:
            wrong.append(f"{program} is not the engine of {manager}: {text!r}")
        else:
            found.append((program, match[1]))
    if not found:
        raise local_state.LocalDriverError("; ".join(wrong))
    return found


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split("."))


def _programs(engine: _Engine, file: str | None) -> list[str]:
    """Return the full paths of the programs that may be an engine, each once."""
    path = [*os.environ.get("PATH", os.defpath).split(os.pathsep), *_SBIN.split(os.pathsep)]
    if file is None:
        names: Sequence[str] = engine.programs
        places = [*path, *(place for each in engine.directories for place in glob.glob(each))]
    elif os.path.isdir(file):
        names, places = engine.programs, [os.path.join(file, name) for name in ("bin", "sbin", "")]
    elif os.path.dirname(file):
        names, places = (os.path.basename(file),), [os.path.dirname(file)]
    else:
        names, places = (file,), path
    found = (shutil.which(name, path=place) for place in places for name in names if place)
    return list(dict.fromkeys(_resolved(program) for program in found if program))


def _resolved(program: str) -> str:
    """Return where a program really is, under the name that it is called by.

    Debian's redis-server is a link to a program that acts by the name it is called by.
    """
    directory, name = os.path.split(os.path.abspath(program))
    real = os.path.realpath(program)
    if os.path.basename(real) == name:
        return real
    return os.path.join(os.path.realpath(directory), name)


def _output(argv: list[str]) -> str:
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise local_state.LocalDriverError(f"{argv[0]} cannot be run: {e}") from e
    return done.stdout.decode("utf-8", "replace").strip()


def _run_template_program(arguments: list[str]) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "trove.cmd.guestagent_template", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TEMPLATE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise local_state.LocalDriverError(f"the template cannot be made: {e}") from e
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise local_state.LocalDriverError(
            f"the template cannot be made: {' / '.join(lines[-3:]) or done.returncode}"
        )
    try:
        return dict(json.loads(done.stdout.decode().strip().splitlines()[-1]))
    except (ValueError, IndexError) as e:
        raise local_state.LocalDriverError("the template program gave no answer") from e
