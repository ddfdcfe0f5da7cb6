"""trove-verifier: proves backups on a host of the operator's."""

from __future__ import annotations

import sys

import cotyledon
from cotyledon import oslo_config_glue

from trove import conf as trove_conf
from trove.common import exception
from trove.drivers import factory
from trove.rpc import transport
from trove.taskmanager import verifier_service


def main() -> int:
    """Run until told to end; what is missing in the configuration is told before the start."""
    conf = trove_conf.load(sys.argv[1:], prog="trove-verifier")
    transport.prepare(conf)
    try:
        factory.resolve_keys(conf)
        verifier_service.prepare(conf)
    except exception.TroveError as e:
        sys.exit(f"trove-verifier: {e}")
    processes = cotyledon.ServiceManager()
    processes.add(verifier_service.VerifierService, workers=1, args=(conf,))
    oslo_config_glue.setup(processes, conf)
    processes.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
