"""``openstack database backup schedule``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from osc_lib import exceptions
from osc_lib.command import command

from trove.osc.api import DatabaseApi

_COLUMNS = ("ID", "Name", "Instance ID", "Cron", "Timezone", "Enabled", "Next Run", "Problem")
#: What a rule keeps, by its name in the API.
_RULES: Mapping[str, str] = {
    "count": "Keep the newest <number> backups",
    "days": "Keep the backups of the last <number> days",
    "daily": "Keep the newest backup of each of the last <number> days that have one",
    "weekly": "Keep the newest backup of each of the last <number> weeks that have one",
    "monthly": "Keep the newest backup of each of the last <number> months that have one",
    "yearly": "Keep the newest backup of each of the last <number> years that have one",
}


def _columns(schedule: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[Any]]:
    names = sorted(schedule)
    return names, [
        json.dumps(schedule[name], sort_keys=True) if name == "retention" else schedule[name]
        for name in names
    ]


def _add_schedule(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("schedule", metavar="<schedule>", help="Schedule (name or ID)")


def _add_values(parser: argparse.ArgumentParser) -> None:
    """Add the options that say when backups are made, and which are kept."""
    parser.add_argument(
        "--timezone", metavar="<zone>", help="Time zone of the expression, like Europe/Berlin"
    )
    parser.add_argument(
        "--window",
        metavar="<seconds>",
        type=int,
        dest="window_s",
        help="Begin at a moment of its own within this many seconds behind the expression's time",
    )
    parser.add_argument(
        "--full-every",
        metavar="<number>",
        type=int,
        help="Make every <number>-th backup a full one, the others increments; 1: all are full",
    )
    for name, text in _RULES.items():
        parser.add_argument(
            f"--keep-{name}",
            metavar="<number>",
            type=int,
            help=f"{text}; what any of these rules keeps is kept",
        )


def _values(parsed_args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return what was given, by the names of the API."""
    given = {name: getattr(parsed_args, name) for name in (*names, "timezone", "window_s")}
    given["full_every"] = parsed_args.full_every
    values = {name: value for name, value in given.items() if value is not None}
    rules = {
        name: getattr(parsed_args, f"keep_{name}")
        for name in _RULES
        if getattr(parsed_args, f"keep_{name}") is not None
    }
    if rules:
        values["retention"] = rules
    return values


class CreateSchedule(command.ShowOne):
    """Make a schedule of backups, of an instance or of all that have none of their own."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="<name>", help="Name of the schedule")
        parser.add_argument(
            "--cron",
            metavar="<expression>",
            required=True,
            help='When: minute, hour, day of month, month, day of week, like "30 2 * * 0"',
        )
        parser.add_argument(
            "--instance",
            metavar="<instance>",
            help="Instance (name or ID); without one it is the default of the project",
        )
        parser.add_argument("--disabled", action="store_true", help="Make no backups for now")
        _add_values(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Return names and values."""
        api = DatabaseApi(self.app.client_manager)
        values = _values(parsed_args, "name", "cron")
        if parsed_args.instance is not None:
            values["instance_id"] = api.find_instance_id(parsed_args.instance)
        if parsed_args.disabled:
            values["enabled"] = False
        return _columns(api.create_schedule(values))


class ListSchedules(command.Lister):
    """List schedules of backups."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            "--instance", metavar="<instance>", help="Only those of an instance (name or ID)"
        )
        parser.add_argument(
            "--project", metavar="<project-id>", help="Those of another project (admin only)"
        )
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterator[tuple[Any, ...]]]:
        """Return columns and rows."""
        api = DatabaseApi(self.app.client_manager)
        instance_id = None
        if parsed_args.instance is not None:
            instance_id = api.find_instance_id(parsed_args.instance)
        found = api.list_schedules(instance_id=instance_id, project_id=parsed_args.project)
        keys = [name.lower().replace(" ", "_") for name in _COLUMNS]
        return _COLUMNS, (tuple(each[key] for key in keys) for each in found)


class ShowSchedule(command.ShowOne):
    """Show a schedule of backups."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_schedule(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Return names and values."""
        return _columns(DatabaseApi(self.app.client_manager).find_schedule(parsed_args.schedule))


class SetSchedule(command.Command):
    """Change a schedule of backups; rules given replace all that there were."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_schedule(parser)
        parser.add_argument("--name", metavar="<name>", help="New name")
        parser.add_argument("--cron", metavar="<expression>", help="New expression")
        _add_values(parser)
        switch = parser.add_mutually_exclusive_group()
        switch.add_argument("--enable", dest="enabled", action="store_true", default=None)
        switch.add_argument("--disable", dest="enabled", action="store_false", default=None)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Change what was given."""
        api = DatabaseApi(self.app.client_manager)
        values = _values(parsed_args, "name", "cron", "enabled")
        if not values:
            raise exceptions.CommandError("Nothing is to be changed: give an option.")
        api.update_schedule(api.find_schedule(parsed_args.schedule)["id"], values)


class DeleteSchedules(command.Command):
    """Delete schedules of backups; the backups that they made stay."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            "schedule", metavar="<schedule>", nargs="+", help="Schedule (name or ID)"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Delete one after the other."""
        api = DatabaseApi(self.app.client_manager)
        for schedule in parsed_args.schedule:
            api.delete_schedule(api.find_schedule(schedule)["id"])
