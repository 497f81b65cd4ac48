"""The page's "Result": the verdict, all networks as points and rows, beside them the chosen one."""

import gradio as gr

from . import verdict
from .content import PageRun
from .parts import Part, plain, scripted


def tab(shown: PageRun) -> tuple[gr.HTML, Part]:
    """The tab's layout; gives the points, and what follows the run.

    The points' script fills the rest, and fires `picked` with an `id`, and `grown` when the run
    has changed.
    """
    top = gr.HTML(verdict.html(shown), apply_default_css=False, elem_id="verdict")
    settings = {"budget": shown.budget.to_json(), "first": shown.first}
    with gr.Row(elem_id="below"):
        with gr.Column(scale=6, min_width=320):
            points = scripted(
                "result", "gk-result", settings, fires=("picked", "grown"), elem_id="points"
            )
        with gr.Column(scale=5, min_width=320, elem_id="side"):
            plain("gk-told", elem_id="facts")
    return points, Part([], [top], lambda: (verdict.html(shown),))
