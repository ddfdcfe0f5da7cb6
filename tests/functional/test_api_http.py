"""The API behind its real HTTP server: what only a socket can show."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fixtures import api as api_fixture
from trove.api import service
from trove.common import exception
from trove.db import base
from trove.rpc import payloads

_HEADERS = {"X-Project-Id": "project-a", "X-User-Id": "u", "X-Roles": "member"}


class Server:
    """A running server and a way to ask it."""

    def __init__(self, api: api_fixture.Api) -> None:
        self.api = api
        api.conf.set_override("bind_port", 0, "api")
        listener = service.listen(api.conf)
        self.port = listener.getsockname()[1]
        self.http = service.HttpServer(api.wsgi, listener=listener, threads=2)
        self.http.prepare()
        self._thread = threading.Thread(target=self.http.serve)
        self._thread.start()

    def ask(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            sent = json.dumps(body) if isinstance(body, dict) else body
            connection.request(method, path, body=sent, headers={**_HEADERS, **headers})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def stop(self) -> None:
        self.http.stop()
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture
def server(sqlite_database: base.Database) -> Iterator[Server]:
    api = api_fixture.make_api(sqlite_database, max_request_body_bytes=4096)
    api.add_datastore()
    running = Server(api)
    yield running
    running.stop()


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("joe.x", "%"),
        ("a/b", "%"),
        ("a%2Fb", "%"),
        ("50%", "%.example.org"),
        ("a@b", "10.0.0.0/255.0.0.0"),
        ("x?y#z", "fd00::1"),
        ("jörg +", "%"),
        (".", "%"),
        ("..", "%"),
    ],
)
def test_names_survive_the_real_path(server: Server, name: str, host: str) -> None:
    instance_id = server.api.create_instance(active=True)
    users = f"/v1.0/project-a/instances/{instance_id}/users"
    engine = server.api.guest.engine(instance_id)
    engine.users[name, host] = payloads.User(name=name, host=host)
    quoted = urllib.parse.quote(f"{name}@{host}", safe="")
    for segment in (quoted, quoted.replace(".", "%2e")):
        status, _, body = server.ask("GET", f"{users}/{segment}")
        assert status == 200, body
        user = json.loads(body)["user"]
        assert (user["name"], user["host"]) == (name, host)


def test_empty_answers_have_type_and_request_id(server: Server) -> None:
    instance_id = server.api.create_instance(active=True)
    path = f"/v1.0/project-a/instances/{instance_id}"
    body = {"databases": [{"name": "a"}]}
    status, headers, answer = server.ask("POST", f"{path}/databases", body)
    assert (status, answer) == (202, b"")
    assert headers["Content-Type"] == "application/json"
    assert headers["x-openstack-request-id"].startswith("req-")
    assert server.ask("POST", f"{path}/root")[0] == 200
    status, headers, answer = server.ask("DELETE", f"{path}/root")
    assert (status, answer, headers["Content-Type"]) == (204, b"", "application/json")


@pytest.mark.parametrize("path", ["//v1.0//project-a//flavors", "/v1.0/project-a/flavors/"])
def test_slashes_do_not_count(server: Server, path: str) -> None:
    assert server.ask("GET", path)[0] == 200


def test_a_body_too_large_is_refused_before_it_is_read(server: Server) -> None:
    status, headers, body = server.ask("POST", "/v1.0/project-a/instances", b"x" * 4097)
    assert status == 413
    assert json.loads(body)["overLimit"]["code"] == 413
    assert headers["x-openstack-request-id"]
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw:
        head = "POST /v1.0/project-a/instances HTTP/1.1\r\nHost: x\r\nX-Project-Id: project-a\r\n"
        raw.sendall(f"{head}Content-Length: 99999999999\r\n\r\n".encode())
        assert raw.recv(4096).startswith(b"HTTP/1.1 413")


def test_chunked_bodies_are_read_and_bounded(server: Server) -> None:
    body = {"instance": {"name": "x", "flavorRef": 1, "volume": {"size": 1}}}
    sent = json.dumps(body).encode()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    path = "/v1.0/project-a/instances"
    connection.request(
        "POST", path, body=iter([sent[:10], sent[10:]]), headers=_HEADERS, encode_chunked=True
    )
    assert connection.getresponse().status == 200
    connection.close()
    connection.request(
        "POST", path, body=iter([b"x" * 4000] * 2), headers=_HEADERS, encode_chunked=True
    )
    assert connection.getresponse().status == 413
    connection.close()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"X-A: " + b"y" * 70_000 + b"\r\n\r\n", 413),
        (b"GET / HTTP/9.9\r\n\r\n", 505),
        (b"GET\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nbroken header\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    ],
)
def test_what_is_not_http_is_refused_as_everything_else_is(
    server: Server, sent: bytes, status: int
) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw:
        raw.sendall(sent)
        with raw.makefile("rb") as answer:
            assert answer.readline().startswith(f"HTTP/1.1 {status} ".encode())
            headers = http.client.parse_headers(answer)
            (fault,) = json.loads(answer.read(int(headers["Content-Length"]))).values()
    assert (fault["code"], fault["error_code"]) == (status, "trove.malformed_request")
    assert headers["Content-Type"] == "application/json"
    assert headers["x-openstack-request-id"].startswith("req-")


def test_an_answer_is_not_held_back_by_delayed_acknowledgements(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    started = time.monotonic()
    for _ in range(50):
        connection.request("GET", "/v1.0", headers=_HEADERS)
        connection.getresponse().read()
    # with Nagle's algorithm every one of them takes 40 ms
    assert time.monotonic() - started < 1.5
    connection.close()


def test_a_taken_port_is_told_with_a_remedy(server: Server) -> None:
    server.api.conf.set_override("bind_port", server.port, "api")
    with pytest.raises(exception.ConfigurationError, match=f"port {server.port}.*bind_port"):
        service.listen(server.api.conf)
