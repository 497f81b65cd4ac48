"""A visitor of the page: a real browser. Needs Playwright and the system's Chromium."""

import shutil
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed: apt install chromium"
)
_WAIT = 120_000


def open_page(chromium: Any, address: str, way: str = "", **options: Any) -> Any:
    """A tab that shows the page; what goes wrong in it is noted in `faults`.

    Args:
        way: what follows the address, such as "#id=...".
    """
    context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    context.set_default_timeout(_WAIT)
    tab = context.new_page()
    tab.faults = []
    tab.on("pageerror", lambda error: tab.faults.append(str(error)))
    tab.on(
        "request",
        lambda request: (
            None
            if request.url.startswith((address, "blob:", "data:"))
            else tab.faults.append(f"asked {request.url}")
        ),
    )
    tab.goto(address + way)
    tab.wait_for_selector("#points .gk-plot[data-points]", state="attached")
    return tab


def go(tab: Any, name: str) -> None:
    """Click on a tab of the page."""
    tab.get_by_role("tab", name=name).first.click()


def choose(tab: Any, id: str) -> None:
    """Click on a network's row in the table."""
    tab.locator(f'.gk-list tr[data-id="{id}"]').first.click()
    wait_for_facts(tab, id)


def wait_for_facts(tab: Any, id: str) -> None:
    """Until the page tells of a network."""
    tab.wait_for_selector(f'#facts .gk-facts[data-id="{id}"]', state="attached")
