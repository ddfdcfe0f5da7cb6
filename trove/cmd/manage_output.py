"""What all commands of trove-manage need: the configuration, the database, output.

Tables are for people; JSON says the same for programs.
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

from trove import conf as trove_conf
from trove.common import exception
from trove.db import base, datastores


def load(args: argparse.Namespace) -> cfg.ConfigOpts:
    """Read the configuration; raises ConfigurationError."""
    options = [part for file in args.config_file or () for part in ("--config-file", file)]
    if args.debug:
        options.append("--debug")
    try:
        conf = trove_conf.load(options, prog="trove-manage", has_output=True)
    except cfg.Error as e:
        raise exception.ConfigurationError(reason=str(e)) from e
    if not args.debug:
        # the outcome is printed; what the libraries say on the way is for a search for faults
        logging.getLogger().setLevel(logging.WARNING)
    return conf


def open_database(conf: cfg.ConfigOpts) -> base.Database:
    """Return the configured database."""
    return base.Database.from_config(conf)


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{text}\n")


def say_json(value: Any) -> None:
    """Print JSON."""
    say(json.dumps(value, indent=2))


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it."""
    if isinstance(value, datetime.datetime):
        return value.isoformat(timespec="seconds")
    return value


def cell(value: Any) -> str:
    """Return a value as it stands in a table."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(cell(each) for each in value)
    return " ".join(str(value).split())


def version_record(version: datastores.Version) -> dict[str, Any]:
    """Return what is shown of a datastore version."""
    return {
        "datastore": version.datastore_name,
        "version": version.name,
        "engine": version.version,
        "manager": version.manager,
        "active": version.active,
        "id": version.id,
        "image": version.image_id,
    }


def show(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Print rows as a table, or all they hold as JSON."""
    if as_json:
        say_json(rows)
        return
    titles = [column.replace("_", " ").upper() for column in columns]
    table = [titles, *([cell(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        say("  ".join(cells).rstrip())
