"""Images as engines found on this machine, each with a template of its data directory.

The id follows from engine, version and program, so that importing again gives the same image. The
template is made by the guest side's own program, in a process of its own, and appears complete or
not at all.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
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
    package: str


_ENGINES: Mapping[str, _Engine] = {
    "mariadb": _Engine(
        programs=("mariadbd",),
        version=re.compile(r"Ver (\d+\.\d+\.\d+)-MariaDB"),
        package="mariadb-server",
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

        ``file`` may name the engine's program where it is not on the PATH; ``image_id`` replaces
        the id that follows from what was found. The engine says its ``version`` itself.
        """
        program, version = _find_engine(manager, file)
        if image_id is None:
            image_id = str(uuid.uuid5(_NAMESPACE, f"{manager} {version} {program}"))
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
                record = {
                    "id": image_id,
                    "name": name,
                    "manager": manager,
                    "version": version,
                    "program": program,
                }
                with local_state.told(directory):
                    local_state.replace(directory / "image.json", json.dumps(record), mode=0o644)
                LOG.info("image %s is %s %s at %s", image_id, manager, version, program)
        return self.get_image(image_id)

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

    def _engine_user(self, manager: str) -> str:
        """Return the user that agents run the engine as."""
        configured: str | None = self._conf.guestagent.engine_user
        return configured or datastore_spec.registry()[manager].system_user

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
                        *("--user", self._engine_user(manager)),
                        *("--basedir", _basedir(program)),
                    ]
                )
                # what an import that died left has no image.json and is nobody's
                shutil.rmtree(directory, ignore_errors=True)
                fresh.rename(directory)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)


def _basedir(program: str) -> str:
    return str(pathlib.Path(program).parent.parent)


def check_engine(state: local_state.LocalState, image_id: str) -> str:
    """Return where the engine of an image is installed, as agents are told it.

    Raises ImageNotFound, and DriverError when the engine is not there any more.
    """
    record = local_state.read_json(state.image(image_id) / "image.json")
    if record is None:
        raise exception.ImageNotFound(image_id=image_id)
    program = str(record["program"])
    if not os.access(program, os.X_OK):
        engine = _ENGINES.get(str(record["manager"]))
        package = engine.package if engine is not None else "its package"
        raise local_state.LocalDriverError(
            f"the engine {program} of image {image_id} is gone: install {package} again, or import"
            " another one with 'trove-manage image import'"
        )
    return _basedir(program)


def _find_engine(manager: str, file: str | None) -> tuple[str, str]:
    """Return the program of a manager's engine and its version."""
    engine = _ENGINES.get(manager)
    if engine is None:
        known = ", ".join(sorted(_ENGINES))
        raise local_state.LocalDriverError(
            f"the datastore manager {manager!r} is unknown here; known are: {known}"
        )
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), _SBIN))
    wanted = (file,) if file else engine.programs
    program = next(filter(None, (shutil.which(name, path=path) for name in wanted)), None)
    if program is None:
        raise local_state.LocalDriverError(
            f"no {' or '.join(wanted)} is installed: run 'apt-get install"
            f" --no-install-recommends {engine.package}' as root and try again"
        )
    program = os.path.realpath(program)
    text = _output([program, "--no-defaults", "--version"])
    match = engine.version.search(text)
    if match is None:
        raise local_state.LocalDriverError(f"{program} is not the engine of {manager}: {text!r}")
    return program, match[1]


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
