"""The gate before the demonstration's server: requests that its page makes go through, all others are refused.

Gradio's server can do much that this page has no use for: hand out files of a cache that all its users share, fetch
addresses for its visitors, describe itself. Nothing of this is reachable. What is, is reachable only so often and in
such amounts as `mofme_jax.restoring.demo_limits` says.
"""

import asyncio
import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from mofme_jax.restoring import demo_limits as limits
from mofme_jax.restoring.demo_limits import Form, Rates, RefusedError, make_room

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_PAGES = ("/", "/config", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json")
_FOLDERS = ("/assets/", "/static/", "/svelte/", "/gradio_api/heartbeat/")
_CALLS = ("queue/join", "queue/data", "upload", "upload_progress", "cancel", "reset", "startup-events", "theme.css")
_API = tuple(f"/gradio_api/{call}" for call in _CALLS)
_JOIN, _UPLOAD = "/gradio_api/queue/join", "/gradio_api/upload"
_NOT_NEEDED = "This page does not need that."


class Gate:
    """ASGI middleware that refuses what the page does not need, with status 403, and what is too much, with 4xx or 503.

    Args:
      app: the application behind it.
      folder: the only folder of which files are handed out, or named in the calls of functions. What lies there now
        stays; of what is put there later, the oldest goes.
      hosts: names by which the server may be called, so that no other site's name can be pointed at it; None: any.
    """

    def __init__(self, app: Callable, folder: str, hosts: tuple[str, ...] | None):
        self.app, self.folder, self.hosts = app, folder.rstrip("/") + "/", hosts
        self._kept = frozenset(os.path.join(place, name) for place, _, names in os.walk(folder) for name in names)
        self._rates, self._open, self._uploads = Rates(), Counter[str](), 0
        self._tidying = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers, or lets the application answer."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # a websocket: closed before it is open, it is answered with 403
            return await send({"type": "websocket.close"})
        address = (scope.get("client") or ("",))[0][:64]  # which a proxy on this machine may say, at any length
        self._open[address] += 1
        try:
            if not self._known(scope):
                raise RefusedError(403, _NOT_NEEDED)
            if self._open[address] > limits.OPEN_REQUESTS:
                raise RefusedError(429, f"More than {limits.OPEN_REQUESTS} at once.")
            await self._answer(scope, receive, send, address)
        except RefusedError as refused:
            await _refuse(send, refused)
        finally:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]

    async def _answer(self, scope: Scope, receive: Receive, send: Send, address: str) -> None:
        path = scope["path"].rstrip("/")
        if path not in _API:
            return await self.app(scope, receive, send)
        self._rates.count(address, limits.UPLOADS_A_MINUTE if path == _UPLOAD else limits.CALLS_A_MINUTE)
        if path in (_UPLOAD, _JOIN):
            async with self._tidying:
                await asyncio.to_thread(make_room, self.folder[:-1], self._kept, limits.HELD_BYTES, limits.HELD_FILES)
        if path == _UPLOAD:
            return await self._upload(scope, receive, send)
        if scope.get("method") == "GET":
            return await self.app(scope, receive, send)
        body = await _read(receive)
        if path == _JOIN and not self._own_files(body):
            raise RefusedError(403, _NOT_NEEDED)
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return messages.pop() if messages else await receive()

        return await self.app(scope, again, send)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets one file through, while it comes fast enough."""
        headers = dict(scope["headers"])
        form = Form(headers.get(b"content-type", b""))
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > limits.UPLOAD_BYTES:
            await _drain(receive)
            raise RefusedError(413, f"A file may have {limits.UPLOAD_BYTES >> 20} MB.")
        if self._uploads >= limits.UPLOADS_AT_ONCE:
            raise RefusedError(503, "Others are giving photographs: try again.")
        refused: RefusedError | None = None
        loop = asyncio.get_running_loop()
        end = loop.time() + limits.PATIENCE

        async def watched() -> Message:
            nonlocal refused
            try:
                message = await _in_time(receive, end + form.size / limits.SLOWEST)
                form.feed(message.get("body", b""))
                if not message.get("more_body", False) and not form.whole:
                    raise RefusedError(400, "That was broken off.")
                return message
            except RefusedError as error:
                refused = error
                return {"type": "http.disconnect"}  # the application stops there

        async def answer(message: Message) -> None:
            if refused is None:
                await send(message)

        self._uploads += 1
        try:
            await self.app(scope, watched, answer)
        except Exception:
            if refused is None:
                raise
        finally:
            self._uploads -= 1
        if refused is not None:
            if refused.status == 413:
                await _drain(receive)
            raise refused

    def _known(self, scope: Scope) -> bool:
        path = scope["path"]
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if self.hosts is not None and _name(host) not in self.hosts:
            return False
        if max(len(path), len(scope.get("query_string", b""))) > limits.ADDRESS_BYTES or not _plain(path):
            return False
        if headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site") and scope.get("method") != "GET":
            return False  # another site's page, which a visitor has open, must not give photographs here
        return path in _PAGES or path.startswith((*_FOLDERS, f"/gradio_api/file={self.folder}")) or path in _API

    def _own_files(self, body: bytes) -> bool:
        """Whether every file that a call names is one of the folder's: Gradio would fetch an address.

        And whether the name of its session is short, as Gradio keeps names.
        """
        try:
            call = json.loads(body)
        except (ValueError, RecursionError):
            return False
        if not isinstance(call, dict) or not _short(call.get("session_hash")):
            return False
        left = [call]
        while left:
            value = left.pop()
            if isinstance(value, dict):
                path = value.get("path")
                if path is not None and not (isinstance(path, str) and path.startswith(self.folder) and _plain(path)):
                    return False
                left.extend(value.values())
            elif isinstance(value, list):
                left.extend(value)
        return True


def _name(host: str) -> str | None:
    """Of a host, without its port; None where there is none."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _plain(path: str) -> bool:
    """Whether a path says where it leads: without .., other systems' separators, and control characters."""
    return ".." not in path.split("/") and "\\" not in path and path.isprintable()


def _short(session: Any) -> bool:
    return session is None or (isinstance(session, str) and len(session) <= 64)


async def _in_time(receive: Receive, end: float) -> Message:
    """The next part of a body, if it comes before a time of the loop's clock."""
    try:
        async with asyncio.timeout_at(end):
            return await receive()
    except TimeoutError:
        raise RefusedError(408, "That came too slowly.") from None


async def _drain(receive: Receive) -> None:
    """Takes the rest of a body for a while: who is still sending when the connection is closed sees no answer."""
    try:
        async with asyncio.timeout(limits.PATIENCE):
            while (await receive()).get("more_body", False):
                pass
    except TimeoutError:
        pass


async def _read(receive: Receive) -> bytes:
    """The body of a request; raises RefusedError where it is too long, too slow, or broken off."""
    body, more = b"", True
    end = asyncio.get_running_loop().time() + limits.PATIENCE
    while more:
        message = await _in_time(receive, end)
        if message["type"] != "http.request":
            raise RefusedError(400, "That was broken off.")
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > limits.CALL_BYTES:
            raise RefusedError(403, _NOT_NEEDED)
    return body


async def _refuse(send: Send, refused: RefusedError) -> None:
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{refused.line}\n".encode()})
