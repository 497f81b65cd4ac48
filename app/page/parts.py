"""Parts of the page: those that are read from the run anew, and those that a script fills."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import gradio


@dataclass(frozen=True)
class Part:
    """What a tab shows of a run that may have changed since the page was laid out.

    Attributes:
        inputs: components whose values `read` takes.
        outputs: components that it gives anew.
    """

    inputs: Sequence[Any]
    outputs: Sequence[Any]
    read: Callable[..., tuple[Any, ...]]


def read_together(parts: Sequence[Part]) -> Part:
    """Several parts as one."""

    def read(*values: Any) -> tuple[Any, ...]:
        found: list[Any] = []
        left = list(values)
        for part in parts:
            own, left = left[: len(part.inputs)], left[len(part.inputs) :]
            found.extend(part.read(*own))
        return tuple(found)

    return Part(
        [one for part in parts for one in part.inputs],
        [one for part in parts for one in part.outputs],
        read,
    )


def scripted(
    name: str, holder: str, *settings: Any, fires: Sequence[str] = (), **options: Any
) -> Any:
    """A part that the function `gemkit.NAME` of our own scripts fills, whenever they arrive.

    Args:
        holder: the class of the element to be filled.
        settings: arguments of the function, as JSON.
        fires: events of the part; the last argument is an object of functions that fire them.
    """
    import gradio as gr

    events = ", ".join(f"{one}: (data) => trigger('{one}', data)" for one in fires)
    arguments = ", ".join(["element", *map(json.dumps, settings), f"{{{events}}}"])
    call = (
        f"const start = () => gemkit.{name}({arguments}); "
        f"if (window.gemkit?.{name}) start(); "
        f"else addEventListener('gemkit-{name}', start, {{once: true}}); "
        "setTimeout(() => { const box = element.querySelector('[data-waiting]'); "
        "if (box) box.textContent = 'The page\\'s script did not arrive. Reload the page.'; }, "
        "60000);"
    )
    return gr.HTML(
        "",
        html_template=f'<div class="{holder}"><p class="gk-empty" data-waiting>loading…</p></div>',
        js_on_load=call,
        apply_default_css=False,
        **options,
    )


def plain(holder: str, **options: Any) -> "gradio.HTML":
    """An empty element that a script fills by its class."""
    import gradio as gr

    return gr.HTML(
        "", html_template=f'<div class="{holder}"></div>', apply_default_css=False, **options
    )
