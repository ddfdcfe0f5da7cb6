"""A release that must not be installed is refused, and nothing changes."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import shutil
import sys
from typing import Any

import pytest

from tests.fixtures.deaths import Death, dying, each_death
from tests.fixtures.wheels import make_bundle
from trove.common import exception
from trove.guestagent import software, upgrade
from trove.rpc import bundles, payloads
from trove.storage.filesystem import FilesystemStore

_KEY = bundles.generate_key()
_PUBLIC = bundles.public_key_of(bundles.load_key(_KEY))


@dataclasses.dataclass
class Guest:
    """A guest that may install a release, and a store with bundles."""

    directory: pathlib.Path
    public_keys: tuple[str, ...] = (_PUBLIC,)
    version: str = "4.0.0"

    @property
    def software(self) -> software.Software:
        """What is installed."""
        return software.Software(self.directory / "state")

    def job(self, version: str = "4.1.0", **options: Any) -> payloads.UpgradeAgentJob:
        """Have a bundle in the store, and return the job that installs it."""
        key = options.pop("key", _KEY)
        bundle = make_bundle(self.directory, version, key, **options)
        facts = bundles.facts_of(bundle)
        store = FilesystemStore(self.directory / "objects")
        store.account("s").put("b", "x", [bundle.read_bytes()])
        return payloads.UpgradeAgentJob(
            version=version,
            sha256=facts.sha256,
            size_bytes=facts.size_bytes,
            kind="filesystem",
            container="b",
            name="x",
            grant=dict(store.grant("s", container="b", prefix="x", is_read_only=True)),
        )

    def install(self, job: payloads.UpgradeAgentJob) -> bool:
        """Do what the job asks for."""
        upgrader = upgrade.Upgrader(
            self.software, version=self.version, public_keys=self.public_keys
        )
        return upgrader.install(job)


@pytest.fixture
def guest(tmp_path: pathlib.Path) -> Guest:
    (tmp_path / "state" / "agent").mkdir(parents=True)
    return Guest(tmp_path)


def _refused(guest: Guest, job: payloads.UpgradeAgentJob, match: str) -> None:
    with pytest.raises(exception.TroveError, match=match):
        guest.install(job)
    assert guest.software.find_current() is None
    assert guest.software.find_trial() is None
    left = [path for path in guest.software.root.rglob("*") if path.is_file()]
    assert left == []


def test_what_must_not_be_installed_is_refused_and_nothing_changes(guest: Guest) -> None:
    _refused(guest, guest.job(key=bundles.generate_key()), "signed by none")
    _refused(guest, guest.job("2.9.0"), "older")
    _refused(guest, guest.job(python="3.8"), "Python 3.8")
    _refused(guest, guest.job(machine="s390x"), "s390x")
    _refused(guest, dataclasses.replace(guest.job(), version="4.2.0"), "not 4.2.0")
    _refused(guest, dataclasses.replace(guest.job(), sha256="0" * 64), "not the bundle")
    job = guest.job()
    for size in (job.size_bytes - 1, job.size_bytes + 1, 0, 1 << 40):
        _refused(guest, dataclasses.replace(job, size_bytes=size), "refused")
    _refused(guest, dataclasses.replace(job, name="nothing"), "cannot be found")
    guest.public_keys = ()
    _refused(guest, job, "no key is trusted")


def test_release_is_complete_and_on_trial_when_it_is_current(guest: Guest) -> None:
    job = guest.job()
    assert guest.install(job)
    release = guest.software.find_current()
    assert release == f"4.1.0-{job.sha256[:12]}"
    assert guest.software.find_trial() == software.Trial(
        release=release, before=None, limit_s=job.trial_s
    )
    made = guest.software.releases / release
    (site,) = made.glob("lib/python*/site-packages")
    assert (site / "trove" / "guestagent" / "upgrade.py").exists()
    shared = (site / "image.pth").read_text().strip()
    assert pathlib.Path(shared) == pathlib.Path(sys.prefix) / site.relative_to(made)
    assert not (guest.software.root / "incoming").exists()
    assert made.stat().st_mode & 0o077 == 0 or guest.software.root.stat().st_mode & 0o077 == 0


def test_trial_ends_once_well_or_badly(tmp_path: pathlib.Path) -> None:
    made = software.Software(tmp_path)
    for release in ("a", "b"):
        python = made.python(release)
        python.parent.mkdir(parents=True)
        python.touch()
    made.begin_trial("a", limit_s=1)
    trial = made.find_trial()
    assert trial is not None
    # only the release itself can say that it runs
    assert not made.confirm()
    assert made.go_back(trial)
    assert made.find_current() is None
    assert not made.go_back(trial)
    made.begin_trial("a", limit_s=1)
    (made.root / "trial.json").unlink()
    made.begin_trial("b", limit_s=1)
    trial = made.find_trial()
    assert trial is not None
    assert trial.before == "a"
    assert made.go_back(trial)
    assert made.find_current() == "a"


def test_release_on_trial_gets_three_starts(tmp_path: pathlib.Path) -> None:
    made = software.Software(tmp_path)
    python = made.python("a")
    python.parent.mkdir(parents=True)
    python.touch()
    made.begin_trial("a", limit_s=1)
    for starts in (1, 2, 3):
        made.pause()
        trial = made._count_start()
        assert trial is not None
        assert trial.starts == starts
        assert not made.is_paused()
    assert made._count_start() is None
    assert made.find_current() is None
    # a trial whose release is not the current one was interrupted while it began
    made.begin_trial("a", limit_s=1)
    (made.root / "current").unlink()
    assert made._count_start() is None
    assert made.find_trial() is None


def test_state_directory_is_the_one_that_the_agent_will_use(tmp_path: pathlib.Path) -> None:
    files = [tmp_path / "guest.conf", tmp_path / "local.conf"]
    files[0].write_text("[guestagent]\nstate_dir = /first\npassword = 100%(x)s\n")
    files[1].write_text("[guestagent]\nstate_dir = /a$$b\n[guestagent]\nport = 1\n")
    args = [part for file in files for part in ("--config-file", str(file))]
    assert software.state_dir_of(args) == pathlib.Path("/a$b")
    assert software.state_dir_of(args[:2]) == pathlib.Path("/first")
    missing = ["--config-file", str(tmp_path / "none")]
    assert software.state_dir_of(missing) == pathlib.Path("/var/lib/trove-guestagent")


@pytest.mark.parametrize("before", [None, "b"])
def test_going_back_survives_a_death_anywhere(tmp_path: pathlib.Path, before: str | None) -> None:
    def once(die_at: int) -> bool:
        made = software.Software(tmp_path / str(die_at))
        for release in ("a", "b"):
            made.python(release).parent.mkdir(parents=True)
            made.python(release).touch()
        if before is not None:
            made.begin_trial(before, limit_s=1)
            (made.root / "trial.json").unlink()
        made.begin_trial("a", limit_s=1)
        trial = made.find_trial()
        assert trial is not None
        with dying(die_at) as deaths, contextlib.suppress(Death):
            made.go_back(trial)
        # the watcher died: the image's agent is what starts next
        trial = made._count_start()
        if trial is not None:
            assert (die_at, trial.release, made.find_current()) == (1, "a", "a")
            made.go_back(trial)
        assert made.find_current() == before
        # nothing keeps the release from another trial
        made.begin_trial("a", limit_s=1)
        (made.root / "trial.json").unlink()
        assert made._count_start() is None
        assert made.find_current() == "a"
        return deaths.is_dead

    assert each_death(once) >= 2


def test_installing_a_release_survives_a_death_anywhere(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = guest.job()
    release = f"4.1.0-{job.sha256[:12]}"

    def make(self: upgrade.Upgrader, name: str, *_: Any) -> None:
        python = self._software.python(name)
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch()

    # what makes the directory begins with removing it
    monkeypatch.setattr(upgrade.Upgrader, "_make", make)

    def once(die_at: int) -> bool:
        shutil.rmtree(guest.software.root, ignore_errors=True)
        with dying(die_at) as deaths, contextlib.suppress(Death):
            guest.install(job)
        trial = guest.software._count_start()
        is_current = guest.software.find_current() == release
        assert is_current == (trial is not None)
        if is_current:
            # it is the release on trial that does the job again, for which nothing is left to do
            monkeypatch.setattr(software.Software, "find_own", lambda self: release)
            assert not guest.install(job)
            assert guest.software.confirm()
            monkeypatch.undo()
            monkeypatch.setattr(upgrade.Upgrader, "_make", make)
        else:
            assert guest.install(job)
        assert guest.software.find_current() == release
        left = guest.software.find_trial()
        assert left is None or left.before is None
        return deaths.is_dead

    assert each_death(once) >= 4
