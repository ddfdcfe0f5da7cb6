"""What is told of each kind of operation: its word, its steps, its events and notifications.

Data only: the API shows "step n of m" without knowing the flows, and what has been written of an
operation is the same wherever it ends. A kind that is missing here is told of by its own name,
without steps. ``tests/unit/db/test_operation_kinds.py`` holds it against the flows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of operation.

    ``word`` is what clients see. ``event`` is the name in ``dbaas.<event>.start``, ``traits`` are
    what the start tells besides: trait -> key of the operation's data. ``life_cycle`` is the name
    in ``trove.instance.<life_cycle>``, sent when it has succeeded. ``feed`` is what the types of
    its events begin with, by default ``<resource>.<word>``; they are of a ``resource``: by default
    the one that the operation works on, else the one that ``resource_key`` of its data names. An
    internal one is shown to administrators only and told of to nobody.
    """

    word: str
    steps: tuple[str, ...] = ()
    event: str | None = None
    traits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    life_cycle: str | None = None
    feed: str | None = None
    resource: str = "instance"
    resource_key: str | None = None
    changes_quota: bool = False
    is_internal: bool = False


#: By the kind's name in :mod:`trove.db.operations`.
KINDS: Mapping[str, Kind] = {
    "create_instance": Kind(
        word="create",
        steps=(
            "create_port",
            "create_name",
            "create_volume",
            "create_server",
            "await_server",
            "await_agent",
            "secure_channel",
            "await_archive",
            "prepare",
            "remove_first_account",
            "activate",
        ),
        event="instance_create",
        life_cycle="create",
        changes_quota=True,
    ),
    "delete_instance": Kind(
        word="delete",
        steps=(
            "supersede",
            "stop_guest",
            "delete_server",
            "delete_volume",
            "delete_name",
            "delete_port",
            "release_secret",
            "finalize",
        ),
        event="instance_delete",
        life_cycle="delete",
        changes_quota=True,
    ),
    "restart_instance": Kind(
        word="restart", steps=("restart_engine", "finish"), event="instance_restart"
    ),
    "resize_flavor": Kind(
        word="resize_flavor",
        steps=("stop_engine", "resize_server", "start_engine", "confirm_resize", "finish"),
        event="instance_resize_instance",
        traits={"new_flavor_id": "flavor_id"},
        life_cycle="modify_flavor",
        changes_quota=True,
    ),
    "resize_volume": Kind(
        word="resize_volume",
        steps=(
            "stop_engine",
            "unmount",
            "detach_volume",
            "extend_volume",
            "record_size",
            "attach_volume",
            "mount",
            "tell_guest",
            "finish",
        ),
        event="instance_resize_volume",
        traits={"new_size": "size_gib"},
        changes_quota=True,
    ),
    "update_access": Kind(word="update_access", steps=("update_access", "update_name", "finish")),
    "upgrade_instance": Kind(
        word="upgrade",
        steps=(
            "check_image",
            "check_upgrade",
            "stop_guest",
            "remove_server",
            "make_server",
            "await_agent",
            "secure_channel",
            "upgrade_data",
            "prepare",
            "record_version",
            "remove_first_account",
            "commit_upgrade",
            "finish",
        ),
        event="upgrade",
        traits={"datastore_version_id": "version_id"},
    ),
    "rebuild_instance": Kind(
        word="rebuild",
        steps=(
            "check_image",
            "stop_guest",
            "remove_server",
            "make_server",
            "await_agent",
            "secure_channel",
            "prepare",
            "remove_first_account",
            "finish",
        ),
    ),
    "migrate_instance": Kind(
        word="migrate",
        steps=("migrate_server", "start_engine", "finish"),
        event="migrate",
        traits={"host": "host"},
    ),
    "reboot_instance": Kind(
        word="reboot",
        steps=("note_start", "reboot_server", "start_engine", "finish"),
        event="instance_reboot",
    ),
    "stop_database": Kind(word="stop", steps=("stop_engine", "finish")),
    "recover_instance": Kind(word="recover", steps=("start_server", "await_agent", "finish")),
    "configure_instance": Kind(word="configure", steps=("configure", "finish")),
    "update_ssl": Kind(
        word="update_ssl",
        steps=("register_consumer", "install", "release_former", "finish"),
    ),
    "create_backup": Kind(
        word="backup",
        steps=("choose_place", "start_archive", "run_backup", "check_stored", "complete"),
        event="backup_create",
        traits={"name": "name", "description": "description", "parent_id": "parent_id"},
        feed="backup.create",
        resource="backup",
        resource_key="backup_id",
        changes_quota=True,
    ),
    "snapshot_backup": Kind(
        word="backup",
        steps=("freeze", "make_snapshot", "thaw", "complete"),
        event="backup_create",
        traits={"name": "name", "description": "description", "parent_id": "parent_id"},
        feed="backup.create",
        resource="backup",
        resource_key="backup_id",
        changes_quota=True,
    ),
    "delete_backup": Kind(
        word="delete",
        steps=("await_end", "remove"),
        event="backup_delete",
        resource="backup",
        changes_quota=True,
    ),
    "discard_backup": Kind(word="discard", steps=("remove_objects",), is_internal=True),
    "restore_instance": Kind(
        word="restore",
        steps=(
            "await_backup",
            "await_archive",
            "restore",
            "await_engine",
            "record_restored",
            "commit",
            "finish",
        ),
        event="instance_restore",
    ),
    "restore_snapshot": Kind(
        word="restore",
        steps=(
            "await_backup",
            "check_image",
            "make_volume",
            "stop_guest",
            "remove_server",
            "swap_volumes",
            "make_server",
            "await_agent",
            "secure_channel",
            "prepare",
            "await_engine",
            "record_restored",
            "remove_first_account",
            "remove_former",
            "finish",
        ),
        event="instance_restore",
    ),
    "verify_backup": Kind(word="verify_backup", steps=("verify", "record"), is_internal=True),
    "verify_on_server": Kind(
        word="verify_on_server",
        steps=(
            "add_server",
            "create_port",
            "create_volume",
            "create_server",
            "await_server",
            "await_agent",
            "secure_channel",
            "verify",
            "record",
            "delete_server",
            "delete_volume",
            "delete_port",
            "forget_server",
        ),
        is_internal=True,
    ),
    "verify_on_host": Kind(
        word="verify_on_host",
        steps=(
            "choose_host",
            "add_row",
            "start_agent",
            "await_agent",
            "secure_channel",
            "verify",
            "record",
            "remove",
            "forget_server",
        ),
        is_internal=True,
    ),
    "stop_archive": Kind(word="stop_archive", steps=("stop_archive",), is_internal=True),
    "upgrade_agent": Kind(
        word="upgrade_agent", steps=("install_release", "await_release"), is_internal=True
    ),
    "reapply_module": Kind(word="reapply", steps=("reapply",), is_internal=True),
    "cleanup": Kind(word="cleanup", steps=("delete_orphan",), is_internal=True),
    "audit": Kind(word="audit", steps=("tell_of_instances",), is_internal=True),
}


def of(name: str) -> Kind:
    """Return what is told of a kind; of one that is not in the table, its name."""
    return KINDS.get(name) or Kind(word=name.removesuffix("_instance"))
