"""The gate before the demonstration's server: requests that its page makes go through, all others are refused.

Gradio's server can do much that this page has no use for: hand out files of a cache that all its users share, fetch
addresses for its visitors, describe itself. Nothing of this is reachable.
"""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_PAGES = ("/", "/config", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json")
_FOLDERS = ("/assets/", "/static/", "/svelte/", "/gradio_api/heartbeat/")
_CALLS = ("queue/join", "queue/data", "upload", "upload_progress", "cancel", "reset", "startup-events", "theme.css")
_JOIN = "/gradio_api/queue/join"
_JOIN_BYTES = 1 << 20  # of a call of a function: names of files and values of sliders


class Gate:
    """ASGI middleware that refuses, with status 403, what the page does not need.

    Args:
      app: the application behind it.
      folder: the only folder of which files are handed out, or named in the calls of functions.
      hosts: names by which the server may be called, so that no other site's name can be pointed at it; None: any.
    """

    def __init__(self, app: Callable, folder: str, hosts: tuple[str, ...] | None):
        self.app, self.folder, self.hosts = app, folder.rstrip("/") + "/", hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers, or lets the application answer."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http" or not self._known(scope):
            return await _refuse(send)
        if scope["path"] != _JOIN:
            return await self.app(scope, receive, send)
        body = await _read(receive)
        if body is None or not self._own_files(body):
            return await _refuse(send)
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> MutableMapping[str, Any]:
            return messages.pop() if messages else await receive()

        return await self.app(scope, again, send)

    def _known(self, scope: Scope) -> bool:
        path = scope["path"]
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        if self.hosts is not None and urlsplit(f"//{host}").hostname not in self.hosts:
            return False
        return (
            path in _PAGES
            or path.startswith((*_FOLDERS, f"/gradio_api/file={self.folder}"))
            or path in [f"/gradio_api/{call}" for call in _CALLS]
        )

    def _own_files(self, body: bytes) -> bool:
        """Whether every file that a call names is one of the folder's: Gradio would fetch an address."""
        try:
            left = [json.loads(body)]
        except (ValueError, RecursionError):
            return False
        while left:
            value = left.pop()
            if isinstance(value, dict):
                path = value.get("path")
                if path is not None and not (isinstance(path, str) and path.startswith(self.folder)):
                    return False
                left.extend(value.values())
            elif isinstance(value, list):
                left.extend(value)
        return True


async def _read(receive: Receive) -> bytes | None:
    """The body of a request; None of one that is too long or broken off."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > _JOIN_BYTES:
            return None
    return body


async def _refuse(send: Send) -> None:
    await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"This page does not need that.\n"})
