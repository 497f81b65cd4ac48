"""The page's "Explore": points to choose from, beside them the chosen one, and its cell."""

import gradio as gr

from .content import PageRun
from .parts import plain, scripted


def tab(shown: PageRun) -> gr.HTML:
    """The tab's layout; gives the points.

    Their script fills the rest, and fires `picked` with an `id`, and `grown` when the run has
    changed.
    """
    settings = {"budget": shown.budget.to_json(), "first": shown.first}
    with gr.Row():
        with gr.Column(scale=6, min_width=320):
            points = scripted(
                "explore", "gk-explore", settings, fires=("picked", "grown"), elem_id="points"
            )
        with gr.Column(scale=5, min_width=320):
            plain("gk-told", elem_id="facts")
    plain("gk-told", elem_id="cell")
    plain("gk-listing", elem_id="listing")
    return points
