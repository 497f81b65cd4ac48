"""The walk over a network's layers beside the PyTorch network and sums made by hand."""

from collections.abc import Callable

import torch
from torch import nn

from gemkit.architecture import Architecture, Skeleton, Stage, skeleton_for, smallest
from gemkit.cell import Cell
from gemkit.layers import IMAGE, Layer, layers
from gemkit.network import build

Draw = Callable[..., Architecture]


def seen(architecture: Architecture) -> list[Layer]:
    """Convolutions and classifier as PyTorch runs them, without what they read."""
    found: list[Layer] = []
    network = build(architecture).eval()
    names = {module: name for name, module in network.named_modules()}

    def note(module: nn.Module, args: tuple[torch.Tensor], out: torch.Tensor) -> None:
        shape = (args[0].shape[1], out.shape[1], *(out.shape[2:] or (1, 1)))
        if isinstance(module, nn.Conv2d):
            assert module.padding == (module.kernel_size[0] // 2,) * 2
            how = (module.kernel_size[0], module.stride[0], module.groups)
            found.append(Layer(names[module], "convolution", (), *shape, *how))
        else:
            found.append(Layer(names[module], "linear", (), *shape))

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(note)
    with torch.no_grad():
        network(torch.zeros(1, *architecture.skeleton.input_shape))
    return found


def test_layers_are_those_that_pytorch_runs(draw_architecture: Draw) -> None:
    fields = ("name", "operator", "channels_in", "channels", "height", "width")
    more = ("kernel", "stride", "groups")
    for _ in range(8):
        architecture = draw_architecture()
        weighted = [layer for layer in layers(architecture) if layer.weights]
        wanted = seen(architecture)
        for ours, theirs in zip(weighted, wanted, strict=True):
            for name in fields + more:
                assert getattr(ours, name) == getattr(theirs, name), (ours, theirs)
        state = build(architecture).state_dict()
        for layer in weighted:
            assert layer.weight_shape == tuple(state[f"{layer.name}.weight"].shape)


def test_every_layer_follows_from_what_it_reads(draw_architecture: Draw) -> None:
    for _ in range(30):
        architecture = draw_architecture()
        written: dict[str, Layer] = {}
        network = layers(architecture)
        for layer in network:
            assert layer.name not in written
            read = [written[name] for name in layer.reads]
            written[layer.name] = layer
            channels = [one.channels for one in read]
            if layer.operator == "sum":
                assert len(read) > 1
                assert set(channels) == {layer.channels}
            elif layer.operator == "concat":
                assert len(read) > 1
                assert sum(channels) == layer.channels
            elif layer.name != IMAGE:
                assert channels == [layer.channels_in]
        read = {name for layer in network for name in layer.reads}
        assert written.keys() - read == {network[-1].name}
        stages = [layer for layer in network if layer.operator == "sum" and layer.node is None]
        ends = [layer for layer in stages if layer.relu]
        shapes = {(one.stage, one.channels, one.height, one.width) for one in ends}
        skeleton = architecture.skeleton
        assert shapes == {
            (index, wide, *resolution)
            for index, (wide, resolution) in enumerate(
                zip(architecture.stage_channels, skeleton.resolutions, strict=True)
            )
        }


def test_by_hand() -> None:
    cell = Cell(("input", "sep3x3", "conv1x1"), ((0, 1), (0, 2), (1, 2)), "sum")
    found = layers(Architecture((cell,), Skeleton((3, 6, 6), 5, (2,), (Stage(3),)), 4))
    here = "stages.0.0"
    assert [(one.name, one.operator, one.reads, one.relu, one.node) for one in found] == [
        ("image", "input", (), False, None),
        ("stem.0", "convolution", ("image",), True, None),
        (f"{here}.entry.0", "convolution", ("stem.0",), False, 0),
        (f"{here}.nodes.0.0", "convolution", (f"{here}.entry.0",), True, 1),
        (f"{here}.nodes.0.3", "convolution", (f"{here}.nodes.0.0",), True, 1),
        (f"{here}.nodes.1.join", "sum", (f"{here}.entry.0", f"{here}.nodes.0.3"), False, 2),
        (f"{here}.nodes.1.0", "convolution", (f"{here}.nodes.1.join",), True, 2),
        (f"{here}.output.0", "convolution", (f"{here}.nodes.1.0",), False, None),
        (f"{here}.projection.0", "convolution", ("stem.0",), False, None),
        (f"{here}.sum", "sum", (f"{here}.output.0", f"{here}.projection.0"), True, None),
        ("pooled", "mean", (f"{here}.sum",), False, None),
        ("classifier", "linear", ("pooled",), False, None),
    ]
    assert [one.values for one in found] == [108, 36, *[108] * 8, 12, 5]
    depthwise = found[3]
    assert (depthwise.weights, depthwise.macs, depthwise.params) == (108, 972, 132)


def test_the_smallest_network_has_the_fewest_layers() -> None:
    skeleton = skeleton_for((1, 8, 8), 10)
    operators = [layer.operator for layer in layers(smallest(skeleton))]
    cell = ["convolution"] * 3 + ["sum"]
    assert operators == ["input", "convolution", *cell, "max_pool", *cell, "mean", "linear"]
