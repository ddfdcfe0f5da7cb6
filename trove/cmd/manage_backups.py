"""The commands of trove-manage for backups: what is known, and what is stored."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
from collections.abc import Sequence
from typing import Any

from oslo_config import cfg

from trove.cmd import manage_output as output
from trove.common import concurrency, crypto, exception
from trove.db import backups, base, operations, verifier_hosts
from trove.services.backup_orphans import BackupOrphans, Stored
from trove.services.backups import Backups
from trove.storage import base as storage
from trove.storage import factory as storage_factory

_CLOCK = concurrency.SystemClock()
_COLUMNS = ("id", "project", "instance", "name", "status", "type", "bytes", "completed", "location")


def add_backup(parser: argparse.ArgumentParser) -> None:
    """Add the commands below ``backup``."""
    commands = parser.add_subparsers(required=True, metavar="list|import|orphans|hosts")
    command = commands.add_parser("list", help="list backups, newest change first")
    command.add_argument("--project", metavar="ID", help="of this project only")
    command.add_argument("--instance", metavar="ID", help="of this instance only")
    command.add_argument("--limit", type=int, default=100, help="how many at most")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_list)
    command = commands.add_parser(
        "import", help="register backups that are stored but not known here, their parents first"
    )
    _add_place(command, is_required=True)
    command.add_argument(
        "--prefix",
        required=True,
        metavar="PREFIX",
        help="what the names of their objects begin with: <instance>/<backup>/ is one backup,"
        " <instance>/ all of an instance, and an empty one all of the container",
    )
    command.add_argument(
        "--datastore-version",
        metavar="ID",
        help="what they are backups of (default: the same version, by id or by the engine's)",
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_import)
    command = commands.add_parser(
        "orphans", help="find objects that attempts left, which belong to no backup"
    )
    _add_place(command, is_required=False)
    command.add_argument(
        "--older-than",
        metavar="HOURS",
        type=float,
        default=48.0,
        help="only what was not changed for as long (default: 48)",
    )
    command.add_argument("--delete", action="store_true", help="remove them")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_orphans)
    command = commands.add_parser("hosts", help="list the hosts that prove backups")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_hosts)


def _add_place(command: argparse.ArgumentParser, *, is_required: bool) -> None:
    default = "" if is_required else " (default: every one that a backup is in)"
    command.add_argument(
        "--container", metavar="NAME", required=is_required, help=f"the container{default}"
    )
    command.add_argument(
        "--project",
        metavar="ID",
        help="whose account the container is in (default: the service's own)",
    )


def _load(args: argparse.Namespace) -> tuple[cfg.ConfigOpts, base.Database, storage.Store]:
    conf = output.load(args)
    store = storage_factory.load(conf)
    if store is None:
        raise exception.ConfigurationError(reason="[storage] driver is not set")
    return conf, output.open_database(conf), store


def _record(view: backups.BackupView) -> dict[str, Any]:
    return {
        "id": view.id,
        "project": view.project_id,
        "instance": view.instance_id,
        "name": view.name,
        "status": view.status.value,
        "type": view.kind.value,
        "parent": view.parent_id,
        "bytes": view.stored_bytes,
        "completed": output.plain(view.completed),
        "location": view.location,
        "fault": view.fault,
    }


def _list(args: argparse.Namespace) -> None:
    filters = backups.Filters(project_id=args.project, instance_id=args.instance)
    with output.open_database(output.load(args)).reader() as session:
        found, _ = backups.list_page(session, filters, limit=args.limit)
    output.show([_record(view) for view in found], _COLUMNS, as_json=args.json)


def _import(args: argparse.Namespace) -> None:
    conf, database, store = _load(args)
    service = Backups(
        conf=conf,
        database=database,
        run_operation=lambda operation_id: None,
        key_ring=crypto.KeyRing.from_config(conf.guest.key_encryption_keys),
        store=store,
        clock=_CLOCK,
    )
    orphans = BackupOrphans(database=database, store=store, clock=_CLOCK)
    stored = [
        each
        for each in orphans.list_stored(
            args.project or store.service_project(), args.container, args.prefix
        )
        if each.has_manifest
    ]
    if not stored:
        raise exception.NotFound(f"There is no backup below {args.container}/{args.prefix}.")
    rows, refusals = _import_all(service, stored, args.datastore_version)
    output.show(rows, _COLUMNS, as_json=args.json)
    if refusals:
        raise exception.BadRequest(reason="; ".join(refusals))


def _import_all(
    service: Backups, stored: Sequence[Stored], version_id: str | None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Register them, increments behind what they are of; returns them and what was refused."""
    rows: list[dict[str, Any]] = []
    waiting = list(stored)
    refusals: list[str] = []
    while waiting:
        refused: list[Stored] = []
        refusals = []
        for each in waiting:
            try:
                view = service.import_stored(
                    each.account_id, each.container, each.prefix, version_id=version_id
                )
                rows.append(_record(view))
            except exception.TroveError as e:
                refused.append(each)
                refusals.append(f"{each.prefix}: {e.message}")
        if len(refused) == len(waiting):
            return rows, refusals
        waiting = refused
    return rows, refusals


def _orphans(args: argparse.Namespace) -> None:
    _, database, store = _load(args)
    service = BackupOrphans(database=database, store=store, clock=_CLOCK)
    places: Sequence[tuple[str, str]] = service.list_places()
    if args.container is not None:
        places = [(args.project or store.service_project(), args.container)]
    elif args.project is not None:
        places = [place for place in places if place[0] == args.project]
    age = datetime.timedelta(hours=args.older_than)
    rows = []
    for account_id, container in places:
        for orphan in service.list_orphans(account_id, container, age=age):
            removed = service.remove(orphan) if args.delete else 0
            row = dataclasses.asdict(orphan) | {"removed": removed}
            rows.append(row | {"modified": output.plain(orphan.modified)})
    if not rows and not args.json:
        output.say("Nothing is left over.")
        return
    columns = ("account_id", "container", "prefix", "count", "size_bytes", "modified", "removed")
    output.show(rows, columns, as_json=args.json)


def _hosts(args: argparse.Namespace) -> None:
    with output.open_database(output.load(args)).reader() as session:
        rows = [
            {
                "name": host.name,
                "seen": output.plain(host.seen),
                "proofs": len(operations.list_pinned(session, host.name)),
                "at_once": host.at_once,
                "engines": [
                    f"{manager} {version}"
                    for manager, versions in sorted(host.engines.items())
                    for version in versions
                ],
            }
            for host in verifier_hosts.list_hosts(session)
        ]
    if not rows and not args.json:
        output.say("No host was heard of: see [backup] verify_place and trove-verifier.")
        return
    output.show(rows, ("name", "seen", "proofs", "at_once", "engines"), as_json=args.json)
