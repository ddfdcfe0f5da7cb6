#!/usr/bin/env python3
"""A new user's whole session with each engine, through the openstack client and the engine's own.

    sessions.py [--backups] [ROW...]      such as postgresql-15; all that are installed by default

A trove-standalone is started in a directory of its own. Of each engine an instance is made with a
database and a user, written to over TLS with the certificate verified, tuned by a configuration
group, restarted, upgraded and deleted; the superuser is enabled and a log read. With --backups a
schedule in another time zone has backups made, which are proven; what is dropped then is restored
as it was one second before, in a new instance and in place, twice; the rule of the schedule leaves
what it should, and the instance is deleted with a last backup and made again of it. That takes up
to 20 minutes, whatever the number of engines. What each step took
is printed; the exit code is 1 when a session failed. Engines that Debian lacks are those of
tools/test-engines.sh. It runs as python tools/sessions.py in an environment with the requirements
of the tests.
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import sys
import traceback
from collections.abc import Iterator, Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from trove.common import concurrency

concurrency.use_native_threads()

from tests.fixtures import backup_sessions, sessions  # noqa: E402 (oslo.messaging must not be imported before)
from tests.fixtures.stack import Stack, destroy_stack, make_stack  # noqa: E402


def tell(session: sessions.Session) -> None:
    """Print what the steps took."""
    steps = ", ".join(f"{name} {took:.1f} s" for name, took in session.marks.items())
    print(f"{session.row}: {sum(session.marks.values()):.1f} s ({steps})", flush=True)


def run_first(running: Stack, rows: Sequence[str]) -> set[str]:
    """Run the sessions one after another; return those that failed."""
    failed: set[str] = set()
    for row in rows:
        with telling_of(row, failed):
            tell(sessions.run(running, row))
    return failed


def run_backups(running: Stack, rows: Sequence[str]) -> set[str]:
    """Run the sessions with backups beside each other; return those that failed."""
    failed: set[str] = set()
    begun: list[backup_sessions.BackupSession] = []
    for row in rows:
        with telling_of(row, failed):
            begun.append(backup_sessions.begin(running, row))
    for part in backup_sessions.PARTS:
        for session in begun:
            if session.row not in failed:
                with telling_of(session.row, failed):
                    part(session)
    for session in begun:
        if session.row not in failed:
            tell(session)
    return failed


@contextlib.contextmanager
def telling_of(row: str, failed: set[str]) -> Iterator[None]:
    """Tell of a session that fails, and let the others go on."""
    try:
        yield
    except Exception:  # noqa: BLE001 (the others are run even so)
        failed.add(row)
        print(f"{row}: FAILED")
        traceback.print_exc()


def main() -> int:
    """Run the sessions."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backups", action="store_true", help="run the sessions with backups")
    parser.add_argument("row", nargs="*", help=f"one of {', '.join(backup_sessions.ROWS)}")
    options = parser.parse_args()
    known = list(backup_sessions.ROWS if options.backups else sessions.ROWS)
    if unknown := set(options.row) - set(known):
        parser.error(f"there is no {', '.join(sorted(unknown))} here, but {', '.join(known)}")
    possible = []
    for row in options.row or known:
        if sessions.is_possible(row):
            possible.append(row)
        else:
            print(f"{row}: not here: engine or client is not installed")
    running = make_stack(sessions.OPTIONS)
    try:
        run = run_backups if options.backups else run_first
        return 1 if run(running, possible) else 0
    finally:
        destroy_stack(running)


if __name__ == "__main__":
    sys.exit(main())
