"""trove-taskmanager: runs operations and reconciles."""

from __future__ import annotations

import sys

import cotyledon
from cotyledon import oslo_config_glue

from trove import conf as trove_conf
from trove.common import exception
from trove.drivers import factory
from trove.rpc import transport
from trove.taskmanager import service


def main() -> int:
    """Run until told to end; what is missing in the configuration is told before the start."""
    conf = trove_conf.load(sys.argv[1:], prog="trove-taskmanager")
    transport.prepare(conf)
    try:
        factory.resolve_keys(conf)
        service.check(conf)
    except exception.TroveError as e:
        sys.exit(f"trove-taskmanager: {e}")
    processes = cotyledon.ServiceManager()
    processes.add(service.TaskManagerService, workers=conf.taskmanager.workers, args=(conf,))
    oslo_config_glue.setup(processes, conf)
    processes.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
