"""The page's "Try it": a picture, and what two networks say it is."""

import functools
from abc import ABCMeta
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from gemkit.errors import UserError
from gemkit.pictures import read_picture

from ..classifier import Classifier
from .content import PageRun
from .parts import Part, scripted

_PREDICTIONS_AT_ONCE = 2
_NAMED = 20
_NOT_RUNNABLE = (
    "No network of this run has an ONNX file yet, so there is nothing to run. "
    "The steps to one are: gemkit train {run}, then gemkit export {run}."
)


@functools.lru_cache(maxsize=8)
def _classifier(path: Path, changed: int) -> Classifier:
    opened = Classifier.open(path)
    channels, height, width = opened.info.input_shape
    # The first call prepares, and would tell no time.
    opened.classify(np.zeros((height, width, channels), dtype=np.uint8))
    return opened


def classify(shown: PageRun, id: str | None, image: str | None) -> tuple[dict[str, float], str]:
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


def _path(self: Any, payload: Any) -> str | None:
    return None if payload is None else payload.path


# What is sent stays a file until `read_picture` has looked at it. Gradio makes components anew
# from their class, so the class itself says so. Its metaclass would write a file beside this one.
_UploadedImage: Any = ABCMeta.__new__(
    type(gr.Image),
    "UploadedImage",
    (gr.Image,),
    {"__module__": __name__, "preprocess": _path, "get_block_name": lambda self: "image"},
)


def tab(shown: PageRun) -> tuple[Part, gr.Dropdown]:
    """The tab's layout: what of it follows the run, and the choice of the first network."""
    runnable = shown.runnable()
    ids = [id for _, id in runnable]
    first = shown.first if shown.first in ids else None
    other = _beside(shown)
    nothing = gr.HTML(
        f'<p class="gk-empty">{_NOT_RUNNABLE.format(run=escape(shown.asked))}</p>',
        visible=not runnable,
    )
    gr.HTML(f'<p class="gk-hint">{_pictures(shown)}</p>', apply_default_css=False)
    digits = shown.content.data is not None and shown.content.data.name == "digits"
    with gr.Row():
        if digits:
            with gr.Column(scale=2, min_width=250):
                scripted("pad", "gk-pad", elem_id="pad")
        with gr.Column(scale=3, min_width=280):
            left = gr.Dropdown(runnable, value=first, label="network", elem_id="left")
            left_answer = gr.Label(num_top_classes=5, label="answer", elem_id="left-answer")
            left_note = gr.Markdown(elem_id="left-note")
            right = gr.Dropdown(
                [("none", ""), *runnable],
                value=other if other in ids else "",
                label="beside it",
                elem_id="right",
            )
            right_answer = gr.Label(num_top_classes=5, label="answer", elem_id="right-answer")
            right_note = gr.Markdown(elem_id="right-note")
        with gr.Column(scale=3, min_width=280):
            image = _image(shown)
            button = gr.Button(
                "Classify", variant="primary", elem_id="classify", interactive=bool(runnable)
            )

    def try_it(image: Any, one: str | None, other: str | None) -> tuple[Any, ...]:
        try:
            left = classify(shown, one, image)
            right = classify(shown, other, image) if other else (None, "")
        except UserError as error:
            return None, f'<span class="gk-warn">{error}</span>', None, ""
        return (*left, *right)

    def changed(image: Any, one: str | None, other: str | None) -> tuple[Any, ...]:
        # An answer that belongs to another picture or network never stays.
        return try_it(image, one, other) if image and one else (None, "", None, "")

    asked: dict[str, Any] = {
        "inputs": [image, left, right],
        "outputs": [left_answer, left_note, right_answer, right_note],
        "concurrency_limit": _PREDICTIONS_AT_ONCE,
        "concurrency_id": "predictions",
        "api_visibility": "private",
    }
    button.click(try_it, **asked)
    gr.on([image.change, left.change, right.change], changed, trigger_mode="always_last", **asked)

    def read(one: str | None, other: str | None) -> tuple[Any, ...]:
        runnable = shown.runnable()
        ids = [id for _, id in runnable]
        best = shown.first if shown.first in ids else next(iter(ids), None)
        return (
            gr.update(visible=not runnable),
            gr.update(interactive=bool(runnable)),
            gr.update(choices=runnable, value=one if one in ids else best),
            gr.update(choices=[("none", ""), *runnable], value=other if other in ids else ""),
        )

    return Part([left, right], [nothing, button, left, right], read), left


def _beside(shown: PageRun) -> str | None:
    """The other of the two networks that the page compares."""
    found = shown.offer
    if found is None or found.known is None:
        return None
    return found.known.id if found.offered is found.found else found.found.id


def _pictures(shown: PageRun) -> str:
    """What pictures the networks know, as HTML; of others they can say nothing sensible."""
    data = shown.content.data
    if data is None or not data.class_names or data.input_shape is None:
        return "The networks know only pictures like those that they were trained on."
    channels, height, width = data.input_shape
    named = ", ".join(data.class_names[:_NAMED])
    if len(data.class_names) > _NAMED:
        named += f" and {len(data.class_names) - _NAMED} more"
    colours = {1: "grey ", 3: "colour "}.get(channels, "")
    return escape(
        f"The networks were trained on {colours}pictures of {height} x {width} pixels "
        f"({data.name}) and answer one of: {named}. Whatever you show, they choose among these."
    )


def _image(shown: PageRun) -> Any:
    """The image to classify, with examples where the run has any."""
    image = _UploadedImage(
        type="filepath",
        label="an image",
        sources=["upload", "webcam", "clipboard"],
        height=250,
        elem_id="image",
    )
    examples = sorted((shown.folder / "examples").glob("*.png"))[:12]
    if examples:
        # Labels of Gradio's own would stand in the place of the pictures. A file's name ends with
        # the class; see `keep_examples` in `gemkit.app.steps.train`.
        shows = ", ".join(path.stem.partition("-")[2] for path in examples)
        gr.Examples(
            [[str(path)] for path in examples],
            [image],
            label=f"images that the networks were not trained on, in their order: {shows}",
            elem_id="examples",
        )
    return image
