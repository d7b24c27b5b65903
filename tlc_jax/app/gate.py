"""What a request must be before Gradio sees it, and what its answer tells.

Whoever reaches the page can send it anything, and a page of somebody else can send it anything from
the browser of who may. What is let through is what the page itself sends, and no more.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, quote, urlsplit

from pydantic import AfterValidator, BaseModel, Field, TypeAdapter
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tlc_jax.app.visits import TOGETHER, UPLOAD_SECONDS, VISITORS, Limits, Visits
from tlc_jax.files.printable import printable

API = "/gradio_api"
# What the page asks for, of itself and of its pictures.
READ = re.compile(
    r"/|/(health|config|theme\.css|favicon\.ico)|/(assets|static)/.+"
    rf"|{API}/(startup-events|app_id|upload_progress|queue/data|heartbeat/.+|file=.+)"
)
ASKED, ENDED = re.compile(rf"{API}/(run/predict|queue/join)"), re.compile(rf"{API}/(cancel|reset)")
BODY = 2**20  # bytes of a request that is no upload
STREAMS = 4 * VISITORS  # of events
PATIENCE = 30  # seconds for the next bytes of a request
SWEEP = 15  # seconds between two looks for what visitors left
UPLOADS_LOOKED_AT = 2**23  # bytes of an upload, after which the room is looked at again
SAFE = {
    "content-security-policy": "frame-ancestors 'none'",
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
}
NOT_ASKED = "this is nothing that the page asks for."
log = logging.getLogger(__name__)

SESSION = r"^[A-Za-z0-9_-]{1,64}$"
Session = Annotated[str, Field(pattern=SESSION)]


class Refusal(Exception):
    """A request that is not let through."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Upload(BaseModel):
    """A file among what a listener takes, as the browser names it."""

    path: Annotated[str, Field(pattern=r"^/visits/[0-9a-f]{64}/[^/]+$")]
    orig_name: str | None = None
    meta: dict[Literal["_type"], Literal["gradio.FileData"]] = {"_type": "gradio.FileData"}


class Asked(BaseModel):
    """What the page sends to a listener."""

    data: list[Any]
    fn_index: int
    session_hash: Session
    trigger_id: int | None = None


class Ended(BaseModel):
    """What the page sends where it waits no longer."""

    event_id: Session
    session_hash: Session | None = None
    fn_index: int | None = None


class Gate:
    """The page behind what refuses all that it does not ask for itself.

    Args:
      app: the page, as an application of ASGI.
      host: where the page listens.
      names: by which proxies call it, with a port if that is theirs.
      visits, limits: of the visitors.
      accepts: what each listener takes, by its number.
      shown: folders of which files may be shown, by the names that they have outside.
    """

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        names: Iterable[str],
        visits: Visits,
        limits: Limits,
        accepts: Mapping[int, Sequence[TypeAdapter]],
        shown: Mapping[str, Path],
    ) -> None:
        self.app, self.visits, self.limits, self.accepts = app, visits, limits, accepts
        self.proxies = {name.lower() for name in names}
        machine = socket.gethostname().lower()
        self.names = {host, "localhost", machine, f"{machine}.local"}
        self.names |= {urlsplit(f"//{name}").hostname or "" for name in self.proxies}
        self.shown = shown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            sweeping = asyncio.create_task(self.sweep())
            try:
                return await self.app(scope, receive, send)
            finally:
                sweeping.cancel()
        if scope["type"] == "websocket":  # which the page has none of
            return await send({"type": "websocket.close"})
        answer = _Answer(send, self.shown)
        try:
            async with self.let_in(scope, receive) as (inner, inner_receive):
                await self.app(inner, inner_receive, answer)
        except Refusal as refusal:
            await answer.refuse(scope, receive, refusal.status, str(refusal))
        except ClientDisconnect:
            pass
        except Exception as error:
            if "/file=" in scope["path"]:  # which went as it was about to be sent, with its visitor
                return await answer.refuse(scope, receive, 404, "this file is gone.")
            path = printable(scope["path"])[:200]
            log.warning("%s %s failed (%s)", scope["method"], path, type(error).__name__)
            await answer.refuse(scope, receive, 400, "this request is not understood.")

    async def sweep(self) -> None:
        """Remove what visitors left; in a thread it could meet an upload on its way there."""
        while True:
            await asyncio.sleep(SWEEP)
            self.visits.sweep()

    @contextlib.asynccontextmanager
    async def let_in(self, scope: Scope, receive: Receive) -> AsyncIterator[tuple[Scope, Receive]]:
        """The request as Gradio gets it, for as long as it is answered.

        Raises:
          Refusal: it is not one that the page sends.
        """
        self.check_sender(Headers(scope=scope))
        path, method = scope["path"], scope["method"]
        if method in ("GET", "HEAD"):
            if not READ.fullmatch(path):
                raise Refusal(404, "there is nothing.")
            listener = _listener(scope)
            if listener and self.visits.listeners.total() >= STREAMS:
                raise Refusal(503, "too many others are here; come back later.")
            with self.visits.listening(listener):
                yield self.to_file(scope), receive
        elif method == "POST" and path == f"{API}/upload":
            with self.visits.uploading():
                yield scope, self.metered(scope, receive)
        elif method == "POST" and (ASKED.fullmatch(path) or ENDED.fullmatch(path)):
            body = self.understood(path, await _body(receive))
            headers = MutableHeaders(scope=dict(scope))
            headers["content-length"] = str(len(body))
            yield {**scope, "headers": headers.raw}, _before(body, receive)
        else:
            raise Refusal(405, "the page has no such requests.")

    def check_sender(self, headers: Headers) -> None:
        """Refuse names that may be anybody's, which a foreign page could have, and foreign pages.

        An address is no name: whoever calls the page by it has reached this machine.
        """
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self.is_ours(host):
            name = printable(host)[:80]
            raise Refusal(403, f"this page is not known as {name}; it is with --name {name}.")
        if origin is not None and origin.rpartition("//")[2] not in {host, *self.proxies}:
            raise Refusal(403, "another page asks for this.")

    def is_ours(self, host: str) -> bool:
        """Whether a `Host` names this machine."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self.names:
            return True
        try:
            return bool(ipaddress.ip_address(name))
        except ValueError:
            return False

    def to_file(self, scope: Scope) -> Scope:
        """With the place of the file that is asked for by its outer name."""
        before, asks, name = scope["path"].partition("file=")
        if not asks:
            return scope
        root, inner = PurePosixPath(name).parts[:2], PurePosixPath(name).parts[2:]
        folder = self.shown.get("".join(root))
        if folder is None or ".." in inner or "\0" in name:
            raise Refusal(403, "only what is uploaded or made here is shown.")
        file = folder.joinpath(*inner)
        if not os.path.isfile(file):
            raise Refusal(404, "this file is gone.")
        path = f"{before}file={file}"
        return {**scope, "path": path, "raw_path": quote(path).encode()}

    def understood(self, path: str, body: bytes) -> bytes:
        """The body of what the page sends, and nothing else that might be in it."""
        try:
            if ENDED.fullmatch(path):
                return Ended.model_validate_json(body).model_dump_json(exclude_none=True).encode()
            asked = Asked.model_validate_json(body)
            kinds = zip(self.accepts[asked.fn_index], asked.data, strict=True)
            asked.data = [kind.dump_python(kind.validate_python(value)) for kind, value in kinds]
        except (ValueError, KeyError):
            raise Refusal(422, NOT_ASKED) from None
        visits = str(self.visits.folder)
        for files in (value for value in asked.data if isinstance(value, list)):
            for file in files:
                file["path"] = file["path"].replace("/visits", visits, 1)
                if not os.path.isfile(file["path"]):
                    raise Refusal(404, "this file is gone; drop it again.")
        return asked.model_dump_json().encode()

    def metered(self, scope: Scope, receive: Receive) -> Receive:
        """What is uploaded, as long as there is room and it comes in time."""
        told = Headers(scope=scope).get("content-length", "")
        if not told.isdecimal():
            raise Refusal(411, "an upload says how long it is.")
        most = TOGETHER * self.limits.megabytes * 2**20 + BODY
        if int(told[:20]) > most:
            raise Refusal(
                413, f"up to {TOGETHER} pictures of {self.limits.megabytes} MB are taken."
            )
        self.check_room(int(told))
        end, come = time.monotonic() + UPLOAD_SECONDS, 0

        async def next_part() -> Message:
            nonlocal come
            async with _seconds(min(PATIENCE, end - time.monotonic())):
                message = await receive()
            looked = come // UPLOADS_LOOKED_AT
            come += len(message.get("body", b""))
            if come // UPLOADS_LOOKED_AT > looked:
                self.check_room(0)
            return message

        return next_part

    def check_room(self, count: int) -> None:
        """Refuse so many bytes more, where they are too many."""
        if self.visits.used() + count > self.limits.disk * 2**30:
            raise Refusal(507, "there is no room for more pictures; come back later.")


class _Answer:
    """Sends an answer with folders by their outer names, and with what browsers are to refuse."""

    def __init__(self, send: Send, shown: Mapping[str, Path]) -> None:
        self.send, self.shown = send, shown
        self.begun = self.is_text = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            headers = MutableHeaders(raw=message["headers"])
            headers.update(SAFE)
            kind = headers.get("content-type", "").partition(";")[0]
            self.is_text = kind in ("text/html", "application/json", "text/event-stream")
            if self.is_text:  # of another length
                del headers["content-length"]
            message["headers"] = headers.raw
        elif self.is_text:
            for name, folder in self.shown.items():
                message["body"] = message["body"].replace(str(folder).encode(), name.encode())
        await self.send(message)

    async def refuse(self, scope: Scope, receive: Receive, status: int, sentence: str) -> None:
        """Answer with a sentence, where nothing was answered yet."""
        if not self.begun:
            await JSONResponse({"detail": sentence}, status)(scope, receive, self)


def one_of(values: Sequence[str]) -> TypeAdapter:
    """What is chosen among these."""

    def check(value: str) -> str:
        if value not in values:
            raise ValueError
        return value

    return TypeAdapter(Annotated[str, AfterValidator(check)])


def _listener(scope: Scope) -> str | None:
    """The session whose stream of events this is; none for what is no such stream."""
    path = scope["path"]
    if path.startswith(f"{API}/heartbeat/"):
        session = path.removeprefix(f"{API}/heartbeat/")
    elif path == f"{API}/queue/data":
        session = dict(parse_qsl(scope["query_string"].decode("latin-1"))).get("session_hash", "")
    else:
        return None
    if not re.fullmatch(SESSION, session):
        raise Refusal(422, NOT_ASKED)
    return session


@contextlib.asynccontextmanager
async def _seconds(count: float) -> AsyncIterator[None]:
    """Refuse what takes longer."""
    try:
        async with asyncio.timeout(count):
            yield
    except TimeoutError:
        raise Refusal(408, "this comes too slowly.") from None


async def _body(receive: Receive) -> bytes:
    """A body of bounded size, in bounded time."""
    body = b""
    async with _seconds(PATIENCE):
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > BODY:
                raise Refusal(413, "this request is too large.")
            if not message.get("more_body"):
                return body


def _before(body: bytes, receive: Receive) -> Receive:
    """A body that was read, and then what comes after it."""
    parts = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_part() -> Message:
        return parts.pop() if parts else await receive()

    return next_part
