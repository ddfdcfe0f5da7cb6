"""Servers as agent processes of this machine.

A server is a directory ``servers/<instance id>`` with the agent's configuration, key and own state,
and one agent process that is started apart from this one and outlives it. What runs is told by
the pid file and by cgroup, never by memory, so that any taskmanager can go on with what another
began; what must not happen twice happens under the lock of the server.

Nothing here waits: a stop or a delete begins with SIGPWR (the agent stops its engine cleanly and
ends); a delete that is asked for again kills what is left after a grace, then removes everything.
The id of a server is that of its instance.
"""

from __future__ import annotations

import configparser
import contextlib
import io
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from oslo_config import cfg
from oslo_log import log

from trove import states
from trove.common import concurrency, exception
from trove.drivers import local_state
from trove.drivers.compute import agent_launcher, base, cgroups, processes, users
from trove.drivers.image import local as local_image

LOG = log.getLogger(__name__)

#: Seconds that agent and engine get to end by themselves before a delete kills them.
KILL_GRACE_S = 10.0
#: The same for a reboot, whose engine must come back with clean data.
REBOOT_GRACE_S = 120.0


def parse_flavors(lines: Sequence[str]) -> tuple[base.Flavor, ...]:
    """Read ``[local] flavors``, in order of memory; raises ConfigurationError."""
    flavors: dict[str, base.Flavor] = {}
    for line in lines:
        try:
            flavor_id, name, memory, cpus = (part.strip() for part in line.split(":"))
            flavor = base.Flavor(id=flavor_id, name=name, ram_mib=int(memory), vcpus=int(cpus))
        except ValueError:
            flavor = base.Flavor(id="", name="", ram_mib=0, vcpus=0)
        if not flavor.id or not flavor.name or flavor.ram_mib < 64 or flavor.vcpus < 1:
            raise exception.ConfigurationError(
                reason=f"[local] flavors: {line!r} is not id:name:memory-in-MiB:cpus with at least"
                " 64 MiB and one cpu"
            )
        if flavor.id in flavors:
            raise exception.ConfigurationError(
                reason=f"[local] flavors: the id {flavor.id!r} stands there twice"
            )
        flavors[flavor.id] = flavor
    return tuple(sorted(flavors.values(), key=lambda flavor: (flavor.ram_mib, flavor.id)))


class LocalCompute(base.ComputeDriver):
    """Agents under ``[local] state_dir``."""

    def __init__(self, conf: cfg.ConfigOpts, *, clock: concurrency.Clock | None = None) -> None:
        """Take the configuration; raises ConfigurationError for bad flavors."""
        self._conf = conf
        self._clock = clock or concurrency.SystemClock()
        self._state = local_state.LocalState(conf.local.state_dir)
        self._flavors = parse_flavors(conf.local.flavors)
        self._user = users.find(conf.local.agent_user)
        self._cgroups = cgroups.Cgroups(
            enabled=conf.local.use_cgroups, has_cpu=conf.local.max_cpus is not None
        )

    # -- flavors -----

    def list_flavors(self) -> Sequence[base.Flavor]:
        """Return the configured flavors, in order of memory."""
        return self._flavors

    def get_flavor(self, flavor_id: str) -> base.Flavor:
        """Return a flavor by id; raises FlavorNotFound."""
        for flavor in self._flavors:
            if flavor.id == flavor_id:
                return flavor
        raise exception.FlavorNotFound(flavor_id=flavor_id)

    # -- servers -----

    def create_server(self, spec: base.ServerSpec) -> base.Server:
        """Write the server's directory and start its agent; goes on with what is there already."""
        directory = self._state.server(spec.instance_id)
        with self._lock(spec.instance_id):
            if local_state.read_json(directory / "server.json") is None:
                self._write_server(spec, directory)
                LOG.info("server of instance %s made at %s", spec.instance_id, directory)
            self._start(spec.instance_id)
        return self._get(spec.instance_id)

    def find_server(self, instance_id: str) -> base.Server | None:
        """Return the server of an instance, or None."""
        directory = self._state.server(instance_id)
        if not directory.is_dir():
            return None
        status, fault = self._status(directory)
        flavor_id = None
        if status is not states.ServerStatus.ERROR:
            record = local_state.read_json(directory / "server.json") or {}
            flavor_id = record.get("flavor_id")
            if status is states.ServerStatus.ACTIVE and record.get("resized_from"):
                status = states.ServerStatus.VERIFY_RESIZE
        return base.Server(
            id=instance_id,
            instance_id=instance_id,
            status=status,
            fault=fault,
            flavor_id=flavor_id,
        )

    def list_servers(self) -> Sequence[base.Server]:
        """Return all servers."""
        found = map(self.find_server, local_state.names(self._state.root / "servers"))
        return [server for server in found if server is not None]

    def start_server(self, server_id: str) -> None:
        """Start the agent of a server unless it runs; raises DriverError."""
        with self._lock(server_id):
            self._start(server_id)

    def stop_server(self, server_id: str) -> None:
        """Begin the clean end of agent and engine; nothing when none runs."""
        with self._lock(server_id):
            self._power_off(server_id)

    def reboot_server(self, server_id: str) -> None:
        """Have agent and engine end, and the agent started again once they have."""
        with self._lock(server_id):
            agent = self._agent(self._state.server(server_id))
            self._power_off(server_id)
            self._start(server_id, after=agent)

    def resize_server(self, server_id: str, flavor: base.Flavor) -> None:
        """Note another flavor and set its limits; agent and engine go on running."""
        with self._lock(server_id):
            record = self._record(server_id)
            if record["flavor_id"] == flavor.id:
                self._cgroups.create(server_id, self._limits(record))
                return
            if record.get("resized_from"):
                raise local_state.LocalDriverError(
                    f"a resize of the server of instance {server_id} is not confirmed yet"
                )
            before = {name: record[name] for name in ("flavor_id", "memory_mib")}
            self._rewrite(
                server_id,
                record
                | {
                    "flavor_id": flavor.id,
                    "memory_mib": flavor.ram_mib,
                    "resized_from": before,
                },
            )

    def confirm_resize(self, server_id: str) -> None:
        """Forget the old flavor."""
        with self._lock(server_id):
            record = self._record(server_id)
            if record.pop("resized_from", None):
                self._rewrite(server_id, record)

    def revert_resize(self, server_id: str) -> None:
        """Give a server its old flavor and limits again."""
        with self._lock(server_id):
            record = self._record(server_id)
            before = record.pop("resized_from", None)
            if before:
                self._rewrite(server_id, record | before)

    def migrate_server(self, server_id: str, host: str | None) -> None:
        """Refuse: there is this machine only."""
        raise local_state.LocalDriverError(
            "servers cannot be moved: the local driver knows this machine only"
        )

    def delete_server(self, server_id: str) -> None:
        """Go one step towards the end of a server: power it off, kill it, remove it.

        Call again until ``find_server`` returns None. Data on the volume stays.
        """
        directory = self._state.server(server_id)
        with self._lock(server_id):
            left = self._processes(server_id)
            if left and self._is_in_grace(directory):
                return
            if left:
                LOG.warning(
                    "instance %s did not end within %d s: %d processes are killed",
                    server_id,
                    KILL_GRACE_S,
                    len(left),
                )
                for process in left:
                    process.send(signal.SIGKILL)
                left = self._processes(server_id)
            if left:
                return
            self._cgroups.delete(server_id)
            if directory.exists():
                with local_state.told(directory):
                    _remove_run_directory(self._agent_directory(directory))
                    shutil.rmtree(directory)
                LOG.info("server of instance %s removed", server_id)

    def list_running(self) -> Sequence[str]:
        """Return the ids of the instances that have a process, be it an engine without agent."""
        ids = local_state.names(self._state.root / "servers")
        return [instance_id for instance_id in ids if self._processes(instance_id)]

    def find_setback(self, server_id: str) -> str | None:
        """Tell that a limit of memory was too low; None when it was not reached."""
        if not self._cgroups.count_killed(server_id):
            return None
        memory_mib = self._record(server_id)["memory_mib"]
        return f"programs were killed since they took more than {memory_mib} MiB of memory"

    def check_agent(self) -> None:
        """Raise DriverError when another user, whom agents are to run as, cannot run them."""
        if self._user is None:
            return
        argv = [*find_agent(self._conf.local.agent_command), "--help"]
        try:
            done = subprocess.run(
                argv,
                env=_agent_environment(),
                user=self._user.uid,
                group=self._user.gid,
                extra_groups=[],
                cwd="/",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=60,
                check=False,
            )
            reason = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        except (OSError, subprocess.TimeoutExpired) as e:
            reason = [str(e)]
        else:
            if done.returncode == 0:
                return
        raise local_state.LocalDriverError(
            f"the agent cannot be run by the user {self._user.name}: {' '.join(reason)}"
        )

    # -- one server -----

    def _lock(self, instance_id: str) -> Any:
        return self._state.lock(f"server:{local_state.checked_id(instance_id)}")

    def _get(self, instance_id: str) -> base.Server:
        server = self.find_server(instance_id)
        if server is None:
            raise local_state.LocalDriverError(f"the server of instance {instance_id} is gone")
        return server

    def _record(self, instance_id: str) -> dict[str, Any]:
        record = local_state.read_json(self._state.server(instance_id) / "server.json")
        if record is None:
            raise local_state.LocalDriverError(f"instance {instance_id} has no server")
        return record

    def _rewrite(self, instance_id: str, record: dict[str, Any]) -> None:
        path = self._state.server(instance_id) / "server.json"
        with local_state.told(path):
            local_state.replace(path, json.dumps(record))
        self._cgroups.create(instance_id, self._limits(record))

    def _limits(self, record: dict[str, Any]) -> cgroups.Limits:
        return cgroups.Limits(
            memory_mib=int(record["memory_mib"]),
            processes=self._conf.local.max_processes,
            cpus=self._conf.local.max_cpus,
        )

    def _agent_directory(self, directory: pathlib.Path) -> pathlib.Path:
        """Return where an agent writes: one of another user's must not write what we go by."""
        return directory if self._user is None else directory / "own"

    def _give_to_user(self, spec: base.ServerSpec, directory: pathlib.Path) -> None:
        """Let the agent's user read what it is configured by, and have what it writes to."""
        if self._user is None:
            return
        numbers = (self._user.uid, self._user.gid)
        own = self._agent_directory(directory)
        own.mkdir(exist_ok=True)
        for path in (own, *([self._state.volume(spec.volume_id)] if spec.volume_id else [])):
            os.chown(path, *numbers)
            path.chmod(0o700)
        for name in (*spec.files, "local.conf"):
            os.chown(directory / name, *numbers)

    def _agent(self, directory: pathlib.Path) -> processes.Process | None:
        """Return the running agent of a server, or None."""
        agent = processes.Process.from_record(local_state.read_json(directory / "agent.pid"))
        return agent if agent is not None and agent.is_alive() else None

    def _next_agent(self, directory: pathlib.Path) -> processes.Process | None:
        """Return the process that becomes the agent once the old one has ended, or None."""
        waiting = processes.Process.from_record(local_state.read_json(directory / "agent.pid.next"))
        return waiting if waiting is not None and waiting.is_alive() else None

    def _status(self, directory: pathlib.Path) -> tuple[states.ServerStatus, str | None]:
        if self._next_agent(directory) is not None:
            return states.ServerStatus.REBOOT, None
        if self._agent(directory) is not None:
            return states.ServerStatus.ACTIVE, None
        try:
            if local_state.read_json(directory / "server.json") is None:
                return states.ServerStatus.BUILD, None
        except exception.DriverError as e:
            return states.ServerStatus.ERROR, e.message
        return states.ServerStatus.SHUTOFF, self._last_words(directory)

    def _last_words(self, directory: pathlib.Path) -> str | None:
        """Return the last line that the agent wrote outside its log, if it crashed."""
        try:
            with (directory / "agent.err").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
                lines = file.read().decode("utf-8", "replace").strip().splitlines()
        except OSError:
            return None
        return f"the agent ended: {lines[-1][:500]}" if lines else None

    def _processes(self, instance_id: str) -> list[processes.Process]:
        """Return every process of an instance, by cgroup, pid file and command line."""
        directory = self._state.server(instance_id)
        record: dict[str, Any] = {}
        # a damaged one keeps nobody from removing the server
        with contextlib.suppress(exception.DriverError):
            record = local_state.read_json(directory / "server.json") or {}
        volume_id = str(record.get("volume_id") or instance_id)
        found = {
            *self._cgroups.processes(instance_id),
            *processes.using_path(directory),
            *processes.using_path(self._state.volume(volume_id)),
        }
        for process in (self._agent(directory), self._next_agent(directory)):
            if process is not None:
                found.add(process)
        return sorted(found, key=lambda process: process.pid)

    def _power_off(self, instance_id: str) -> None:
        directory = self._state.server(instance_id)
        waiting, agent = self._next_agent(directory), self._agent(directory)
        if waiting is not None:
            waiting.send(signal.SIGKILL)
        if agent is not None:
            LOG.info("server of instance %s is powered off", instance_id)
            agent.send(signal.SIGPWR)
            return
        for process in self._processes(instance_id):
            # an engine whose agent was killed
            process.send(signal.SIGTERM)

    def _is_in_grace(self, directory: pathlib.Path) -> bool:
        """Tell whether a delete may still be waited for; the first call powers the server off."""
        mark = directory / "deleting"
        try:
            began = mark.stat().st_mtime
        except OSError:
            self._power_off(directory.name)
            if directory.is_dir():
                with local_state.told(mark):
                    mark.touch()
                    now = self._clock.now().timestamp()
                    os.utime(mark, (now, now))
            return directory.is_dir()
        return 0 <= self._clock.now().timestamp() - began < KILL_GRACE_S

    # -- making and starting -----

    def _write_server(self, spec: base.ServerSpec, directory: pathlib.Path) -> None:
        basedir, manager = local_image.check_engine(self._state, spec.image_id)
        user = local_image.engine_user(self._conf, manager)
        self._state.directory("servers")
        with local_state.told(directory):
            directory.mkdir(exist_ok=True)
            # the engine's own user passes through to its socket
            directory.chmod(0o711)
            for name, content in spec.files.items():
                if name != pathlib.PurePath(name).name or name.startswith("."):
                    raise local_state.LocalDriverError(f"{name!r} is not a plain file name")
                local_state.replace(directory / name, content)
            local_state.replace(
                directory / "local.conf",
                self._local_conf(spec, directory, basedir=basedir, user=user),
            )
            self._give_to_user(spec, directory)
            # last: a directory without it is begun again
            local_state.replace(
                directory / "server.json",
                json.dumps(
                    {
                        "instance_id": spec.instance_id,
                        "name": spec.name,
                        "project_id": spec.project_id,
                        "volume_id": spec.volume_id,
                        "address": spec.address,
                        "image_id": spec.image_id,
                        "flavor_id": spec.flavor.id,
                        "memory_mib": spec.flavor.ram_mib,
                        "config_files": [name for name in spec.files if name.endswith(".conf")],
                    }
                ),
            )

    def _local_conf(
        self, spec: base.ServerSpec, directory: pathlib.Path, *, basedir: str, user: str
    ) -> str:
        own = self._agent_directory(directory)
        template = self._state.image(spec.image_id) / "template"
        values: dict[str, object] = {
            "key_file": directory / "instance.key",
            "state_dir": own,
            "mount_point": (self._state.volume(spec.volume_id) if spec.volume_id else own / "data"),
            "bind_address": spec.address,
            "basedir": basedir,
            "engine_user": user,
        }
        if template.is_dir():
            values["template_dir"] = template
        others = local_image.other_basedirs(self._state, spec.image_id)
        if others:
            values["former_basedirs"] = ",".join(f"{name}:{path}" for name, path in others.items())
        parser = configparser.RawConfigParser(default_section="")
        parser["DEFAULT"] = {
            "log_file": str(own / "agent.log"),
            "use_stderr": "false",
            "log_rotation_type": "size",
            "max_logfile_size_mb": "5",
            "max_logfile_count": "2",
        }
        parser["guestagent"] = {name: str(value) for name, value in values.items()}
        out = io.StringIO()
        parser.write(out)
        return out.getvalue()

    def _start(self, instance_id: str, *, after: processes.Process | None = None) -> None:
        directory = self._state.server(instance_id)
        record = local_state.read_json(directory / "server.json")
        if record is None:
            raise local_state.LocalDriverError(
                f"instance {instance_id} has no server in {directory.parent}"
            )
        if self._next_agent(directory) is not None:
            return
        if after is None and self._agent(directory) is not None:
            return
        if (directory / "deleting").exists():
            raise local_state.LocalDriverError(
                f"the server of instance {instance_id} is being deleted"
            )
        limits = self._limits(record)
        names = [*record.get("config_files", ["guest.conf"]), "local.conf"]
        argv = find_agent(self._conf.local.agent_command)
        for name in names:
            argv += ["--config-file", str(directory / name)]
        request = {
            "argv": argv,
            "pid_file": str(directory / "agent.pid"),
            "log_file": str(directory / "agent.err"),
            "cgroups": [str(path) for path in self._cgroups.create(instance_id, limits)],
            "boot": processes.boot_id(),
            # an agent that goes back to its former release says so there
            "env": _agent_environment()
            | {"TROVE_GUESTAGENT_PID_FILE": str(directory / "agent.pid")},
            "directory": str(self._agent_directory(directory)),
            "user": [self._user.uid, self._user.gid] if self._user else None,
            "after": [after.pid, after.start_ticks, REBOOT_GRACE_S] if after else None,
        }
        _launch(request, instance_id)
        LOG.info("agent of instance %s started", instance_id)


def _remove_run_directory(directory: pathlib.Path) -> None:
    """Remove the socket's directory that an agent made in /tmp when its own path was too long."""
    record = local_state.read_json(directory / "agent" / "run_dir.json") or {}
    path = pathlib.Path(str(record.get("path", "")))
    if path.parent != pathlib.Path("/tmp") or not path.name.startswith("trove-"):  # noqa: S108
        return
    # what an agent of another user says is worth as much as what that user has
    if path.is_dir() and path.lstat().st_uid == directory.stat().st_uid:
        shutil.rmtree(path, ignore_errors=True)


def find_agent(command: str) -> list[str]:
    """Return the argv of ``[local] agent_command``, its program by full path.

    A plain name is looked for beside the running Python first (a virtual environment's programs),
    then on the PATH; raises DriverError when it is not there.
    """
    argv = shlex.split(command)
    if not argv:
        raise local_state.LocalDriverError("[local] agent_command is empty")
    program = argv[0]
    beside = os.path.dirname(sys.executable)
    found = shutil.which(program, path=beside) or shutil.which(program)
    if found is None:
        raise local_state.LocalDriverError(
            f"the agent {program!r} is neither in {beside} nor on the PATH: install the package, or"
            " set [local] agent_command"
        )
    return [os.path.abspath(found), *argv[1:]]


def _agent_environment() -> dict[str, str]:
    """Return what an agent gets of our environment: nothing that could be a secret."""
    kept = ("HOME", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "TMPDIR")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment["PATH"] = os.environ.get("PATH", os.defpath)
    return environment


def _not_started(instance_id: str, reason: str) -> exception.DriverUnavailable:
    return exception.DriverUnavailable(
        service="Local driver",
        reason=f"the agent of instance {instance_id} was not started: {reason}",
    )


def _launch(request: dict[str, Any], instance_id: str) -> None:
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", agent_launcher.__file__, json.dumps(request)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
    except subprocess.TimeoutExpired as e:
        raise _not_started(instance_id, "its start took too long") from e
    except OSError as e:
        raise local_state.LocalDriverError(
            f"the agent of instance {instance_id} cannot be started: {e}"
        ) from e
    if done.returncode < 0:
        # by the kernel for want of memory, or by a person: neither says anything of the next time
        raise _not_started(instance_id, f"its start was killed by signal {-done.returncode}")
    if done.returncode:
        reason = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise local_state.LocalDriverError(
            f"the agent of instance {instance_id} cannot be started: {' '.join(reason)}"
        )
