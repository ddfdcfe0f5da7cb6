"""The commands of trove-manage for quotas."""

from __future__ import annotations

import argparse
import dataclasses

from trove.cmd import manage_output as output
from trove.common import exception
from trove.services.quotas import Quotas


def add_quota(parser: argparse.ArgumentParser) -> None:
    """Add the commands below ``quota``."""
    commands = parser.add_subparsers(required=True, metavar="show|update|resync")
    command = commands.add_parser("show", help="show what a project may use and uses")
    command.add_argument("project", metavar="PROJECT")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_quota_show)
    command = commands.add_parser("update", help="set limits of a project; -1 is unlimited")
    command.add_argument("project", metavar="PROJECT")
    command.add_argument("limits", metavar="RESOURCE=LIMIT", nargs="+")
    command.set_defaults(run=_quota_update)
    command = commands.add_parser(
        "resync", help="correct recorded usage to what there is; safe while the service runs"
    )
    command.add_argument("project", metavar="PROJECT", nargs="?", help="(default: all projects)")
    command.add_argument("--dry-run", action="store_true", help="only say what is wrong")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_quota_resync)


def _quotas(args: argparse.Namespace) -> Quotas:
    conf = output.load(args)
    return Quotas(conf=conf, database=output.open_database(conf))


def _quota_show(args: argparse.Namespace) -> None:
    rows = [dataclasses.asdict(quota) for quota in _quotas(args).list_quotas(args.project)]
    output.show(rows, ("resource", "in_use", "reserved", "limit"), as_json=args.json)


def _quota_update(args: argparse.Namespace) -> None:
    limits = {}
    for text in args.limits:
        resource, _, limit = text.partition("=")
        try:
            limits[resource] = int(limit)
        except ValueError:
            raise exception.BadRequest(reason=f"{text!r} is not RESOURCE=LIMIT") from None
    _quotas(args).update(args.project, limits)
    for resource, limit in limits.items():
        output.say(f"Project {args.project} may use {limit} of {resource} (-1: any number).")


def _quota_resync(args: argparse.Namespace) -> None:
    drifts = _quotas(args).resync(args.project, dry_run=args.dry_run)
    rows = [dataclasses.asdict(drift) for drift in drifts]
    if not rows and not args.json:
        output.say("All recorded usage is right.")
        return
    output.show(rows, ("project_id", "resource", "recorded", "counted"), as_json=args.json)
