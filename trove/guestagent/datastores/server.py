"""An engine as a process on a data directory: what all engines have in common.

The data directory appears by a rename and is complete when it appears: copied from a template that
was made once, or made anew. What the configuration is made from is remembered, so that the file
can be written again at any time, by a later release of the agent too.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import pathlib
import threading
from collections.abc import Callable
from typing import ClassVar

from oslo_log import log

from trove.common import exception
from trove.guestagent import certificates, templates, tls
from trove.guestagent.datastores import base
from trove.guestagent.system import filesystem, process
from trove.rpc import payloads

LOG = log.getLogger(__name__)


class Server(base.Service):
    """A server program with a data directory, a configuration file and a certificate."""

    #: Space that must be left on the volume for a new server to start.
    headroom_bytes: ClassVar[int] = 64 * 1024 * 1024
    #: Name of the configuration file in the engine's directory.
    configuration_name: ClassVar[str]

    def __init__(self, environment: base.Environment) -> None:
        """Take where to run."""
        self._environment = environment
        self._layout = environment.layout
        self._store = environment.store
        self._run_dir = environment.store.run_dir()
        self._config_file = self._layout.engine_dir / self.configuration_name
        self._key_file = self._layout.tls_dir / tls.KEY
        self.tls_store = tls.TlsStore(self._layout)
        #: Serialises the copying of the data directory.
        self._copying = threading.Lock()
        #: Whether a data directory is to be made, not restored.
        self._wants_copy = True

    # -- what engines do differently -----

    @abc.abstractmethod
    def check_programs(self) -> None:
        """Raise GuestError, with a remedy, unless the engine's programs are installed."""

    @abc.abstractmethod
    def make_data(self, work: pathlib.Path) -> None:
        """Make a new data directory ``work``, which does not exist; raises GuestError, OSError."""

    @abc.abstractmethod
    def render_configuration(self, settings: base.Settings) -> str:
        """Return the text of the configuration file."""

    def reachable_paths(self) -> tuple[pathlib.Path, ...]:
        """Return the paths that the engine's user must be able to reach."""
        return (self._layout.data_dir, self._config_file, self._run_dir)

    # -- the data directory -----

    @property
    def _ready_dir(self) -> pathlib.Path:
        """A complete copy, made ahead of time and not yet in its place."""
        return self._layout.mount_point / "data.ready"

    def is_installed(self) -> bool:
        """Tell whether there is a complete data directory and a configuration for it."""
        return self._config_file.exists() and self._layout.data_dir.is_dir()

    def anticipate(self) -> None:
        """Copy the template before anybody asks for it."""
        layout = self._layout
        if any(
            path.exists()
            for path in (layout.data_dir, layout.former_data_dir, layout.replaced_data_dir)
        ):
            return
        if self._environment.template_dir is None:
            return
        try:
            filesystem.ensure_passable(self._layout.mount_point)
            self._make_data_directory()
        except (OSError, exception.TroveError) as e:
            # installing does it again and reports what is wrong
            LOG.warning("the data directory could not be made ahead of time: %s", e)

    def _make_data_directory(self) -> None:
        """Have a complete data directory in ``data.ready``, unless one is in place already."""
        with self._copying:
            if self._layout.data_dir.exists() or self._is_ready_copy_sound():
                return
            if not self._wants_copy:
                return
            work = self._layout.mount_point / "data.new"
            filesystem.remove_tree(work)
            filesystem.remove_tree(self._ready_dir)
            self._check_space()
            try:
                self.make_new_data(work)
            except BaseException:
                with contextlib.suppress(OSError):
                    filesystem.remove_tree(work)
                raise
            work.rename(self._ready_dir)
            self._store.save("ready_copy", {"machine_boot": process.machine_boot_id()})

    def make_new_data(self, work: pathlib.Path) -> None:
        """Make a new data directory, by a copy of the template where there is one."""
        source = self._environment.template_dir
        if source is not None and source.is_dir():
            templates.check(source)
            filesystem.copy_tree(source, work, owner=self._layout.engine_user)
            (work / templates.SEAL).unlink(missing_ok=True)
        else:
            self.make_data(work)

    def _is_ready_copy_sound(self) -> bool:
        """Tell whether the copy may be used: it is not synced, so only until the machine ends."""
        remembered = self._store.find("ready_copy") or {}
        return (
            self._ready_dir.is_dir() and remembered.get("machine_boot") == process.machine_boot_id()
        )

    # -- installing -----

    def install(
        self, job: payloads.PrepareJob, *, restore: Callable[[], object] | None = None
    ) -> None:
        """Make data directory, keys and configuration."""
        filesystem.ensure_passable(self._layout.mount_point)
        self.check_programs()
        self._check_reachable()
        self._layout.make_volume()
        with self._copying:
            self._wants_copy = restore is None
            if restore is not None:
                # the space is needed
                filesystem.remove_tree(self._ready_dir)
        if restore is None and not self._layout.data_dir.exists():
            self._make_data_directory()
            self._ready_dir.rename(self._layout.data_dir)
            filesystem.sync_directory(self._layout.mount_point)
        self._install_certificates(job)
        self.configure(
            base.Settings(
                memory_mib=job.memory_mib,
                vcpus=job.vcpus,
                server_id=job.server_id,
                volume_size_gib=job.volume_size_gib,
                has_tls=job.certificate_pem is not None,
                overrides=dict(job.overrides),
            )
        )
        if restore is not None:
            restore()

    def _check_space(self) -> None:
        available = filesystem.disk_use(self._layout.mount_point).available_bytes
        if available < self.headroom_bytes:
            raise exception.GuestError(
                reason="the disk is full: the volume has only"
                f" {available // (1024 * 1024)} MiB left, a new database needs at least"
                f" {self.headroom_bytes // (1024 * 1024)} MiB; create the instance with a larger"
                " volume"
            )

    def _check_reachable(self) -> None:
        user = self._layout.engine_user
        for path in self.reachable_paths():
            closed = filesystem.find_closed_ancestor(path, user)
            if closed is not None:
                raise exception.GuestError(
                    reason=f"the user {user.name} may not enter {closed}: make every directory"
                    " above it passable (chmod o+x), or choose another [guestagent] state_dir"
                )

    def _install_certificates(self, job: payloads.PrepareJob) -> None:
        owner = self._layout.engine_user
        key = certificates.ensure_key(self._key_file, owner=owner)
        if job.certificate_pem is None:
            return
        certificates.check_pair(job.certificate_pem, key)
        files = {tls.CERTIFICATE: job.certificate_pem, tls.CA: job.ca_pem or job.certificate_pem}
        for name, pem in files.items():
            filesystem.write_file(self._layout.tls_dir / name, pem, mode=0o600, owner=owner)

    # -- the configuration -----

    def configure(self, settings: base.Settings) -> None:
        """Remember the settings and write the server's configuration from them."""
        self._store.save("settings", dataclasses.asdict(settings))
        self._write_configuration(settings)

    def rewrite_configuration(self) -> None:
        """Write the configuration from what is remembered; a running server does not read it."""
        settings = self._store.find("settings")
        if settings is not None:
            self._write_configuration(base.Settings(**settings))

    def resize(
        self,
        *,
        memory_mib: int | None = None,
        vcpus: int | None = None,
        volume_size_gib: int | None = None,
    ) -> None:
        """Remember other sizes and write the configuration for them."""
        remembered = self._store.find("settings")
        if remembered is None:
            raise exception.GuestError(reason="there is no database on this instance yet")
        sizes = {"memory_mib": memory_mib, "vcpus": vcpus, "volume_size_gib": volume_size_gib}
        changed = {name: size for name, size in sizes.items() if size is not None}
        self.configure(base.Settings(**{**remembered, **changed}))

    def find_settings(self) -> base.Settings | None:
        """Return the settings, None before a database was made."""
        return self._find_settings("settings")

    def find_former_settings(self) -> base.Settings | None:
        """Return the settings from before a change that has not ended yet."""
        return self._find_settings("former_settings")

    def _find_settings(self, document: str) -> base.Settings | None:
        found = self._store.find(document)
        return base.Settings(**found) if found else None

    def remember_former_settings(self, settings: base.Settings | None) -> None:
        """Remember the settings from before a change; None once it has ended."""
        document = {} if settings is None else dataclasses.asdict(settings)
        if document or self._store.find("former_settings"):
            self._store.save("former_settings", document)

    def _write_configuration(self, settings: base.Settings) -> None:
        self.tls_store.link(self.tls_store.setting().set_id)
        text = self.render_configuration(settings)
        filesystem.ensure_file(self._config_file, text, mode=0o644)

    def check_port(self, port: int | None = None) -> None:
        """Raise GuestError when another program has the engine's port, or a further one of its."""
        environment = self._environment
        wanted = environment.port if port is None else port
        if not process.is_port_free(environment.bind_address, wanted):
            raise exception.GuestError(
                reason=f"port {wanted} of {environment.bind_address} is taken by"
                " another program: stop it, the database starts by itself then"
            )

    def certificate_request(self) -> str | None:
        """Return the request for a server certificate of this instance."""
        key = certificates.ensure_key(self._key_file, owner=self._layout.engine_user)
        return certificates.make_request(key, name=self._environment.instance_id)


def explain_end(return_code: int | None, errors: list[str]) -> str:
    """Return how a process ended, with the last of the errors that it wrote."""
    how = "The database ended unexpectedly"
    if return_code is not None and return_code < 0:
        how += f", killed by signal {-return_code}"
        if return_code == -9:
            how += " (by hand, or because memory ran out)"
    elif return_code:
        how += f" with code {return_code}"
    return f"{how}: {errors[-1][:300]}" if errors else f"{how}."
