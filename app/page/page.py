"""`gemkit app`: the page of a run. Here is the layout; what it shows comes from other modules.

`content` reads the run; `result`, `try_it`, `speed` and `live_search` are tabs of it. `offer`
says which network to take, `facts` shows all of one, `cell_svg` draws cells, `embedding_map` places
them, `browser` serves what a visitor's own browser runs. `server` answers, and `guard` and
`file_access` decide what may be asked and which files may be named.
"""

import os
import signal
import threading
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from gemkit.pictures import MAX_PIXELS

from . import browser, file_access, guard, server
from .content import PageRun
from .embedding_map import EmbeddingMap
from .parts import read_together, scripted

if TYPE_CHECKING:
    import gradio
    from rich.console import Console

    from .live_search import LiveSearch

_QUEUE = 32
_COURSE = {
    "progress": "## Design after design\n\n"
    "Each ring is a design, in the order tried. The line is the best so far.",
    "parallel": "## What the good ones have in common\n\n"
    "Each line is a design, from the steps of its cell to the share it gets right. Drag along an "
    "axis to keep those that pass there; a click on the axis lets all pass again.",
    "map": "## Which designs are alike\n\n"
    "Cells that are built alike lie close together; the search chose what to train by where it "
    "lies.",
}
"""How a search went, picture by picture: the script's name and what is said above it."""


def layout_of(shown: PageRun, live: "LiveSearch | None", measuring: bool) -> "gradio.Blocks":
    """The page.

    Args:
        live: the search that visitors may start; None where they may not.
        measuring: whether they may have the networks measured again.
    """
    import gradio as gr

    from . import live_search, result, speed, try_it

    quiet: dict[str, Any] = {
        "queue": False,
        "show_progress": "hidden",
        "api_visibility": "private",
    }
    with gr.Blocks(
        title=f"{shown.title}: gemkit", analytics_enabled=False, delete_cache=(600, 3600)
    ) as blocks:
        gr.Markdown(f"# {shown.title}", elem_id="introduction")
        visitor = None if live is None else gr.BrowserState("", storage_key="gemkit-visitor")
        with gr.Tabs():
            with gr.Tab("Result", elem_id="tab-result"):
                points, top = result.tab(shown)
            with gr.Tab("Try it", elem_id="tab-try"):
                tried, network = try_it.tab(shown)
            with gr.Tab("Speed", elem_id="tab-speed"):
                measured = speed.tab(shown, measuring)
                gr.Markdown(
                    "## On your own device\n\nHow fast are these networks where you are? They are "
                    "downloaded and run here, in your browser."
                )
                scripted("browser", "gk-browser", elem_id="browser")
            with gr.Tab("How it was found", elem_id="tab-how"):
                for name, text in _COURSE.items():
                    gr.Markdown(text)
                    scripted(name, f"gk-{name}", elem_id=name)
            if live is not None and visitor is not None:
                with gr.Tab("Search", elem_id="tab-search"):
                    live_search.tab(live, shown.computer, visitor)

        def selected(event: gr.EventData) -> Any:
            id = str(getattr(event, "id", ""))[:64]
            runnable = shown.runnable()
            return (
                gr.update(choices=runnable, value=id)
                if id in dict(runnable).values()
                else gr.skip()
            )

        points.picked(selected, None, network, trigger_mode="always_last", **quiet)
        # The run may have changed since this was laid out, and may change under an open page.
        whole = read_together([top, tried, measured])
        for changed in (blocks.load, points.grown):
            changed(whole.read, [*whole.inputs], [*whole.outputs], **quiet)
    blocks.queue(max_size=_QUEUE)
    return blocks


def _accent() -> Any:
    """The page's one colour, in the steps that Gradio's themes want."""
    import gradio as gr

    steps = (
        "#eef5fb #d6e7f6 #b1d1ee #7fb3e0 #4a90cf #1f6fb8 #1a62a5 #164f86 #123f6b #0e3154 #0a2540"
    )
    return gr.themes.Color(*steps.split())


def launch(
    folder: Path,
    host: str,
    port: int,
    *,
    login: tuple[str, str] | None = None,
    read_only: bool = False,
    allow_host: tuple[str, ...] | None = (),
    framed_by: tuple[str, ...] = (),
    root_path: str = "",
) -> server.Server:
    """Start the page in the background.

    Args:
        login: user and password that visitors must give.
        read_only: visitors can neither search nor measure.
        allow_host: names under which the page may be asked, beside those of `host`; None for any.
        framed_by: origins whose pages may show this one in a frame.
        root_path: what a proxy takes away from the beginning of every path.

    Raises:
        UserError: no run, or the address cannot be used.
    """
    shown = PageRun.open(folder)
    if not guard.is_local(host) or read_only:
        shown.computer = "the computer that runs this page"
    file_access.upload_folder()
    # Gradio would ask its makers for news, and whether the machine is on the internet.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr

    from .live_search import LiveSearch

    # Pillow refuses what has more than twice so many pixels: a small file can hold gigabytes.
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
    live = (
        None if read_only else LiveSearch(shown.folder.with_name(f"{shown.name}-live"), shown.asked)
    )
    blocks = layout_of(shown, live, measuring=not read_only)
    places = EmbeddingMap(shown)
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    closing = threading.Event()

    def prepare() -> None:
        shown.profile(closing)
        if not closing.is_set():
            places.places()

    preparing = threading.Thread(target=prepare, daemon=True)

    def close() -> None:
        closing.set()
        if live is not None:
            live.close()
        preparing.join(20)  # an interpreter that ends beneath onnxruntime aborts

    started = server.Server(
        blocks,
        server.routes(shown, places, live),
        port,
        guard.Access(host, login, allow_host, framed_by),
        root_path=root_path,
        ended=close,
        footer_links=[],
        # What Gradio tells screen readers at the end of a call; it has no words for it itself.
        i18n=gr.I18n(en={"common.complete": "done"}),
        run_history=False,
        css=resources.files("gemkit.app.page").joinpath("static", "page.css").read_text(),
        theme=gr.themes.Default(
            primary_hue=_accent(), font=fonts, font_mono=["ui-monospace", "Menlo", "monospace"]
        ),
        head=(
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            + "".join(f'<script src="page/{name}"></script>' for name in server.SCRIPTS)
        ),
    )
    preparing.start()
    return started


def serve(
    folder: Path,
    host: str,
    port: int,
    console: "Console",
    *,
    login: tuple[str, str] | None = None,
    read_only: bool = False,
    fetch_runtime: bool = False,
    allow_host: tuple[str, ...] = (),
    root_path: str = "",
) -> None:
    """Show the page until Ctrl-C; see `launch`.

    Raises:
        UserError: see `launch`; or onnxruntime-web was asked for and cannot be fetched.
    """
    if fetch_runtime and not browser.has_runtime():
        console.print(f"fetching onnxruntime-web {browser.VERSION} (about 50 MB, once)")
        browser.fetch_runtime()
    if threading.current_thread() is threading.main_thread():
        # Whoever ends a service asks so; a search that it runs must end with it.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = launch(
        folder,
        host,
        port,
        login=login,
        read_only=read_only,
        allow_host=allow_host,
        root_path=root_path,
    )
    console.print(f"the page is at {started.address} (stop it with Ctrl-C)")
    public = not guard.is_local(host)
    if public and login is not None:
        console.print(
            "mind: without TLS the password travels in clear; put a proxy that speaks HTTPS in "
            "front of the page"
        )
    if public and not read_only and login is None:
        console.print(
            "mind: everybody who reaches this machine can start searches here; "
            "--read-only or --auth USER prevents it"
        )
    try:
        started.wait()
    except KeyboardInterrupt:
        pass
    finally:
        started.close()
