"""The commands of trove-manage for what the secrets driver keeps: secrets and the authority."""

from __future__ import annotations

import argparse
import pathlib
import sys

from oslo_config import cfg

from trove.api import embedded
from trove.cmd import manage_output as output
from trove.common import exception
from trove.drivers import factory
from trove.drivers.secrets.store import NewSecret

_MOST_BYTES = 256 * 1024


def add_secret(parser: argparse.ArgumentParser) -> None:
    """Add the commands below ``secret``."""
    commands = parser.add_subparsers(required=True, metavar="store")
    command = commands.add_parser(
        "store", help="keep a file as a secret of a project and print its reference"
    )
    command.add_argument("--project", metavar="ID", required=True, help="whose secret it is")
    command.add_argument("--file", metavar="FILE", required=True, help="what to keep; -: stdin")
    command.add_argument("--name", metavar="NAME", help="for people (default: the file's name)")
    command.set_defaults(run=_secret_store)


def _secret_store(args: argparse.Namespace) -> None:
    conf = output.load(args)
    factory.resolve_keys(conf)
    store = factory.load_secrets(conf).store
    if store is None:
        raise exception.BadRequest(
            reason=f"the secrets driver {conf.taskmanager.secrets_driver} keeps no secrets: store"
            " them in the key manager"
        )
    payload, name = _read(args.file)
    if not 0 < len(payload) <= _MOST_BYTES:
        raise exception.BadRequest(reason=f"{args.file} must have 1 to {_MOST_BYTES} bytes")
    secret = store.create(args.project, NewSecret(payload=payload, name=args.name or name))
    output.say(f"{_endpoint(conf)}/{embedded.KEY_MANAGER}/v1/secrets/{secret.id}")


def add_authority(parser: argparse.ArgumentParser) -> None:
    """Add the commands below ``certificate-authority``."""
    commands = parser.add_subparsers(required=True, metavar="create|show")
    commands.add_parser(
        "create", help="make the authority of the instances' certificates unless there is one"
    ).set_defaults(run=_authority_create)
    commands.add_parser("show", help="print the authority's certificate").set_defaults(
        run=_authority_show
    )


def _authority_create(args: argparse.Namespace) -> None:
    conf = output.load(args)
    if factory.load_secrets(conf).create_authority():
        output.say("The certificate authority is made.")
    else:
        output.say("There is a certificate authority already; it is left as it is.")


def _authority_show(args: argparse.Namespace) -> None:
    output.say(factory.load_secrets(output.load(args)).get_ca_certificate().strip())


def _read(file: str) -> tuple[bytes, str | None]:
    if file == "-":
        return sys.stdin.buffer.read(_MOST_BYTES + 1), None
    path = pathlib.Path(file)
    try:
        with path.open("rb") as stream:
            return stream.read(_MOST_BYTES + 1), path.name
    except OSError as e:
        raise exception.BadRequest(reason=f"{file} cannot be read: {e.strerror}") from None


def _endpoint(conf: cfg.ConfigOpts) -> str:
    """Return where clients reach the API; a host that means all addresses is none to go to."""
    host = conf.api.bind_host
    if host in ("0.0.0.0", "::"):  # noqa: S104 (compared, not bound)
        host = "127.0.0.1"
    if ":" in host:
        host = f"[{host}]"
    return str(conf.api.public_endpoint or f"http://{host}:{conf.api.bind_port}").rstrip("/")
