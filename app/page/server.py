"""The page's own addresses, and the server that answers them.

Files are looked up in lists, so no address ever becomes a path.
"""

import contextlib
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from importlib import resources
from typing import TYPE_CHECKING, Any

import fastapi
from fastapi import Response
from fastapi.responses import FileResponse, JSONResponse

from gemkit.errors import UserError

from . import browser, cell_svg, downloads, facts
from .guard import MAX_UPLOAD_BYTES, Access, Guard

if TYPE_CHECKING:
    import gradio

    from .content import PageRun
    from .embedding_map import EmbeddingMap
    from .live_search import LiveSearch

SCRIPTS = ("address.js", "page.js", "result.js", "how.js", "try.js", "browser.js")
"""The page's own scripts, in their order."""


def routes(
    shown: "PageRun", places: "EmbeddingMap", live: "LiveSearch | None" = None
) -> fastapi.FastAPI:
    """The page's own addresses: the table of points, downloads, the map, onnxruntime-web."""
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
        if name not in SCRIPTS:
            raise nothing
        text = resources.files("gemkit.app.page").joinpath("static", name).read_bytes()
        return Response(text, media_type="text/javascript", headers={"cache-control": "no-cache"})

    @app.get("/run/table.json")
    def table() -> Response:
        return Response(shown.content.table, 200, gzipped, "application/json")

    @app.get("/run/version.json")
    def version() -> int:
        return shown.content.version

    @app.get("/run/facts/{id}")
    def about(id: str) -> Response:
        return JSONResponse({"id": id, "facts": facts.html(shown, id)})

    @app.get("/run/pair.json")
    def pair(first: str, second: str) -> Response:
        first, second = first[:64], second[:64]
        likeness = places.compare(first, second)
        return JSONResponse({"html": facts.pair(shown, first, second), **likeness})

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
                return FileResponse(one.path, headers=attached(one.called(shown.stem(id))))
        raise nothing

    @app.get("/run/zip/{name}")
    def archive(name: str) -> Response:
        id = name.removesuffix(".zip")
        files = shown.files(id)
        if not files or name == id:
            raise nothing
        called = shown.stem(id)
        content = downloads.packed(called, files)
        return Response(content, 200, attached(f"{called}.zip"), "application/zip")

    @app.get("/run/cells/{name}")
    def cell(name: str) -> Response:
        id, _, ending = name.rpartition(".")
        drawn = shown.drawn_cell(id)
        if drawn is None or ending not in ("json", "svg"):
            raise nothing
        called = attached(f"{shown.stem(id)}.cell.{ending}")
        if ending == "svg":
            return Response(cell_svg.standalone(drawn.cell), 200, called, "image/svg+xml")
        return Response(downloads.cell_file(drawn.cell), 200, called, "application/json")

    @app.get("/run/live/{name}")
    def found_live(name: str) -> Response:
        content = live.cell_file(name.removesuffix(".json")) if live is not None else None
        if content is None or not name.endswith(".json"):
            raise nothing
        return Response(content, 200, attached(f"cell-{name}"), "application/json")

    @app.get("/run/browser.json")
    def in_the_browser() -> Response:
        return JSONResponse(browser.settings(shown))

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


def _free_port(host: str, port: int) -> int:
    """The port, or any free one for 0.

    Raises:
        UserError: nothing can listen there.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        raise UserError(f"--host: there is no address {host!r}; use 127.0.0.1 or 0.0.0.0") from None
    family, kind, protocol, _, address = addresses[0]
    with socket.socket(family, kind, protocol) as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind(address)
            opened.listen(1)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UserError(
                f"cannot listen on {host}:{port} ({reason}): choose another with --port"
            ) from None
        return int(opened.getsockname()[1])


@contextlib.contextmanager
def _without_proxy() -> Iterator[None]:
    """Gradio asks its own server whether it has started, which no proxy could tell."""
    names = ("http_proxy", "https_proxy", "all_proxy")
    kept = {name: value for name, value in os.environ.items() if name.lower() in names}
    for name in kept:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(kept)


class Server:
    """A page that is being served in the background.

    Attributes:
        address: where, as a URL.
    """

    def __init__(
        self,
        blocks: "gradio.Blocks",
        own: fastapi.FastAPI,
        port: int,
        access: Access,
        *,
        root_path: str = "",
        ended: Callable[[], None] | None = None,
        **looks: Any,
    ) -> None:
        """Serve; returns when requests are answered.

        Args:
            own: the page's own addresses.
            port: 0 for any that is free.
            root_path: what a proxy takes away from the beginning of every path.
            ended: is called when the page is closed.
            looks: further arguments of Gradio's `launch`.

        Raises:
            UserError: the address cannot be used.
        """
        host = access.listening
        port = _free_port(host, port)
        guard = Guard(access)

        @contextlib.asynccontextmanager
        async def guarded(app: Any) -> AsyncIterator[None]:
            # Gradio puts its own layers, which answer without asking, around any middleware that
            # it is given; this one stands before them.
            guard.app, app.middleware_stack = app.middleware_stack, guard
            yield

        bracketed = f"[{host}]" if ":" in host else host
        with _without_proxy():
            # Mounted in an application of our own, Gradio's page never counts as launched, and
            # Gradio then checks no paths; `guard` does not rely on it, nor it on `guard`.
            app, _, _ = blocks.launch(
                server_name=bracketed,
                server_port=port,
                root_path=root_path,
                app_kwargs={
                    "routes": own.routes,
                    "exception_handlers": own.exception_handlers,
                    "lifespan": guarded,
                },
                max_file_size=MAX_UPLOAD_BYTES,
                prevent_thread_lock=True,
                quiet=True,
                inline=False,
                share=False,
                show_error=False,
                enable_monitoring=False,
                ssr_mode=False,
                mcp_server=False,
                num_workers=0,
                pwa=False,
                **looks,
            )
        if app.middleware_stack is not guard:
            blocks.close(verbose=False)
            raise RuntimeError("this version of Gradio cannot be guarded: the page is closed")
        config = blocks.server.config
        config.limit_concurrency = 512
        config.timeout_keep_alive = 20
        config.timeout_graceful_shutdown = 2
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        guard.functions = frozenset(one["id"] for one in blocks.config["dependencies"])
        reached = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, bracketed)
        self.address = f"http://{reached}:{port}"
        self._blocks = blocks
        self._ended = ended
        self._closed = threading.Event()

    def wait(self) -> None:
        """Return when the server has ended."""
        while not self._closed.wait(0.5):
            pass

    def close(self) -> None:
        """Stop serving."""
        self._blocks.close(verbose=False)
        if self._ended is not None:
            self._ended()
        self._closed.set()
