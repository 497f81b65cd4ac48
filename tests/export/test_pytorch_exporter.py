"""Networks that are not searched ones: PyTorch's graphs, in every operator set."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gemkit.baselines import baseline
from gemkit.errors import UserError
from gemkit.export.exporter import export_onnx
from gemkit.export.onnx_builder import OPSETS
from gemkit.export.pytorch_exporter import export_module, with_opset
from gemkit.export.schedule import peak_of_file

HOW = {"class_names": tuple("abcdefghij"), "mean": [0.3], "std": [0.4], "input_shape": (1, 8, 8)}


class Rest(nn.Module):
    """What the networks of differentiable search have beside torchvision's operators."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.scale = nn.Parameter(torch.rand(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(F.relu(x))
        shifted = F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
        pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        x = torch.stack([x + shifted, pooled, x * x.amax((2, 3), keepdim=True)], 1)
        return (x * self.scale[:, None, None, None]).sum(1).flatten(1)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2", "the rest"])
def test_every_opset_equals_pytorch(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    shape = (3, 8, 8)
    network = Rest() if name == "the rest" else baseline(name, shape, 10, max_params=100_000)
    x = torch.randn(5, *shape)
    network.train()
    with torch.no_grad():
        for _ in range(10):
            network(torch.randn(16, *shape))
        wanted = network.eval()(x).numpy()
    written = export_module(network, x[:2], "logits", batch=None, opset=18)
    for opset in OPSETS:
        model = with_opset(written, opset)
        assert model.opset_import[0].version == opset
        onnx.checker.check_model(model, full_check=True)
        session = ort.InferenceSession(model.SerializeToString())
        found = session.run(["logits"], {"image": x.numpy()})[0]
        assert np.abs(found - wanted).max() <= 1e-4 * max(1.0, float(np.abs(wanted).max())), opset


def test_what_an_old_opset_cannot_say_is_refused() -> None:
    network = nn.Sequential(nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, 10))
    written = export_module(network, torch.randn(2, 1, 8, 8), "logits", batch=None, opset=17)
    assert written.opset_import[0].version == 17
    with pytest.raises(UserError, match="cannot be written in opset 13, use 18 or newer"):
        with_opset(export_module(network, torch.randn(2, 1, 8, 8), "y", batch=2, opset=18), 13)


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
