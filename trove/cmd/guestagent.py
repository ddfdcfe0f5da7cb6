"""trove-guestagent: runs one database engine and does what the control plane asks."""

from __future__ import annotations

import sys

from trove.guestagent import software

if __name__ == "__main__" or sys.argv[0].endswith("trove-guestagent"):
    # before anything else is imported: another release may be the one to run
    software.hand_over(sys.argv[1:])
    # half a MiB for keys of OpenSSH with a passphrase, which cryptography would know how to read
    sys.modules.setdefault("bcrypt", None)  # type: ignore[arg-type]

from trove import conf as trove_conf
from trove.common import exception
from trove.guestagent import channel, credentials, service


def main() -> int:
    """Run until SIGTERM (the engine stays) or SIGPWR (the engine is stopped)."""
    conf = trove_conf.load(sys.argv[1:], prog="trove-guestagent", names=trove_conf.GUEST)
    try:
        identity = service.read_identity(conf)
        kept = credentials.from_config(conf, identity.key)
        wire = channel.Channel(conf, identity.instance_id, kept)
        agent = service.make_agent(conf, identity, wire)
    except (exception.TroveError, OSError) as e:
        sys.exit(f"trove-guestagent: {e}")
    service.run(agent, wire)
    return 0


if __name__ == "__main__":
    sys.exit(main())
