"""Who may do what: persona x route, as data.

The letters of a row are the personas that are let in, the others are refused: r reader, m member,
g manager, a admin, f member of another project (who asks for the same things under the own
project), A admin of another project, s another service of the cloud. Nobody who is not
authenticated is let in anywhere here.
"""

from __future__ import annotations

EVERYBODY = "rmgafA"
#: What is the same for all projects.
CATALOG = EVERYBODY + "s"
#: Reads of one instance: the other project's member is told that it does not exist.
READ = "rmgaA"
WRITE = "mgaA"
ADMIN = "aA"
#: What other services count and bill.
SERVICE = "aAs"

#: "METHOD path" -> personas that are let in.
MATRIX: dict[str, str] = {
    "GET /": CATALOG,
    "GET /instances": EVERYBODY,
    "POST /instances": "mgafA",
    "GET /instances/detail": EVERYBODY,
    "GET /instances/{instance_id}": READ,
    "PUT /instances/{instance_id}": WRITE,
    "PATCH /instances/{instance_id}": WRITE,
    "DELETE /instances/{instance_id}": WRITE,
    "POST /instances/{instance_id}/action": WRITE,
    "GET /instances/{instance_id}/databases": READ,
    "POST /instances/{instance_id}/databases": WRITE,
    "GET /instances/{instance_id}/databases/{database}": READ,
    "DELETE /instances/{instance_id}/databases/{database}": WRITE,
    "GET /instances/{instance_id}/users": READ,
    "POST /instances/{instance_id}/users": WRITE,
    "PUT /instances/{instance_id}/users": WRITE,
    "GET /instances/{instance_id}/users/{user}": READ,
    "POST /instances/{instance_id}/users/{user}": WRITE,
    "PUT /instances/{instance_id}/users/{user}": WRITE,
    "DELETE /instances/{instance_id}/users/{user}": WRITE,
    "GET /instances/{instance_id}/users/{user}/databases": READ,
    "PUT /instances/{instance_id}/users/{user}/databases": WRITE,
    "DELETE /instances/{instance_id}/users/{user}/databases/{database}": WRITE,
    "GET /instances/{instance_id}/log": READ,
    # what it does besides showing is for members: see tests/functional/test_api_logs.py
    "POST /instances/{instance_id}/log": READ,
    "GET /instances/{instance_id}/metrics": READ,
    "GET /instances/{instance_id}/queries": READ,
    "GET /instances/{instance_id}/root": READ,
    "POST /instances/{instance_id}/root": WRITE,
    "DELETE /instances/{instance_id}/root": WRITE,
    "DELETE /instances/{instance_id}/root/delete": WRITE,
    "GET /instances/{instance_id}/operations": READ,
    "GET /instances/{instance_id}/operations/{operation_id}": READ,
    "GET /instances/{instance_id}/events": READ,
    "GET /events": EVERYBODY,
    "GET /instances/{instance_id}/configuration": READ,
    "GET /configurations": EVERYBODY,
    "POST /configurations": "mgafA",
    "GET /configurations/{configuration_id}": READ,
    "PUT /configurations/{configuration_id}": WRITE,
    "PATCH /configurations/{configuration_id}": WRITE,
    "DELETE /configurations/{configuration_id}": WRITE,
    "GET /configurations/{configuration_id}/instances": READ,
    "GET /datastores/{datastore}/versions/{version}/parameters": EVERYBODY,
    "GET /datastores/{datastore}/versions/{version}/parameters/{name}": EVERYBODY,
    "GET /datastores/versions/{version}/parameters": EVERYBODY,
    "GET /datastores/versions/{version}/parameters/{name}": EVERYBODY,
    "GET /mgmt/datastores/versions/{version}/parameters": ADMIN,
    "POST /mgmt/datastores/versions/{version}/parameters": ADMIN,
    "GET /mgmt/datastores/versions/{version}/parameters/{name}": ADMIN,
    "PUT /mgmt/datastores/versions/{version}/parameters/{name}": ADMIN,
    "DELETE /mgmt/datastores/versions/{version}/parameters/{name}": ADMIN,
    "GET /instances/{instance_id}/ssl": READ,
    "POST /instances/{instance_id}/ssl": WRITE,
    "GET /instances/{instance_id}/modules": READ,
    "POST /instances/{instance_id}/modules": WRITE,
    "DELETE /instances/{instance_id}/modules/{module_id}": WRITE,
    "GET /modules": EVERYBODY,
    "POST /modules": "mgafA",
    "GET /modules/{module_id}": READ,
    "PUT /modules/{module_id}": WRITE,
    "DELETE /modules/{module_id}": WRITE,
    "GET /modules/{module_id}/instances": READ,
    "PUT /modules/{module_id}/instances": WRITE,
    "GET /datastores": CATALOG,
    "GET /datastores/{datastore}": CATALOG,
    "GET /datastores/{datastore}/versions": CATALOG,
    "GET /datastores/{datastore}/versions/{version}": CATALOG,
    "GET /datastores/versions/{version}": CATALOG,
    "GET /datastores/{datastore}/versions/{version}/flavors": CATALOG,
    "GET /flavors": CATALOG,
    "GET /flavors/{flavor_id}": CATALOG,
    "GET /certificate-authority": CATALOG,
    "GET /limits": EVERYBODY,
    "GET /clusters": EVERYBODY,
    "GET /datastores/{datastore}/versions/{version}/volume-types": CATALOG,
    "GET /backups": EVERYBODY,
    "POST /backups": WRITE,
    "GET /backups/{backup_id}": READ,
    "DELETE /backups/{backup_id}": WRITE,
    "GET /instances/{instance_id}/backups": READ,
    "GET /backup_strategies": EVERYBODY,
    "POST /backup_strategies": "mgafA",
    "DELETE /backup_strategies": "mgafA",
    "GET /backup_schedules": EVERYBODY,
    "POST /backup_schedules": "mgafA",
    "GET /backup_schedules/{schedule_id}": READ,
    "PATCH /backup_schedules/{schedule_id}": WRITE,
    "DELETE /backup_schedules/{schedule_id}": WRITE,
    "PUT /mgmt/quotas/{quota_project_id}": ADMIN,
    "GET /mgmt/datastore-versions": ADMIN,
    "POST /mgmt/datastore-versions": ADMIN,
    "GET /mgmt/datastore-versions/{version_id}": ADMIN,
    "PATCH /mgmt/datastore-versions/{version_id}": ADMIN,
    "GET /mgmt/clusters": ADMIN,
    "GET /mgmt/instances": SERVICE,
    "GET /mgmt/instances/{instance_id}": SERVICE,
    "POST /mgmt/instances/{instance_id}/action": ADMIN,
    "GET /mgmt/instances/{instance_id}/root": ADMIN,
    "GET /mgmt/instances/{instance_id}/diagnostics": ADMIN,
    "GET /mgmt/instances/{instance_id}/hwinfo": ADMIN,
    "GET /mgmt/instances/{instance_id}/rpc_ping": ADMIN,
}
#: Routes that answer nothing but a refusal: "METHOD path" -> persona -> status.
REFUSALS: dict[str, dict[str, int]] = {
    "POST /clusters": {**dict.fromkeys("rs", 403), **dict.fromkeys("mgafA", 501)},
    "GET /clusters/{cluster_id}": {**dict.fromkeys("rmgafA", 404), "s": 403},
    "POST /clusters/{cluster_id}": {**dict.fromkeys("rs", 403), **dict.fromkeys("mgafA", 404)},
    "DELETE /clusters/{cluster_id}": {**dict.fromkeys("rs", 403), **dict.fromkeys("mgafA", 404)},
    "GET /clusters/{cluster_id}/instances/{member_id}": {**dict.fromkeys("rmgafA", 404), "s": 403},
    "GET /clusters/{cluster_id}/root": {**dict.fromkeys("rmgafA", 404), "s": 403},
    "POST /clusters/{cluster_id}/root": {**dict.fromkeys("rs", 403), **dict.fromkeys("mgafA", 404)},
    "GET /mgmt/clusters/{cluster_id}": {**dict.fromkeys("rmgfs", 403), "a": 404, "A": 404},
    "POST /mgmt/clusters/{cluster_id}/action": {**dict.fromkeys("rmgfs", 403), "a": 404, "A": 404},
    # of an instance that nothing is known of
    "POST /backups/{backup_id}/action": {
        **dict.fromkeys("rs", 403),
        **dict.fromkeys("mgaA", 400),
        "f": 404,
    },
    # the own project's are anybody's, another project's are the administrators'
    "GET /mgmt/quotas/{quota_project_id}": {**dict.fromkeys("rmgaAs", 200), "f": 403},
    # there is one, which instances use and which is of the datastore
    "DELETE /datastores/{datastore}": {**dict.fromkeys("rmgfs", 403), "a": 400, "A": 400},
    "DELETE /mgmt/datastore-versions/{version_id}": {
        **dict.fromkeys("rmgfs", 403),
        "a": 400,
        "A": 400,
    },
}
#: What a request must send.
BODIES: dict[str, object] = {
    "POST /instances": {"instance": {"name": "x", "flavorRef": 1, "volume": {"size": 1}}},
    "PUT /instances/{instance_id}": {"instance": {"name": "new"}},
    "PATCH /instances/{instance_id}": {"instance": {"name": "new"}},
    "POST /instances/{instance_id}/action": {"restart": {}},
    "POST /mgmt/instances/{instance_id}/action": {"reset-task-status": {}},
    "POST /configurations": {"configuration": {"name": "c", "values": {}}},
    "PUT /configurations/{configuration_id}": {"configuration": {"values": {"wait_timeout": 60}}},
    "PATCH /configurations/{configuration_id}": {"configuration": {"values": {"wait_timeout": 60}}},
    "POST /mgmt/datastores/versions/{version}/parameters": {
        "configuration-parameter": {"name": "new", "data_type": "string", "restart_required": 0}
    },
    "PUT /mgmt/datastores/versions/{version}/parameters/{name}": {
        "configuration-parameter": {
            "name": "wait_timeout",
            "data_type": "integer",
            "restart_required": 0,
            "min_size": 1,
            "max_size": 100,
        }
    },
    "POST /clusters": {
        "cluster": {
            "name": "c",
            "datastore": {"type": "mariadb", "version": "10.11"},
            "instances": [{"flavorRef": "1", "volume": {"size": 1}}] * 3,
        }
    },
    "POST /clusters/{cluster_id}": {"restart": {}},
    "POST /mgmt/clusters/{cluster_id}/action": {"reset-task": {}},
    "POST /backups": {"backup": {"name": "b", "instance": "{instance_id}"}},
    "POST /backups/{backup_id}/action": {"undelete": {}},
    "POST /backup_strategies": {"backup_strategy": {"swift_container": "c"}},
    "POST /backup_schedules": {"backup_schedule": {"name": "{unique}", "cron": "0 2 * * *"}},
    "PATCH /backup_schedules/{schedule_id}": {"backup_schedule": {"enabled": False}},
    "PUT /mgmt/quotas/{quota_project_id}": {"quotas": {"instances": 10}},
    "POST /mgmt/datastore-versions": {
        "version": {
            "name": "{unique}",
            "datastore_name": "mariadb",
            "datastore_manager": "mariadb",
            "image": "{image_id}",
            "active": True,
        }
    },
    "PATCH /mgmt/datastore-versions/{version_id}": {"active": True},
    "POST /instances/{instance_id}/ssl": {"ssl": {"disable": True}},
    "POST /instances/{instance_id}/modules": {"modules": [{"id": "{module_id}"}]},
    "POST /modules": {
        "module": {"name": "{unique}", "module_type": "ping", "contents": "bWVzc2FnZT1h"}
    },
    "PUT /modules/{module_id}": {"module": {"description": "new"}},
    "PUT /modules/{module_id}/instances": {"reapply": {}},
    "POST /instances/{instance_id}/log": {"name": "general"},
    "POST /instances/{instance_id}/databases": {"databases": [{"name": "new"}]},
    "POST /instances/{instance_id}/users": {"users": [{"name": "new", "password": "secret"}]},
    "PUT /instances/{instance_id}/users": {"users": [{"name": "u", "password": "secret"}]},
    "POST /instances/{instance_id}/users/{user}": {"users": {"password": "secret", "name": "n2"}},
    "PUT /instances/{instance_id}/users/{user}": {"user": {"password": "secret"}},
    "PUT /instances/{instance_id}/users/{user}/databases": {"databases": [{"name": "d"}]},
}
