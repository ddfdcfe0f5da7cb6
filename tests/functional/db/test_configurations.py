"""Configuration groups under races and in pages, on every backend."""

from __future__ import annotations

import concurrent.futures
import datetime
from typing import Any

import pytest
import sqlalchemy as sa

from tests.fixtures.configurations import make_configurations
from tests.fixtures.control_plane import PROJECT, ControlPlane
from tests.fixtures.database import NOW, add_instance, add_version
from trove import states
from trove.common import context, exception
from trove.db import base, configurations, models
from trove.services.configurations import Configurations, NewGroup
from trove.services.datastores import VersionChoice

CALLER = context.RequestContext(project_id=PROJECT, user_id="u", overwrite=False)


@pytest.fixture
def version_id(database: base.Database) -> str:
    return add_version(database)


def add_group(database: base.Database, version_id: str, *, project: str = PROJECT) -> str:
    with database.writer() as session:
        return configurations.add_group(
            session,
            project_id=project,
            name="group",
            description=None,
            datastore_version_id=version_id,
            values={"wait_timeout": 1},
            digest="d",
            now=NOW,
        )


def change(database: base.Database, instance_id: str, **values: object) -> None:
    with database.writer() as session:
        session.execute(
            sa.update(models.Instance).where(models.Instance.id == instance_id).values(**values)
        )


def test_groups_are_read_with_their_version_and_by_project(
    database: base.Database, version_id: str
) -> None:
    ours, theirs = add_group(database, version_id), add_group(database, version_id, project="b")
    with database.reader() as session:
        group = configurations.find_group(session, ours, project_id=PROJECT)
        assert group is not None
        assert group.values == {"wait_timeout": 1}
        assert group.manager == "mariadb"
        assert configurations.find_group(session, theirs, project_id=PROJECT) is None
        assert configurations.find_group(session, theirs, project_id=None) is not None
        every, more = configurations.list_groups(session, project_id=None, limit=1, marker=None)
        assert more
        rest, more = configurations.list_groups(
            session, project_id=None, limit=1, marker=every[0].id
        )
        assert not more
    assert {every[0].id, rest[0].id} == {ours, theirs}


def test_a_deleted_group_is_gone_for_everybody(database: base.Database, version_id: str) -> None:
    group_id = add_group(database, version_id)
    with database.writer() as session:
        assert configurations.mark_deleted(session, group_id, now=NOW)
    with database.writer() as session:
        assert not configurations.mark_deleted(session, group_id, now=NOW)
        assert not configurations.hold(session, group_id)
        assert not configurations.update_group(session, group_id, now=NOW, name="x")
        assert configurations.find_group(session, group_id, project_id=None) is None


def test_due_are_idle_instances_whose_values_may_differ_and_who_were_heard(
    database: base.Database, version_id: str
) -> None:
    group_id = add_group(database, version_id)
    due = {
        "task": states.TaskStatus.NONE,
        "server_status": states.ServerStatus.ACTIVE,
        "configuration_id": group_id,
        "is_configuration_due": True,
    }
    rows: dict[str, dict[str, object]] = {
        "changed": {},
        "waits": {"task": states.TaskStatus.RESTART_REQUIRED},
        "detached": {"configuration_id": None, "configuration_digest": "d"},
        "right": {"configuration_digest": "d"},
        "done": {"is_configuration_due": False},
        "busy": {"task": states.TaskStatus.RESIZING},
        "off": {"server_status": states.ServerStatus.SHUTOFF},
        "gone": {"is_deleted": True},
    }
    ids = {}
    for name, values in rows.items():
        ids[add_instance(database, version_id)] = name
        change(database, list(ids)[-1], **{**due, **values})

    def look(since: datetime.datetime, **options: Any) -> dict[str, tuple[str | None, str | None]]:
        with database.reader() as session:
            found = configurations.list_due(session, heard_since=since, limit=10, **options)
        return {ids[each.instance_id]: (each.wanted, each.confirmed) for each in found}

    of_group = {"changed": ("d", None), "waits": ("d", None), "right": ("d", "d")}
    assert look(NOW) == {**of_group, "detached": (None, "d")}
    assert look(NOW + datetime.timedelta(seconds=1)) == {}
    assert look(NOW, configuration_id=group_id) == of_group
    (first, *others) = look(NOW)
    after = next(instance_id for instance_id, name in ids.items() if name == first)
    assert list(look(NOW, after=after)) == others

    def settle(name: str) -> bool:
        instance_id = next(each for each, known in ids.items() if known == name)
        with database.writer() as session:
            return configurations.settle(session, instance_id)

    assert settle("right")
    assert not settle("changed")
    assert not settle("detached")
    assert set(look(NOW)) == {"changed", "waits", "detached"}


def test_new_values_make_the_instances_of_their_group_due(
    database: base.Database, version_id: str
) -> None:
    group_id = add_group(database, version_id)
    attached, other = (add_instance(database, version_id) for _ in range(2))
    change(database, attached, configuration_id=group_id)
    with database.writer() as session:
        configurations.replace_values(session, group_id, {"a": 1}, digest="e", now=NOW)
    with database.reader() as session:
        group = configurations.find_group(session, group_id, project_id=None)
        assert group is not None
        assert (group.values, group.digest) == ({"a": 1}, "e")
        assert session.get(models.Instance, attached).is_configuration_due  # type: ignore[union-attr]
        assert not session.get(models.Instance, other).is_configuration_due  # type: ignore[union-attr]


def test_what_an_operator_writes_of_a_parameter_is_written_over(
    database: base.Database, version_id: str
) -> None:
    overlay = configurations.Overlay(
        name="new",
        data_type="integer",
        restart_required=True,
        minimum="0",
        maximum=str(2**64),
        is_deleted=False,
    )
    for row in (overlay, overlay._replace(is_deleted=True), overlay):
        with database.writer() as session:
            configurations.save_overlay(session, version_id, row, now=NOW)
        with database.reader() as session:
            assert configurations.list_overlays(session, version_id) == [row]


# -- races -----


def new_group(plane: ControlPlane, service: Configurations) -> str:
    version = VersionChoice(version=plane.version_id)
    return service.create(CALLER, NewGroup(name="g", version=version, values={})).group.id


def test_no_instance_is_left_with_a_deleted_group(database: base.Database) -> None:
    plane = ControlPlane(database)
    service = make_configurations(plane)
    for _ in range(8):
        group_id = new_group(plane, service)
        instance_id = add_instance(database, plane.version_id, now=plane.clock.now())
        change(
            database,
            instance_id,
            project_id=PROJECT,
            task=states.TaskStatus.NONE,
            server_status=states.ServerStatus.ACTIVE,
            server_id="s",
        )
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            attached = pool.submit(service.attach, CALLER, instance_id, group_id)
            deleted = pool.submit(service.delete, CALLER, group_id)
            errors = [attached.exception(), deleted.exception()]
        assert sum(error is None for error in errors) == 1, errors
        with database.reader() as session:
            instance = session.get(models.Instance, instance_id)
            assert instance is not None
            is_live = configurations.find_group(session, group_id, project_id=None) is not None
            assert (instance.configuration_id is not None) == is_live
        if errors[0] is not None:
            assert isinstance(errors[0], exception.ConfigurationNotFound)
        else:
            assert isinstance(errors[1], exception.BadRequest)


def test_merges_at_once_forget_nobodys_values(database: base.Database) -> None:
    plane = ControlPlane(database)
    service = make_configurations(plane)
    group_id = new_group(plane, service)
    names = ["wait_timeout", "max_connections", "interactive_timeout", "net_read_timeout"]
    with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: service.merge(CALLER, group_id, {name: 100}), names))
    found = service.get(CALLER, group_id).group
    assert found.values == dict.fromkeys(names, 100)
