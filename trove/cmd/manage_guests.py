"""The commands of trove-manage for the agents in the guests: bundles and upgrades."""

from __future__ import annotations

import argparse
import datetime
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any

from oslo_config import cfg

from trove import states
from trove.cmd import manage_output as output
from trove.common import concurrency, exception
from trove.db import base, instance_views, operations
from trove.drivers import factory
from trove.rpc import bundles
from trove.storage import base as storage
from trove.storage import factory as storage_factory

_CLOCK = concurrency.SystemClock()
CONTAINER = "trove_agent_bundles"
_CHUNK = 1024 * 1024
#: Downloading, installing and the trial, with jobs that are done before.
_TIMEOUT_S = 3600.0
#: How often the end of an upgrade is looked for.
_LOOK_S = 2.0
_PIP_WHEELS = ("/usr/share/python-wheels",)


def add_guest(parser: argparse.ArgumentParser) -> None:
    """Add the commands below ``guest``."""
    commands = parser.add_subparsers(required=True, metavar="bundle-key|bundle|upgrade")
    command = commands.add_parser(
        "bundle-key", help="make a key that signs bundles, and print its public part"
    )
    command.add_argument("--output", metavar="FILE", required=True, help="the private key (0600)")
    command.set_defaults(run=_bundle_key)
    command = commands.add_parser("bundle", help="make a signed bundle of a release of the agent")
    command.add_argument("--output", metavar="FILE", required=True, help="the bundle")
    command.add_argument("--key", metavar="FILE", required=True, help="private key that signs it")
    command.add_argument(
        "--trove",
        metavar="PATH",
        help="wheel or source of the release (default: this one, from the package index)",
    )
    command.add_argument(
        "--requirements",
        metavar="FILE",
        help="what the release needs (images/guest-requirements.txt); without it the bundle is used"
        " with what the images have installed",
    )
    command.set_defaults(run=_bundle)
    command = commands.add_parser(
        "upgrade", help="have agents go on as the release of a bundle, while their engines run"
    )
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("--instance", metavar="ID", action="append", help="this one (repeatable)")
    which.add_argument("--datastore", metavar="NAME", help="all of a datastore")
    which.add_argument("--all", action="store_true", help="all")
    command.add_argument("--bundle", metavar="FILE", required=True, help="the bundle")
    command.add_argument(
        "--trial",
        metavar="SECONDS",
        type=float,
        default=180.0,
        help="how long the new release has to report before an agent goes back (default: 180)",
    )
    command.add_argument(
        "--batch",
        metavar="NUMBER",
        type=int,
        help="so many at a time; wait for their end, and begin no more when one has failed"
        " (default: begin all, wait for none)",
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_upgrade)


# -- keys and bundles -----


def _bundle_key(args: argparse.Namespace) -> None:
    pem = bundles.generate_key()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        with os.fdopen(os.open(args.output, flags, 0o600), "w", encoding="ascii") as file:
            file.write(pem)
    except OSError as e:
        raise exception.BadRequest(
            reason=f"{args.output} cannot be written: {e.strerror}"
        ) from None
    output.say(bundles.public_key_of(bundles.load_key(pem)))


def _bundle(args: argparse.Namespace) -> None:
    key = bundles.load_key(_read_text(args.key))
    with tempfile.TemporaryDirectory(prefix="trove-bundle-") as name:
        directory = pathlib.Path(name)
        _collect(args, directory)
        wheels = sorted(directory.glob("*.whl"))
        own = next((wheel for wheel in wheels if wheel.name.startswith("trove-")), None)
        if own is None:
            raise bundles.BundleError(reason="there is no wheel of trove in it")
        target = pathlib.Path(args.output)
        new = target.with_name(f".{target.name}.new")
        try:
            manifest = bundles.write(
                new,
                wheels,
                version=own.name.split("-")[1],
                python=f"{sys.version_info.major}.{sys.version_info.minor}",
                machine=None if _is_pure(wheels) else platform.machine(),
                shares_base=args.requirements is None,
                key=key,
            )
            new.replace(target)
        except OSError as e:
            raise exception.BadRequest(
                reason=f"{args.output} cannot be written: {e.strerror}"
            ) from None
    size_mib = target.stat().st_size / (1 << 20)
    output.say(f"{target}: {manifest.version}, {len(manifest.files)} wheels, {size_mib:.1f} MiB")


def _collect(args: argparse.Namespace, directory: pathlib.Path) -> None:
    """Have all wheels in a directory, that of pip among them."""
    own = args.trove or f"trove=={metadata.version('trove')}"
    if os.path.isfile(own) and own.endswith(".whl"):
        (directory / pathlib.Path(own).name).write_bytes(pathlib.Path(own).read_bytes())
    else:
        _pip("wheel", "--no-deps", "--wheel-dir", str(directory), own)
    if args.requirements is not None:
        _pip(
            *("download", "--only-binary", ":all:", "--dest", str(directory)),
            *("--requirement", args.requirements),
        )
    if not any(wheel.name.startswith("pip-") for wheel in directory.glob("*.whl")):
        pip = next(_pip_wheels(), None)
        if pip is None:
            _pip("download", "--no-deps", "--dest", str(directory), "pip")
        else:
            (directory / pip.name).write_bytes(pip.read_bytes())


def _pip_wheels() -> Iterator[pathlib.Path]:
    """Yield the wheels of pip that this machine's Python brings along."""
    import ensurepip

    bundled = pathlib.Path(ensurepip.__file__).parent / "_bundled"
    for directory in (bundled, *map(pathlib.Path, _PIP_WHEELS)):
        yield from sorted(directory.glob("pip-*.whl"), reverse=True)


def _pip(*args: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()[-1:] or ["no reason"]
        raise bundles.BundleError(reason=f"pip {args[0]} failed: {said[0]}")


def _is_pure(wheels: Sequence[pathlib.Path]) -> bool:
    return all(wheel.name.endswith("-none-any.whl") for wheel in wheels)


def _read_text(file: str) -> str:
    try:
        return pathlib.Path(file).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as e:
        raise exception.BadRequest(reason=f"{file} cannot be read ({type(e).__name__})") from None


# -- upgrades -----


def _upgrade(args: argparse.Namespace) -> None:
    conf = output.load(args)
    factory.resolve_keys(conf)
    if args.trial <= 0:
        raise exception.BadRequest(reason="--trial must be above 0")
    if args.batch is not None and args.batch < 1:
        raise exception.BadRequest(reason="--batch must be above 0")
    data = {**_store(conf, pathlib.Path(args.bundle)), "trial_s": args.trial}
    database = output.open_database(conf)
    wanted, rows = _wanted(database, args), list[dict[str, Any]]()
    failed = 0
    size = args.batch or max(len(wanted), 1)
    while len(rows) < len(wanted) and not failed:
        batch = [_begin(database, view, data) for view in wanted[len(rows) : len(rows) + size]]
        rows += batch
        if args.batch is not None:
            failed = _await_end(database, batch)
    left = [_row(view, data, "left alone: one before it failed") for view in wanted[len(rows) :]]
    columns = ("instance", "name", "agent", "operation", "problem")
    output.show([*rows, *left], columns, as_json=args.json)
    if failed:
        raise exception.TroveError(f"Upgrades: {failed} failed, {len(left)} were left alone.")


def _store(conf: cfg.ConfigOpts, bundle: pathlib.Path) -> dict[str, Any]:
    """Check a bundle and keep it where guests can fetch it; returns what operations need to know.

    Raises BundleError, StorageError, ConfigurationError.
    """
    store = storage_factory.load(conf)
    if store is None:
        raise exception.ConfigurationError(
            reason="[storage] driver is not set: guests fetch bundles from the object store"
        )
    try:
        manifest = bundles.read(bundle, conf.guestagent.bundle_public_keys)
        facts = bundles.facts_of(bundle)
        bundles.check_step(metadata.version("trove"), manifest.version)
        project_id = store.service_project()
        account = store.account(project_id)
        name = f"{manifest.version}-{facts.sha256}"
        found = account.find(CONTAINER, name)
        if found is None or found.size_bytes != facts.size_bytes:
            account.put(CONTAINER, name, _chunks(bundle), content_type=storage.BINARY)
    except OSError as e:
        raise exception.BadRequest(reason=f"{bundle} cannot be read: {e.strerror}") from None
    return {
        "version": manifest.version,
        "sha256": facts.sha256,
        "size_bytes": facts.size_bytes,
        "project_id": project_id,
        "container": CONTAINER,
        "name": name,
    }


def _chunks(path: pathlib.Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _wanted(
    database: base.Database, args: argparse.Namespace
) -> Sequence[instance_views.InstanceView]:
    with database.reader() as session:
        views = instance_views.list_all_views(session)
    if args.instance:
        known = {view.id: view for view in views}
        for instance_id in args.instance:
            if instance_id not in known:
                raise exception.InstanceNotFound(instance_id=instance_id)
        return [known[instance_id] for instance_id in args.instance]
    return [view for view in views if args.datastore in (None, view.datastore_name)]


def _await_end(database: base.Database, rows: Sequence[dict[str, Any]]) -> int:
    """Wait until all operations have ended; note what went wrong, return how many did not do it."""
    failed = 0
    never = threading.Event()
    for row in rows:
        if row["operation"] is None:
            continue
        while (operation := _read(database, row["operation"])).state.is_active:
            never.wait(_LOOK_S)
        if operation.state is not states.OperationState.SUCCEEDED:
            row["problem"] = operation.error or operation.state.value
            failed += 1
    return failed


def _read(database: base.Database, operation_id: str) -> operations.Operation:
    with database.reader() as session:
        return operations.get(session, operation_id)


def _row(
    view: instance_views.InstanceView, data: dict[str, Any], problem: str | None
) -> dict[str, Any]:
    row: dict[str, Any] = {"instance": view.id, "name": view.name, "operation": None}
    return row | {"agent": data["version"], "problem": problem}


def _begin(
    database: base.Database, view: instance_views.InstanceView, data: dict[str, Any]
) -> dict[str, Any]:
    """Add the operation of one instance; says what keeps it from it."""
    row = _row(view, data, None)
    if view.server_id is None:
        return row | {"problem": "it has no server"}
    now = _CLOCK.now()
    try:
        with database.writer() as session:
            row["operation"] = operations.create(
                session,
                kind=operations.UPGRADE_AGENT,
                resource_id=view.id,
                lock_key=operations.instance_lock(view.id),
                deadline=now + datetime.timedelta(seconds=_TIMEOUT_S),
                now=now,
                project_id=view.project_id,
                data=data,
            )
    except exception.Conflict:
        return row | {"problem": "another operation has not ended yet: ask again"}
    return row
