"""`gemkit app`: the page of a run. Here is the layout; what it shows comes from other modules.

`content` reads the run, `cell_svg` draws cells, `latency_table` shows measurements, `embedding_map`
places cells, `browser` serves what a visitor's own browser runs, `live_search` runs a search,
`server` answers, and `guard` and `uploads` decide what may be asked and named.
"""

import functools
import json
import signal
import threading
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemkit.errors import UserError
from gemkit.pictures import MAX_PIXELS, read_picture
from gemkit.records import Network

from . import browser, guard, server, uploads
from .content import Shown
from .embedding_map import EmbeddingMap

if TYPE_CHECKING:
    import gradio
    from rich.console import Console

    from ..steps import predict
    from .live_search import LiveSearch

_QUEUE = 32
_PREDICTIONS_AT_ONCE = 2


# ---- Try it


@functools.lru_cache(maxsize=8)
def _classifier(path: Path, changed: int) -> "predict.Classifier":
    import numpy as np

    from ..steps import predict

    opened = predict.Classifier.open(path)
    channels, height, width = opened.info.input_shape
    # The first call prepares, and would tell no time.
    opened.classify(np.zeros((height, width, channels), dtype=np.uint8))
    return opened


def classify(shown: Shown, id: str | None, image: str | None) -> tuple[dict[str, float], str]:
    """Class probabilities of a picture file by a network's ONNX file, and a line about it.

    Raises:
        UserError: no picture or an unusable one, or the network's file is missing or damaged.
    """
    if not image:
        raise UserError("choose an image first: upload one, use the camera or take an example")
    if not id:
        raise UserError("this run has no network that can be run yet")
    path = shown.onnx(id)
    if path is None:
        raise UserError(shown.missing(id) or f"there is nothing called {id}")
    classifier = _classifier(path, path.stat().st_mtime_ns)
    # The visitor knows no path of this machine.
    picture = read_picture(Path(image), classifier.info.input_shape, "the upload")
    probabilities, milliseconds = classifier.classify(picture)
    size = " x ".join(map(str, classifier.info.input_shape[1:]))
    note = f"**{milliseconds:.2f} ms** in onnxruntime on {shown.computer}; brought to {size} pixels"
    return dict(zip(classifier.info.class_names, probabilities.tolist(), strict=True)), note


# ---- the page


def _path(upload: Any) -> str | None:
    return None if upload is None else upload.path


def _custom(holder: str, call: str, **more: Any) -> "gradio.HTML":
    """A part of the page that one of our own scripts fills."""
    import gradio as gr

    return gr.HTML(
        "", html_template=f'<div class="{holder}"><p class="gk-empty">loading…</p></div>',
        js_on_load=call, apply_default_css=False, **more,
    )  # fmt: skip


def layout_of(shown: Shown, live: "LiveSearch | None", measuring: bool) -> "gradio.Blocks":
    """The page.

    Args:
        live: the search that visitors may start; None where they may not.
        measuring: whether they may have the networks measured again.
    """
    import gradio as gr

    from . import latency_table
    from . import live_search as live_search

    with gr.Blocks(
        title=f"{shown.title}: gemkit", analytics_enabled=False, delete_cache=(600, 3600)
    ) as blocks:
        introduction = gr.Markdown(shown.introduction(), elem_id="introduction")
        blocks.load(  # of a search that goes on there is more to say than when the server started
            shown.introduction, None, introduction, queue=False, show_progress="hidden",
            api_visibility="private",
        )  # fmt: skip
        with gr.Tabs():
            with gr.Tab("Explore", id="explore"):
                points, facts, cell = _explore(shown)
            with gr.Tab("Try it", id="try"):
                network = _try_it(shown)
            with gr.Tab("Latency", id="latency"):
                latency_table.tab(shown, measuring)
            with gr.Tab("In your browser", id="browser"):
                _in_the_browser(shown)
            with gr.Tab("Map of cells", id="map"):
                gr.Markdown(
                    "Each point is a cell that was tried; the graph encoder puts cells that are "
                    "built alike close to one another. The search chose what to train by where "
                    "it lies."
                )
                _custom("gk-map", "gemkit.map(element)", elem_id="map")
            if live is not None:
                with gr.Tab("Search live", id="live"):
                    live_search.tab(live, shown.computer)

        def selected(event: gr.EventData) -> tuple[Any, ...]:
            id = str(getattr(event, "id", ""))[:64]
            keep = gr.skip()
            if shown.content.network(id) is not None:
                own = shown.runnable()
                if id in [one for _, one in own]:
                    keep = gr.update(choices=own, value=id)
            return shown.facts(id), shown.cell(id), keep

        points.picked(
            selected, None, [facts, cell, network], queue=False, show_progress="hidden",
            api_visibility="private", trigger_mode="multiple",
        )  # fmt: skip
    blocks.queue(max_size=_QUEUE)
    return blocks


def _explore(shown: Shown) -> tuple["gradio.HTML", "gradio.HTML", "gradio.HTML"]:
    """The points to choose from; beside them what is known of the chosen one, and its cell."""
    import gradio as gr

    first = shown.first
    call = (
        "gemkit.explore(element, "
        + json.dumps({"budget": shown.budget.to_json(), "first": first})
        + ", (id) => trigger('picked', {id}))"
    )
    with gr.Row():
        with gr.Column(scale=6, min_width=320):
            points = _custom("gk-explore", call, elem_id="points")
        with gr.Column(scale=5, min_width=320):
            facts = gr.HTML(
                shown.facts(first) if first else _NOTHING, apply_default_css=False, elem_id="facts"
            )
    cell = gr.HTML(shown.cell(first) if first else "", apply_default_css=False, elem_id="cell")
    _custom("gk-listing", "", elem_id="listing")
    return points, facts, cell


def _try_it(shown: Shown) -> "gradio.Dropdown":
    """An image, and what two networks say it is; gives the choice of the first one."""
    import gradio as gr

    runnable = shown.runnable()
    ids = [id for _, id in runnable]
    first = shown.first if shown.first in ids else None
    others = (id for id in ids if id != shown.first and shown.content.kind(id) == "baselines")
    if not runnable:
        gr.HTML(f'<p class="gk-empty">{_NOT_RUNNABLE.format(run=escape(shown.asked))}</p>')
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            image = _image(shown)
            button = gr.Button(
                "Classify", variant="primary", elem_id="classify", interactive=bool(runnable)
            )
        with gr.Column(scale=2, min_width=250):
            left = gr.Dropdown(runnable, value=first, label="network", elem_id="left")
            left_answer = gr.Label(num_top_classes=5, label="answer", elem_id="left-answer")
            left_note = gr.Markdown(elem_id="left-note")
        with gr.Column(scale=2, min_width=250):
            right = gr.Dropdown(
                [("none", ""), *runnable],
                value=next(others, ""),
                label="beside it",
                elem_id="right",
            )
            right_answer = gr.Label(num_top_classes=5, label="answer", elem_id="right-answer")
            right_note = gr.Markdown(elem_id="right-note")

    def try_it(image: Any, one: str | None, other: str | None) -> tuple[Any, ...]:
        try:
            left = classify(shown, one, image)
            right = classify(shown, other, image) if other else (None, "")
        except UserError as error:
            return None, f'<span class="gk-warn">{error}</span>', None, ""
        return (*left, *right)

    button.click(
        try_it,
        [image, left, right],
        [left_answer, left_note, right_answer, right_note],
        concurrency_limit=_PREDICTIONS_AT_ONCE,
        api_visibility="private",
    )
    return left


def _image(shown: Shown) -> "gradio.Image":
    """The image to classify, with examples where the run has any."""
    import gradio as gr

    image = gr.Image(
        type="filepath",
        label="an image",
        sources=["upload", "webcam", "clipboard"],
        height=250,
        elem_id="image",
    )
    # What is sent stays a file until `read_picture` has looked at it.
    image.preprocess = _path
    examples = sorted((shown.folder / "examples").glob("*.png"))[:12]
    if examples:
        # Labels of Gradio's own would stand in the place of the pictures. A file's name ends with
        # the class; see `training`.
        shows = ", ".join(path.stem.partition("-")[2] for path in examples)
        gr.Examples(
            [[str(path)] for path in examples],
            [image],
            label=f"images that the networks were not trained on, in their order: {shows}",
            elem_id="examples",
        )
    return image


def _in_the_browser(shown: Shown) -> None:
    import gradio as gr

    content = shown.content
    gr.Markdown(
        "How fast are these networks **on your own device**? They are downloaded and "
        "run here, in your browser."
    )
    settings = {
        "runtime": browser.has_runtime(),
        "version": browser.VERSION,
        "most": browser.MOST_CELLS,
        "seconds": 0.15,
        "shape": [1, *content.skeletons[0].input_shape] if content.skeletons else [],
        "networks": [
            {
                "id": id,
                "label": label,
                "baseline": content.kind(id) == "baselines",
                "p50": _median(content.network(id)),
            }
            for label, id in shown.runnable()
        ],
    }
    call = f"gemkit.browser(element, {json.dumps(settings)})"
    _custom("gk-browser", call, elem_id="browser")


def _median(network: Network | None) -> float | None:
    return None if network is None or network.latency_ms is None else network.latency_ms.p50


_NOTHING = (
    '<p class="gk-empty">Nothing has been found yet. Candidates appear as they are trained.</p>'
)
_NOT_RUNNABLE = (
    "No network of this run has an ONNX file yet, so there is nothing to run. "
    "The steps to one are: gemkit train {run}, then gemkit export {run}."
)


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
    import os

    shown = Shown.open(folder)
    if not guard.is_local(host) or read_only:
        shown.computer = "the computer that runs this page"
    uploads.upload_folder()
    # Gradio would ask its makers for news, and whether the machine is on the internet.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr
    from PIL import Image

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
        server.routes(shown, places),
        port,
        guard.Access(host, login, allow_host, framed_by),
        root_path=root_path,
        ended=close,
        footer_links=[],
        # What Gradio tells screen readers at the end of a call; it has no words for it itself.
        i18n=gr.I18n(en={"common.complete": "done"}),
        run_history=False,
        css=resources.files("gemkit.app.page").joinpath("static", "page.css").read_text(),
        theme=gr.themes.Default(font=fonts, font_mono=["ui-monospace", "Menlo", "monospace"]),
        head=(
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<script src="page/page.js"></script><script src="page/browser.js"></script>'
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
