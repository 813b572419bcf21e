"""The server of a live explorer: one page and one way to run a prompt, for this machine only.

It listens on the loopback address, and answers only requests that name that address and carry the
token of the address that was printed. The extra `live` brings starlette and uvicorn, which are
imported when a server is made.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Protocol, Self

from interp.errors import BadInput, InterpError
from interp.render.page import CSP
from interp.runs.explorer.live.session import Asked, Stopped
from interp.runs.explorer.page import Explorer

LOOPBACK = "127.0.0.1"
NAMES = (LOOPBACK, "localhost")
MOST_WAITING = 8
LARGEST = 100_000  # bytes of a request
HEADER = "x-interp-token"
SAFE = {
    "content-security-policy": f"{CSP}; connect-src 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Runs(Protocol):
    """The part of a session that the server needs."""

    payload: dict[str, Any]

    def run(self, asked: Asked, tell: Any, stop: Any) -> dict[str, Any]: ...


def require_server() -> None:
    """Raise `InterpError`, with the line that installs it, where the server cannot be imported."""
    try:
        import starlette
        import uvicorn
    except ImportError as error:
        raise InterpError(
            "a live page needs starlette and uvicorn: pip install 'interp-stream[live]'"
        ) from error
    del starlette, uvicorn


class Desk:
    """One worker, which runs one prompt after the other, and a short queue before it."""

    def __init__(self, session: Runs) -> None:
        self.session = session
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="interp-live")
        self._stops: set[threading.Event] = set()

    @property
    def waiting(self) -> int:
        """Prompts that are run or wait."""
        return len(self._stops)

    async def answers(self, asked: Asked, live: Mapping[str, str]) -> AsyncIterator[bytes]:
        """The lines of the answer, one JSON object each; leaving early stops the work."""
        loop, lines = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any]]()
        stop, ahead = threading.Event(), self.waiting

        def tell(line: Mapping[str, Any]) -> None:
            with suppress(RuntimeError):  # the loop has ended, and nobody listens
                loop.call_soon_threadsafe(lines.put_nowait, dict(line))

        self._stops.add(stop)
        try:
            yield _line({"type": "queued", "ahead": ahead})
            self._worker.submit(self._work, asked, live, tell, stop)
            while True:
                line = await lines.get()
                yield _line(line)
                if line["type"] in ("payload", "error"):
                    return
        finally:
            stop.set()
            self._stops.discard(stop)

    def _work(self, asked: Asked, live: Mapping[str, str], tell: Any, stop: Any) -> None:
        """Runs one prompt; every failure becomes a line of the answer."""
        if stop.is_set():
            return
        tell({"type": "started"})
        try:
            payload = self.session.run(asked, tell, stop)
            tell({"type": "payload", "payload": {**payload, "live": dict(live)}})
        except Stopped:
            tell({"type": "error", "message": "stopped"})
        except InterpError as error:
            tell({"type": "error", "message": str(error)})
        except Exception as error:  # noqa: BLE001  one prompt must not end the server
            reason = str(error).strip().split("\n")[0]
            tell({"type": "error", "message": f"{type(error).__name__}: {reason}"})

    def close(self) -> None:
        """Stops what is running and waits until the worker has ended."""
        for stop in tuple(self._stops):
            stop.set()
        self._worker.shutdown(wait=True, cancel_futures=True)


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=True, allow_nan=False).encode() + b"\n"


class Guard:
    """Lets through only requests to this address, from its own page, with the token."""

    def __init__(self, app: Any, token: str, port: int) -> None:
        self.app, self.token = app, token
        self.hosts = {f"{name}:{port}" for name in NAMES}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.requests import HTTPConnection
        from starlette.responses import PlainTextResponse

        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(HTTPConnection(scope))
        if scope["type"] == "websocket" or refusal is not None:
            answer = PlainTextResponse(f"{refusal}\n", status_code=403, headers=SAFE)
            if scope["type"] == "http":
                await answer(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})
            return
        await self.app(scope, receive, send)

    def _refusal(self, request: Any) -> str | None:
        """The reason to refuse a request, None for one that is let through."""
        # A page of another site can reach this port under a name that it resolves to 127.0.0.1.
        if request.headers.get("host") not in self.hosts:
            return "This server answers to 127.0.0.1 and localhost only."
        origin = request.headers.get("origin")
        if origin is not None and origin.removeprefix("http://") not in self.hosts:
            return "Another page may not ask this server."
        given = request.headers.get(HEADER) or request.query_params.get("token") or ""
        if not secrets.compare_digest(given.encode(), self.token.encode()):
            return "The token is missing or wrong: open the address that interp explore printed."
        return None


def app_of(desk: Desk, token: str, port: int) -> Any:
    """The page at `/` and `POST /run`, guarded."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    live = {"url": "/", "token": token}

    async def page(_: Request) -> Response:
        text = await run_in_threadpool(lambda: page_of(desk.session.payload, live))
        return HTMLResponse(text, headers=SAFE)

    async def run(request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > LARGEST:
                return refused(413, f"the request has more than {LARGEST:,} bytes")
        try:
            asked = Asked.of(json.loads(body))
        except (InterpError, ValueError) as error:
            told = str(error) if isinstance(error, InterpError) else f"no JSON: {error}"
            return refused(422, told)
        if desk.waiting > MOST_WAITING:
            return refused(429, f"{MOST_WAITING} prompts wait already; try again later")
        lines = desk.answers(asked, live)
        return StreamingResponse(lines, media_type="application/x-ndjson", headers=SAFE)

    def refused(code: int, message: str) -> Response:
        return JSONResponse({"message": message}, code, SAFE)

    routes = [Route("/", page), Route("/run", run, methods=["POST"])]
    return Guard(Starlette(routes=routes), token, port)


def page_of(payload: Mapping[str, Any], live: Mapping[str, str]) -> str:
    """The page of all prompts so far, which may ask its server."""
    return Explorer({**payload, "live": dict(live)}).html


class Server:
    """A live explorer that listens while it is open.

    Attributes:
        token: without which nothing is answered.
        port: where it listens, on the loopback address.
        address: of the page, with the token.
    """

    def __init__(self, session: Runs, port: int = 0) -> None:
        require_server()
        self.token = secrets.token_urlsafe(24)
        self._socket = _listening(port)
        self.port = int(self._socket.getsockname()[1])
        self.address = f"http://{LOOPBACK}:{self.port}/?token={self.token}"
        self._desk = Desk(session)
        self._server = self._made()

    def _made(self) -> Any:
        import uvicorn

        app = app_of(self._desk, self.token, self.port)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,  # its lines would hold the token
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        return uvicorn.Server(config)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._desk.close()
        self._socket.close()

    def run(self) -> None:
        """Serves until Ctrl-C, or until `stop`."""
        # uvicorn ends in an orderly way and then raises the signal again.
        with suppress(KeyboardInterrupt):
            self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Ends `run` from another thread."""
        self._server.should_exit = True


def _listening(port: int) -> socket.socket:
    """A socket on the loopback address. Raises `BadInput` for a port that is taken."""
    if not 0 <= port < 1 << 16:
        raise BadInput(f"port {port}; allowed is 0 (any free one) to 65535")
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if os.name == "posix":  # elsewhere it would let two programs listen at one port
        # The connection of a page that is open still keeps the port for a minute after the end.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((LOOPBACK, port))
        listening.listen()  # who opens the address at once waits instead of being refused
    except OSError as error:
        listening.close()
        raise BadInput(
            f"port {port} cannot be used ({error.strerror}); leave --port out for a free one"
        ) from error
    return listening
