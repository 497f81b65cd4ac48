"""Where a run goes when nobody says so."""

from pathlib import Path

import pytest

from gemkit.app.runs import default_out
from gemkit.budget import Budget
from gemkit.store import Run


def test_default_places_do_not_overwrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_out("digits", False) == Path("runs/digits")
    assert default_out("npz:some/where.npz", False) == Path("runs/where")
    assert default_out("imagefolder:my/photos@32", False) == Path("runs/photos")
    assert default_out("imagefolder:my/photos/..", False) == Path("runs/my")
    Run.create("runs/digits", {"budget": Budget(macs=1).to_json(), "seed": 0}).close()
    assert default_out("digits", True) == Path("runs/digits")
    assert default_out("digits", False) == Path("runs/digits-2")
