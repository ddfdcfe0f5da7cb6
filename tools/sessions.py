#!/usr/bin/env python3
"""A new user's whole session with each engine, through the openstack client and the engine's own.

    sessions.py [ROW...]      such as postgresql-15; all that are installed by default

A trove-standalone is started in a directory of its own. Of each engine an instance is made with a
database and a user, written to over TLS with the certificate verified, tuned by a configuration
group, restarted, upgraded and deleted; the superuser is enabled and a log read. What each step took
is printed; the exit code is 1 when a session failed. Engines that Debian lacks are those of
tools/test-engines.sh. It runs as python tools/sessions.py in an environment with the requirements
of the tests.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from trove.common import concurrency

concurrency.use_native_threads()

from tests.fixtures import sessions  # noqa: E402 (oslo.messaging must not be imported before)
from tests.fixtures.stack import destroy_stack, make_stack  # noqa: E402


def main() -> int:
    """Run the sessions one after another."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("row", nargs="*", help=f"one of {', '.join(sessions.ROWS)}")
    options = parser.parse_args()
    if unknown := set(options.row) - set(sessions.ROWS):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    failed = []
    running = make_stack(sessions.OPTIONS)
    try:
        for row in options.row or sessions.ROWS:
            if not sessions.is_possible(row):
                print(f"{row}: not here: engine or client is not installed")
                continue
            try:
                session = sessions.run(running, row)
            except Exception:  # noqa: BLE001 (the others are run even so)
                failed.append(row)
                print(f"{row}: FAILED")
                traceback.print_exc()
                continue
            steps = ", ".join(f"{name} {took:.1f} s" for name, took in session.marks.items())
            print(f"{row}: {sum(session.marks.values()):.1f} s ({steps})", flush=True)
    finally:
        destroy_stack(running)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
