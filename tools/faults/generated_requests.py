#!/usr/bin/env python3
"""Send requests generated from the API's own description to a service that runs.

    generated_requests.py --clouds-file STATE_DIR/clouds.yaml [--cloud trove-admin]
                          [--requests 20000] [--seed 0]

Half of the requests fit the description, half do not; instances, databases, users and so on are
those that the service has, and some that it has not. Every answer must be one that is described: a
500 never is. Prints what was answered how often and every answer that is wrong; ends with 1 if
there is one. The service should be one to throw away: nothing is spared.
"""

from __future__ import annotations

import argparse
import base64
import collections
import contextlib
import pathlib
import sys
import urllib.parse
from typing import Any

import hypothesis
import requests
import schemathesis
import yaml
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi import checks

_CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
_LONGEST = 2000
_METHODS = ("get", "post", "put", "patch", "delete")
#: Collections whose first member stands for the parameter of a path.
_COLLECTIONS = {
    "instance_id": ("instances", "id"),
    "configuration_id": ("configurations", "id"),
    "module_id": ("modules", "id"),
    "backup_id": ("backups", "id"),
    "cluster_id": ("clusters", "id"),
    "datastore": ("datastores", "name"),
    "flavor_id": ("flavors", "str_id"),
}


class Service:
    """The service under test."""

    def __init__(self, clouds_file: pathlib.Path, cloud: str) -> None:
        """Take an entry of a clouds.yaml."""
        auth = yaml.safe_load(clouds_file.read_text())["clouds"][cloud]["auth"]
        where = urllib.parse.urlsplit(auth["auth_url"])
        self.base = f"{where.scheme}://{where.netloc}"
        self.project = str(auth["project_name"])
        self.endpoint = f"{self.base}/v1.0/{self.project}"
        secret = base64.b64encode(f"{auth['username']}:{auth['password']}".encode()).decode()
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Basic {secret}"

    def known(self) -> dict[str, str]:
        """Return parameters of paths that mean something now."""
        found = {"project_id": self.project, "quota_project_id": self.project}
        for parameter, (collection, key) in _COLLECTIONS.items():
            answer = self.session.get(f"{self.endpoint}/{collection}", timeout=60)
            items = answer.json().get(collection) or [] if answer.ok else []
            if items and items[0].get(key):
                found[parameter] = str(items[0][key])
        return found

    def create(self) -> None:
        """Have an instance made, so that there is one."""
        instance = {"name": "generated", "flavorRef": "1", "volume": {"size": 1}}
        self.session.post(f"{self.endpoint}/instances", json={"instance": instance}, timeout=60)


def run(service: Service, *, most: int, seed: int) -> int:
    """Send the requests; return how many answers were wrong."""
    schema = schemathesis.openapi.from_url(f"{service.base}/v1.0/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    operations.sort(key=lambda operation: _METHODS.index(operation.method))
    answers: collections.Counter[tuple[str, int]] = collections.Counter()
    wrong: dict[str, str] = {}
    rounds = max(1, most // (len(operations) * 2 * 10))
    for number in range(rounds):
        for operation in operations:
            names = service.known()
            if "instance_id" not in names:
                service.create()
                names = service.known()
            for mode in GenerationMode:
                # every other round an unknown one of everything but the project
                kept = names if number % 2 == 0 else {"project_id": names["project_id"]}
                known = {p.name: kept[p.name] for p in operation.path_parameters if p.name in kept}

                @hypothesis.seed(seed + number)
                @hypothesis.given(case=operation.as_strategy(mode, path_parameters=known))
                @hypothesis.settings(
                    max_examples=10,
                    database=None,
                    deadline=None,
                    phases=[hypothesis.Phase.generate],
                    suppress_health_check=list(hypothesis.HealthCheck),
                )
                def send(case: schemathesis.Case) -> None:
                    response = case.call(session=service.session, timeout=60)
                    answers[case.method, response.status_code] += 1
                    try:
                        case.validate_response(response, checks=_CHECKS)
                    except FailureGroup as e:
                        where = f"{case.method} {case.path} {response.status_code}"
                        wrong[where] = str(e)[:_LONGEST]

                with contextlib.suppress(hypothesis.errors.Unsatisfiable):
                    send()
    _report(answers, wrong)
    return len(wrong)


def _report(answers: collections.Counter[tuple[str, int]], wrong: dict[str, Any]) -> None:
    print(f"{answers.total()} requests")
    for (method, status), count in sorted(answers.items()):
        print(f"{method:7} {status} {count:7}")
    for where, what in wrong.items():
        print(f"\nWRONG {where}\n{what}")
    print(f"\n{len(wrong)} kinds of wrong answers")


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clouds-file", type=pathlib.Path, required=True)
    parser.add_argument("--cloud", default="trove-admin")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    service = Service(args.clouds_file, args.cloud)
    return 1 if run(service, most=args.requests, seed=args.seed) else 0


if __name__ == "__main__":
    sys.exit(main())
