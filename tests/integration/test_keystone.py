"""The API behind a real Keystone: tokens, roles, projects and the catalog of unchanged clients."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.fixtures.keystone import Keystone, keystone
from tests.fixtures.stack import free_port
from tests.fixtures.waiting import wait_until
from trove.common import concurrency, crypto
from trove.db import base, datastores, migrations

__all__ = ["keystone"]

# the SDK warns of parts of its own that will go
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::PendingDeprecationWarning"
)

BIN = pathlib.Path(sys.executable).parent
CREATE = {
    "instance": {
        "name": "orders",
        "flavorRef": "2",
        "volume": {"size": 1},
        "datastore": {"type": "mariadb"},
    }
}


def _make_database(url: str) -> None:
    database = base.Database(url)
    migrations.upgrade(database)
    with database.writer() as session:
        datastores.upsert_version(
            session,
            datastores.NewVersion(
                datastore_name="mariadb",
                name="10.11",
                version="10.11.19",
                manager="mariadb",
                image_id="00000000-0000-4000-8000-00000000000a",
            ),
            make_default=True,
            now=concurrency.SystemClock().now(),
        )
    database.dispose()


@contextlib.contextmanager
def _running_api(config: pathlib.Path, url: str) -> Iterator[None]:
    """Run trove-api until the end of the block."""
    with (
        (config.parent / "api.log").open("w") as log,
        subprocess.Popen(
            [str(BIN / "trove-api"), "--config-file", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        ) as process,
    ):
        try:
            wait_until(lambda: _is_up(url), timeout_s=30, what="trove-api to answer")
            yield
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def _is_up(url: str) -> bool:
    try:
        return requests.get(f"{url}/healthcheck", timeout=5).status_code == 200
    except (requests.ConnectionError, requests.Timeout):
        return False


@pytest.fixture(scope="module")
def api(keystone: Keystone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the URL of a running API that validates tokens with Keystone."""
    home = tmp_path_factory.mktemp("api")
    url = f"http://127.0.0.1:{(port := free_port())}"
    keystone.add_user("trove", service="service")
    keystone.add_user("ann", shop="member")
    keystone.add_user("rita", shop="reader")
    keystone.add_user("bob", bank="member")
    keystone.add_endpoint(service_type="database", name="trove", url=f"{url}/v1.0/$(project_id)s")
    _make_database(f"sqlite:///{home}/trove.db")
    config = home / "trove.conf"
    config.write_text(
        # no broker: an accepted create stays in the database, which is all that is looked at here
        f"[DEFAULT]\ntransport_url = rabbit://nobody:none@127.0.0.1:{free_port()}/\n"
        f"[guest]\ntransport_url = rabbit://nobody:none@127.0.0.1:{free_port()}/\n"
        f"key_encryption_keys = {crypto.encode_key(crypto.generate_key())}\n"
        f"[database]\nconnection = sqlite:///{home}/trove.db\n"
        f"[api]\nauth_strategy = keystone\nbind_port = {port}\n"
        "[taskmanager]\ncompute_driver = local\nvolume_driver = local\nimage_driver = local\n"
        "network_driver = local\n"
        f"[local]\nstate_dir = {home}\n"
        f"[keystone_authtoken]\nauth_url = {keystone.url}\nauth_type = password\n"
        f"www_authenticate_uri = {keystone.url}\n"
        "username = trove\npassword = trove-pw\nproject_name = service\n"
        "user_domain_id = default\nproject_domain_id = default\n"
        "http_connect_timeout = 2\nhttp_request_max_retries = 0\n"
        "service_token_roles = service\nservice_token_roles_required = true\n"
    )
    with _running_api(config, url):
        # the first token takes Keystone longer than the API waits on a busy machine
        wait_until(
            lambda: _ask(keystone, url, ANN, "GET", "/instances").status_code == 200,
            timeout_s=60,
            what="a token to be validated",
        )
        yield url


def _ask(
    keystone: Keystone, api: str, who: tuple[str, str], method: str, path: str, **kwargs: Any
) -> requests.Response:
    """Send a request of ``who`` (user, project) to the project's own URL."""
    user, project = who
    headers = {"X-Auth-Token": keystone.token(user, project)}
    url = f"{api}/v1.0/{keystone.project_id(user, project)}{path}"
    return requests.request(method, url, headers=headers, timeout=20, **kwargs)


ANN, RITA, BOB, ADMIN = ("ann", "shop"), ("rita", "shop"), ("bob", "bank"), ("admin", "admin")


@pytest.fixture(scope="module")
def instance_id(keystone: Keystone, api: str) -> str:
    """Give the id of an instance that a member made."""
    answer = _ask(keystone, api, ANN, "POST", "/instances", json=CREATE)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["instance"]["id"])


def test_a_member_sees_what_it_made(keystone: Keystone, api: str, instance_id: str) -> None:
    shown = _ask(keystone, api, ANN, "GET", f"/instances/{instance_id}")
    assert shown.status_code == 200
    assert shown.json()["instance"]["status"] == "BUILD"
    assert "tenant_id" not in shown.json()["instance"]


def test_a_reader_sees_but_may_not_change(keystone: Keystone, api: str, instance_id: str) -> None:
    assert _ask(keystone, api, RITA, "GET", f"/instances/{instance_id}").status_code == 200
    assert _ask(keystone, api, RITA, "POST", "/instances", json=CREATE).status_code == 403
    assert _ask(keystone, api, RITA, "DELETE", f"/instances/{instance_id}").status_code == 403


def test_another_project_sees_nothing(keystone: Keystone, api: str, instance_id: str) -> None:
    assert _ask(keystone, api, BOB, "GET", f"/instances/{instance_id}").status_code == 404
    assert _ask(keystone, api, BOB, "DELETE", f"/instances/{instance_id}").status_code == 404
    assert _ask(keystone, api, BOB, "GET", "/instances").json()["instances"] == []
    foreign = f"{api}/v1.0/{keystone.project_id(*ANN)}/instances"
    answer = requests.get(foreign, headers={"X-Auth-Token": keystone.token(*BOB)}, timeout=20)
    assert answer.status_code == 403


def test_an_administrator_acts_on_any_instance_by_its_own_url(
    keystone: Keystone, api: str, instance_id: str
) -> None:
    shown = _ask(keystone, api, ADMIN, "GET", f"/instances/{instance_id}")
    assert shown.status_code == 200
    assert shown.json()["instance"]["tenant_id"] == keystone.project_id(*ANN)


@pytest.mark.parametrize("token", [None, "made-up", "revoked"])
def test_without_a_valid_token_nothing_is_told(
    keystone: Keystone, api: str, token: str | None
) -> None:
    headers = {}
    if token == "revoked":
        session = keystone.session(*BOB)
        token = session.get_token()
        session.delete(f"{keystone.url}/auth/tokens", headers={"X-Subject-Token": token})
    if token is not None:
        headers["X-Auth-Token"] = token
    url = f"{api}/v1.0/{keystone.project_id(*BOB)}/instances"
    forged = {"X-Project-Id": keystone.project_id(*BOB), "X-Roles": "admin", "X-User-Id": "u"}
    answer = requests.get(url, headers=headers | forged, timeout=20)
    assert answer.status_code == 401
    assert "Keystone uri=" in answer.headers["WWW-Authenticate"]


def test_while_keystone_does_not_answer_the_api_says_so(keystone: Keystone, api: str) -> None:
    url = f"{api}/v1.0/{keystone.project_id(*BOB)}/instances"
    token = keystone.token(*BOB)
    with keystone.frozen():
        answer = requests.get(url, headers={"X-Auth-Token": token}, timeout=30)
    assert answer.status_code == 503
    assert "identity service" in answer.json()["serviceUnavailable"]["message"]
    assert answer.headers["x-openstack-request-id"].startswith("req-")
    assert requests.get(url, headers={"X-Auth-Token": token}, timeout=30).status_code == 200


def test_the_openstack_client_finds_the_service_in_the_catalog(
    keystone: Keystone, api: str, instance_id: str
) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("OS_")}
    done = subprocess.run(
        [str(BIN / "openstack"), "database", "instance", "list", "-f", "json"],
        env=clean | keystone.environment(*ANN),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert [row["ID"] for row in json.loads(done.stdout)] == [instance_id]
