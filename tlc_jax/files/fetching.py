"""Files from addresses: bounded, checked, and resumed where fetching them was interrupted.

What has come of a file is kept in a folder of `cache` until somebody has used the file, so that a
command that was interrupted at any moment begins there the next time. Who fetches is alone in that
folder: `alone_with`.
"""

import contextlib
import email.utils
import hashlib
import http.client
import json
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from tlc_jax.files.atomic import first_line, one_at_a_time, why_not_written, write_atomically
from tlc_jax.files.checkpoints import CheckpointError
from tlc_jax.files.printable import printable

LARGEST = 2**31  # bytes of a file whose size is not known; of those that are known half a billion
CHUNK = 2**20  # bytes
SILENCE = 30.0  # seconds that a server may say nothing
SLOWEST = 2**20, 120.0  # bytes that come at least in so many seconds
TRIES = 5
PAUSE = 1.0  # seconds after the first failed try; each time twice as long
LONGEST_PAUSE = 30.0  # seconds, also where a server asks for more
AGAIN = {408, 425, 429, 500, 502, 503, 504}  # answers that may be others a little later
ANOTHER_PART = "the server sends another part than was asked for"
HERE = {"127.0.0.1", "localhost", "::1"}

Watch = Callable[[int, int | None], None]  # takes bytes that are there, and how many there will be


class _Interrupted(Exception):
    """What may go well when it is tried again; the message is part of a sentence."""

    def __init__(self, problem: str, pause: float | None = None) -> None:
        super().__init__(problem)
        self.pause = pause


def cache() -> Path:
    """The folder of unfinished downloads: $TLC_JAX_CACHE, or one in the user's cache folder."""
    user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = os.environ.get("TLC_JAX_CACHE") or os.path.join(user, "tlc-jax", "downloads")
    return Path(os.path.expanduser(folder))


def folder_of(address: str) -> Path:
    """Where in `cache` the file of an address lies until it was used."""
    return cache() / hashlib.sha256(address.encode(errors="surrogateescape")).hexdigest()[:16]


@contextlib.contextmanager
def alone_with(what: str) -> Iterator[None]:
    """Wait for other processes that fetch or install the same, an address or a name.

    Raises:
      CheckpointError: `cache` cannot be written.
    """
    folder = folder_of(what)
    with contextlib.ExitStack() as stack:
        with _written_in(folder):
            stack.enter_context(one_at_a_time(folder / "lock"))
        yield


def check_allowed() -> None:
    """Refuse where nothing may be fetched, with a `CheckpointError`."""
    if offline():
        raise CheckpointError(
            "TLC_JAX_OFFLINE is set, so nothing is downloaded; unset it, or name what is here."
        )


def offline() -> bool:
    """Whether nothing may be fetched."""
    return os.environ.get("TLC_JAX_OFFLINE", "0") not in ("", "0")


def name_of(address: str) -> str:
    """The name of the file at an address.

    Raises:
      CheckpointError: no https address of a file.

    Examples:
      >>> name_of("https://example.org/weights/NAFNet.pth?download=true")
      'NAFNet.pth'
    """
    check_address(address)
    path = urllib.parse.unquote(urllib.parse.urlsplit(address).path)
    name = PurePosixPath(path).name
    if not re.fullmatch(r"\w[\w.+ -]{0,199}", name) or path.endswith("/"):
        raise CheckpointError(
            f"{printable(address)}: is no address of a file; it ends in a name like NAFNet.pth."
        )
    return name


def check_address(address: str) -> None:
    """Refuse what is not encrypted, or not on this machine; with a `CheckpointError`."""
    try:
        parts = urllib.parse.urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urllib.parse.urlsplit("")
    if not host or not re.fullmatch(r"[!-~]+", address) or "@" in parts.netloc:
        raise CheckpointError(
            f"{printable(address)}: is no address; write one like https://example.org/NAFNet.pth."
        )
    if parts.scheme != "https" and not (parts.scheme == "http" and host in HERE):
        raise CheckpointError(
            f"{printable(address)}: files are fetched from https:// and hf:// alone; download it "
            "yourself and name the file."
        )


def fetch(
    address: str,
    *,
    size: int | None = None,
    sha256: str | None = None,
    instead: str = "look at that address with a browser",
    watch: Watch = lambda there, total: None,
) -> Path:
    """The file at an https address.

    Args:
      address: where it lies; http is for this machine alone.
      size: its bytes, where they are known; else it has up to `LARGEST`.
      sha256: its SHA-256, where that is known.
      instead: what to do where it cannot be had, as part of a sentence.
      watch: is told of each part that came.

    Returns:
      The file, in `folder_of` the address, under the name that it has there. The caller removes it.

    Raises:
      CheckpointError: it cannot be fetched, or is another than the known one; the message is a
        sentence.
    """
    whole = folder_of(address) / name_of(address)
    with _written_in(whole.parent):
        whole.parent.mkdir(parents=True, exist_ok=True)
        if not whole.exists():
            check_allowed()
            _fetch_to(whole, address, size, instead, watch)
        with whole.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if sha256 not in (None, found):
            whole.unlink()
            raise CheckpointError(
                f"{address}: damaged on its way or replaced (SHA-256 {found}, published is "
                f"{sha256}); type the same command again, and where that does not help, {instead}."
            )
    return whole


def _fetch_to(whole: Path, address: str, size: int | None, instead: str, watch: Watch) -> None:
    part = _Part(whole.with_name("part"), whole.with_name("part.json"))
    for tried in range(TRIES):
        try:
            _receive(address, part, size, instead, watch)
            break
        except _Interrupted as problem:
            if tried == TRIES - 1:
                resumed = ", it goes on where this one stopped" if part.state()[0] else ""
                raise CheckpointError(
                    f"{address}: {problem}; type the same command again later{resumed}."
                ) from None
            pause = PAUSE * 2**tried if problem.pause is None else problem.pause
            time.sleep(min(pause, LONGEST_PAUSE))
    part.file.replace(whole)
    part.described.unlink(missing_ok=True)


class _Part(NamedTuple):
    """What has come of a file, and of which file."""

    file: Path
    described: Path  # JSON: the server's mark for this very content, and its bytes

    def state(self) -> tuple[int, str | None, int | None]:
        """Bytes that are there, the mark, and the bytes of the whole."""
        try:
            there = self.file.stat().st_size
            described = json.loads(self.described.read_text())
            mark, total = described["mark"], described["total"]
        except (OSError, ValueError, KeyError, TypeError):
            return 0, None, None
        if not isinstance(mark, str) or not isinstance(total, int) or there > total:
            return 0, None, None
        return there, mark, total

    def begin(self, mark: str | None, total: int | None) -> None:
        """Nothing is there yet of a file that is known by this."""
        self.described.unlink(missing_ok=True)
        self.file.write_bytes(b"")
        if mark and total:  # else it cannot be resumed
            described = json.dumps({"mark": mark, "total": total})
            write_atomically(self.described, described.encode())


def _receive(address: str, part: _Part, size: int | None, instead: str, watch: Watch) -> None:
    """Fetch what is missing of a file, in one go."""
    there, mark, total = part.state()
    if mark and there == total:
        return
    headers = {"User-Agent": "tlc-jax", "Accept-Encoding": "identity"}
    if mark and there and total:
        headers |= {"Range": f"bytes={there}-", "If-Range": mark}
    with _opened(address, headers, instead) as response:
        if response.headers.get_content_type() == "text/html":
            raise CheckpointError(f"{address}: the server answers with a page, no file; {instead}.")
        if response.status != 206:
            there, total = 0, response.length
        elif response.headers.get("Content-Range") != f"bytes {there}-{(total or 0) - 1}/{total}":
            part.described.unlink()
            raise _Interrupted(ANOTHER_PART, 0)
        if total is not None and total > LARGEST:
            raise CheckpointError(f"{address}: has {total:,} bytes, more than any weights.")
        if None not in (size, total) and size != total:
            raise CheckpointError(
                f"{address}: has {total:,} bytes, where {size:,} are published; {instead}."
            )
        missing = (total or size or 0) - there
        if shutil.disk_usage(part.file.parent).free < missing:
            raise CheckpointError(
                f"{part.file.parent}: there is no room for the {missing:,} bytes of {address}; "
                "free some, or set TLC_JAX_CACHE to a folder on another disk."
            )
        if not there:
            part.begin(_mark(response), total)
        most = total or size or LARGEST
        with part.file.open("ab", buffering=0) as file:
            for data in _read(response):
                there += len(data)
                if there > most:
                    part.file.unlink(missing_ok=True)
                    raise CheckpointError(
                        f"{address}: has more than {most:,} bytes, which is not what was expected; "
                        f"{instead}."
                    )
                file.write(data)
                watch(there, total or size)
    if there < (total or size or 0):
        raise _Interrupted(f"the connection ended after {there:,} of {total or size:,} bytes")


def _mark(response: Any) -> str | None:
    """What tells this content from a later one at the same address; RFC 9110, section 13.1.5."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _read(response: Any) -> Iterator[bytes]:
    """What a server sends, as long as it sends at some speed."""
    least, seconds = SLOWEST
    came, since = 0, time.monotonic()
    while True:
        with _named_problems():
            data = response.read1(CHUNK)
        if not data:
            return
        yield data
        came += len(data)
        if (now := time.monotonic()) - since > seconds:
            if came < least:
                raise _Interrupted(f"only {came:,} bytes came in {seconds:.0f} seconds")
            came, since = 0, now


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Those that lead to what may be fetched itself, and from elsewhere not to this machine."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str):
        try:
            check_address(newurl)
            if _is_here(newurl) and not _is_here(req.full_url):
                raise CheckpointError("it leads to this machine")
        except CheckpointError:
            fp.close()
            raise CheckpointError(
                f"{req.full_url}: leads to {printable(newurl)[:200]}, which is not fetched; "
                "download the file yourself and name it."
            ) from None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_here(address: str) -> bool:
    return urllib.parse.urlsplit(address).hostname in HERE


@contextlib.contextmanager
def _opened(address: str, headers: dict[str, str], instead: str) -> Iterator[Any]:
    request = urllib.request.Request(address, headers=headers)
    opener = urllib.request.build_opener(_Redirects)
    try:
        with _named_problems():
            response = opener.open(request, timeout=SILENCE)
    except urllib.error.HTTPError as error:
        error.close()
        raise _refused(address, error, instead) from None
    except urllib.error.URLError as error:
        raise CheckpointError(
            f"{address}: cannot be reached ({_reason(error)}); look at the network of this "
            f"machine, or {instead}."
        ) from None
    with response:
        yield response


def _reason(error: urllib.error.URLError) -> str:
    cause = error.reason
    if isinstance(cause, ssl.SSLError):
        why = getattr(cause, "verify_message", cause.reason)
        return f"its certificate is not accepted: {printable(str(why))}"
    if isinstance(cause, OSError) and cause.strerror:
        return printable(cause.strerror).lower()
    return printable(str(cause))


@contextlib.contextmanager
def _named_problems() -> Iterator[None]:
    """Connections that fail on their way raise `_Interrupted`."""
    try:
        yield
    except urllib.error.URLError as error:  # as it is connected
        if isinstance(error.reason, ConnectionResetError | TimeoutError):
            raise _Interrupted(_reason(error)) from None
        raise
    except TimeoutError:
        raise _Interrupted(f"nothing came for {SILENCE:.0f} seconds") from None
    except (http.client.HTTPException, OSError) as error:
        raise _Interrupted(f"the connection failed ({printable(first_line(error))})") from None


def _refused(address: str, error: urllib.error.HTTPError, instead: str) -> Exception:
    """What an answer other than a file means."""
    code = error.code
    if code == 416:  # what is there is no part of what is there now
        folder_of(address).joinpath("part.json").unlink(missing_ok=True)
        return _Interrupted(ANOTHER_PART, 0)
    if code in AGAIN:
        return _Interrupted(
            f"the server is busy or out of order (HTTP {code})", _seconds(error.headers)
        )
    if code in (401, 403):
        return CheckpointError(
            f"{address}: is not for everybody (HTTP {code}); {instead}, or where it lies on the "
            "Hugging Face hub, accept its terms there, type 'hf auth login' and name it hf://..."
        )
    if code in (404, 410):
        return CheckpointError(f"{address}: there is no such file (HTTP {code}); {instead}.")
    return CheckpointError(f"{address}: the server gives no file (HTTP {code}); {instead}.")


def _seconds(headers: Any) -> float | None:
    """How long a server asks to wait; RFC 9110, section 10.2.3."""
    text = headers.get("Retry-After", "")
    if re.fullmatch(r"\d{1,9}", text):
        return float(text)
    with contextlib.suppress(ValueError, TypeError, IndexError, OverflowError):
        return max(email.utils.parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    return None


@contextlib.contextmanager
def _written_in(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be written ({why_not_written(error)}); free some space, or set "
            "TLC_JAX_CACHE to a folder that can."
        ) from None
