"""A made run, and the page that shows it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import page_run
from gemkit.app.page import page


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The run."""
    seed = int(request.config.getoption("--seed"))
    return page_run.make(tmp_path_factory.mktemp("page") / "shown", seed)


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """The page, in which a visitor may do everything."""
    server = page.launch(folder, "127.0.0.1", 0)
    yield server.address
    server.close()
