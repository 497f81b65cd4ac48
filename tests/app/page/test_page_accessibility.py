"""No tab keeps anybody off: axe-core finds nothing serious, in the light and in the dark."""

import dataclasses
from importlib import resources
from pathlib import Path
from typing import Any

import page_run
import visitor
from gemkit.app.page import page
from gemkit.records import Epoch, Mistake
from gemkit.store import Run

pytestmark = visitor.needs_chromium
_CHECK = """async (rules) => (await axe.run(document, {resultTypes: ["violations"],
    ...(rules ? {runOnly: rules} : {})})).violations
    .filter((one) => ["serious", "critical"].includes(one.impact))
    .map((one) => [one.id, one.nodes.map((node) => node.html.slice(0, 200))])"""


def test_nothing_serious_on_any_tab(chromium: Any, tmp_path: Path, seed: int) -> None:
    axe = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()
    folder = page_run.make(tmp_path / "shown", seed)
    with Run.open(folder, write=True) as run:
        matrix = tuple(tuple(30 * (row == column) + 1 for column in range(10)) for row in range(10))
        told = {
            "confusion": matrix,
            "mistakes": (Mistake(3, 0, 1, 0.9),),
            "curve": (Epoch(1, 2.0, 0.1, 1.0), Epoch(2, 0.5, 0.1, 1.0)),
        }
        run.put(dataclasses.replace(run.models()[0], **told))
    server = page.launch(folder, "127.0.0.1", 0)
    try:
        # In the dark nothing but the colours is another.
        for scheme, rules in (("light", None), ("dark", ["color-contrast"])):
            tab = visitor.open_page(chromium, server.address, color_scheme=scheme)
            tab.wait_for_selector("#facts .gk-facts")
            tab.evaluate(axe)
            for name in ("Result", "Try it", "Speed", "How it was found", "Search"):
                visitor.go(tab, name)
                tab.wait_for_timeout(1000)
                tab.evaluate(
                    "for (const one of document.querySelectorAll('details')) one.open = true"
                )
                assert tab.evaluate(_CHECK, rules) == [], f"{name}, {scheme}"
            tab.context.close()
    finally:
        server.close()
