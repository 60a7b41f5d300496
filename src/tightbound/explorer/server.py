"""The server of the explorer: JSON over HTTP for this machine alone, with a token in every address and limits on everything.

No path is ever taken from a request, nothing is unpickled, and what is wrong with a request is said with 4xx. Points to be
decoded are gathered while the model is busy and decoded together; whatever may take longer waits in a line of its own.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import tempfile
import threading
import webbrowser
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import uvicorn
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tightbound.errors import DataError, TightboundError
from tightbound.explorer.views import MOST_AT_ONCE, Views
from tightbound.report.material import Material
from tightbound.store import read_run

__all__ = ["application", "explore"]

HOST = "127.0.0.1"
LARGEST_BODY = 2**23  # bytes
SECONDS = 30.0  # that a request may take
WAITING = 64  # requests in either line, at most
LARGEST_COORDINATE = 1e6  # of a z
POINTS_TOGETHER = 32  # that are decoded at once, from which on no other request joins them
ASSETS = {"": ("page.html", "text/html"), "explorer.js": ("explorer.js", "text/javascript")}
ASSETS |= {"explorer.css": ("explorer.css", "text/css")}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

Coordinate = Annotated[float, Field(ge=-LARGEST_COORDINATE, le=LARGEST_COORDINATE, allow_inf_nan=False)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Latents(_Request):
    z: list[list[Coordinate]] = Field(min_length=1, max_length=MOST_AT_ONCE)


class _Seed(_Request):
    seed: int = Field(ge=0, lt=2**31)


class _Example(_Request):
    """An evaluated row by its number, or a row in numbers, null where it is missing."""

    row: int | None = None
    x: list[FiniteFloat | None] | None = None
    exposure: FiniteFloat | None = None


class _Given(_Request):
    text: str = Field(max_length=1000)
    seed: int = Field(default=0, ge=0, lt=2**31)


class _TooLarge(Exception):
    pass


class _Busy(Exception):
    pass


class _Decoder:
    """Decodes what several requests ask for together: while one block is on the device, the next is gathered."""

    def __init__(self, views: Views) -> None:
        self._views, self._waiting = views, asyncio.Queue[tuple[np.ndarray, asyncio.Future[list[Any]]]](WAITING)
        self._thread = ThreadPoolExecutor(1, "decode")

    async def decode(self, z: np.ndarray) -> list[Any]:
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        try:
            self._waiting.put_nowait((z, answer))
        except asyncio.QueueFull:
            raise _Busy from None
        return await answer

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            asked = [await self._waiting.get()]
            while not self._waiting.empty() and sum(len(z) for z, _ in asked) < POINTS_TOGETHER:
                asked.append(self._waiting.get_nowait())
            asked = [(z, answer) for z, answer in asked if not answer.done()]  # a request may have been given up
            if not asked:
                continue
            z, answers = np.concatenate([z for z, _ in asked]), [answer for _, answer in asked]
            try:
                decoded = await loop.run_in_executor(self._thread, self._views.decode, z)
            except Exception as error:
                for answer in answers:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            ends = np.cumsum([len(z) for z, _ in asked])
            for answer, (part, _), end in zip(answers, asked, ends, strict=True):
                if not answer.done():
                    answer.set_result(decoded[end - len(part) : end])


class _Line:
    """One after another, in a thread of its own; refuses when too many wait."""

    def __init__(self) -> None:
        self._thread, self._waiting = ThreadPoolExecutor(1, "views"), 0

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if self._waiting >= WAITING:
            raise _Busy
        self._waiting += 1
        loop, job = asyncio.get_running_loop(), self._thread.submit(function, *arguments)
        # A job that is given up while it runs keeps its place until it is over; one that waits is not begun.

        def over(_: object) -> None:
            with suppress(RuntimeError):  # of a loop that is closed, in which nobody waits any more
                loop.call_soon_threadsafe(self._leave)

        job.add_done_callback(over)
        return await asyncio.wrap_future(job)

    def _leave(self) -> None:
        self._waiting -= 1


class _Guard:
    """Lets through what comes to this machine, from its own page, with the token; the rest gets 403."""

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app, self._token = app, token
        # Browsers leave the port out where it is that of HTTP.
        self._hosts = {name if port == 80 else f"{name}:{port}" for name in (HOST, "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        problem = self._problem(Request(scope))
        if problem:
            await _refusal(403, problem)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _problem(self, request: Request) -> str:
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if host not in self._hosts:
            return "the explorer answers to this machine alone"
        if origin is not None and origin != f"http://{host}":
            return "the explorer answers to its own page alone"
        token = request.scope["path"].lstrip("/").partition("/")[0]
        if not secrets.compare_digest(token.encode(), self._token.encode()):
            return "the address has a wrong token: take the one that 'tightbound explore' printed"
        return ""


def _refusal(status: int, text: str) -> JSONResponse:
    return JSONResponse({"error": text}, status, headers=HEADERS)


def application(views: Views, token: str, port: int) -> ASGIApp:
    """Return the whole explorer as an ASGI application, whose addresses begin with the token."""
    line, decoder = _Line(), _Decoder(views)

    async def decode(given: _Latents) -> dict[str, Any]:
        latent = views.model.spec.latent
        if any(len(z) != latent for z in given.z):
            raise DataError(f"a z has {latent} numbers, got {min(map(len, given.z))} to {max(map(len, given.z))}")
        return {"looks": await decoder.decode(np.array(given.z))}

    def of_example(view: Callable[..., dict[str, Any]]) -> Callable[[_Example], Any]:
        def look(given: _Example) -> dict[str, Any]:
            return view(views.dataset(given.row, given.x, given.exposure))

        return lambda given: line.run(look, given)

    answers: dict[str, tuple[type[_Request], Callable[[Any], Any]]] = {
        "decode": (_Latents, decode),
        "prior": (_Seed, lambda given: line.run(views.prior, given.seed)),
        "example": (_Example, of_example(views.example)),
        "evidence": (_Example, of_example(views.evidence)),
        "truth": (_Example, of_example(views.truth)),
        "given": (_Given, lambda given: line.run(views.given, given.text, given.seed)),
    }

    def route(name: str) -> Route:
        form, answer = answers[name]

        async def endpoint(request: Request) -> Any:
            return await answer(form.model_validate_json(await _body(request)))

        return Route(f"/{name}", _answering(endpoint), methods=["POST"])

    async def upload(request: Request) -> Any:
        suffix = Path(request.query_params.get("name", "")).suffix.lower()
        return await line.run(views.first_row, suffix, await _body(request))

    async def facts(request: Request) -> Any:
        return views.facts

    async def latents(request: Request) -> Any:
        return views.map

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(decoder.run())
        yield
        task.cancel()

    routes = [
        *(Route(f"/{name}", _asset(*ASSETS[name]), methods=["GET"]) for name in ASSETS),
        Route("/facts", _answering(facts), methods=["GET"]),
        Route("/map", _answering(latents), methods=["GET"]),
        Route("/upload", _answering(upload), methods=["POST"]),
        *map(route, answers),
    ]
    app = Starlette(routes=[Mount(f"/{token}", routes=routes)], lifespan=lifespan)
    return _Guard(app, token, port)


def _asset(name: str, media: str) -> Callable[[Request], Any]:
    content = files("tightbound.explorer").joinpath(name).read_bytes()

    async def endpoint(request: Request) -> Response:
        return Response(content, media_type=media, headers=HEADERS)

    return endpoint


def _answering(endpoint: Callable[[Request], Any]) -> Callable[[Request], Any]:
    """Return an endpoint that says in words, with the right number, what is wrong with a request."""

    async def answering(request: Request) -> Response:
        try:
            async with asyncio.timeout(SECONDS):
                return JSONResponse(await endpoint(request), headers=HEADERS)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            return _refusal(422, f"{where}: {first['msg']}" if where else first["msg"])
        except TightboundError as error:
            return _refusal(400, str(error))
        except _TooLarge:
            return _refusal(413, "the request is too large")
        except _Busy:
            return _refusal(503, "the explorer is busy; try again")
        except TimeoutError:
            return _refusal(503, f"it took longer than {SECONDS:g} s and was given up")
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:
            logging.getLogger(__name__).exception("a request failed")
            return _refusal(500, "the explorer failed; its terminal says how")

    return answering


async def _body(request: Request) -> bytes:
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > LARGEST_BODY:
            raise _TooLarge
    return bytes(content)


def explore(run: Path, *, port: int = 0, browse: bool = True, trust: tuple[str, ...] = (), tell: Callable[[str], None]) -> None:
    """Serve the explorer of a run until it is interrupted; ``tell`` is given the address, which nobody can guess.

    A free port is taken unless one is named. Raises :class:`DataError` when the port is taken, and the errors of
    :func:`tightbound.write_report` for runs that cannot be read.
    """
    stored = read_run(run)
    views = Views(Material(stored, stored.model(trust=trust)))
    # With the protocol named asyncio sends every answer at once; without, each waits 40 ms for an acknowledgement.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen()
        except OSError as error:
            raise DataError(f"port {port} of this machine cannot be used: {error.strerror}; name another") from None
        views.warm()
        token, port = secrets.token_urlsafe(24), listener.getsockname()[1]
        address = f"http://{HOST}:{port}/{token}/"
        tell(address)
        app = application(views, token, port)
        config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on", timeout_graceful_shutdown=1)
        with tempfile.TemporaryDirectory(prefix="tightbound-") as folder:
            if browse:
                _browse(Path(folder) / "explorer.html", address)
            uvicorn.Server(config).run(sockets=[listener])


def _browse(page: Path, address: str) -> None:
    """Open the browser by a page that leads to the address: arguments of a program can be seen by all users of a machine."""
    page.write_text(f'<!DOCTYPE html><title>tightbound</title><meta http-equiv="refresh" content="0; url={address}">')
    # A browser in the terminal does not come back before it is closed.
    threading.Thread(target=webbrowser.open, args=(page.as_uri(),), daemon=True).start()
