"""The commands of trove-manage for guest images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import trove.datastores.all  # noqa: F401 registers the managers
from trove.cmd import manage_output as output
from trove.common import concurrency, exception
from trove.datastores import spec
from trove.db import datastores
from trove.drivers import factory
from trove.drivers.image.base import Image, ImageDriver

_CLOCK = concurrency.SystemClock()


def add_image(parser: argparse.ArgumentParser) -> None:
    """Add the commands below ``image``."""
    commands = parser.add_subparsers(required=True, metavar="import|list|delete")
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
    command.add_argument(
        "--image-id", metavar="ID", help="image that there is; with the local driver, id to use"
    )
    command.add_argument(
        "--default", action="store_true", help="make it the datastore's default version"
    )
    command.add_argument("--inactive", action="store_true", help="do not offer it to users for now")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_image_import)
    command = commands.add_parser("list", help="list guest images and the versions that use them")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_image_list)
    command = commands.add_parser("delete", help="delete an image that no version uses")
    command.add_argument("image", metavar="ID")
    command.set_defaults(run=_image_delete)


def _image_import(args: argparse.Namespace) -> None:
    conf = output.load(args)
    database = output.open_database(conf)
    manager = args.manager or args.datastore
    if manager not in spec.registry():
        known = ", ".join(sorted(spec.registry()))
        raise exception.BadRequest(
            reason=f"there is no datastore manager {manager!r}; there are: {known}"
        )
    with database.reader() as session:
        # an upload takes minutes: a database that cannot be used is told of before
        datastores.list_datastores(session)
    image = factory.load_image(conf).import_image(
        manager=manager,
        name=args.datastore,
        file=args.file,
        image_id=args.image_id,
        version=args.datastore_version,
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
        output.say_json(output.version_record(version))
    else:
        output.say(
            f"Datastore {version.datastore_name}, version {version.name} (engine"
            f" {version.version}), runs from image {version.image_id}."
        )


def _image_list(args: argparse.Namespace) -> None:
    conf = output.load(args)
    images = factory.load_image(conf)
    versions = _versions(args)
    rows = [
        {
            "id": image.id,
            "name": image.name,
            "manager": image.manager,
            "engine": image.version,
            "agent": image.agent_version,
            "status": image.status,
            "tags": ", ".join(image.tags),
            "used_by": ", ".join(_users(images, image, versions)),
        }
        for image in images.list_images()
    ]
    columns = ("id", "name", "manager", "engine", "agent", "status", "tags", "used_by")
    output.show(rows, columns, as_json=args.json)


def _image_delete(args: argparse.Namespace) -> None:
    images = factory.load_image(output.load(args))
    image = images.get_image(args.image)
    users = _users(images, image, _versions(args))
    if users:
        raise exception.Conflict(
            reason=f"image {image.id} is used by {', '.join(users)}: first import another image for"
            " it, or delete the datastore version"
        )
    images.delete_image(image.id)
    output.say(f"Image {image.id} is deleted.")


def _versions(args: argparse.Namespace) -> Sequence[datastores.Version]:
    with output.open_database(output.load(args)).reader() as session:
        return [
            version
            for datastore in datastores.list_datastores(session)
            for version in datastore.versions
        ]


def _users(
    images: ImageDriver, image: Image, versions: Sequence[datastores.Version]
) -> Sequence[str]:
    """Return the versions that run from an image, by its id or by its tags."""

    def uses(version: datastores.Version) -> bool:
        if version.image_id is not None:
            return version.image_id == image.id
        if not version.image_tags or not set(version.image_tags) <= set(image.tags):
            return False
        chosen = images.find_tagged(version.image_tags)
        return chosen is not None and chosen.id == image.id

    return [
        f"{version.datastore_name} {version.name} (engine {version.version})"
        for version in versions
        if uses(version)
    ]
