"""The commands of trove-manage for images, datastores and their versions."""

from __future__ import annotations

import argparse
from typing import Any

import trove.datastores.all  # noqa: F401 registers the managers
from trove.cmd import manage_output as output
from trove.common import concurrency, exception
from trove.datastores import spec
from trove.db import datastores
from trove.drivers import factory

_CLOCK = concurrency.SystemClock()


def add_image(parser: argparse.ArgumentParser) -> None:
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


def add_datastore(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="list")
    command = commands.add_parser("list", help="list datastores and their versions")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_datastore_list)


def _image_import(args: argparse.Namespace) -> None:
    conf = output.load(args)
    database = output.open_database(conf)
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
        output.say_json(_version_record(version))
    else:
        output.say(
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
    with output.open_database(output.load(args)).reader() as session:
        rows = [
            _version_record(version) | {"default": version.id == datastore.default_version_id}
            for datastore in datastores.list_datastores(session)
            for version in datastore.versions
        ]
    columns = ("datastore", "version", "engine", "manager", "active", "default", "id", "image")
    output.show(rows, columns, as_json=args.json)
