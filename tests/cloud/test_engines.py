"""Other engines than MariaDB on a real cloud: they answer, are backed up and restored.

``TROVE_TEST_IMAGES`` is a directory with their images, as ``tools/build-image.sh`` makes them.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator

import pytest

from tests.fixtures.on_cloud import IMAGES_VARIABLE, CloudService, NetworkHost
from tests.fixtures.sessions import DATABASE, TENANTS, USER, Login, Refused, Tenant
from tests.fixtures.stack import CommandFailed
from tests.fixtures.waiting import wait_until
from trove.datastores.spec import Capability, registry

PASSWORD = "s3cret-of-ann"
#: An emulated server is slow at this.
WORK_S = 600.0
#: Statements that lose what was kept.
LOSE = {"postgresql": "DROP TABLE kept", "redis": "DEL greeting"}
#: The time of the server, with room before and behind it for what it is to tell apart.
_MOMENT = """
SELECT pg_sleep(2); SELECT to_char(clock_timestamp() AT TIME ZONE 'utc',
'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'); SELECT pg_sleep(2)
"""


class Engine:
    """An instance of an engine and its user."""

    def __init__(self, service: CloudService, host: NetworkHost, datastore: str) -> None:
        """Make the instance and wait until it is there."""
        self.service = service
        self.host = host
        self.datastore = datastore
        self.tenant: Tenant = TENANTS[datastore]
        self.id = service.create(
            f"a-{datastore}",
            *("--users", f"{USER}:{PASSWORD}"),
            *(("--databases", DATABASE) if self.tenant.has_databases else ()),
            datastore=datastore,
        )
        service.wait_ready(self.id, timeout_s=WORK_S)

    def ask(self, statement: str) -> str:
        """Ask by the engine's own client, which verifies the certificate; raises Refused."""
        shown = self.service.show(self.id)
        address = next(a["address"] for a in shown["addresses"] if a["type"] == "private")
        login = Login(
            address=str(address),
            user=USER,
            password=PASSWORD,
            ca=str(self.service.state_dir / "ca.pem"),
        )
        argv, environment = self.tenant.connect(login)
        variables = (f"{name}={value}" for name, value in environment.items())
        try:
            said = self.host.run("env", *variables, *argv, *self.tenant.arguments(statement))
        except CommandFailed as e:
            raise Refused(str(e)) from e
        if said.startswith(self.tenant.errors or ("\0",)):
            raise Refused(said)
        return said.strip()

    def has(self, word: str) -> bool:
        """Tell whether a word is kept."""
        try:
            return word in self.ask(self.tenant.read)
        except Refused:
            return False


@pytest.fixture(params=sorted(LOSE))
def engine(
    request: pytest.FixtureRequest, service: CloudService, host: NetworkHost
) -> Iterator[Engine]:
    """Give a running instance of an engine whose image there is."""
    datastore = str(request.param)
    image = pathlib.Path(os.environ.get(IMAGES_VARIABLE, "/nonexistent"), f"{datastore}.qcow2")
    described = image.with_name(f"{image.name}.json")
    if not (image.exists() and described.exists()):
        pytest.skip(f"{IMAGES_VARIABLE} has no image of {datastore} with what is said of it")
    if shutil.which(TENANTS[datastore].program) is None:
        pytest.skip(f"{TENANTS[datastore].program} is not installed")
    version = json.loads(described.read_text())["version"]
    service.import_image(version, "--default", datastore=datastore, file=str(image))
    made = Engine(service, host, datastore)
    yield made
    service.delete(made.id)


def test_an_engine_answers_and_is_restored(engine: Engine) -> None:
    service = engine.service
    word = f"word-{uuid.uuid4().hex[:8]}"
    engine.ask(engine.tenant.write.format(value=word))
    backup = service.openstack(
        *("database", "backup", "create", "only", "--instance", engine.id, "-f", "json")
    )["id"]
    service.wait_operations(engine.id, timeout_s=WORK_S)
    shown = service.openstack("database", "backup", "proof", "show", backup, "-f", "json")
    assert shown["status"] == "COMPLETED", shown
    service.wait_ready(engine.id)
    point = ("--backup", backup)
    if Capability.POINT_IN_TIME in registry()[engine.datastore].capabilities:
        # only the log has it
        word = f"later-{uuid.uuid4().hex[:8]}"
        engine.ask(engine.tenant.write.format(value=word))
        point = ("--time", engine.ask(_MOMENT).strip())
    engine.ask(LOSE[engine.datastore])
    assert not engine.has(word)
    service.openstack("database", "instance", "restore", engine.id, *point)
    service.wait_operations(engine.id, timeout_s=WORK_S)
    assert "fault" not in service.wait_ready(engine.id)
    assert engine.has(word)
    service.openstack("database", "backup", "delete", backup)
    wait_until(
        lambda: (
            not [
                item
                for item in service.user.object_store.objects("database_backups")
                if engine.id in item.name
            ]
        ),
        timeout_s=180,
        interval_s=2,
        what="no objects",
    )
