"""What strangers send to the page, and what of it comes through."""

import asyncio
import json
import os
import socket
import time

import pytest

pytest.importorskip("gradio")
from pydantic import TypeAdapter
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from tlc_jax.app import gate
from tlc_jax.app.visits import Limits, Visits

HASH = "0" * 64
FILE = {"path": f"/visits/{HASH}/a.png", "meta": {"_type": "gradio.FileData"}}
HOST = {"host": "localhost:7860"}


async def asked(request: Request):
    request.app.state.seen = await request.json()
    return JSONResponse(request.app.state.seen)


async def uploaded(request: Request):
    return JSONResponse([f"{request.app.state.folder}/{len(await request.body())}"])


async def shown(request: Request):
    if request.query_params:  # as its visitor leaves
        os.remove(request.path_params["path"])
    return FileResponse(request.path_params["path"])


async def fails(request: Request):
    raise ZeroDivisionError


async def broken(request: Request):
    async def parts():
        yield "begun"
        raise FileNotFoundError

    return StreamingResponse(parts(), media_type="text/event-stream")


@pytest.fixture
def visits(tmp_path):
    (tmp_path / "visits" / HASH).mkdir(parents=True)
    (tmp_path / "visits" / HASH / "a.png").write_bytes(b"a picture")
    return Visits(tmp_path / "visits")


@pytest.fixture
def client(tmp_path, visits):
    routes = [
        Route("/gradio_api/run/predict", asked, methods=["POST"]),
        Route("/gradio_api/cancel", asked, methods=["POST"]),
        Route("/gradio_api/upload", uploaded, methods=["POST"]),
        Route("/gradio_api/file={path:path}", shown),
        Route("/config", fails),
        Route("/gradio_api/queue/data", broken),
        Route("/elsewhere", asked),
        Route("/", asked),
    ]
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples/b.png").write_bytes(b"an example")
    (tmp_path / "secret.png").write_bytes(b"a secret")
    (tmp_path / "examples/c.png").mkdir()
    behind = Middleware(
        gate.Gate, host="127.0.0.1", names=["photos.example.org"], visits=visits,
        limits=Limits(megabytes=1, disk=0.01),
        accepts={
            0: [TypeAdapter(list[gate.Upload])],
            1: [gate.one_of(["fast", "best"]), TypeAdapter(int)],
        },
        shown={"/visits": visits.folder, "/examples": tmp_path / "examples"},
    )  # fmt: skip
    page = Starlette(routes=routes, middleware=[behind])
    page.state.folder = visits.folder
    return TestClient(page, headers=HOST)


def refused(answer, status, words):
    assert answer.status_code == status and words in answer.json()["detail"]
    assert answer.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("localhost", True), ("localhost:80", True), ("127.0.0.1:7860", True), ("[::1]:7860", True),
        ("192.0.2.7", True), ("photos.example.org", True), (socket.gethostname(), True),
        ("evil.example", False), ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("", False), ("[", False), ("a b", False), ("127.0.0.1@evil.example", False),
    ],
)  # fmt: skip
def test_names_of_the_page(client, host, ours):
    """A name may be anybody's; the page of whoever it is could read what this one answers."""
    answer = client.get("/gradio_api/file=/examples/b.png", headers={"host": host})
    assert (answer.status_code == 200) == ours
    if not ours:
        refused(answer, 403, f"not known as {host}; it is with --name {host}")


@pytest.mark.parametrize(
    ("origin", "ours"),
    [
        ("http://localhost:7860", True), ("https://photos.example.org", True),
        ("http://localhost:3000", False), ("http://127.0.0.1:3000", False), ("null", False),
        ("http://evil.example", False), ("http://localhost:7860.evil.example", False),
        ("http://[", False), ("https://photos.example.org:8443", False),
    ],
)  # fmt: skip
def test_other_pages_ask_for_nothing(client, origin, ours):
    sent = {"data": ["fast", 1], "fn_index": 1, "session_hash": "a"}
    answer = client.post("/gradio_api/run/predict", json=sent, headers={"origin": origin})
    assert (answer.status_code == 200) == ours
    if not ours:
        refused(answer, 403, "another page asks for this")


@pytest.mark.parametrize("path", ["/elsewhere", "/docs", "/gradio_api/proxy=http://192.0.2.1"])
def test_nothing_else_is_there(client, path):
    refused(client.get(path), 404, "there is nothing")
    refused(client.post(path), 405, "no such requests")
    refused(client.request("DELETE", "/"), 405, "no such requests")


def test_files_by_their_outer_names(client, visits, tmp_path):
    """Of the two folders, and no others; of what goes wrong no path is told."""
    files = "/gradio_api/file="
    assert client.get(f"{files}/visits/{HASH}/a.png").content == b"a picture"
    assert client.get(f"{files}/examples/b.png").content == b"an example"
    for path in (
        f"{tmp_path}/secret.png", "/examples/../secret.png", "/examples/%2e%2e/secret.png",
        "/etc/passwd",
        "http://192.0.2.1/a.png", "examples/b.png", "/", "/examples/%00",
    ):  # fmt: skip
        refused(client.get(files + path), 403, "only what is uploaded or made here")
    for path in ("/visits", "/visits/none", "/examples/c.png", "/examples" + "/a" * 3000):
        refused(client.get(files + path), 404, "this file is gone")
    for answer in (client.post("/gradio_api/upload", content=b"abc"), client.get(f"{files}/etc")):
        assert str(tmp_path) not in answer.text
    assert client.post("/gradio_api/upload", content=b"abc").json() == ["/visits/3"]


def test_what_the_page_sends_comes_through(client, visits):
    sent = {"data": ["fast", 3], "fn_index": 1, "session_hash": "a-1", "trigger_id": 2}
    assert client.post("/gradio_api/run/predict", json=sent | {"more": 1}).json() == sent
    sent = {"data": [[FILE]], "fn_index": 0, "session_hash": "a"}
    assert (
        client.post("/gradio_api/run/predict", json=sent).json()["data"][0][0]["path"]
        == FILE["path"]
    )
    (file,) = client.app.state.seen["data"][0]
    assert file["path"] == str(visits.folder / HASH / "a.png")
    ended = {"event_id": "e", "session_hash": "a", "fn_index": 1}
    assert client.post("/gradio_api/cancel", json=ended).json() == ended


NO_REQUESTS = {
    "nothing": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "bytes": b"\xff\xfe",
    "depth": b'{"data":' + b"[" * 100_000,
    "a lone surrogate": b'{"data": ["fast", 1], "fn_index": 1, "session_hash": "\\ud800"}',
    **{
        name: json.dumps({"fn_index": 1, "session_hash": "a", "data": ["fast", 1]} | sent).encode()
        for name, sent in {
            "no session": {"session_hash": None},
            "a path": {"session_hash": "../a"},
            "no listener": {"fn_index": 2},
            "a long number": {"fn_index": 10**40},
            "too few": {"data": ["fast"]},
            "too many": {"data": ["fast", 1, 1]},
            "no choice": {"data": ["slow", 1]},
            "NaN": {"data": ["fast", float("nan")]},
            "no files": {"fn_index": 0, "data": [None]},
            "any file": {"fn_index": 0, "data": [[FILE | {"path": "/etc/passwd"}]]},
            "the folder": {"fn_index": 0, "data": [[FILE | {"path": "/visits"}]]},
            "a visit": {"fn_index": 0, "data": [[FILE | {"path": "/visits/tmp123/a.png"}]]},
            "above": {"fn_index": 0, "data": [[FILE | {"path": f"/visits/{HASH}/.."}]]},
            "an address": {"fn_index": 0, "data": [[FILE | {"path": "http://192.0.2.1/a.png"}]]},
        }.items()
    },
}


@pytest.mark.parametrize("body", NO_REQUESTS.values(), ids=NO_REQUESTS)
def test_nothing_else_comes_through(client, body):
    answer = client.post("/gradio_api/run/predict", content=body)
    assert answer.status_code in (404, 422)
    assert answer.json()["detail"].startswith(
        ("this is nothing that the page", "this file is gone")
    )


def test_sizes_are_looked_at_first(client, visits):
    """Of a body before it is read, and as it comes; and how much lies there already."""
    refused(client.post("/gradio_api/run/predict", content=bytes(2**21)), 413, "too large")
    upload = "/gradio_api/upload"
    refused(client.post(upload, content=iter([b"ab"])), 411, "how long it is")
    refused(client.post(upload, content=b"a", headers={"content-length": "9" * 30}), 413, "of 1 MB")
    assert client.post(upload, content=bytes(2**20)).status_code == 200
    refused(client.post(upload, content=bytes(11 * 2**20)), 507, "no room")
    (visits.folder / "other").write_bytes(bytes(10 * 2**20))
    refused(client.post(upload, content=bytes(2**20)), 507, "no room")
    assert visits.coming == 0


def sent_slowly(client, path, receive):
    """The status of a request whose parts come by a function."""
    statuses = []

    async def tell(message):
        statuses.append(message.get("status"))

    headers = [(b"host", b"localhost"), (b"content-length", b"9")]
    scope = {"type": "http", "method": "POST", "path": f"/gradio_api/{path}", "query_string": b""}
    asyncio.run(client.app({**scope, "headers": headers}, receive, tell))
    return statuses[0]


@pytest.mark.parametrize("path", ["upload", "run/predict"])
def test_who_sends_nothing_does_not_stay(client, monkeypatch, path):
    monkeypatch.setattr(gate, "PATIENCE", 0.2)

    async def never():
        await asyncio.sleep(60)

    begun = time.monotonic()
    assert sent_slowly(client, path, never) == 408 and time.monotonic() - begun < 10


def test_room_may_end_as_an_upload_comes(client, visits):
    """As others fill it, or as it is longer than it said."""

    async def parts():
        (visits.folder / "other").write_bytes(bytes(11 * 2**20))
        return {"type": "http.request", "body": bytes(gate.UPLOADS_LOOKED_AT), "more_body": True}

    assert sent_slowly(client, "upload", parts) == 507
    assert visits.coming == 0


def test_errors_are_no_answers(client, caplog):
    """A visitor gets a sentence and the terminal one, without the place in the program."""
    refused(client.get("/config"), 400, "not understood")
    assert caplog.messages.pop() == "GET /config failed (ZeroDivisionError)"
    assert client.get("/gradio_api/queue/data?session_hash=a").text == "begun"
    refused(client.get("/gradio_api/file=/examples/b.png?gone"), 404, "this file is gone")
    assert not any(record.exc_info for record in caplog.records)
    assert not any("/file=" in message for message in caplog.messages)


def test_what_visitors_leave_is_swept(client, visits, monkeypatch):
    monkeypatch.setattr(gate, "SWEEP", 0.1)
    ago = time.time() - 100
    os.utime(visits.folder / HASH, (ago, ago))
    with client:  # from its start to its end
        while (visits.folder / HASH).exists():
            time.sleep(0.1)


def test_sessions_have_names(client, visits, monkeypatch):
    for query in ("", "?session_hash=", "?session_hash=a/b", "?session_hash=" + "a" * 65):
        refused(client.get(f"/gradio_api/queue/data{query}"), 422, "nothing that the page asks")
    monkeypatch.setattr(gate, "STREAMS", 1)
    with visits.listening("b"):
        refused(client.get("/gradio_api/queue/data?session_hash=a"), 503, "too many others")
    assert client.get("/gradio_api/queue/data?session_hash=a").status_code == 200
    assert not visits.listeners
