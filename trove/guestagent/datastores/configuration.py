"""A change of the configuration: tried, written, told to the running engine, or taken back.

New values are tried before anything is written, then the file is written, then the running engine
is told the dynamic ones. What is refused anywhere leaves file and engine as they were. The settings
from before the change are remembered until it has ended, so that an agent that dies in between
compares with them when it does the job again.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from typing import Protocol

from trove.common import exception
from trove.datastores import spec as datastore_spec
from trove.guestagent.datastores import base
from trove.rpc import payloads


class ConfiguredServer(Protocol):
    """What is asked of the engine's files."""

    def find_settings(self) -> base.Settings | None:
        """Return the settings, None before a database was made."""

    def find_former_settings(self) -> base.Settings | None:
        """Return the settings from before a change that has not ended yet."""

    def remember_former_settings(self, settings: base.Settings | None) -> None:
        """Remember the settings from before a change; None once it has ended."""

    def configure(self, settings: base.Settings) -> None:
        """Remember the settings and write the engine's configuration from them."""


class CarefulConfiguration(base.Configuration):
    """Configuration that is changed whole or not at all."""

    capabilities = frozenset({datastore_spec.Capability.CONFIGURATION})

    def __init__(self, server: ConfiguredServer) -> None:
        """Take the engine's files."""
        self._files = server

    @abc.abstractmethod
    def check(self, settings: base.Settings) -> None:
        """Raise ConfigurationRefused unless the engine could start with settings."""

    @abc.abstractmethod
    def tell(self, old: base.Settings, new: base.Settings) -> bool:
        """Give a running engine what differs and is dynamic; tell whether it must restart.

        Raises ConfigurationRefused, GuestError; what was set already is set back then.
        """

    def configure(self, job: payloads.ConfigureJob, *, is_running: bool) -> bool:
        """Write the configuration and tell a running server; tell whether it must restart.

        Raises ConfigurationRefused, GuestError, OSError; everything is as it was then.
        """
        current = self._files.find_settings()
        if current is None:
            raise exception.GuestError(reason="there is no database on this instance yet")
        old = self._files.find_former_settings() or current
        new = dataclasses.replace(
            old,
            memory_mib=job.memory_mib,
            vcpus=job.vcpus,
            volume_size_gib=job.volume_size_gib,
            overrides=dict(job.overrides),
        )
        self.check(new)
        self._files.remember_former_settings(old)
        restart_required = False
        try:
            self._files.configure(new)
            if is_running and job.is_live:
                restart_required = self.tell(old, new)
        except (exception.GuestError, OSError):
            with contextlib.suppress(OSError):
                self._files.configure(old)
                self._files.remember_former_settings(None)
            raise
        self._files.remember_former_settings(None)
        return restart_required
