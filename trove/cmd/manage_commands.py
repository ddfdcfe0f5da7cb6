"""The commands of trove-manage: each opens what it needs, does one thing, prints the outcome.

Tables are for people; ``--json`` prints the same for programs.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from oslo_config import cfg

import trove.datastores.all  # noqa: F401 registers the managers
from trove import conf as trove_conf
from trove import states
from trove.common import concurrency, crypto, exception
from trove.datastores import spec
from trove.db import base, datastores, instance_views, migrations, operations
from trove.drivers import factory

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
    _add_image(groups.add_parser("image", help="guest images"))
    _add_datastore(groups.add_parser("datastore", help="datastores and versions"))
    _add_operation(groups.add_parser("operation", help="long-running work"))
    _add_instance(groups.add_parser("instance", help="instances of all projects"))
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


def _add_image(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="import")
    command = commands.add_parser(
        "import", help="register an image and the datastore version that it runs, in one step"
    )
    command.add_argument("--datastore", required=True, metavar="NAME", help="name users see")
    command.add_argument(
        "--datastore-version", metavar="NAME", help="name users see (default: the real version)"
    )
    command.add_argument(
        "--manager", help="datastore manager that runs it (default: the datastore's name)"
    )
    command.add_argument("--file", help="image file; with the local driver, the engine's program")
    command.add_argument("--image-id", metavar="ID", help="id to use")
    command.add_argument(
        "--default", action="store_true", help="make it the datastore's default version"
    )
    command.add_argument("--inactive", action="store_true", help="do not offer it to users for now")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_image_import)


def _add_datastore(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="list")
    command = commands.add_parser("list", help="list datastores and their versions")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_datastore_list)


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
    database = _database(_load(args))
    before = migrations.current_version(database)
    migrations.upgrade(database)
    after = migrations.current_version(database)
    _say(f"The schema is at {after}." if before == after else f"The schema went to {after}.")


def _db_version(args: argparse.Namespace) -> None:
    database = _database(_load(args))
    current, head = migrations.current_version(database), migrations.head_version()
    _say(current or "none")
    if current != head:
        raise exception.ConfigurationError(
            reason=f"this release needs schema {head}: run 'trove-manage db sync'"
        )


def _image_import(args: argparse.Namespace) -> None:
    conf = _load(args)
    database = _database(conf)
    manager = args.manager or args.datastore
    if manager not in spec.registry():
        known = ", ".join(sorted(spec.registry()))
        raise exception.BadRequest(
            reason=f"there is no datastore manager {manager!r}; there are: {known}"
        )
    image = factory.load_image(conf).import_image(
        manager=manager, name=args.datastore, file=args.file, image_id=args.image_id
    )
    with database.writer() as session:
        version = datastores.upsert_version(
            session,
            datastores.NewVersion(
                datastore_name=args.datastore,
                name=args.datastore_version or image.version,
                version=image.version,
                manager=manager,
                image_id=image.id,
                active=not args.inactive,
            ),
            make_default=args.default,
            now=_CLOCK.now(),
        )
    if args.json:
        _say_json(_version_record(version))
    else:
        _say(
            f"Datastore {version.datastore_name}, version {version.name} (engine"
            f" {version.version}), runs from image {version.image_id}."
        )


def _version_record(version: datastores.Version) -> dict[str, Any]:
    return {
        "datastore": version.datastore_name,
        "version": version.name,
        "engine": version.version,
        "manager": version.manager,
        "active": version.active,
        "id": version.id,
        "image": version.image_id,
    }


def _datastore_list(args: argparse.Namespace) -> None:
    with _database(_load(args)).reader() as session:
        rows = [
            _version_record(version) | {"default": version.id == datastore.default_version_id}
            for datastore in datastores.list_datastores(session)
            for version in datastore.versions
        ]
    columns = ("datastore", "version", "engine", "manager", "active", "default", "id", "image")
    _show(rows, columns, as_json=args.json)


def _operation_record(operation: operations.Operation) -> dict[str, Any]:
    names = ("id", "kind", "resource_id", "state", "step", "progress", "attempts", "wake_on")
    times = ("wake_at", "deadline", "created", "updated")
    more = ("cancel", "error", "request_id", "project_id", "owner")
    return {name: _plain(getattr(operation, name)) for name in (*names, *times, *more)}


def _operation_list(args: argparse.Namespace) -> None:
    with _database(_load(args)).reader() as session:
        found = operations.list_operations(
            session, resource_id=args.instance, active_only=args.active, limit=args.limit
        )
    rows = [_operation_record(operation) for operation in found]
    columns = ("id", "kind", "resource_id", "state", "step", "progress", "updated", "error")
    _show(rows, columns, as_json=args.json)


def _operation_show(args: argparse.Namespace) -> None:
    with _database(_load(args)).reader() as session:
        operation = operations.get(session, args.operation)
        entries = operations.list_journal(session, args.operation)
    record = _operation_record(operation)
    journal = [
        {
            "time": _plain(entry.created),
            "step": entry.step,
            "event": entry.event,
            "message": entry.message,
        }
        for entry in entries
    ]
    if args.json:
        _say_json(record | {"journal": journal})
        return
    width = max(map(len, record))
    for name, value in record.items():
        _say(f"{name:{width}}  {_cell(value)}")
    _say("")
    _show(journal, ("time", "step", "event", "message"), as_json=False)


def _operation_cancel(args: argparse.Namespace) -> None:
    with _database(_load(args)).writer() as session:
        operation = operations.get(session, args.operation)
        if not operation.state.is_active:
            raise exception.Conflict(
                reason=f"operation {operation.id} has ended already ({operation.state.value})"
            )
        operations.request_cancel(
            session, mode=operations.UNDO, operation_id=operation.id, now=_CLOCK.now()
        )
    _say(f"Operation {args.operation} ends at its next step and takes back what it did.")


def _instance_list(args: argparse.Namespace) -> None:
    conf = _load(args)
    with _database(conf).reader() as session:
        views = instance_views.list_all_views(session)
    now = _CLOCK.now()
    expiry = datetime.timedelta(seconds=conf.api.agent_heartbeat_expiry_s)
    rows = [
        {
            "id": view.id,
            "project": view.project_id,
            "name": view.name,
            "datastore": f"{view.datastore_name} {view.version_name}",
            "status": states.api_status(view.task, view.server_status),
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
    _show(rows, (*columns, "fault"), as_json=args.json)


def _key_generate(args: argparse.Namespace) -> None:
    _say(crypto.encode_key(crypto.generate_key()))


# -- opening and printing -----


def _load(args: argparse.Namespace) -> cfg.ConfigOpts:
    options = [part for file in args.config_file or () for part in ("--config-file", file)]
    if args.debug:
        options.append("--debug")
    try:
        conf = trove_conf.load(options, prog="trove-manage")
    except cfg.Error as e:
        raise exception.ConfigurationError(reason=str(e)) from e
    if not args.debug:
        # the outcome is printed; what the libraries say on the way is for a search for faults
        logging.getLogger().setLevel(logging.WARNING)
    return conf


def _database(conf: cfg.ConfigOpts) -> base.Database:
    return base.Database.from_config(conf)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _say_json(value: Any) -> None:
    _say(json.dumps(value, indent=2))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime.datetime):
        return value.isoformat(timespec="seconds")
    return value


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(str(value).split())


def _show(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Print rows as a table, or all they hold as JSON."""
    if as_json:
        _say_json(rows)
        return
    titles = [column.replace("_", " ").upper() for column in columns]
    table = [titles, *([_cell(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        _say("  ".join(cells).rstrip())
