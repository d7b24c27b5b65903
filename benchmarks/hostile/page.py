"""A hundred visitors of the page at once, some of them bad, while its processes are killed."""

import argparse
import contextlib
import http.client
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.hostile.files import heads

SMALL, BAD, HUGE = 75, 20, 5
PATIENCE = 120  # seconds for a small picture
TASK = ["Remove noise", "fast", 100, "local", 0]


class Visitor:
    """Somebody with the page open, as a browser has it: a stream of events, and requests."""

    def __init__(self, port: int) -> None:
        self.port, self.session = port, uuid.uuid4().hex[:11]
        self.stream = self.open("GET", f"/gradio_api/heartbeat/{self.session}")
        self.stream[1].read(1)

    def open(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=900)
        headers = {"Content-Type": kind} if body is not None else {}
        connection.request(method, path, body, headers)
        return connection, connection.getresponse()

    def ask(self, *request: str | bytes) -> tuple[int, bytes]:
        connection, answer = self.open(*request)
        with contextlib.closing(connection):
            return answer.status, answer.read()

    def upload(self, name: str, content: bytes) -> str:
        head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + content + b"\r\n--x--\r\n"
        status, said = self.ask(
            "POST", "/gradio_api/upload", body, "multipart/form-data; boundary=x"
        )
        assert status == 200, said
        return json.loads(said)[0]

    def look(self, path: str, listener: int) -> bytes:
        file = {"path": path, "orig_name": Path(path).name, "meta": {"_type": "gradio.FileData"}}
        asked = {"data": [[file]], "fn_index": listener, "session_hash": self.session}
        status, said = self.ask("POST", "/gradio_api/run/predict", json.dumps(asked).encode())
        assert status == 200, said
        return said

    def queue(self, data: list, listener: int) -> dict:
        """What a listener answers."""
        asked = {"data": data, "fn_index": listener, "session_hash": self.session}
        status, said = self.ask("POST", "/gradio_api/queue/join", json.dumps(asked).encode())
        assert status == 200, said
        connection, answer = self.open("GET", f"/gradio_api/queue/data?session_hash={self.session}")
        with contextlib.closing(connection):
            for line in answer:
                if line.startswith(b"data: "):
                    message = json.loads(line[6:])
                    if message["msg"] == "process_completed":
                        return message["output"]
        raise AssertionError("the stream ended")

    def leave(self) -> None:
        self.stream[0].close()


def attempts(folder: Path, given: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """Yields each visitor, and what went wrong, if anything."""
    os.chdir(folder)
    rng, moments = np.random.default_rng(given.seed), random.Random(given.seed)
    whole = Image.open(given.tree / "tlc_jax/examples/kodim.png")
    pictures = []
    for number in range(3):
        part = whole.crop((90 * number, 60 * number, 90 * number + 240, 60 * number + 180))
        part.save(f"{number}.jpg", quality=92)
        pictures.append(Path(f"{number}.jpg").read_bytes())
    noise = rng.integers(0, 256, (3000, 4000, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((6000, 4000)).save(file, "JPEG", quality=80)
    huge = file.getvalue()
    bad = [content for _, content in heads()]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    Path("page").mkdir()
    command = Path(sys.executable).with_name("tlc-jax")
    environment = os.environ | {"TMPDIR": str(folder / "page"), "XDG_CACHE_HOME": str(folder / "c")}
    expected = []
    for number in range(3):
        subprocess.run(
            [command, "restore", f"{number}.jpg", "--task", "denoise", "-o", f"r{number}.jpg"],
            env=environment, check=True, capture_output=True,
        )  # fmt: skip
        expected.append(Path(f"r{number}.jpg").read_bytes())
    served = subprocess.Popen(
        [command, "app", "--port", str(port)], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert served.stdout is not None
    served.stdout.readline()
    first = Visitor(port)
    listeners = {
        one["api_name"]: one["id"]
        for one in json.loads(first.ask("GET", "/config")[1])["dependencies"]
    }
    first.look(first.upload("0.jpg", pictures[0]), listeners["look"])
    first.queue(TASK, listeners["restore"])
    first.leave()
    time.sleep(20)
    start = memory(served.pid), used(folder / "page")
    results: list[tuple[str, str, str]] = []

    def small(number: int) -> None:
        begun, problem = time.monotonic(), ""
        try:
            visitor = Visitor(port)
            visitor.look(
                visitor.upload(f"{number % 3}.jpg", pictures[number % 3]), listeners["look"]
            )
            output = visitor.queue(TASK, listeners["restore"])
            said = json.dumps(output)
            found = [
                one for one in output.get("data", []) if isinstance(one, dict) and "value" in one
            ]
            paths = [one["value"]["path"] for one in found if isinstance(one["value"], dict)]
            if not paths:
                problem = f"no result: {said[:300]}"
            elif visitor.ask("GET", f"/gradio_api/file={paths[0]}")[1] != expected[number % 3]:
                problem = "other bytes than the command's"
            visitor.leave()
        except (AssertionError, OSError, ValueError, http.client.HTTPException) as error:
            problem = f"{type(error).__name__}: {error}"
        seconds = time.monotonic() - begun
        if not problem and seconds > PATIENCE:
            problem = f"{seconds:.0f} s"
        results.append(("small pictures", f"{seconds:.0f} s", problem))

    def large(number: int) -> None:
        begun, problem = time.monotonic(), ""
        try:
            visitor = Visitor(port)
            visitor.look(visitor.upload("huge.jpg", huge), listeners["look"])
            output = visitor.queue(TASK, listeners["restore"])
            problem = "" if output.get("data") else json.dumps(output)[:300]
            visitor.leave()
        except (AssertionError, OSError, ValueError, http.client.HTTPException) as error:
            problem = f"{type(error).__name__}: {error}"
        results.append(("24 megapixels", f"{time.monotonic() - begun:.0f} s", problem))

    def bad_file(number: int) -> None:
        problem = ""
        try:
            visitor = Visitor(port)
            visitor.look(visitor.upload("bad.png", bad[number % len(bad)]), listeners["look"])
            output = visitor.queue(TASK, listeners["restore"])  # some are good, but for their size
            problem = "" if output.get("data") else json.dumps(output)[:300]
            visitor.leave()
        except (AssertionError, OSError, ValueError, http.client.HTTPException) as error:
            problem = f"{type(error).__name__}: {error}"
        results.append(("bad files", str(number), problem))

    def slow(number: int) -> None:
        """Sends a little of an upload, and then little more, or nothing."""
        head = (
            "POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000000\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\nContent-Disposition: "
            'form-data; name="files"; filename="a.png"\r\n\r\n'
        )
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as sender:
            sender.sendall(head.encode() + bytes(10**6))
            for _ in range(0 if number % 2 else 60):
                sender.sendall(b"a")
                time.sleep(1)

    def killer(number: int) -> None:
        time.sleep(moments.uniform(3, 25))
        if processes := workers(served.pid):
            os.kill(moments.choice(processes), signal.SIGKILL)

    threads = [
        threading.Thread(target=target, args=(number,))
        for target, count in (
            (small, SMALL), (bad_file, BAD), (large, HUGE), (slow, 10), (killer, 2)
        )
        for number in range(count)
    ]  # fmt: skip
    moments.shuffle(threads)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    yield from results
    honest = sorted(int(seconds[:-2]) for kind, seconds, _ in results if kind == "small pictures")
    print(f"small pictures: {honest[len(honest) // 2]} s in the middle, {honest[-1]} s at most")
    time.sleep(100)  # until what nobody took is removed
    end = memory(served.pid), used(folder / "page")
    grown = f"{(end[0] - start[0]) / 2**20:.0f} MiB of memory, {end[1] - start[1]} bytes of disk"
    print(f"more than before: {grown}")
    yield "back to the start", grown, grown if end[1] > start[1] + 10**6 else ""
    served.send_signal(signal.SIGTERM)
    _, err = served.communicate(timeout=60)
    left = list((folder / "page").iterdir())
    yield "ends clean", str(served.returncode), f"{err[-500:]} {left}" if err or left else ""


def workers(page: int) -> list[int]:
    """The processes that do its jobs."""
    found = []
    for children in Path(f"/proc/{page}/task").glob("*/children"):
        for child in children.read_text().split():
            with contextlib.suppress(OSError):
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
    return found


def memory(page: int) -> int:
    """Bytes that the page and its processes have in memory."""
    pages = [Path(f"/proc/{one}/statm").read_text().split()[1] for one in (page, *workers(page))]
    return sum(map(int, pages)) * os.sysconf("SC_PAGE_SIZE")


def used(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
