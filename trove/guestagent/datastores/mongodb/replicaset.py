"""The replica set that every instance is, if only of one member.

A set of one costs little and has an oplog from the first write on; it can be given members without
a restart. Its only member is known by the address of the instance, which may be another one when
the volume comes to a new server.
"""

from __future__ import annotations

from oslo_log import log
from pymongo import errors

from trove.datastores import mongodb_configuration
from trove.guestagent.datastores import base
from trove.guestagent.datastores.mongodb import connection

LOG = log.getLogger(__name__)


def ensure_primary(client: connection.Client, *, host: str) -> None:
    """Have the server a primary under ``host`` (address:port); raises NotReady until it is.

    What a superuser made of the set is undone when it keeps the server from being the primary.
    """
    hello = client.admin.command("hello")
    if hello.get("isWritablePrimary") and hello.get("me") == host:
        return
    _correct(client, host=host)
    raise base.NotReady(reason="the database is not the primary of its replica set yet")


def _correct(client: connection.Client, *, host: str) -> None:
    """Begin the set, or have this server as its only member; nothing when it is that already."""
    name = mongodb_configuration.REPLICA_SET
    member = {"_id": 0, "host": host}
    try:
        config = client.admin.command("replSetGetConfig")["config"]
    except errors.OperationFailure as e:
        if e.code != connection.NOT_YET_INITIALIZED:
            raise
        LOG.info("beginning the replica set of %s", host)
        client.admin.command("replSetInitiate", {"_id": name, "members": [member]})
        return
    if [each["host"] for each in config["members"]] == [host]:
        return
    LOG.warning("the replica set is not what it should be: its only member is %s now", host)
    wanted = {
        "_id": name,
        "version": config["version"] + 1,
        "protocolVersion": 1,
        "members": [member],
        "settings": {"replicaSetId": config["settings"]["replicaSetId"]},
    }
    client.admin.command("replSetReconfig", wanted, force=True)
