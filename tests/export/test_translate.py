"""The graphs written here beside PyTorch's own run, and what is left to PyTorch's exporter."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gemkit.baselines import baseline
from gemkit.cost import cost
from gemkit.export.exporter import export_onnx
from gemkit.export.schedule import peak_of_file
from gemkit.export.translate import Untranslatable, translate
from networks import random_images, random_network

HOW = {"class_names": tuple("abcdefghij"), "mean": [0.3], "std": [0.4], "input_shape": (1, 8, 8)}


def translated(network: nn.Module, x: torch.Tensor) -> np.ndarray:
    """What the written graph gives for `x`."""
    with torch.no_grad():
        program = torch.export.export(network.eval(), (x,), strict=False)
    model = translate(program, 18, "out")
    session = ort.InferenceSession(model.SerializeToString())
    (found,) = session.run(["out"], {"image": x.numpy()})
    return found


def test_our_networks_need_no_other_exporter(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("PyTorch's exporter was called")

    monkeypatch.setattr(torch.onnx, "export", fail)
    rng = np.random.default_rng(seed)
    for ends in (False, True):
        network = random_network(rng)
        path = tmp_path / "m.onnx"
        images = random_images(rng, 17)
        export_onnx(network, path, **HOW, images=images, preprocessing=ends, softmax=ends)
        if not ends:
            assert peak_of_file(path) == cost(network.architecture).peak_memory_bytes


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0"])
def test_torchvision_networks_are_translated(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    network = baseline(name, (3, 32, 32), 10, max_params=300_000).eval()
    from gemkit.export.exporter import fold

    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = network(x).numpy()
    found = translated(fold(network), x)
    assert np.abs(found - wanted).max() <= 1e-4 * max(1.0, float(np.abs(wanted).max()))


def test_changes_in_place_are_seen_by_later_readers(seed: int) -> None:
    class Network(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * x
            z = y
            y += x
            F.relu_(y)
            return torch.cat([z, y * y], 1)

    torch.manual_seed(seed)
    x = torch.randn(2, 3, 4, 4)
    wanted = Network()(x.clone()).numpy()
    assert np.abs(translated(Network(), x) - wanted).max() <= 1e-6


class _ChangesItsInput(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu_(x.permute(0, 3, 1, 2)) + 1


class _Alpha(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.add(x, x, alpha=2)


class _Ceil(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(x, 2, ceil_mode=True)


@pytest.mark.parametrize("network", [_ChangesItsInput(), _Alpha(), _Ceil(), nn.LogSoftmax(1)])
def test_what_is_not_known_is_refused(network: nn.Module) -> None:
    with torch.no_grad():
        program = torch.export.export(network, (torch.randn(2, 3, 5, 5),), strict=False)
    with pytest.raises(Untranslatable):
        translate(program, 18, "out")


def test_peak_memory_of_a_file_by_hand(tmp_path: Path) -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU6(),
        nn.Conv2d(8, 4, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 10),
    )
    export_onnx(network, tmp_path / "m.onnx", **HOW)
    assert peak_of_file(tmp_path / "m.onnx") == (8 + 4) * 8 * 8 * 4
