"""Known networks keep the limits of a run, as measured by their files."""

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import nn

from gemkit.app.steps import known
from gemkit.baselines import baseline
from gemkit.budget import Budget
from gemkit.data import load
from gemkit.export.schedule import peak_of_file
from gemkit.records import Limits, plain
from gemkit.store import Run


def begun(folder: Path, budget: Budget, target: str | None = None) -> Run:
    config = {"budget": budget.to_json(), "seed": 1, "data": "digits", "target": target}
    return Run.create(folder / "run", config)


def resnet8(limits: Limits) -> nn.Module:
    return baseline("resnet8", (1, 8, 8), 10, **plain(limits))


def test_limits_of_macs_and_params_are_taken_as_they_are(tmp_path: Path) -> None:
    with begun(tmp_path, Budget(macs=500_000, params=20_000)) as run:
        digits = load("digits")
        assert known.fitted("resnet8", run, digits) == Limits(500_000, 20_000, any_width=False)
    with begun(tmp_path / "small", Budget(macs=1_000)) as run:
        assert known.fitted("resnet8", run, digits) is None


def test_a_network_keeps_a_limit_of_memory(tmp_path: Path) -> None:
    digits, limit = load("digits"), 12_000
    with begun(tmp_path, Budget(macs=3_000_000, memory_bytes=limit)) as run:
        limits = known.fitted("resnet8", run, digits)
    assert limits is not None
    path = tmp_path / "network.onnx"
    known.export_untrained(resnet8(limits), path, (1, 8, 8), 10)
    assert peak_of_file(path) <= limit
    wider = Limits(2 * (limits.max_macs or 0), any_width=False)
    known.export_untrained(resnet8(wider), path, (1, 8, 8), 10)
    assert peak_of_file(path) > limit


def test_a_network_keeps_a_limit_of_latency(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_size(files: list[Path]) -> list[float]:
        """A millisecond for every 100 kB of a file that runs."""
        session = onnxruntime.InferenceSession(str(files[0]))
        (name,) = [one.name for one in session.get_inputs()]
        assert session.run(None, {name: torch.zeros(1, 1, 8, 8).numpy()})[0].shape == (1, 10)
        return [files[0].stat().st_size / 100_000]

    monkeypatch.setattr(known, "latency_ms", by_size)
    digits = load("digits")
    with begun(tmp_path, Budget(latency_ms=1.0)) as run:
        fitting = known.fitted("resnet8", run, digits)
    with begun(tmp_path / "fast", Budget(macs=200_000, latency_ms=1.0)) as run:
        assert known.fitted("resnet8", run, digits) == Limits(200_000, any_width=False)
    path = tmp_path / "resnet8.onnx"
    assert fitting is not None
    known.export_untrained(resnet8(fitting), path, (1, 8, 8), 10)
    assert 0.5 < by_size([path])[0] <= 0.97


def test_another_devices_latency_is_left_out(tmp_path: Path) -> None:
    with begun(tmp_path, Budget(macs=500_000, latency_ms=1e-6), "raspberry-pi-4") as run:
        assert known.fitted("resnet8", run, load("digits")) == Limits(500_000, any_width=False)
