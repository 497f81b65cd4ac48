"""Targets that come with gemkit are sound and read-only; the user's own are kept where they say."""

import json
from pathlib import Path

import pytest

from gemkit.architecture import smallest
from gemkit.budget import Budget
from gemkit.errors import UserError
from gemkit.export import targets as module
from gemkit.export.latency import fit_latency
from gemkit.export.targets import remove_target, save_target, target, targets
from networks import DIGITS, pools

SHIPPED = Path(module.__file__).with_name("targets") / "rp2040.json"


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GEMKIT_CONFIG", str(tmp_path / "config"))
    return tmp_path / "config"


def test_shipped_targets_state_their_sources() -> None:
    found = targets()
    assert len(found) >= 5
    for one in found:
        assert not one.own
        assert one.latency is None
        figures = {figure.name: figure for figure in one.figures}
        assert all(len(figure.source) > 15 for figure in one.figures)
        memory = figures.get("SRAM") or figures["RAM"]
        share = figures["share for the network"].value
        assert one.budget.memory_bytes == memory.value * share
        if "flash" in figures:
            assert one.budget.params == figures["flash"].value * share
            assert one.budget.precision == "int8"
    assert target("rp2040").budget.memory_bytes == 264 * 1024 * 3 // 4


def test_own_targets(config: Path, seed: int) -> None:
    model = fit_latency(DIGITS, pools(seed), samples=15, measure=lambda all: [2.0] * len(all))
    path = save_target("my-pi", model, Budget(memory_bytes=1_000_000))
    assert path == config / "targets" / "my-pi.json"
    found = target("my-pi")
    assert found.own
    assert found.budget.memory_bytes == 1_000_000
    assert found.latency.of(smallest(found.latency.skeleton))[0] == pytest.approx(2.0, rel=0.05)
    assert targets()[-1].name == "my-pi"
    assert target(str(path)).name == "my-pi"
    asked = Budget(latency_ms=3.0, memory_bytes=2_000_000, macs=7)
    assert found.limits(asked) == Budget(latency_ms=3.0, memory_bytes=1_000_000, macs=7)
    remove_target("my-pi")
    with pytest.raises(UserError, match=r"no target 'my-pi': those known are .*rp2040"):
        target("my-pi")


def test_microcontrollers_claim_no_latency() -> None:
    with pytest.raises(UserError, match="latency on rp2040 is not known"):
        target("rp2040").limits(Budget(latency_ms=1.0))
    assert target("rp2040").limits(Budget(params=5)).precision == "int8"


def test_what_is_refused(config: Path) -> None:
    with pytest.raises(UserError, match="comes with gemkit and cannot be replaced"):
        save_target("rp2040", None)
    with pytest.raises(UserError, match="comes with gemkit and cannot be removed"):
        remove_target("rp2040")
    with pytest.raises(UserError, match="is a file: name a target of your own"):
        remove_target(str(SHIPPED))
    for name in ("../x", "", "A", "a/b", "-a", "a b"):
        with pytest.raises(UserError, match="is no name for a target"):
            save_target(name, None)
    assert not config.exists()
    with pytest.raises(UserError, match=r"there is no target '\.\./pyproject'"):
        target("../pyproject")
    good = json.loads(SHIPPED.read_text())
    path = config / "targets" / "bad.json"
    path.parent.mkdir(parents=True)
    for change, sentence in (
        ({"kind": "x"}, "is no target of gemkit's"),
        ({"format": 7}, "newer gemkit"),
        ({"name": 3}, "needs a name and a description"),
        ({"figures": [{"name": "x"}]}, r"figures: .*missing required field `value`"),
        ({"figures": [{"name": "x", "value": "2", "unit": "", "source": ""}]}, "Expected `float`"),
        ({"budget": {"macs": "many"}}, "budget"),
        ({"latency": {"kind": "y"}}, "latency is no latency model"),
    ):
        path.write_text(json.dumps(good | change))
        with pytest.raises(UserError, match=sentence) as error:
            targets()
        assert "bad.json" in str(error.value)
