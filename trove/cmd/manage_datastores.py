"""The commands of trove-manage for datastores and their versions."""

from __future__ import annotations

import argparse

import trove.datastores.all  # noqa: F401 registers the managers
from trove.cmd import manage_output as output
from trove.common import concurrency
from trove.db import associations, datastores
from trove.services.datastores import Datastores
from trove.services.versions import Versions

_CLOCK = concurrency.SystemClock()


def add_datastore(parser: argparse.ArgumentParser) -> None:
    """Add the commands below ``datastore``."""
    commands = parser.add_subparsers(
        required=True, metavar="list|default|version-flavor|version-volume-type"
    )
    command = commands.add_parser("list", help="list datastores and their versions")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_datastore_list)
    command = commands.add_parser(
        "default", help="make a version the one that new instances get unless they name another"
    )
    _add_version(command)
    command.set_defaults(run=_datastore_default)
    for name, kind, what in (
        ("version-flavor", associations.FLAVORS, "flavors"),
        ("version-volume-type", associations.VOLUME_TYPES, "volume types"),
    ):
        _add_association(
            commands.add_parser(name, help=f"which {what} a version may be used with; none: all"),
            kind,
            what,
        )


def _add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("datastore", metavar="DATASTORE", help="name or id")
    parser.add_argument("version", metavar="VERSION", help="name or id")


def _add_association(parser: argparse.ArgumentParser, kind: associations.Kind, what: str) -> None:
    commands = parser.add_subparsers(required=True, metavar="add|delete|list")
    for name, run, does in (
        ("add", _association_add, "allow"),
        ("delete", _association_delete, "no longer allow"),
    ):
        command = commands.add_parser(name, help=f"{does} {what} for a version")
        _add_version(command)
        command.add_argument("names", metavar="ID", nargs="+")
        command.set_defaults(run=run, kind=kind)
    command = commands.add_parser("list", help=f"list the {what} that a version may be used with")
    _add_version(command)
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_association_list, kind=kind)


def _datastore_list(args: argparse.Namespace) -> None:
    with output.open_database(output.load(args)).reader() as session:
        rows = [
            output.version_record(version) | {"default": version.id == datastore.default_version_id}
            for datastore in datastores.list_datastores(session)
            for version in datastore.versions
        ]
    columns = ("datastore", "version", "engine", "manager", "active", "default", "id", "image")
    output.show(rows, columns, as_json=args.json)


def _open(args: argparse.Namespace) -> tuple[Versions, datastores.Version]:
    """Return the use cases and the version that the command line names; raises NotFound."""
    database = output.open_database(output.load(args))
    version = Datastores(database=database).require_version(args.datastore, args.version)
    return Versions(database=database, images=None, clock=_CLOCK), version


def _datastore_default(args: argparse.Namespace) -> None:
    versions, version = _open(args)
    versions.change(version.id, {}, is_default=True)
    output.say(f"New instances of {version.datastore_name} get version {version.name}.")


def _association_add(args: argparse.Namespace) -> None:
    versions, version = _open(args)
    versions.associate(args.kind, version.id, args.names)
    _say_associations(versions, version, args.kind)


def _association_delete(args: argparse.Namespace) -> None:
    versions, version = _open(args)
    versions.dissociate(args.kind, version.id, args.names)
    _say_associations(versions, version, args.kind)


def _say_associations(
    versions: Versions, version: datastores.Version, kind: associations.Kind
) -> None:
    names = versions.list_associations(kind, version.id)
    allowed = ", ".join(names) or "all"
    output.say(f"{version.datastore_name} {version.name} may be used with: {allowed}.")


def _association_list(args: argparse.Namespace) -> None:
    versions, version = _open(args)
    rows = [{"id": name} for name in versions.list_associations(args.kind, version.id)]
    output.show(rows, ("id",), as_json=args.json)
