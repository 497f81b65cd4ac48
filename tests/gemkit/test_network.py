"""Networks: what they compute, beside a second writing of their definition; weights on disk."""

import json
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from gemkit.architecture import Architecture, Skeleton, Stage, skeleton_for
from gemkit.cell import Cell
from gemkit.errors import UserError
from gemkit.network import (
    GEMCell,
    GEMNet,
    _convolution,
    build,
    load_network,
    load_weights,
    save_weights,
)

DIGITS = skeleton_for((1, 8, 8), 10)
CHAIN = Cell(("input", "sep3x3", "conv1x1", "sep3x3"), ((0, 1), (0, 2), (1, 3)), "sum")


def lively(architecture: Architecture, seed: int) -> GEMNet:
    """A network whose batch norms all do something."""
    torch.manual_seed(seed)
    network = build(architecture)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0, 0.3)
    return network.eval()


def reference(network: GEMNet, x: Tensor) -> Tensor:
    """The network's definition once more, with functions on its weights in evaluation."""
    state = {name: tensor.double() for name, tensor in network.state_dict().items()}
    architecture = network.architecture

    def convolve(x: Tensor, prefix: str, index: int, stride: int = 1) -> Tensor:
        weight = state[f"{prefix}.{index}.weight"]
        groups = x.shape[1] if weight.shape[1] == 1 and weight.shape[2] == 3 else 1
        x = F.conv2d(x, weight, None, stride, weight.shape[2] // 2, 1, groups)
        norm = f"{prefix}.{index + 1}."
        mean, var, scale, bias = (
            state[norm + name].view(1, -1, 1, 1)
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * scale + bias

    def run(cell: Cell, x: Tensor, prefix: str, plain: bool) -> Tensor:
        def join(tensors: list[Tensor]) -> Tensor:
            return torch.cat(tensors, 1) if cell.aggregation == "concat" else sum(tensors)  # type: ignore[return-value]

        values = [x]
        if cell.aggregation == "sum" and not plain:
            values = [convolve(x, prefix + ".entry", 0)]
        for node in range(1, len(cell.operations)):
            y = join([values[source] for source, target in cell.edges if target == node])
            here = f"{prefix}.nodes.{node - 1}"
            y = convolve(y, here, 0).relu()
            if cell.operations[node] == "sep3x3":
                y = convolve(y, here, 3).relu()
            values.append(y)
        readers = {source for source, _ in cell.edges}
        joined = join([y for node, y in enumerate(values) if node and node not in readers])
        if not (plain and architecture.skeleton.shortcut == "identity"):
            x = convolve(x, prefix + ".projection", 0)
        return (convolve(joined, prefix + ".output", 0) + x).relu()

    x = x.double()
    for index, stride in enumerate(architecture.skeleton.stem_strides):
        weight = state[f"stem.{3 * index}.weight"]
        norm = f"stem.{3 * index + 1}."
        x = F.conv2d(x, weight, None, stride, 1)
        mean, var, scale, bias = (
            state[norm + name].view(1, -1, 1, 1)
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        x = ((x - mean) / torch.sqrt(var + 1e-5) * scale + bias).relu()
    before = architecture.skeleton.stem_factors[-1]
    for index, stage in enumerate(architecture.skeleton.stages):
        if index:
            height, width = x.shape[2] // 2, x.shape[3] // 2
            x = x[:, :, : 2 * height, : 2 * width]
            x = x.unflatten(3, (width, 2)).unflatten(2, (height, 2)).amax((3, 5))
        for repeat in range(stage.repeats):
            cell = architecture.stage_cells[index]
            plain = before == stage.width_factor
            x = run(cell, x, f"stages.{index}.{repeat}", plain)
            before = stage.width_factor
    return x.mean((2, 3)) @ state["classifier.weight"].T + state["classifier.bias"]


def test_equals_its_definition(draw_architecture: Callable[[], Architecture], seed: int) -> None:
    for _ in range(12):
        architecture = draw_architecture()
        network = lively(architecture, seed).double()
        x = torch.randn(2, *architecture.skeleton.input_shape, dtype=torch.float64)
        with torch.no_grad():
            wanted = reference(network, x)
            torch.testing.assert_close(
                network(x), wanted, rtol=1e-9, atol=1e-9 * wanted.abs().max().item()
            )


@pytest.mark.parametrize("aggregation", ["concat", "sum"])
def test_trains_every_parameter(
    draw_cell: Callable[[int, str], Cell], aggregation: str, seed: int
) -> None:
    torch.manual_seed(seed)
    network = build(Architecture((draw_cell(30, aggregation),), DIGITS, 4))
    network(torch.randn(64, 1, 8, 8)).logsumexp(1).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (2, 5), (3, 3), (4, 4), (8, 8)])
def test_depthwise_trains_as_pytorch_does(size: tuple[int, int], kernel: int, seed: int) -> None:
    torch.manual_seed(seed)
    convolution = _convolution(5, 5, kernel, groups=5)[0].double()
    images = torch.randn(3, 5, *size, dtype=torch.float64, requires_grad=True)
    weight = convolution.weight.detach().clone().requires_grad_()
    wanted = F.conv2d(images, weight, padding=kernel // 2, groups=5)
    direction = torch.randn_like(wanted)
    found = convolution(images)
    torch.testing.assert_close(found, wanted)
    of_images, of_weight = torch.autograd.grad(wanted, (images, weight), direction)
    torch.testing.assert_close(
        torch.autograd.grad(found, (images, convolution.weight), direction), (of_images, of_weight)
    )


@pytest.mark.parametrize("aggregation", ["concat", "sum"])
def test_exports_with_dynamic_batch(
    draw_cell: Callable[[int, str], Cell], aggregation: str, seed: int
) -> None:
    network = lively(Architecture((draw_cell(6, aggregation),), DIGITS, 4), seed)
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        network, (torch.randn(2, 1, 8, 8),), dynamic_shapes=({0: batch},)
    ).module()
    for size in (1, 3, 17):
        x = torch.randn(size, 1, 8, 8)
        torch.testing.assert_close(program(x), network(x))


def test_is_deterministic_under_a_seed() -> None:
    networks = []
    for _ in range(2):
        torch.manual_seed(5)
        networks.append(build(Architecture((CHAIN,), DIGITS, 4)).state_dict())
    assert all(torch.equal(networks[0][name], networks[1][name]) for name in networks[0])


def test_frees_what_dies(seed: int) -> None:
    """In a chain no more than two nodes' tensors may be alive at once."""

    nodes = 12
    cell = Cell(("input", *["conv1x1"] * nodes), tuple((node, node + 1) for node in range(nodes)))
    network = GEMCell(cell, 4, 4, plain=True, identity=False).eval()
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def watch(module: object, args: object, out: Tensor) -> None:
        nonlocal most
        alive.append(weakref.ref(out))
        most = max(most, sum(tensor() is not None for tensor in alive))

    for node in network.nodes:
        node.register_forward_hook(watch)
    with torch.no_grad():
        network(torch.randn(1, 4, 3, 3))
    assert most == 2


def test_weights_round_trip(
    draw_architecture: Callable[..., Architecture], tmp_path: Path, seed: int
) -> None:
    for _ in range(3):
        network = lively(draw_architecture(5), seed).to(memory_format=torch.channels_last)
        save_weights(network, tmp_path / "weights.safetensors")
        for other in (build(network.architecture), load_network(tmp_path / "weights.safetensors")):
            load_weights(other, tmp_path / "weights.safetensors")
            for name, tensor in network.state_dict().items():
                assert torch.equal(tensor, other.state_dict()[name])
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_weights(build(Architecture((CHAIN,), DIGITS, 4)), path)
    return path


SAME_SHAPES = Cell(CHAIN.operations, ((0, 1), (1, 2), (0, 3)), "sum")
RENUMBERED = Cell(("input", "conv1x1", "sep3x3", "sep3x3"), ((0, 1), (0, 2), (2, 3)), "sum")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (Architecture((SAME_SHAPES,), DIGITS, 4), "holds weights of cell"),
        (Architecture((RENUMBERED,), DIGITS, 4), "another order"),
        (Architecture((CHAIN,), skeleton_for((1, 8, 8), 9), 4), "for 10 classes.* has 9"),
        (Architecture((CHAIN,), DIGITS, 5), "of width 4"),
        (Architecture((CHAIN,), skeleton_for((3, 8, 8), 10), 4), "of skeleton"),
        (Architecture((CHAIN,), Skeleton((1, 8, 8), 10, (1,), (Stage(2),)), 4), "of skeleton"),
    ],
)
def test_weights_of_another_network(weights: Path, other: Architecture, words: str) -> None:
    network = build(other)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(UserError, match=words) as caught:
        load_weights(network, weights)
    assert str(weights) in str(caught.value)
    assert "\n" not in str(caught.value)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_damaged_weights(weights: Path) -> None:
    data = weights.read_bytes()
    network = build(Architecture((CHAIN,), DIGITS, 4))
    cuts = [b"", data[:7], data[:100], data[: len(data) // 2], data[:-1], data + b"x"]
    for damaged in [*cuts, b"\xff" * 8 + data[8:], b"no weights at all", b"PK\x03\x04" * 50]:
        weights.write_bytes(damaged)
        for load in (load_network, lambda path: load_weights(network, path)):
            with pytest.raises(UserError, match="is no whole safetensors file"):
                load(weights)


def test_foreign_weights(weights: Path) -> None:
    network = build(Architecture((CHAIN,), DIGITS, 4))
    tensors = load_file(weights)
    cases = [
        (tensors, None, "not written by gemkit"),
        (tensors, {"gemkit.architecture": "{"}, "damaged"),
        (tensors, {"gemkit.architecture": "{}"}, "JSON object with cells"),
    ]
    metadata = {"gemkit.architecture": json.dumps(network.architecture.to_json())}
    name = "classifier.weight"
    without = {key: value for key, value in tensors.items() if key != name}
    cases += [
        (without, metadata, f"no tensor '{name}'"),
        (tensors | {"more": torch.zeros(1)}, metadata, "surplus tensor 'more'"),
        (tensors | {name: torch.zeros(3, 3)}, metadata, "float32 \\[3, 3\\]"),
        (tensors | {name: tensors[name].half()}, metadata, "float16"),
    ]
    for content, said, words in cases:
        save_file(content, weights, said)
        with pytest.raises(UserError, match=words):
            load_weights(network, weights)


def test_no_weights_file(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(UserError, match="there is no weights file"):
            load_network(path)
