"""Weights by name and by address, from a server on this machine."""

import contextlib
import functools
import hashlib
import http.server
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import jax
import numpy as np
import pytest

import tlc_jax as tlc
from checkpoints_convert import convert_file
from tlc_jax.cli import common
from tlc_jax.files import catalogue, checkpoints, fetching
from tlc_jax.files.catalogue import Published
from tlc_jax.files.checkpoints import CheckpointError

NAME = "nafnet-tiny"
FILE = "NAFNet-tiny.npz"
ACADEMIC = "non-commercial academic use (the authors' licence)"


class Server(http.server.ThreadingHTTPServer):
    """Serves one content at every path but those in `moved`; as bad as it is told to."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.headers: dict[str, str] = {}  # besides the usual ones
        self.ranges, self.length, self.tag = True, True, True
        self.answers: list[int] = []  # statuses of the next requests, in place of the file
        self.cuts: list[int] = []  # bytes after which the next connections are cut
        self.moved: dict[str, str] = {}
        self.wait = 0.0  # seconds before each thousand bytes
        self.asked: list[dict[str, str]] = []
        self.sent = 0

    @property
    def at(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the client was killed, or had enough
            super().handle()

    def do_GET(self) -> None:
        server = self.server
        server.asked.append(dict(self.headers) | {"path": self.path})
        self.close_connection = True
        if self.path in server.moved:
            return self.begin(302, Location=server.moved[self.path])
        if server.answers:
            return self.begin(server.answers.pop(0))
        content = server.content
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        first = 0
        if server.ranges and self.headers.get("If-Range") == tag:
            first = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        told = {"ETag": tag} if server.tag else {}
        if server.length:
            told["Content-Length"] = str(len(content) - first)
        if first:
            told["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        self.begin(206 if first else 200, **told)
        end = first + server.cuts.pop(0) if server.cuts else len(content)
        for part in range(first, end, 1000):
            if server.wait:
                time.sleep(server.wait)
            data = content[part : min(part + 1000, end)]
            self.wfile.write(data)
            server.sent += len(data)

    def begin(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, text in (headers | {"Connection": "close"} | self.server.headers).items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()


@pytest.fixture(scope="module")
def weights(golden) -> bytes:
    file = io.BytesIO()
    np.savez(file, **golden("nafnet_a").tensors)
    return file.getvalue()


@pytest.fixture
def server(weights, tmp_path, monkeypatch):
    """With folders of one's own for what is installed and what is fetched, and without pauses."""
    monkeypatch.setenv("TLC_JAX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TLC_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("TLC_JAX_OFFLINE")
    monkeypatch.setattr(fetching, "PAUSE", 0.0)
    with Server(weights) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def publish(server, monkeypatch):
    """Adds the file of the server to the catalogue."""

    def add(file: str = FILE, **known: Any) -> Published:
        row = file, "nafnet", "", 0, catalogue.MOTION, "GoPro", None, None
        known = {"licence": "MIT", "source": "https://example.org/x"} | known
        known = {"address": f"{server.at}/weights/{file}"} | known
        one = Published(*row, **known)
        monkeypatch.setattr(catalogue, "PUBLISHED", (*catalogue.PUBLISHED, one))
        return one

    return add


def left() -> list[str]:
    """What is kept of downloads; the files that processes wait at are of no size."""
    files = (file for file in fetching.cache().rglob("*") if file.is_file())
    return sorted(file.name for file in files if file.name != "lock")


def fails(run, *words: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        run()
    sentence = str(caught.value)
    assert "\n" not in sentence and all(word in sentence for word in words), sentence
    return sentence


def test_the_name_of_a_file_installs_by_its_own_name(server, publish, monkeypatch):
    one = publish()
    monkeypatch.setitem(catalogue.FILES, one.file, one)
    assert tlc.download(one.file).name == one.name == NAME
    assert checkpoints.installed() == [NAME]


def test_a_name_is_fetched_converted_and_installed(server, publish, golden, weights):
    one = publish(size=len(weights), sha256=hashlib.sha256(weights).hexdigest())
    model, params = tlc.load(NAME)
    assert isinstance(model, tlc.NAFNet)
    wanted = sum(x.size for x in golden("nafnet_a").tensors.values())
    assert sum(x.size for x in jax.tree.leaves(params)) == wanted
    described = checkpoints.describe(NAME)
    assert described["source"] == {"file": FILE, "sha256": one.sha256, "address": one.address}
    assert described["task"] == catalogue.MOTION and described["dataset"] == "GoPro"
    assert checkpoints.installed() == [NAME] and left() == []
    tlc.load(NAME)
    assert tlc.download(NAME) == checkpoints.home() / NAME and len(server.asked) == 1


def test_the_command(server, publish, terminal, tmp_path):
    publish()
    code, out, err = terminal(tmp_path, "download", NAME)
    assert (code, err) == (0, "") and server.at in out and "licence of the weights: MIT" in out
    assert f"--checkpoint {NAME}" in out
    again = terminal(tmp_path, "download", NAME)
    assert again.code == 0 and "installed already" in again.out and len(server.asked) == 1


def test_a_name_where_a_checkpoint_is_asked_for(server, publish, terminal, tmp_path):
    publish()
    publish("NAFNet-other.npz")
    assert common.choose_checkpoints(Path(NAME), None, None) == [checkpoints.home() / NAME]
    out = terminal(tmp_path, "info", "nafnet-other").out
    assert "nafnet-other: fetching" in out and "GoPro" in out
    assert len(server.asked) == 2
    (tmp_path / "nafnet-third").mkdir()  # what lies there comes first
    publish("NAFNet-third.npz")
    assert "no model.json" in terminal(tmp_path, "info", "nafnet-third").err


# Interrupted


def test_a_cut_connection_goes_on(server, weights):
    server.cuts = [2000, 3000]
    watched = []
    path = fetching.fetch(f"{server.at}/{FILE}", watch=lambda *seen: watched.append(seen))
    assert path.read_bytes() == weights and server.sent == len(weights)
    assert [asked.get("Range") for asked in server.asked] == [None, "bytes=2000-", "bytes=5000-"]
    assert watched[-1] == (len(weights), len(weights)) and left() == [FILE]


def test_a_killed_process_goes_on(server, weights):
    """Of what came before, nothing is fetched again."""
    server.wait = 0.01
    address = f"{server.at}/{FILE}"
    code = f"from tlc_jax.files import fetching; fetching.fetch({address!r})"
    child = subprocess.Popen([sys.executable, "-c", code])
    part = fetching.folder_of(address) / "part"
    until = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size > 5000):
        assert time.monotonic() < until and child.poll() is None
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    there, server.wait = part.stat().st_size, 0.0
    assert fetching.fetch(address).read_bytes() == weights
    assert there < len(weights) and server.asked[-1]["Range"] == f"bytes={there}-"


def test_what_cannot_be_resumed_begins_again(server, weights):
    server.cuts = [2000]
    server.ranges = False
    assert fetching.fetch(f"{server.at}/{FILE}").read_bytes() == weights
    server.cuts, server.tag = [2000], False
    assert fetching.fetch(f"{server.at}/other.npz").read_bytes() == weights
    assert "Range" not in server.asked[-1]


def test_another_content_begins_again(server, weights, monkeypatch):
    monkeypatch.setattr(fetching, "TRIES", 1)
    address = f"{server.at}/{FILE}"
    server.cuts = [2000]
    fails(lambda: fetching.fetch(address), "ended after 2,000 of", "type the same command again")
    server.content = weights[::-1]
    assert fetching.fetch(address).read_bytes() == weights[::-1]
    assert "If-Range" in server.asked[-1]


def test_busy_servers_are_asked_again(server, weights, monkeypatch):
    waited = []
    monkeypatch.setattr(fetching.time, "sleep", waited.append)
    server.answers, server.headers = [429, 503], {"Retry-After": "7"}
    assert fetching.fetch(f"{server.at}/{FILE}").read_bytes() == weights
    server.answers, server.headers = [500] * 9, {"Retry-After": "99999"}
    fails(lambda: fetching.fetch(f"{server.at}/x.npz"), "HTTP 500", "later")
    assert waited == [7, 7, 30, 30, 30, 30] and len(server.asked) == 3 + fetching.TRIES


@pytest.mark.parametrize("slow", ["silent", "dripping"])
def test_slow_servers_are_given_up(server, monkeypatch, slow):
    monkeypatch.setattr(fetching, "TRIES", 2)
    if slow == "silent":
        monkeypatch.setattr(fetching, "SILENCE", 0.1)
        server.wait, said = 1.0, "nothing came"
    else:
        monkeypatch.setattr(fetching, "SLOWEST", (10**6, 0.1))
        server.wait, said = 0.02, "bytes came in"
    fails(lambda: fetching.fetch(f"{server.at}/{FILE}"), said, "later")


def test_two_at_once(server, publish):
    publish()
    server.wait = 0.001
    made: list[Path] = []
    threads = [threading.Thread(target=lambda: made.append(tlc.download(NAME))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [checkpoints.home() / NAME] * 2 and len(server.asked) == 1


# Not what it should be


def test_damage(server, publish, weights):
    publish(size=len(weights), sha256=hashlib.sha256(weights).hexdigest())
    server.content = weights[:-1] + b"?"
    fails(lambda: tlc.load(NAME), "damaged on its way or replaced", "get http", "tlc-jax convert")
    assert left() == [] and checkpoints.installed() == []
    server.content = weights
    tlc.load(NAME)


def test_weights_of_no_network_are_not_kept(server, publish):
    publish()
    server.content = b"no weights"
    fails(lambda: tlc.load(NAME), f"{server.at}/weights/{FILE}", "damaged")
    assert left() == [] and not list(checkpoints.home().glob("*"))


def test_a_later_content_is_refused(server, publish, golden, weights):
    """Where no digest is known the first one counts."""
    publish()
    folder = tlc.download(NAME)
    tensors = golden("nafnet_a").tensors
    changed = io.BytesIO()
    np.savez(changed, **{name: tensor + np.float32(1) for name, tensor in tensors.items()})
    server.content = changed.getvalue()
    folder.rename(folder.with_name("mine"))
    sentence = fails(lambda: tlc.load(NAME), hashlib.sha256(weights).hexdigest(), "type the same")
    assert checkpoints.installed() == ["mine"] and left() == []
    Path(re.search(r"remove (\S+) and", sentence)[1]).unlink()
    tlc.load(NAME)


def test_sizes(server, publish, weights, monkeypatch):
    publish(size=5000)
    fails(lambda: tlc.load(NAME), f"has {len(weights):,} bytes", "5,000 are published")
    assert left() == []
    monkeypatch.setattr(fetching, "LARGEST", 4000)
    address = f"{server.at}/{FILE}"
    fails(lambda: fetching.fetch(address), "more than any weights")
    server.length = False
    fails(lambda: fetching.fetch(address), "has more than 4,000 bytes")
    assert sum(file.stat().st_size for file in fetching.cache().rglob("part")) <= 4000


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (404, ["there is no such file (HTTP 404)", "with a browser"]),
        (403, ["is not for everybody (HTTP 403)", "hf auth login"]),
        (401, ["is not for everybody (HTTP 401)"]),
        (418, ["gives no file (HTTP 418)"]),
    ],
)
def test_refusals(server, publish, terminal, tmp_path, status, words):
    publish()
    server.answers = [status] * 2
    code, _, err = terminal(tmp_path, "download", NAME)
    assert code == 2 and len(err.splitlines()) == 1 and all(word in err for word in words), err
    assert "type 'tlc-jax convert" in err and len(server.asked) == 1


def test_a_page_is_no_file(server):
    server.headers = {"Content-Type": "text/html; charset=utf-8"}
    fails(lambda: fetching.fetch(f"{server.at}/{FILE}"), "answers with a page", "browser")


def test_redirects(server, weights):
    server.moved = {
        f"/1/{FILE}": f"/2/{FILE}",
        f"/2/{FILE}": f"{server.at}/3",
        "/plain/a.npz": "http://example.org/a.npz",
        "/file/a.npz": "file:///etc/passwd",
        "/loop/a.npz": "/loop/a.npz",
    }
    path = fetching.fetch(f"{server.at}/1/{FILE}")
    assert path.name == FILE and path.read_bytes() == weights
    fails(lambda: fetching.fetch(f"{server.at}/plain/a.npz"), "leads to http://example.org/a.npz")
    fails(lambda: fetching.fetch(f"{server.at}/file/a.npz"), "HTTP 302")
    fails(lambda: fetching.fetch(f"{server.at}/loop/a.npz"), "HTTP 302")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://example.org/a.pth", ["https:// and hf:// alone", "download it yourself"]),
        ("ftp://example.org/a.pth", ["https:// and hf:// alone"]),
        ("file:///etc/passwd", ["is no address"]),
        ("https://me:secret@example.org/a.pth", ["is no address"]),
        ("https://example.org/", ["no address of a file"]),
        ("https://example.org/..", ["no address of a file"]),
        ("https://exam ple.org/a.pth", ["is no address"]),
        ("https://[a/b.pth", ["is no address"]),
        ("https://example.org/\x1b[31m.pth", ["is no address", "\\x1b"]),
        ("hf://owner/file.pth", ["hf://owner/repo/file"]),
        ("hf://owner/repo/../file.npz", ["hf://owner/repo/file"]),
    ],
)
def test_other_addresses(server, terminal, tmp_path, address, words):
    code, _, err = terminal(tmp_path, "convert", address)
    assert code == 2 and len(err.splitlines()) == 1 and all(word in err for word in words), err


def test_servers_that_cannot_be_reached(server, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    fails(lambda: fetching.fetch(f"http://127.0.0.1:{port}/a.npz"), "connection refused", "network")
    address = server.at.replace("http:", "https:")  # which it does not speak
    fails(lambda: fetching.fetch(f"{address}/a.npz"), "certificate is not accepted")

    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    fails(lambda: fetching.fetch("https://example.org/a.npz"), "name or service not known")


# This machine


def test_no_room(server, publish, monkeypatch, tmp_path):
    publish()
    usage = fetching.shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(fetching.shutil, "disk_usage", lambda _: usage._replace(free=100))
        fails(lambda: tlc.load(NAME), "there is no room for the", "TLC_JAX_CACHE")
    with monkeypatch.context() as patched:
        patched.setenv("TLC_JAX_CACHE", os.devnull)
        fails(lambda: tlc.load(NAME), "cannot be written", "TLC_JAX_CACHE")
    with monkeypatch.context() as patched:
        patched.setenv("TLC_JAX_HOME", f"{os.devnull}/home")
        fails(lambda: tlc.load(NAME), "cannot be written", "TLC_JAX_HOME")
    assert left() == [] and checkpoints.installed() == []


def test_nothing_is_fetched_offline(server, publish, monkeypatch):
    publish()
    monkeypatch.setenv("TLC_JAX_OFFLINE", "1")
    fails(lambda: tlc.download(NAME), "TLC_JAX_OFFLINE is set")
    fails(lambda: tlc.load(NAME), f"type 'tlc-jax download {NAME}'")
    fails(lambda: convert_file(f"{server.at}/{FILE}"), "TLC_JAX_OFFLINE is set")
    fails(lambda: convert_file("hf://owner/repo/a.npz"), "TLC_JAX_OFFLINE is set")
    assert server.asked == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mprnet-model-deblurring", ["get model_deblurring.pth from https://github.com/swz30/"]),
        ("nafnet-gopro-width46", ["is 'nafnet-gopro-width64' meant?"]),
        ("something", ["'tlc-jax models' lists"]),
        ("deblur", ["--task deblur"]),
    ],
)
def test_names_that_cannot_be_downloaded(server, terminal, tmp_path, name, words):
    code, _, err = terminal(tmp_path, "download", name)
    assert code == 2 and len(err.splitlines()) == 1 and all(word in err for word in words), err


# Licences


def test_a_restrictive_licence_is_asked_for_once(server, publish, terminal, tmp_path):
    publish(licence=ACADEMIC)
    publish("NAFNet-other.npz", licence=ACADEMIC)
    publish("NAFNet-third.npz", licence=ACADEMIC, source="https://example.org/other-authors")
    for command in (["download", NAME], ["info", NAME]):
        code, out, err = terminal(tmp_path, *command)
        assert code == 2 and len(err.splitlines()) == 1 and ACADEMIC in err and not out
        assert f"'tlc-jax download {NAME} --accept-licence'" in err
    fails(lambda: tlc.load(NAME), "accept_licence=True", "https://example.org/x")
    assert server.asked == []
    assert terminal(tmp_path, "download", NAME, "--accept-licence").code == 0
    tlc.load("nafnet-other")  # under the same licence
    fails(lambda: tlc.load("nafnet-third"), ACADEMIC)
    tlc.download("nafnet-third", accept_licence=True)


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 2)])
def test_a_question_at_a_terminal(server, publish, terminal, tmp_path, monkeypatch, answer, code):
    publish(licence=ACADEMIC)
    keyboard = io.StringIO(f"{answer}\n")
    keyboard.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", keyboard)
    ended = terminal(tmp_path, "download", NAME)
    assert ended.code == code and ACADEMIC in ended.out + ended.err
    assert checkpoints.installed() == ([NAME] if code == 0 else [])
    assert len(server.asked) == (1 if code == 0 else 0)


# By address


def test_convert_takes_an_address(server, terminal, tmp_path):
    address = f"{server.at}/some/NAFNet-mine.npz"
    code, _, err = terminal(tmp_path, "convert", f"{address}?key=secret", "net")
    assert (code, err) == (0, "") and "NAFNet" not in os.listdir(tmp_path)
    described = json.loads((tmp_path / "net/model.json").read_text())
    assert described["source"]["address"] == address  # without what may be a key
    assert described["source"]["file"] == "NAFNet-mine.npz" and left() == []
    assert terminal(tmp_path, "convert", address).out.endswith("--checkpoint nafnet-mine\n")
    again = terminal(tmp_path, "convert", address, "net")
    assert again.code == 2 and "exists already" in again.err and len(server.asked) == 2


class Hub(Handler):
    """The part of the hub's protocol that its client takes to fetch a file."""

    COMMIT = "0123456789abcdef0123456789abcdef01234567"
    known = (
        "/owner/repo/resolve/main/",
        "/owner/repo/resolve/v1/",
        f"/owner/repo/resolve/{COMMIT}/",
    )
    error = None

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        self.close_connection = True
        self.server.asked.append(dict(self.headers) | {"path": self.path})
        if self.server.answers:
            status, code = self.server.answers[0]
            return self.begin(status, X_Error_Code=code, Content_Length="0")
        content = self.server.content
        digest = hashlib.sha256(content).hexdigest()
        self.begin(200, ETag=f'"{digest}"', X_Repo_Commit=self.COMMIT,
                   Content_Length=str(len(content)))  # fmt: skip
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture
def hub(server, tmp_path, monkeypatch):
    """Its own client, with a stand-in of the hub."""
    server.RequestHandlerClass = Hub
    client = functools.partial(
        huggingface_hub.hf_hub_download, endpoint=server.at, cache_dir=tmp_path / "hub", token=False
    )
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", client)
    return server


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        ("hf://owner/repo/folder/NAFNet-mine.npz", "main"),
        ("hf://owner/repo/folder/NAFNet-mine.npz@refs/pr/1", "refs%2Fpr%2F1"),
        ("hf://owner/repo@v1/folder/NAFNet-mine.npz", "v1"),
    ],
)
def test_the_hub(hub, address, asked):
    folder = convert_file(address)
    assert folder.name == "nafnet-mine" and isinstance(tlc.load("nafnet-mine")[0], tlc.NAFNet)
    source = checkpoints.describe(folder)["source"]
    assert (source["address"], source["revision"]) == (address, Hub.COMMIT)
    assert hub.asked[0]["path"] == f"/owner/repo/resolve/{asked}/folder/NAFNet-mine.npz"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((401, "RepoNotFound"), ["no such repository", "hf auth login"]),
        ((404, "EntryNotFound"), ["no such file"]),
        ((404, "RevisionNotFound"), ["no such revision"]),
        ((403, "GatedRepo"), ["accept its terms", "hf auth login"]),
        ((418, ""), ["gives no answer"]),
    ],
)
def test_the_hub_refuses(hub, terminal, tmp_path, answer, words):
    hub.answers = [answer]
    code, _, err = terminal(tmp_path, "convert", "hf://owner/repo/a.npz")
    assert code == 2 and len(err.splitlines()) == 1 and all(word in err for word in words), err


def test_the_hub_offline(hub, monkeypatch):
    address = "hf://owner/repo/NAFNet-mine.npz"
    with monkeypatch.context() as patched:
        patched.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        fails(lambda: convert_file(address), "HF_HUB_OFFLINE is set")
    convert_file(address)
    with monkeypatch.context() as patched:  # what the client has is taken without the hub
        patched.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        there = len(hub.asked)
        convert_file(address, fetching.cache() / "again")
        assert len(hub.asked) == there
    monkeypatch.setattr(fetching, "LARGEST", 100)
    monkeypatch.setattr("tlc_jax.files.hub.LARGEST", 100)
    fails(lambda: convert_file(address, fetching.cache() / "new"), "more than any weights")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    fails(lambda: convert_file("hf://owner/repo/b.npz"), "pip install 'tlc-jax[hub]'")
