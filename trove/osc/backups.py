"""``openstack database backup`` and ``openstack database instance``: proofs, restores, ends."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from osc_lib import exceptions
from osc_lib.command import command

from trove.osc.api import DatabaseApi


def _add_instance(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("instance", metavar="<instance>", help="Instance (name or ID)")


def _add_backup(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("backup", metavar="<backup>", help="Backup (name or ID)")


def _add_point(parser: argparse.ArgumentParser) -> None:
    """Add the options that say up to where a log is followed."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--time",
        metavar="<time>",
        help='As it was at a time, like 2026-05-01T12:00:00Z (UTC without a zone), or "now"',
    )
    group.add_argument(
        "--position",
        metavar="<position>",
        help="Up to a position of the engine's log, like a GTID or an LSN; needs --backup",
    )
    group.add_argument(
        "--point", metavar="<name>", help="Up to a named point of the log; needs --backup"
    )


def _point(api: DatabaseApi, parsed_args: argparse.Namespace) -> dict[str, Any]:
    """Return what was given as a restore point."""
    point: dict[str, Any] = {}
    if parsed_args.backup is not None:
        point["backupRef"] = api.find_backup_id(parsed_args.backup)
    elif parsed_args.position is not None or parsed_args.point is not None:
        raise exceptions.CommandError("--position and --point need the --backup they come after.")
    for key, name in (("time", "time"), ("position", "position"), ("name", "point")):
        if getattr(parsed_args, name) is not None:
            point[key] = getattr(parsed_args, name)
    return point


def _add_place(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what a new instance is otherwise."""
    parser.add_argument("--flavor", metavar="<flavor>", help="Another flavor (name or ID)")
    parser.add_argument(
        "--size", metavar="<size>", type=int, help="Another size of the volume, GiB"
    )
    parser.add_argument(
        "--network", metavar="<network-id>", help="Network that the instance is attached to"
    )
    parser.add_argument(
        "--subnet", metavar="<subnet-id>", help="Subnet that the instance is attached to"
    )


def _place(api: DatabaseApi, parsed_args: argparse.Namespace) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if parsed_args.flavor is not None:
        values["flavorRef"] = api.find_flavor_id(parsed_args.flavor)
    if parsed_args.size is not None:
        values["volume"] = {"size": parsed_args.size}
    nic = {"network_id": parsed_args.network, "subnet_id": parsed_args.subnet}
    if any(nic.values()):
        values["nics"] = [{key: value for key, value in nic.items() if value}]
    return values


def _columns(shown: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[Any]]:
    names = sorted(shown)
    return names, [shown[name] for name in names]


def _instance_columns(instance: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[Any]]:
    """Return what there is to say of an instance that is being made."""
    datastore = instance["datastore"]
    return _columns(
        {
            "id": instance["id"],
            "name": instance["name"],
            "status": instance["status"],
            "datastore": datastore["type"],
            "datastore_version": datastore["version"],
            "flavor": instance["flavor"]["id"],
            "created": instance["created"],
        }
    )


class VerifyBackups(command.Command):
    """Prove backups: restore them beside their database and have the engine check the result."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("backup", metavar="<backup>", nargs="+", help="Backup (name or ID)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Begin the proofs; ``backup proof show`` tells what came of one."""
        api = DatabaseApi(self.app.client_manager)
        for backup in parsed_args.backup:
            api.act_on_backup(api.find_backup_id(backup), "verify", {})


class ShowProof(command.ShowOne):
    """Show how far a backup is, whether it is proven, and how long it is kept."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_backup(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Return names and values."""
        api = DatabaseApi(self.app.client_manager)
        backup = api.get_backup(api.find_backup_id(parsed_args.backup))
        progress = backup.get("progress") or {}
        return _columns(
            {
                "id": backup["id"],
                "status": backup["status"],
                "type": backup["type"],
                "purpose": backup["purpose"],
                "schedule_id": backup["schedule_id"],
                "engine_version": backup["engine_version"],
                "data_bytes": backup["data_bytes"],
                "stored_bytes": backup["stored_bytes"],
                "completed_at": backup.get("completed_at"),
                "expires_at": backup.get("expires_at"),
                "verification": backup["verification"]["status"],
                "verified_at": backup["verification"]["verified_at"],
                "findings": json.dumps(backup["verification"].get("details", {}), sort_keys=True),
                "percent": progress.get("percent"),
                "estimated_end": progress.get("estimated_end"),
                "fault": backup.get("fault"),
            }
        )


class CancelBackups(command.Command):
    """Cancel backups that are being made; nothing is left of them."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("backup", metavar="<backup>", nargs="+", help="Backup (name or ID)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Cancel those that run; others are no mistake of this command to delete."""
        api = DatabaseApi(self.app.client_manager)
        for backup in parsed_args.backup:
            backup_id = api.find_backup_id(backup)
            status = api.get_backup(backup_id)["status"]
            if status not in ("NEW", "BUILDING", "SAVING"):
                raise exceptions.CommandError(f"Backup {backup} is {status}: it is not being made.")
            api.cancel_backup(backup_id)


class RestoreInstance(command.Command):
    """Put a restored database in the place of the one there is.

    The former one is kept until the restored one runs. Without --backup it is the instance itself
    as it was at --time.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_instance(parser)
        parser.add_argument("--backup", metavar="<backup>", help="Backup (name or ID)")
        _add_point(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Begin to restore."""
        api = DatabaseApi(self.app.client_manager)
        point = _point(api, parsed_args)
        if not point:
            raise exceptions.CommandError("Give a --backup, or a --time.")
        api.act_on_instance(api.find_instance_id(parsed_args.instance), "restore", point)


class CloneInstance(command.ShowOne):
    """Create an instance with what another one had at a time, by default now.

    It has the other's flavor and volume size unless said otherwise.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_instance(parser)
        parser.add_argument("name", metavar="<name>", help="Name of the new instance")
        parser.add_argument(
            "--backup",
            metavar="<backup>",
            help="Backup to begin from (name or ID), by default the newest from before the time",
        )
        _add_point(parser)
        _add_place(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Return names and values of the new instance."""
        api = DatabaseApi(self.app.client_manager)
        source = api.get_instance(api.find_instance_id(parsed_args.instance))
        point = _point(api, parsed_args)
        if "backupRef" not in point:
            point = {"instance": source["id"], "time": "now", **point}
        body: dict[str, Any] = {
            "name": parsed_args.name,
            "flavorRef": source["flavor"]["id"],
            "restorePoint": point,
        }
        if source.get("volume", {}).get("size"):
            body["volume"] = {"size": source["volume"]["size"]}
        return _instance_columns(api.create_instance(body | _place(api, parsed_args)))


class UndeleteInstance(command.ShowOne):
    """Create an instance anew that was deleted, from a backup of it."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_backup(parser)
        parser.add_argument("--name", metavar="<name>", help="Another name than the former one")
        _add_place(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Return names and values of the new instance."""
        api = DatabaseApi(self.app.client_manager)
        wanted = _place(api, parsed_args)
        if parsed_args.name is not None:
            wanted["name"] = parsed_args.name
        answer = api.act_on_backup(api.find_backup_id(parsed_args.backup), "undelete", wanted)
        return _instance_columns(answer["instance"])


class RetireInstances(command.Command):
    """Delete instances after a last backup; where the backup fails the instance stays."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            "instance", metavar="<instance>", nargs="+", help="Instance (name or ID)"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Begin the last backups."""
        api = DatabaseApi(self.app.client_manager)
        for instance in parsed_args.instance:
            api.delete_instance(api.find_instance_id(instance), final_backup="true")


class ShowArchive(command.ShowOne):
    """Show to which moments an instance can be restored, and how well its log is kept."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_instance(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Return names and values."""
        api = DatabaseApi(self.app.client_manager)
        instance = api.get_instance(api.find_instance_id(parsed_args.instance))
        archive = instance.get("archive") or {}
        return _columns(
            {
                "earliest_restorable_time": instance.get("earliest_restorable_time"),
                "latest_restorable_time": instance.get("latest_restorable_time"),
                **{
                    name: archive.get(name)
                    for name in ("status", "lag_seconds", "pending_bytes", "problem")
                },
            }
        )
