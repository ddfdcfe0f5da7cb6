"""A database full of instances, as they stand after months of use."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import pathlib
import uuid
from collections.abc import Iterator

import harness  # noqa: F401 - makes the source tree importable
import sqlalchemy as sa

from trove import states
from trove.common import crypto
from trove.db import base, migrations, models

PROJECT = "5f0d2f6e4f5b4c0a9d7f3f6f1c2b3a49"
_BATCH = 5000
#: Tag of every so many instances.
TAG = "canary"
_TAG_EVERY = 500


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """What was stored: the instances of PROJECT and how they can be sealed for."""

    instance_ids: tuple[str, ...]
    keys: dict[str, bytes] = dataclasses.field(repr=False)


@contextlib.contextmanager
def backend(directory: pathlib.Path, *, use_mariadb: bool) -> Iterator[str]:
    """Give the URL of an empty SQL backend with the newest schema; ended with the context."""
    with contextlib.ExitStack() as stack:
        if use_mariadb:
            from tests.fixtures import database as fixture

            server = fixture.MariaDb()
            stack.callback(server.stop)
            url = server.url(server.create_database())
        else:
            url = f"sqlite:///{directory / 'trove.db'}"
        database = base.Database(url)
        migrations.upgrade(database)
        database.dispose()
        yield url


def fill(url: str, rows: int, *, ring: crypto.KeyRing | None = None) -> Dataset:
    """Store ``rows`` live, healthy instances of one project.

    With ``ring`` each gets its own key, wrapped as the service does; else the rows share bytes
    that nobody unwraps.
    """
    database = base.Database(url)
    now = datetime.datetime.now(datetime.UTC)
    datastore_id, version_id = models.new_id(), models.new_id()
    with database.writer() as session:
        datastore = models.Datastore(
            id=datastore_id,
            name="mariadb",
            default_version_id=version_id,
            created=now,
            updated=now,
        )
        datastore.versions = [
            models.DatastoreVersion(
                id=version_id,
                datastore_id=datastore_id,
                name="10.11",
                version="10.11",
                manager="mariadb",
                image_id=str(uuid.uuid4()),
                created=now,
                updated=now,
            )
        ]
        session.add(datastore)
    ids = tuple(sorted(models.new_id() for _ in range(rows)))
    keys = {}
    for start in range(0, rows, _BATCH):
        instances, heartbeats = [], []
        for number, instance_id in enumerate(ids[start : start + _BATCH], start):
            wrapped = b"-" * 60
            if ring is not None:
                keys[instance_id] = crypto.generate_key()
                wrapped = ring.wrap(keys[instance_id], purpose=f"instance-key:{instance_id}")
            instances.append(
                {
                    "id": instance_id,
                    "project_id": PROJECT,
                    "user_id": "bench",
                    "name": f"instance-{number}",
                    "datastore_version_id": version_id,
                    "flavor_id": "1",
                    "flavor_ram_mib": 256,
                    "volume_size_gib": 2,
                    "region": "RegionOne",
                    "access": {"is_public": False},
                    "addresses": [
                        {
                            "address": f"127.64.{number // 250 % 250}.{number % 250 + 1}",
                            "type": "private",
                            "network": "local",
                        }
                    ],
                    "task": states.TaskStatus.NONE,
                    "server_status": states.ServerStatus.ACTIVE,
                    "server_id": str(uuid.uuid4()),
                    "key_wrapped": wrapped,
                    "root_enabled": False,
                    "created": now - datetime.timedelta(minutes=rows - number),
                    "updated": now,
                    "is_deleted": False,
                }
            )
            heartbeats.append(
                {
                    "instance_id": instance_id,
                    "boot": 1,
                    "sequence": 0,
                    "service_status": states.ServiceStatus.HEALTHY,
                    # fresh for the whole run, so that operating_status is computed as usual
                    "received": now + datetime.timedelta(hours=1),
                    "engine_version": "10.11",
                    "disk_used_bytes": 200 * 2**20,
                    "disk_total_bytes": 2 * 2**30,
                }
            )
        with database.writer() as session:
            session.execute(sa.insert(models.Instance), instances)
            session.execute(sa.insert(models.InstanceHeartbeat), heartbeats)
            tagged = [row["id"] for row in instances[::_TAG_EVERY]]
            session.execute(
                sa.insert(models.InstanceTag),
                [{"tag": TAG, "instance_id": each} for each in tagged],
            )
    database.dispose()
    return Dataset(instance_ids=ids, keys=keys)
