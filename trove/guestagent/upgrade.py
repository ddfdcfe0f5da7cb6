"""Installing another release of the agent: fetched, checked from end to end, then made ready.

Nothing of a bundle is executed, and nothing but the download is even stored, before its signature
is known to be right; nothing changes for the release that runs until the new one is complete.
"""

from __future__ import annotations

import hashlib
import pathlib
import platform
import shutil
import sys
import sysconfig
import venv
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from oslo_log import log

from trove.common import exception
from trove.guestagent import software as softwares
from trove.guestagent.system import filesystem, process
from trove.rpc import bundles, payloads
from trove.storage import base as storage
from trove.storage import factory

LOG = log.getLogger(__name__)

_CHUNK = 256 * 1024
_MOST_BYTES = 1024**3
_INSTALL_TIMEOUT_S = 900.0
_MAX_OUTPUT = 400


class Upgrader:
    """Installs releases for one guest."""

    def __init__(
        self,
        software: softwares.Software,
        *,
        version: str | None,
        public_keys: Sequence[str],
        open_grant: Callable[[str, Mapping[str, Any]], storage.Account] = factory.open_grant,
    ) -> None:
        """Take what is installed, the version that runs, and the keys that are trusted."""
        self._software = software
        self._version = version
        self._public_keys = tuple(public_keys)
        self._open_grant = open_grant

    def install(self, job: payloads.UpgradeAgentJob) -> bool:
        """Have a release ready to be started; False when it is the one that runs.

        Raises BundleError, GuestError, StorageError, OSError; then nothing has changed.
        """
        release = f"{job.version}-{job.sha256[:12]}"
        if release == self._software.find_own():
            return False
        if self._version is not None:
            bundles.check_step(self._version, job.version)
        filesystem.ensure_directory(self._software.root, mode=0o700)
        incoming = self._software.root / "incoming"
        shutil.rmtree(incoming, ignore_errors=True)
        incoming.mkdir(mode=0o700)
        try:
            bundle = incoming / "bundle"
            self._fetch(job, bundle)
            wheels = incoming / "wheels"
            wheels.mkdir()
            manifest = bundles.read(bundle, self._public_keys, into=wheels)
            _check_fit(manifest, job)
            bundle.unlink()
            self._make(release, manifest, wheels)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        self._software.begin_trial(release, limit_s=job.trial_s)
        self._prune()
        LOG.info("release %s of the agent is installed", release)
        return True

    def _fetch(self, job: payloads.UpgradeAgentJob, target: pathlib.Path) -> None:
        if not 0 < job.size_bytes <= _MOST_BYTES:
            raise bundles.BundleError(reason=f"it has {job.size_bytes} bytes")
        account = self._open_grant(job.kind, job.grant)
        digest = hashlib.sha256()
        left = job.size_bytes
        _, stream = account.open(job.container, job.name)
        with stream, target.open("wb") as file:
            while left >= 0 and (chunk := stream.read(_CHUNK)):
                left -= len(chunk)
                digest.update(chunk)
                file.write(chunk)
        if left != 0 or digest.hexdigest() != job.sha256:
            raise bundles.BundleError(reason="what was fetched is not the bundle that was meant")

    def _make(self, release: str, manifest: bundles.Manifest, wheels: pathlib.Path) -> None:
        """Make the directory of a release, complete or not at all."""
        made = self._software.releases / release
        filesystem.ensure_directory(self._software.releases, mode=0o700)
        shutil.rmtree(made, ignore_errors=True)
        try:
            venv.EnvBuilder(symlinks=True, with_pip=False).create(made)
            self._install_wheels(release, sorted(wheels.iterdir()))
            if manifest.shares_base:
                _share_base(made)
            filesystem.sync_file_system(made)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise

    def _install_wheels(self, release: str, wheels: Sequence[pathlib.Path]) -> None:
        """Run the bundle's own pip on the others, which needs no network."""
        pips = [wheel for wheel in wheels if wheel.name.startswith("pip-")]
        others = [wheel for wheel in wheels if wheel not in pips]
        if len(pips) != 1 or not others:
            raise bundles.BundleError(reason="it has not one pip, and something to install")
        python = str(self._software.python(release))
        options = [
            *("--no-index", "--no-deps", "--no-input", "--no-cache-dir", "--no-compile"),
            *("--quiet", "--no-warn-script-location", "--disable-pip-version-check"),
        ]
        argv = [python, "-I", f"{pips[0]}/pip", "install", *options, *map(str, others)]
        done = process.run(argv, timeout_s=_INSTALL_TIMEOUT_S)
        if done.return_code != 0:
            said = " ".join(done.output.split())[-_MAX_OUTPUT:]
            raise exception.GuestError(reason=f"the release cannot be installed: {said}")

    def _prune(self) -> None:
        """Remove releases that nobody goes back to."""
        trial = self._software.find_trial()
        kept = {self._software.find_current(), self._software.find_own()}
        kept |= {trial.before, trial.release} if trial is not None else set()
        for path in self._software.releases.iterdir():
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)


def _check_fit(manifest: bundles.Manifest, job: payloads.UpgradeAgentJob) -> None:
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    if manifest.version != job.version:
        raise bundles.BundleError(reason=f"it is {manifest.version}, not {job.version}")
    if manifest.python != own:
        raise bundles.BundleError(reason=f"it is for Python {manifest.python}; the guest has {own}")
    if manifest.machine not in (None, platform.machine()):
        raise bundles.BundleError(
            reason=f"it is for {manifest.machine}; the guest is {platform.machine()}"
        )


def _share_base(made: pathlib.Path) -> None:
    """Let a release import what the image has installed, behind its own."""
    base = softwares.base_prefix()
    inside = pathlib.Path(sysconfig.get_path("purelib", vars={"base": "", "platbase": ""}))
    target = made / inside.relative_to("/")
    shared = base / inside.relative_to("/")
    filesystem.write_file(target / "image.pth", f"{shared}\n", mode=0o600)
