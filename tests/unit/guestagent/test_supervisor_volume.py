"""Without its data volume an engine is not started, and the instance says why."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from tests.fixtures.waiting import wait_until
from trove import states
from trove.common import concurrency, exception
from trove.guestagent import state, supervisor, volume
from trove.guestagent.datastores import base
from trove.guestagent.system import process, users
from trove.rpc import payloads

VOLUME_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"


class Engine(base.Service):
    """A program that does nothing, on a data directory."""

    def __init__(self, layout: state.Layout) -> None:
        """Count starts."""
        self._layout = layout
        self.starts = 0

    @property
    def marker(self) -> str:
        return str(self._layout.state_dir / "marker")

    def is_installed(self) -> bool:
        return self._layout.data_dir.is_dir()

    def anticipate(self) -> None:
        """Nothing to do."""

    def install(self, job: payloads.PrepareJob) -> None:
        """Nothing to do."""

    def resize(self, **sizes: int | None) -> None:
        """Nothing to do."""

    def command(self) -> process.Command:
        self.starts += 1
        pathlib.Path(self.marker).touch()
        return process.Command(
            argv=("/usr/bin/tail", "-f", self.marker),
            marker=self.marker,
            user=users.current(),
            log=self._layout.log,
            directory=self._layout.state_dir,
        )

    def ping(self) -> str:
        return "1.0"

    def set_read_only(self, is_read_only: bool) -> None:
        """Nothing to do."""

    def explain_exit(self, return_code: int | None, log: str) -> str:
        return "ended"

    def certificate_request(self) -> str | None:
        return None

    def disconnect(self) -> None:
        """Nothing to do."""


class Volume(volume.DataVolume):
    """A volume that is attached when the test says so; it is a directory."""

    attached = False

    @property
    def is_ready(self) -> bool:
        return self.attached and self._mount_point.is_dir()

    def ensure(self, *, is_patient: bool = True) -> None:
        if not self.attached:
            raise exception.GuestError(reason="The data volume is not attached.")
        (self._mount_point / "data").mkdir(parents=True)


class Guest:
    """An instance that was prepared before and starts again."""

    def __init__(self, root: pathlib.Path, *, wanted: supervisor.Wanted | None) -> None:
        """Begin without the volume."""
        layout = state.Layout(
            state_dir=root / "state", mount_point=root / "data", engine_user=users.current()
        )
        layout.make_state()
        store = state.Store(layout)
        if wanted is not None:
            store.save("engine", {"wanted": str(wanted)})
        self.volume = Volume(
            layout.mount_point, volume_id=VOLUME_ID, store=store, must_hold_data=True
        )
        self.engine = Engine(layout)
        self.supervisor = supervisor.Supervisor(
            self.engine,
            layout=layout,
            store=store,
            clock=concurrency.SystemClock(),
            probe_interval_s=0.1,
            data_volume=self.volume,
        )


@pytest.fixture
def prepared(tmp_path: pathlib.Path) -> Iterator[Guest]:
    guest = Guest(tmp_path, wanted=supervisor.Wanted.RUNNING)
    guest.supervisor.start()
    yield guest
    guest.supervisor.ensure_stopped(10.0)
    guest.supervisor.close()


def test_engine_waits_for_its_volume_and_says_so(prepared: Guest) -> None:
    snapshot = prepared.supervisor.snapshot()
    assert snapshot.status is states.ServiceStatus.CRASHED
    assert snapshot.message == "The data volume is not attached."
    assert prepared.engine.starts == 0
    # it is tried again, with back-off, and goes on by itself
    prepared.volume.attached = True
    wait_until(lambda: prepared.supervisor.snapshot().status is states.ServiceStatus.HEALTHY)
    assert prepared.engine.starts == 1


@pytest.mark.parametrize(
    ("wanted", "status"),
    [(supervisor.Wanted.STOPPED, states.ServiceStatus.SHUTDOWN), (None, states.ServiceStatus.NEW)],
)
def test_database_that_is_away_is_not_taken_for_none(
    tmp_path: pathlib.Path, wanted: supervisor.Wanted | None, status: states.ServiceStatus
) -> None:
    guest = Guest(tmp_path, wanted=wanted)
    guest.supervisor.start()
    assert guest.supervisor.snapshot().status is status
    guest.supervisor.close()
