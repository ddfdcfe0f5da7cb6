"""The commands of trove-manage: each opens what it needs, does one thing, prints the outcome."""

from __future__ import annotations

import argparse
import datetime
from typing import Any

import trove.datastores.all  # noqa: F401 registers the managers
from trove import states
from trove.cmd import (
    manage_backups,
    manage_datastores,
    manage_guests,
    manage_images,
    manage_quotas,
    manage_secrets,
)
from trove.cmd import manage_output as output
from trove.common import concurrency, crypto, exception
from trove.db import instance_views, migrations, operation_timings, operations

_CLOCK = concurrency.SystemClock()


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; ``args.run(args)`` runs what was chosen."""
    parser = argparse.ArgumentParser(
        prog="trove-manage", description="Operate the Database service."
    )
    parser.add_argument(
        "--config-file",
        action="append",
        metavar="FILE",
        help="configuration to use (repeatable; default: /etc/trove/trove.conf)",
    )
    parser.add_argument("--debug", action="store_true", help="log everything")
    groups = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_db(groups.add_parser("db", help="schema of the SQL backend"))
    manage_images.add_image(groups.add_parser("image", help="guest images"))
    manage_datastores.add_datastore(groups.add_parser("datastore", help="datastores and versions"))
    manage_backups.add_backup(groups.add_parser("backup", help="backups, known and stored"))
    manage_quotas.add_quota(groups.add_parser("quota", help="what projects may use and use"))
    _add_operation(groups.add_parser("operation", help="long-running work"))
    _add_instance(groups.add_parser("instance", help="instances of all projects"))
    manage_secrets.add_secret(groups.add_parser("secret", help="secrets of projects"))
    manage_guests.add_guest(groups.add_parser("guest", help="agents in the instances' servers"))
    manage_secrets.add_authority(
        groups.add_parser("certificate-authority", help="who signs certificates of instances")
    )
    _add_key(groups.add_parser("key", help="keys for the configuration"))
    return parser


def _add_db(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="sync|version")
    commands.add_parser("sync", help="bring the schema to the newest version").set_defaults(
        run=_db_sync
    )
    commands.add_parser("version", help="show the version of the schema").set_defaults(
        run=_db_version
    )


def _add_operation(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="list|show|cancel")
    command = commands.add_parser("list", help="list operations, newest first")
    command.add_argument("--instance", metavar="ID", help="of this instance only")
    command.add_argument("--active", action="store_true", help="those that have not ended only")
    command.add_argument("--limit", type=int, default=100, help="how many at most")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_operation_list)
    command = commands.add_parser("show", help="show an operation and its journal")
    command.add_argument("operation", metavar="ID")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_operation_show)
    command = commands.add_parser(
        "cancel", help="have an operation end at its next step and take back what it did"
    )
    command.add_argument("operation", metavar="ID")
    command.set_defaults(run=_operation_cancel)


def _add_instance(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="list")
    command = commands.add_parser("list", help="list the instances of all projects")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_instance_list)


def _add_key(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="generate")
    commands.add_parser(
        "generate", help="print a new key for [guest] key_encryption_keys"
    ).set_defaults(run=_key_generate)


# -- what the commands do -----


def _db_sync(args: argparse.Namespace) -> None:
    database = output.open_database(output.load(args))
    before = migrations.current_version(database)
    migrations.upgrade(database)
    after = migrations.current_version(database)
    output.say(f"The schema is at {after}." if before == after else f"The schema went to {after}.")


def _db_version(args: argparse.Namespace) -> None:
    database = output.open_database(output.load(args))
    current, head = migrations.current_version(database), migrations.head_version()
    output.say(current or "none")
    if current != head:
        raise exception.ConfigurationError(
            reason=f"this release needs schema {head}: run 'trove-manage db sync'"
        )


def _operation_record(operation: operations.Operation) -> dict[str, Any]:
    names = ("id", "kind", "resource_id", "state", "step", "progress", "attempts", "wake_on")
    times = ("wake_at", "deadline", "created", "updated")
    more = ("cancel", "error", "request_id", "project_id", "owner")
    return {name: output.plain(getattr(operation, name)) for name in (*names, *times, *more)}


def _operation_list(args: argparse.Namespace) -> None:
    with output.open_database(output.load(args)).reader() as session:
        found = operations.list_operations(
            session, resource_id=args.instance, active_only=args.active, limit=args.limit
        )
    rows = [_operation_record(operation) for operation in found]
    columns = ("id", "kind", "resource_id", "state", "step", "progress", "updated", "error")
    output.show(rows, columns, as_json=args.json)


def _operation_show(args: argparse.Namespace) -> None:
    with output.open_database(output.load(args)).reader() as session:
        operation = operations.get(session, args.operation)
        entries = operations.list_journal(session, args.operation)
    record = _operation_record(operation)
    journal = [
        {
            "time": output.plain(entry.created),
            "step": entry.step,
            "event": entry.event,
            "seconds": None if entry.timings is None else entry.timings.get("total"),
            "message": entry.message,
        }
        for entry in entries
    ]
    timings = operation_timings.of(entries)
    if args.json:
        output.say_json(record | {"journal": journal, "timings": timings.to_plain()})
        return
    width = max(map(len, record))
    for name, value in record.items():
        output.say(f"{name:{width}}  {output.cell(value)}")
    output.say("")
    output.show(journal, ("time", "step", "event", "seconds", "message"), as_json=False)
    if timings.steps:
        output.say("")
        output.show(timings.rows(), ("step", *timings.columns()), as_json=False)


def _operation_cancel(args: argparse.Namespace) -> None:
    with output.open_database(output.load(args)).writer() as session:
        operation = operations.get(session, args.operation)
        if not operation.state.is_active:
            raise exception.Conflict(
                reason=f"operation {operation.id} has ended already ({operation.state.value})"
            )
        operations.request_cancel(
            session, mode=operations.UNDO, operation_id=operation.id, now=_CLOCK.now()
        )
    output.say(f"Operation {args.operation} ends at its next step and takes back what it did.")


def _instance_list(args: argparse.Namespace) -> None:
    conf = output.load(args)
    with output.open_database(conf).reader() as session:
        views = instance_views.list_all_views(session)
    now = _CLOCK.now()
    expiry = datetime.timedelta(seconds=conf.api.agent_heartbeat_expiry_s)
    rows = [
        {
            "id": view.id,
            "project": view.project_id,
            "name": view.name,
            "datastore": f"{view.datastore_name} {view.version_name}",
            "status": view.status,
            "operating_status": states.api_operating_status(
                view.task,
                view.server_status,
                view.service_status,
                heartbeat_age=now - view.heartbeat_received,
                heartbeat_expiry=expiry,
            ),
            "addresses": ", ".join(str(address["address"]) for address in view.addresses),
            "fault": view.fault.message if view.fault else None,
        }
        for view in views
    ]
    columns = ("id", "project", "name", "datastore", "status", "operating_status", "addresses")
    output.show(rows, (*columns, "fault"), as_json=args.json)


def _key_generate(args: argparse.Namespace) -> None:
    output.say(crypto.encode_key(crypto.generate_key()))
