"""The arena's web page and what it asks for. Only the page's own files and the clips of given trials can be had.

Starlette and uvicorn: requests for parts of a file, which players need, and many listeners at once, are theirs.
"""

from __future__ import annotations

import json
import logging
import socket
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hh_train.arena.booth import Booth, VoteError

log = logging.getLogger(__name__)

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]", "::1")
_PAGE = {
    "/": ("arena.html", "text/html"),
    "/arena.js": ("arena.js", "text/javascript"),
    "/arena.css": ("arena.css", "text/css"),
}
_MAX_BODY_BYTES = 4096
_NEVER = "Thu, 01 Jan 1970 00:00:00 GMT"
_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; media-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
}


def make_app(booth: Booth, *, host_names: tuple[str, ...] = LOOPBACK_NAMES) -> Starlette:
    """The application.

    Args:
        booth: gives trials and takes votes.
        host_names: by which it may be called, so that no page of another site can reach it under a name of its own;
            `("*",)` allows all.
    """

    def page(request: Request) -> Response:
        name, kind = _PAGE[request.url.path]
        return Response((Path(__file__).parent / "page" / name).read_bytes(), media_type=kind)

    def media(request: Request) -> Response:
        trial = request.path_params["trial"]
        side = request.path_params["side"]
        path = booth.media(trial, side)
        if path is None or not path.is_file():
            return _fault("there is no such clip", 404)
        # the file's date would tell whose it is, and equal tags that two are one
        headers = {"last-modified": _NEVER, "etag": f'"{trial}-{side}"'}
        return FileResponse(path, media_type="video/mp4", headers=headers)

    async def invite(request: Request) -> Response:
        fields = await _body(request)
        invitation = await run_in_threadpool(booth.invite, fields.get("rater", ""))
        if invitation is None:
            return JSONResponse({"finished": True})
        clips = {side: f"/media/{invitation.trial}/{side}.mp4" for side in ("left", "right")}
        return JSONResponse({**vars(invitation), **clips})

    async def vote(request: Request) -> Response:
        fields = await _body(request)
        await run_in_threadpool(booth.vote, fields)
        return JSONResponse({"counted": True})

    async def refuse(_: Request, error: Exception) -> Response:
        return _fault(str(error), 400)

    async def fail(_: Request, error: Exception) -> Response:
        log.error("%s: %s", type(error).__name__, error)
        return _fault("the vote could not be stored: the server's console says why", 500)

    return Starlette(
        routes=[
            *(Route(path, page) for path in _PAGE),
            Route("/media/{trial}/{side}.mp4", media),
            Route("/trial", invite, methods=["POST"]),
            Route("/vote", vote, methods=["POST"]),
        ],
        middleware=[
            Middleware(_WithHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(host_names), www_redirect=False),
        ],
        exception_handlers={VoteError: refuse, OSError: fail},
    )


class ArenaServer:
    """The application on a socket. The port is bound when this is built, so that its address can be told.

    Args:
        booth: gives trials and takes votes.
        host: a loopback address keeps others out; `0.0.0.0` lets the whole network in.
        port: 0 takes any that is free.

    Raises:
        ValueError: the address cannot be had.
    """

    def __init__(self, booth: Booth, *, host: str = "127.0.0.1", port: int = 8123) -> None:
        try:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self._socket = socket.create_server((str(address[0]), port), family=family)
        except (OSError, OverflowError) as error:
            raise ValueError(
                f"{host}:{port} cannot be had ({error}); give another `port` (0 takes any that is free) or `host`"
            ) from error
        own = (host, *LOOPBACK_NAMES) if is_loopback(host) else ("*",)
        config = uvicorn.Config(
            make_app(booth, host_names=own),
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=2,
        )
        self._server = uvicorn.Server(config)
        name = f"[{address[0]}]" if ":" in str(address[0]) else str(address[0])
        self.url = f"http://{name}:{self._socket.getsockname()[1]}/"

    def serve(self) -> None:
        """Answers until `stop`, or an interrupt (Ctrl-C), which ends it without a word."""
        with suppress(KeyboardInterrupt):
            self._server.run(sockets=[self._socket])
        self._socket.close()

    def stop(self) -> None:
        """Ends `serve` in another thread."""
        self._server.should_exit = True


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host's sockets."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _WithHeaders:
    """Adds `_HEADERS` to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self.app(scope, receive, send_with_headers)


async def _body(request: Request) -> dict[str, Any]:
    """The fields of a request. A form of another site cannot send this kind without being asked first."""
    kind = request.headers.get("content-type", "").split(";")[0].strip()
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise VoteError("the request is too long")
    try:
        fields = json.loads(body) if kind == "application/json" else None
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise VoteError("wanted a JSON object")
    return fields


def _fault(message: str, status: int) -> Response:
    return JSONResponse({"error": message}, status_code=status)
