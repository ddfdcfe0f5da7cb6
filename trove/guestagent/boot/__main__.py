"""``python -m trove.guestagent.boot``: what trove-guest-init.service starts.

Not in :mod:`trove.cmd`, whose import brings the messaging library: seconds in a small server.
"""

import sys

from trove.guestagent.boot import init

if __name__ == "__main__":
    sys.exit(init.main())
