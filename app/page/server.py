"""What of the page goes over the network, and what does not.

`Guard` stands before everything: it lets through the requests that the page itself makes and
refuses all others, asks for the password where one is set, and bounds what can be sent. Behind it
are our own addresses (`routes`) and Gradio's. Files are looked up in lists, so no address ever
becomes a path.
"""

import asyncio
import base64
import binascii
import contextlib
import hmac
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from gemkit.errors import UserError

from . import downloads

if TYPE_CHECKING:
    import fastapi

    from .content import Shown
    from .embedding_map import EmbeddingMap

MAX_UPLOAD_BYTES = 10_000_000
_MAX_BODY_BYTES = 1_000_000
_MAX_UPLOADED_AN_HOUR = 2_000_000_000
_STATIC = {"page.js": "text/javascript", "browser.js": "text/javascript"}
_READ = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/pwa_icon(/\d+)?"
    r"|/(assets|static|svelte)/[\w./@-]+|/page/[\w.]+|/run/[\w./-]+|/onnxruntime/[\w.-]+"
    r"|/gradio_api/(info/?|startup-events|theme\.css|app_id/?|upload_progress|queue/data"
    r"|heartbeat/\w+|file=(?!\w+:).+)"
)
_LASTING = re.compile(r"/(assets|static|svelte)/[\w./@-]+")
_MAX_KEPT_BYTES = 32_000_000
_WRITE = re.compile(r"/gradio_api/(queue/join|upload|cancel|reset/?|run/\w+/?)")
_PLAIN_HEADERS = (b"host", b"accept", b"accept-encoding", b"user-agent")
"""What an answer that is kept for everybody may depend on: no range, no date of another copy."""
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    # A page that shares its process with no other may use the browser's finest clock.
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-embedder-policy", b"require-corp"),
]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Guard:
    """ASGI middleware that refuses what the page does not need; see the module's text.

    Args:
        login: user and password that everybody must give; None where the page is open.
    """

    def __init__(self, app: App, login: tuple[str, str] | None = None) -> None:
        self.app = app
        self.login = login
        self._uploads: deque[tuple[float, int]] = deque()
        self._kept: dict[tuple[str, bytes], list[Message]] = {}
        self._room = _MAX_KEPT_BYTES

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # the page uses no web sockets
        headers = {name.lower(): value for name, value in scope["headers"]}
        if not self._may_enter(headers.get(b"authorization", b"")):
            await asyncio.sleep(0.3)  # guessing takes time
            await _answer(
                send, 401, "a user name and a password are needed", (b"www-authenticate", b"Basic")
            )
            return
        path, method = scope["path"], scope["method"]
        allowed = _READ if method in ("GET", "HEAD") else _WRITE if method == "POST" else None
        raw = scope.get("raw_path", b"").lower()
        sly = ".." in path or "\\" in path or "\0" in path or b"%2e" in raw or b"%25" in raw
        if allowed is None or sly or not allowed.fullmatch(path):
            await _answer(send, 404, "there is nothing here")
            return
        upload = path == "/gradio_api/upload"
        limit = MAX_UPLOAD_BYTES + 100_000 if upload else _MAX_BODY_BYTES
        if upload and b"content-length" not in headers:
            await _answer(send, 411, "say how long the file is")
            return
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > limit:
            await _answer(send, 413, f"at most {limit // 1_000_000} MB can be sent")
            return
        if upload and not self._room_for(int(length)):
            await _answer(send, 503, "too much was uploaded in the last hour: try again later")
            return
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return {"type": "http.disconnect"} if received > limit else message

        async def hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        if method != "GET" or not _LASTING.fullmatch(path):
            await self.app(scope, bounded, hardened)
            return
        # Opening the page asks for some seventy scripts and styles of Gradio's, which takes it
        # milliseconds each; they never change while it runs.
        asked = (path, headers.get(b"accept-encoding", b"")[:100])
        if asked not in self._kept:
            answer: list[Message] = []

            async def noted(message: Message) -> None:
                answer.append(message)
                await hardened(message)

            plain = [pair for pair in scope["headers"] if pair[0].lower() in _PLAIN_HEADERS]
            await self.app({**scope, "headers": plain}, bounded, noted)
            self._keep(asked, answer)
            return
        for message in self._kept[asked]:
            await send(message)

    def _keep(self, asked: tuple[str, bytes], answer: list[Message]) -> None:
        """Keep a whole answer in memory while there is room."""
        size = sum(len(message.get("body", b"")) for message in answer)
        whole = len(answer) > 1 and not answer[-1].get("more_body")
        if whole and answer[0].get("status") == 200 and size <= self._room:
            self._room -= size
            self._kept[asked] = answer

    def _may_enter(self, given: bytes) -> bool:
        if self.login is None:
            return True
        kind, _, rest = given.partition(b" ")
        if kind.lower() != b"basic":
            return False
        try:
            pair = base64.b64decode(rest, validate=True)
        except binascii.Error:
            return False
        return hmac.compare_digest(pair, ":".join(self.login).encode())

    def _room_for(self, size: int) -> bool:
        now = time.monotonic()
        while self._uploads and self._uploads[0][0] < now - 3600:
            self._uploads.popleft()
        if sum(each for _, each in self._uploads) + size > _MAX_UPLOADED_AN_HOUR:
            return False
        self._uploads.append((now, size))
        return True


async def _answer(send: Send, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
    body = text.encode()
    fixed = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS, *headers]
    await send({"type": "http.response.start", "status": status, "headers": fixed})
    await send({"type": "http.response.body", "body": body})


def routes(shown: "Shown", places: "EmbeddingMap") -> "fastapi.FastAPI":
    """The page's own addresses: the table of points, downloads, the map, onnxruntime-web."""
    from importlib import resources

    import fastapi
    from fastapi import Response
    from fastapi.responses import FileResponse, JSONResponse

    from . import browser

    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    nothing = fastapi.HTTPException(404)
    gzipped = {"content-encoding": "gzip"}

    def attached(name: str) -> dict[str, str]:
        return {"content-disposition": f'attachment; filename="{name}"'}

    @app.exception_handler(UserError)
    def refused(_: fastapi.Request, error: UserError) -> Response:
        return JSONResponse({"error": str(error)}, 409)

    @app.get("/page/{name}")
    def static(name: str) -> Response:
        if name not in _STATIC:
            raise nothing
        text = resources.files("gemkit.app.page").joinpath("static", name).read_bytes()
        return Response(text, media_type=_STATIC[name], headers={"cache-control": "no-cache"})

    @app.get("/run/table.json")
    def table() -> Response:
        return Response(shown.content.table, 200, gzipped, "application/json")

    @app.get("/run/version.json")
    def version() -> int:
        return shown.content.version

    @app.get("/run/map.json")
    def positions() -> Response:
        return Response(places.packed(), 200, gzipped, "application/json")

    @app.get("/run/compare.json")
    def compared(first: str, second: str) -> Response:
        return JSONResponse(places.compare(first[:64], second[:64]))

    @app.api_route("/run/files/{id}/{name}", methods=["GET", "HEAD"])
    def file(id: str, name: str) -> Response:
        for one in shown.files(id):
            if one.name == name:
                return FileResponse(one.path, headers=attached(f"{id}-{name}"))
        raise nothing

    @app.get("/run/zip/{name}")
    def archive(name: str) -> Response:
        id = name.removesuffix(".zip")
        files = shown.files(id)
        if not files or name == id:
            raise nothing
        return Response(downloads.packed(id, files), 200, attached(name), "application/zip")

    @app.get("/run/cells/{name}")
    def cell(name: str) -> Response:
        place = shown.place(name.removesuffix(".json"))
        if place is None or not name.endswith(".json"):
            raise nothing
        content = downloads.cell_file(place.cell)
        return Response(content, 200, attached(f"cell-{name}"), "application/json")

    @app.get("/run/kit.json")
    def kit(count: int = 30) -> Response:
        return JSONResponse(browser.manifest(shown, count))

    @app.get("/run/reference/{name}")
    def answers(name: str) -> Response:
        value = browser.reference(shown, name.removesuffix(".json"))
        if value is None:
            raise nothing
        return JSONResponse(value)

    @app.get("/run/drafts/{name}")
    def draft(name: str) -> Response:
        content = browser.draft_named(shown, name)
        if content is None:
            raise nothing
        return Response(content, media_type="application/octet-stream")

    @app.get("/onnxruntime/{name}")
    def runtime(name: str) -> Response:
        path = browser.runtime_file(name)
        if path is None:
            raise nothing
        kind = "application/wasm" if name.endswith(".wasm") else "text/javascript"
        keep = {"cache-control": "public, max-age=86400"}
        return FileResponse(path, media_type=kind, headers=keep)

    return app


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        UserError: the address cannot be used.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        raise UserError(f"--host: there is no address {host!r}; use 127.0.0.1 or 0.0.0.0") from None
    family, kind, protocol, _, address = addresses[0]
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind(address)
        opened.listen(256)
    except OSError as error:
        opened.close()
        reason = (error.strerror or str(error)).lower()
        raise UserError(
            f"cannot listen on {host}:{port} ({reason}): choose another with --port"
        ) from None
    return opened


class Server:
    """A page that is being served by a thread.

    Args:
        ended: is called when the page is closed.

    Attributes:
        address: where, as a URL.
    """

    def __init__(
        self, app: App, opened: socket.socket, ended: Callable[[], None] | None = None
    ) -> None:
        import uvicorn

        host, port = opened.getsockname()[:2]
        shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        shown = f"[{shown}]" if ":" in shown else shown
        self.address = f"http://{shown}:{port}"
        config = uvicorn.Config(
            app,
            log_level="error",
            access_log=False,
            limit_concurrency=512,
            timeout_keep_alive=20,
            timeout_graceful_shutdown=2,
        )
        self._server = uvicorn.Server(config)
        self._socket = opened
        self._ended = ended
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [opened]}, daemon=True
        )

    def start(self) -> None:
        """Serve; returns when requests are answered."""
        self._thread.start()
        while self._thread.is_alive() and not self._server.started:
            time.sleep(0.01)
        if not self._server.started:
            raise RuntimeError("the page's server did not start")

    def wait(self) -> None:
        """Return when the server has ended."""
        while self._thread.is_alive():
            self._thread.join(0.5)

    def close(self) -> None:
        """Stop serving."""
        self._server.should_exit = True
        self._thread.join(10)
        if self._ended is not None:
            self._ended()
        with contextlib.suppress(OSError):
            self._socket.close()
