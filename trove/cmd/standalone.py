"""``trove-standalone``: the whole service on one machine, for one command."""

from __future__ import annotations

import argparse
import pathlib
import sys

from trove.cmd import standalone_commands, standalone_state
from trove.common import exception

_COMMANDS = {
    "up": (standalone_commands.up, "start everything; does nothing when it runs"),
    "down": (standalone_commands.down, "stop everything, databases included; data stays"),
    "status": (standalone_commands.status, "show processes and instances"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 when it did what was asked, 1 with what to do on stderr otherwise."""
    parser = argparse.ArgumentParser(prog="trove-standalone", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, text) in _COMMANDS.items():
        command = commands.add_parser(name, help=text)
        command.add_argument(
            "--state-dir", type=pathlib.Path, default=standalone_state.default_state_dir()
        )
    commands.choices["up"].add_argument("--port", type=int, help="port of the API (8779)")
    commands.choices["down"].add_argument("--purge", action="store_true", help="remove all data")
    commands.choices["status"].add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    try:
        return _COMMANDS[args.command][0](args)
    except exception.TroveError as e:
        sys.stderr.write(f"trove-standalone: {e.message}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
