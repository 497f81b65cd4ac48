"""Networks to compare with, fitted to the images and to a budget.

torchvision's small networks, the ResNets for small images (`gemkit.resnet`), three networks found
by differentiable search (DARTS, PC-DARTS, P-DARTS; built from the genotypes their authors
published) and RandWire.

Every torchvision network is adapted in the same way (ours), so that none is favoured:

- The first convolution takes as many channels as the images have.
- Of its five halvings of the resolution the first ones, beginning with the stem's, are left out
  (stride 1) until at least 4 pixels a side remain at the end, as in GEMNet: 8 px keep one
  halving, 32 px three, 128 px and more all five.
- Every number of channels inside, the last layers' included, is multiplied by one factor and
  rounded as those of found networks are (`gemkit.widths`), or with `any_width` to an even number,
  at least 4; the factor is the largest that keeps within the budget.
- Dropout and stochastic depth are left out, since they harm networks this small, and batch norm
  keeps its statistics with PyTorch's momentum of 0.1: some of the originals average over
  thousands of steps, more than a short training has.
- Convolutions start with He's initialisation, as GEMNet's do.

The networks of differentiable search are their papers' CIFAR-10 networks without auxiliary tower
and drop-path: 20 cells, 36 channels. Images above 32 px pass more stem convolutions of stride 2;
the first reduction cells keep the resolution where fewer than 4 pixels would remain. Within a
budget they have 20 cells if 8 channels or more fit; else the 8 cells of the papers' search
networks and, where 4 pixels remain, a stem of stride 2 (twenty cells of 2 channels would be a
straw man). The ResNets have 32 pixels in their first stage, or as many as smaller images have;
larger ones pass stem convolutions of stride 2. RandWire is its paper's small regime with
Watts-Strogatz graphs of fixed seeds, treated as torchvision's networks are.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from gemkit.budget import format_count
from gemkit.errors import UserError
from gemkit.resnet import ResNet
from gemkit.widths import rounded

if TYPE_CHECKING:
    pass

InputShape = tuple[int, int, int]

_TORCHVISION = {
    "mobilenet_v2": "mobilenet_v2",
    "mobilenet_v3_small": "mobilenet_v3_small",
    "mobilenet_v3_large": "mobilenet_v3_large",
    "shufflenet_v2": "shufflenet_v2_x1_0",
    "mnasnet": "mnasnet1_0",
    "efficientnet_b0": "efficientnet_b0",
    "regnet_y_400mf": "regnet_y_400mf",
}
TORCHVISION = tuple(_TORCHVISION)
"""Names of torchvision's networks."""
DIFFERENTIABLE = ("darts_v2", "pc_darts", "p_darts")
"""Names of the networks found by differentiable search."""
RESNETS = ("resnet8", "resnet14", "resnet20", "resnet32")
"""Names of the ResNets for small images, by their number of layers at 32 pixels."""
BASELINES = (*TORCHVISION, *RESNETS, *DIFFERENTIABLE, "randwire")
"""Names that `baseline` knows."""

_LEAST_CHANNELS, _LEAST_SIDE = 4, 4
_FACTOR = 256  # widths are tried in steps of 1/256 of the original
_QUARTERS = 4  # or of a quarter of a channel, which wider stages round in their own way

Rounding = Callable[[float], int]
"""What makes a wanted number of channels one that a network has."""


def _even(channels: float) -> int:
    return max(_LEAST_CHANNELS, 2 * round(channels / 2))


def baseline(
    name: str,
    input_shape: InputShape,
    classes: int,
    max_params: int | None = None,
    max_macs: int | None = None,
    any_width: bool = False,
) -> nn.Module:
    """Build a network for images of a shape, as wide as the budget allows.

    Without a budget the widths are the original ones, unrounded. The network is freshly
    initialised from PyTorch's global generator and takes any batch size.

    Args:
        name: one of `BASELINES`.
        input_shape: (channels, height, width).
        max_params, max_macs: trainable parameters, and multiply-accumulates of convolutions and
            linear layers for one image.
        any_width: channels need not be multiples that processors like.

    Raises:
        UserError: unknown name, or even the narrowest form is over the budget.
    """
    if max_params is None and max_macs is None:
        design = _design(name, input_shape, classes, round)
        return design.build(design.original)
    rounding = _even if any_width else rounded
    design = _design(name, input_shape, classes, rounding)
    least = _WORTHWHILE_CHANNELS * _QUARTERS
    if name in DIFFERENTIABLE and not _fits(design, least, max_params, max_macs):
        design = _Searched(name, input_shape, classes, rounding, small=True)
    return design.build(_largest(name, design, max_params, max_macs))


class _Design(Protocol):
    """A network whose width is given by a whole number."""

    original: int
    largest: int

    def count(self, size: int) -> tuple[int, int]:
        """MACs and params, neither falling as the size grows."""

    def build(self, size: int) -> nn.Module:
        """The network, freshly initialised."""


def _design(name: str, input_shape: InputShape, classes: int, rounding: Rounding) -> _Design:
    if name not in BASELINES:
        raise UserError(f"unknown baseline {name!r}: use one of {', '.join(BASELINES)}")
    if classes < 2 or min(input_shape) < 1:
        raise UserError(f"no network for {classes} classes and images of shape {input_shape}")
    if name in DIFFERENTIABLE:
        return _Searched(name, input_shape, classes, rounding, small=False)
    if name in RESNETS:
        return _ResNetDesign(name, input_shape, classes, rounding)
    if name == "randwire":
        return _RandWireDesign(input_shape, classes, rounding)
    return _Adapted(name, input_shape, classes, rounding)


def _fits(design: _Design, size: int, max_params: int | None, max_macs: int | None) -> bool:
    macs, params = design.count(size)
    return macs <= (max_macs or math.inf) and params <= (max_params or math.inf)


def _largest(name: str, design: _Design, max_params: int | None, max_macs: int | None) -> int:
    """The largest size within the limits, by bisection."""

    if not _fits(design, 1, max_params, max_macs):
        macs, params = design.count(1)
        raise UserError(
            f"{name} does not fit the budget: its narrowest form takes {format_count(macs)} MACs "
            f"and {format_count(params)} params"
        )
    low, high = 1, design.largest + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _fits(design, middle, max_params, max_macs) else (low, middle)
    return low


# ------------------------------------------------------------------- torchvision's networks


@dataclass(frozen=True)
class _Layer:
    """A convolution, linear layer or batch norm with what its cost depends on."""

    module: nn.Module
    channels_in: int
    channels: int
    positions: int  # of its output, height times width


class _Adapted:
    """A torchvision network brought to the images, as the module's docstring says."""

    original = _FACTOR
    largest = 8 * _FACTOR

    def __init__(
        self, name: str, input_shape: InputShape, classes: int, rounding: Rounding
    ) -> None:
        from torchvision import models

        self._name, self._classes, self._rounding = name, classes, rounding
        with torch.random.fork_rng([]):
            self._network: nn.Module = getattr(models, _TORCHVISION[name])(weights=None).eval()
        self._simplify()
        self._keep_resolution(min(input_shape[1:]))
        first = next(m for m in self._network.modules() if isinstance(m, nn.Conv2d))
        _resize(first, input_shape[0], first.out_channels)
        last = [m for m in self._network.modules() if isinstance(m, nn.Linear)][-1]
        _resize(last, last.in_features, classes)
        self._first, self._last = first, last
        self._layers = self._traced(input_shape)

    def count(self, size: int) -> tuple[int, int]:
        macs = params = 0
        for layer in self._layers:
            channels_in, channels = self._scaled(layer, size)
            module = layer.module
            if isinstance(module, nn.BatchNorm2d):
                params += 2 * channels
                continue
            weights = channels_in * channels
            if isinstance(module, nn.Conv2d):
                groups = _groups(module, channels_in, channels)
                weights = weights // groups * math.prod(module.kernel_size)
            macs += weights * layer.positions
            params += weights + (channels if module.bias is not None else 0)
        return macs, params

    def build(self, size: int) -> nn.Module:
        network = copy.deepcopy(self._network)
        # Modules are copied in the order in which they are listed.
        copied = dict(zip(self._network.modules(), network.modules(), strict=True))
        for layer in self._layers:
            _resize(copied[layer.module], *self._scaled(layer, size))
        return _initialised(network)

    def _scaled(self, layer: _Layer, size: int) -> tuple[int, int]:
        channels_in = layer.channels_in
        channels = layer.channels
        return (
            channels_in if layer.module is self._first else self._channels(channels_in, size),
            channels if layer.module is self._last else self._channels(channels, size),
        )

    def _channels(self, channels: int, size: int) -> int:
        if self._name == "shufflenet_v2" and channels % 58 == 0:
            # Its halves of 58, 116, 232 channels must stay halves of one another.
            return channels // 58 * (self._rounding(116 * size / _FACTOR) // 2)
        return self._rounding(channels * size / _FACTOR)

    def _simplify(self) -> None:
        for module in self._network.modules():
            if type(module).__name__ in ("Dropout", "StochasticDepth"):
                module.p = 0.0  # type: ignore[assignment]
            elif isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1

    def _keep_resolution(self, side: int) -> None:
        """Leave out the first halvings; those at one resolution go together."""
        halvings: dict[int, list[Any]] = {}

        def note(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if module.stride in (2, (2, 2)):
                halvings.setdefault(inputs[0].shape[-1], []).append(module)

        self._observed(note, (3, 256, 256), (nn.Conv2d, nn.MaxPool2d))
        kept = _halvings_kept(side)
        for resolution in sorted(halvings, reverse=True)[: max(len(halvings) - kept, 0)]:
            for module in halvings[resolution]:
                module.stride = (1, 1) if isinstance(module, nn.Conv2d) else 1

    def _traced(self, input_shape: InputShape) -> list[_Layer]:
        layers: list[_Layer] = []

        def note(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            positions = math.prod(output.shape[2:])
            layers.append(_Layer(module, inputs[0].shape[1], output.shape[1], positions))

        self._observed(note, input_shape, (nn.Conv2d, nn.BatchNorm2d, nn.Linear))
        return layers

    def _observed(
        self,
        note: Callable[[Any, tuple[Tensor, ...], Tensor], None],
        shape: InputShape,
        kinds: tuple[type[nn.Module], ...],
    ) -> None:
        handles = [
            module.register_forward_hook(note)
            for module in self._network.modules()
            if isinstance(module, kinds)
        ]
        with torch.inference_mode():
            self._network(torch.zeros(1, *shape))
        for handle in handles:
            handle.remove()


def _groups(convolution: nn.Conv2d, channels_in: int, channels: int) -> int:
    """Groups after scaling: still depthwise, or groups of about the same width."""
    if convolution.groups == 1:
        return 1
    if convolution.groups == convolution.in_channels:
        return channels_in
    width = convolution.in_channels // convolution.groups
    common = math.gcd(channels_in, channels)
    divisors = [number for number in range(1, common + 1) if common % number == 0]
    return min(divisors, key=lambda groups: abs(channels_in / groups - width))


def _resize(module: nn.Module, channels_in: int, channels: int) -> None:
    """Give a layer other numbers of channels, and fresh values."""
    if isinstance(module, nn.Conv2d):
        groups = _groups(module, channels_in, channels)
        fresh: nn.Module = nn.Conv2d(
            channels_in,
            channels,
            module.kernel_size,  # type: ignore[arg-type]
            module.stride,  # type: ignore[arg-type]
            module.padding,  # type: ignore[arg-type]
            groups=groups,
            bias=module.bias is not None,
        )
    elif isinstance(module, nn.Linear):
        fresh = nn.Linear(channels_in, channels, module.bias is not None)
    else:
        assert isinstance(module, nn.BatchNorm2d)
        fresh = nn.BatchNorm2d(channels, module.eps, module.momentum)
    # In place, because the layers are found in containers of many kinds.
    module.__dict__.update(fresh.__dict__)


def _halvings_kept(side: int) -> int:
    """How often a side can be halved with at least four pixels left."""
    return int(math.log2(side // _LEAST_SIDE)) if side >= _LEAST_SIDE else 0


def _initialised(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network.train()


def _counted(network: nn.Module, input_shape: InputShape) -> tuple[int, int]:
    """MACs of convolutions and linear layers in one pass, and params."""
    macs = 0

    def note(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        macs += module.weight.numel() * math.prod(output.shape[2:])

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(note)
    network.eval()
    with torch.inference_mode():
        network(torch.zeros(1, *input_shape))
    return macs, sum(weight.numel() for weight in network.parameters())


# ------------------------------------------------- networks found by differentiable search


_WORTHWHILE_CHANNELS = 8
_STEM_SIDE = 32


@dataclass(frozen=True)
class _Genotype:
    """Two operations for each of a cell's four nodes, as `operation input`, in order.

    Inputs 0 and 1 are the outputs of the two cells before, 2 and up the cell's own nodes.
    """

    normal: str
    reduce: str


_GENOTYPES = {
    # Liu et al. 2019, second order
    "darts_v2": _Genotype(
        "sep3 0, sep3 1, sep3 0, sep3 1, sep3 1, skip 0, skip 0, dil3 2",
        "max 0, max 1, skip 2, max 1, max 0, skip 2, skip 2, max 1",
    ),
    # Xu et al. 2020, searched on CIFAR-10
    "pc_darts": _Genotype(
        "sep3 1, skip 0, sep3 0, dil3 1, sep5 0, sep3 1, avg 0, dil3 1",
        "sep5 1, max 0, sep5 1, sep5 2, sep3 0, sep3 3, sep3 1, sep3 2",
    ),
    # Chen et al. 2019, searched on CIFAR-10
    "p_darts": _Genotype(
        "skip 0, dil3 1, skip 0, sep3 1, sep3 1, sep3 3, sep3 0, dil5 4",
        "avg 0, sep5 1, sep3 0, dil5 2, max 0, dil3 1, dil3 1, dil5 3",
    ),
}


class _OfSize:
    """What is counted and built by making the network of a size (`_network`)."""

    _input_shape: InputShape

    def _network(self, size: int) -> nn.Module:
        raise NotImplementedError

    def count(self, size: int) -> tuple[int, int]:
        with torch.random.fork_rng([]):
            return _counted(self._network(size), self._input_shape)

    def build(self, size: int) -> nn.Module:
        return _initialised(self._network(size))


class _Searched(_OfSize):
    """A DARTS-like network; its size is the channels of a node in the first cells, in quarters."""

    original = 36 * _QUARTERS
    largest = 256 * _QUARTERS

    def __init__(
        self,
        name: str,
        input_shape: InputShape,
        classes: int,
        rounding: Rounding,
        *,
        small: bool,
    ) -> None:
        self._genotype, self._small, self._rounding = _GENOTYPES[name], small, rounding
        self._input_shape, self._classes = input_shape, classes

    def _network(self, size: int) -> nn.Module:
        wanted = size / _QUARTERS
        channels = [self._rounding(wanted * part) for part in (3, 1, 2, 4)]
        return _DARTSNetwork(
            self._genotype, channels, self._small, self._input_shape, self._classes
        )


class _DARTSNetwork(nn.Module):
    def __init__(
        self,
        genotype: _Genotype,
        channels: list[int],
        small: bool,
        input_shape: InputShape,
        classes: int,
    ) -> None:
        super().__init__()
        width, *widths = channels  # of the stem, and of a node in each third of the cells
        side, layers = min(input_shape[1:]), 8 if small else 20
        stem = [nn.Conv2d(input_shape[0], width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
        halved_stem = small and _halvings_kept(side) > 2
        while side > _STEM_SIDE or halved_stem:
            halved_stem = False
            side = -(-side // 2)
            stem += [
                nn.ReLU(),
                nn.Conv2d(width, width, 3, 2, 1, bias=False),
                nn.BatchNorm2d(width),
            ]
        self.stem = nn.Sequential(*stem)
        self.cells = nn.ModuleList()
        before, last, halved_before = width, width, False
        skipped = max(2 - _halvings_kept(side), 0)
        for layer in range(layers):
            reduction = layer in (layers // 3, 2 * layers // 3)
            halved = reduction and (layer == 2 * layers // 3 or skipped == 0) and skipped < 2
            third = (layer >= layers // 3) + (layer >= 2 * layers // 3)
            description = genotype.reduce if reduction else genotype.normal
            self.cells.append(
                _DARTSCell(description, before, last, widths[third], halved, halved_before)
            )
            before, last, halved_before = last, 4 * widths[third], halved
        self.classifier = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        before = last = self.stem(x)
        for cell in self.cells:
            before, last = last, cell(before, last)
        out: Tensor = self.classifier(nn.functional.adaptive_avg_pool2d(last, 1).flatten(1))
        return out


class _DARTSCell(nn.Module):
    def __init__(
        self,
        description: str,
        channels_before: int,
        channels_last: int,
        channels: int,
        halved: bool,
        halved_before: bool,
    ) -> None:
        super().__init__()
        self.before = (
            _Halving(channels_before, channels)
            if halved_before
            else _relu_convolution(channels_before, channels)
        )
        self.last = _relu_convolution(channels_last, channels)
        self.operations = nn.ModuleList()
        self._reads = []
        for part in description.split(", "):
            name, source = part.split()
            self._reads.append(int(source))
            stride = 2 if halved and int(source) < 2 else 1
            self.operations.append(_darts_operation(name, channels, stride))

    def forward(self, before: Tensor, last: Tensor) -> Tensor:
        states = [self.before(before), self.last(last)]
        parts = [
            (operation, source)
            for operation, source in zip(self.operations, self._reads, strict=True)
        ]
        for first, second in zip(parts[::2], parts[1::2], strict=True):
            states.append(first[0](states[first[1]]) + second[0](states[second[1]]))
        return torch.cat(states[2:], 1)


def _relu_convolution(channels_in: int, channels: int) -> nn.Module:
    return nn.Sequential(
        nn.ReLU(), nn.Conv2d(channels_in, channels, 1, bias=False), nn.BatchNorm2d(channels)
    )


class _Halving(nn.Module):
    """Halves the resolution with two 1x1 convolutions, one of them shifted by a pixel."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(channels_in, channels // 2, 1, 2, bias=False)
        self.odd = nn.Conv2d(channels_in, channels - channels // 2, 1, 2, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu(x)
        shifted = nn.functional.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
        out: Tensor = self.norm(torch.cat([self.even(x), self.odd(shifted)], 1))
        return out


def _darts_operation(name: str, channels: int, stride: int) -> nn.Module:
    if name == "skip":
        return nn.Identity() if stride == 1 else _Halving(channels, channels)
    if name == "max":
        return nn.MaxPool2d(3, stride, 1)
    if name == "avg":
        return nn.AvgPool2d(3, stride, 1, count_include_pad=False)
    kind, size = name[:3], int(name[3:])
    layers: list[nn.Module] = []
    dilation = 2 if kind == "dil" else 1
    for repeat in range(1 if kind == "dil" else 2):
        layers += [
            nn.ReLU(),
            nn.Conv2d(
                channels,
                channels,
                size,
                stride if repeat == 0 else 1,
                dilation * (size - 1) // 2,
                dilation,
                groups=channels,
                bias=False,
            ),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        ]
    return nn.Sequential(*layers)


# ----------------------------------------------------------------- ResNets for small images


class _ResNetDesign(_OfSize):
    """A ResNet; its size is the channels of the first stage, in quarters."""

    original = 16 * _QUARTERS
    largest = 512 * _QUARTERS

    def __init__(
        self, name: str, input_shape: InputShape, classes: int, rounding: Rounding
    ) -> None:
        self._blocks = (int(name.removeprefix("resnet")) - 2) // 6
        self._input_shape, self._classes, self._rounding = input_shape, classes, rounding

    def _network(self, size: int) -> nn.Module:
        side, stem = min(self._input_shape[1:]), [1]
        while side > _STEM_SIDE:
            side = -(-side // 2)
            stem = [*stem, 2] if stem[0] == 2 else [2]
        first_halved = 3 - min(_halvings_kept(side), 2)
        stages = [
            (self._rounding(size / _QUARTERS * 2**stage), 2 if stage >= first_halved else 1)
            for stage in range(3)
        ]
        return ResNet(self._input_shape[0], self._classes, tuple(stem), tuple(stages), self._blocks)


# ---------------------------------------------------------------------------------- RandWire


class _RandWireDesign(_OfSize):
    """RandWire-WS(4, 0.75), small regime (Xie et al. 2019); its size is C, in quarters."""

    original = 78 * _QUARTERS
    largest = 512 * _QUARTERS

    def __init__(self, input_shape: InputShape, classes: int, rounding: Rounding) -> None:
        self._input_shape, self._classes, self._rounding = input_shape, classes, rounding

    def _network(self, size: int) -> nn.Module:
        wanted = size / _QUARTERS
        parts = (1 / 2, 1, 1, 2, 4, 1280 / 78)
        channels = [self._rounding(wanted * part) for part in parts]
        return _RandWire(channels, self._input_shape, self._classes)


class _RandWire(nn.Module):
    def __init__(self, channels: list[int], input_shape: InputShape, classes: int) -> None:
        super().__init__()
        half, *widths, head = channels
        kept = _halvings_kept(min(input_shape[1:]))
        strides = [2 if place >= 5 - kept else 1 for place in range(5)]
        self.stem = nn.Sequential(
            nn.Conv2d(input_shape[0], half, 3, strides[0], 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            nn.Conv2d(half, widths[0], 3, strides[1], 1, bias=False),
            nn.BatchNorm2d(widths[0]),
        )
        self.stages = nn.Sequential(
            *(
                _RandomStage(widths[stage], widths[stage + 1], strides[2 + stage], seed=stage)
                for stage in range(3)
            )
        )
        self.head = nn.Sequential(
            nn.ReLU(), nn.Conv2d(widths[-1], head, 1, bias=False), nn.BatchNorm2d(head), nn.ReLU()
        )
        self.classifier = nn.Linear(head, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.stages(self.stem(x)))
        out: Tensor = self.classifier(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return out


class _RandomStage(nn.Module):
    """32 nodes wired at random: weighted sum - ReLU - separable 3x3 convolution - batch norm."""

    def __init__(self, channels_in: int, channels: int, stride: int, seed: int) -> None:
        super().__init__()
        import networkx

        graph = networkx.connected_watts_strogatz_graph(32, 4, 0.75, seed=seed)
        self._reads = [sorted(other for other in graph[node] if other < node) for node in range(32)]
        read = {source for sources in self._reads for source in sources}
        self._leaves = [node for node in range(32) if node not in read]
        self.weights = nn.ParameterList(
            [nn.Parameter(torch.zeros(len(sources))) for sources in self._reads if len(sources) > 1]
        )
        self.nodes = nn.ModuleList()
        for sources in self._reads:
            width = channels if sources else channels_in
            self.nodes.append(
                nn.Sequential(
                    nn.Conv2d(
                        width, width, 3, 1 if sources else stride, 1, groups=width, bias=False
                    ),
                    nn.Conv2d(width, channels, 1, bias=False),
                    nn.BatchNorm2d(channels),
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        weights = iter(self.weights)
        for node, sources in zip(self.nodes, self._reads, strict=True):
            if len(sources) > 1:
                share = torch.sigmoid(next(weights))
                joined = torch.stack(
                    [outputs[source] * share[place] for place, source in enumerate(sources)]
                ).sum(0)
            else:
                joined = outputs[sources[0]] if sources else x
            outputs.append(node(nn.functional.relu(joined)))
        return torch.stack([outputs[leaf] for leaf in self._leaves]).mean(0)
