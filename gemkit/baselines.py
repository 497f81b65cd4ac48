"""Networks to compare with: torchvision's small ones, fitted to the images and to a budget.

Every torchvision network is adapted in the same way (ours), so that none is favoured:

- The first convolution takes as many channels as the images have.
- Of its five halvings of the resolution the first ones, beginning with the stem's, are left out
  (stride 1) until at least 4 pixels a side remain at the end, as in GEMNet: 8 px keep one
  halving, 32 px three, 128 px and more all five.
- Every number of channels inside, the last layers' included, is multiplied by one factor and
  rounded to an even number, at least 4; the factor is the largest that keeps within the budget.
- Dropout and stochastic depth are left out, since they harm networks this small, and batch norm
  keeps its statistics with PyTorch's momentum of 0.1: some of the originals average over
  thousands of steps, more than a short training has.
- Convolutions start with He's initialisation, as GEMNet's do.
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

if TYPE_CHECKING:
    from gemkit.cost import Cost

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
BASELINES = tuple(_TORCHVISION)
"""Names that `baseline` knows."""

_LEAST_CHANNELS, _LEAST_SIDE = 4, 4
_FACTOR = 256  # widths are tried in steps of 1/256 of the original


def baseline(
    name: str,
    input_shape: InputShape,
    classes: int,
    max_params: int | None = None,
    max_macs: int | None = None,
) -> nn.Module:
    """Build a network for images of a shape, as wide as the budget allows.

    Without a budget the widths are the original ones. The network is freshly initialised from
    PyTorch's global generator and takes any batch size.

    Args:
        name: one of `BASELINES`.
        input_shape: (channels, height, width).
        max_params, max_macs: trainable parameters, and multiply-accumulates of convolutions and
            linear layers for one image.

    Raises:
        UserError: unknown name, or even the narrowest form is over the budget.
    """
    design = _design(name, input_shape, classes)
    if max_params is None and max_macs is None:
        return design.build(design.original)
    return design.build(_largest(name, design, max_params, max_macs))


def nearest_baseline(input_shape: InputShape, classes: int, cost: "Cost") -> tuple[str, nn.Module]:
    """The torchvision network that, within a cost, comes nearest to its MACs and parameters.

    Returns:
        Its name and what `baseline` builds for `max_macs` and `max_params` of the cost.
    """
    found: tuple[float, str, _Design, int] | None = None
    for name in _TORCHVISION:
        design = _design(name, input_shape, classes)
        try:
            size = _largest(name, design, cost.params, cost.macs)
        except UserError:
            continue
        macs, params = design.count(size)
        distance = math.log(cost.macs / macs) + math.log(cost.params / params)
        if found is None or distance < found[0]:
            found = distance, name, design, size
    if found is None:
        raise UserError(
            f"no torchvision network fits {format_count(cost.macs)} MACs and "
            f"{format_count(cost.params)} params for these images"
        )
    _, name, design, size = found
    return name, design.build(size)


class _Design(Protocol):
    """A network whose width is given by a whole number."""

    original: int
    largest: int

    def count(self, size: int) -> tuple[int, int]:
        """MACs and params, neither falling as the size grows."""

    def build(self, size: int) -> nn.Module:
        """The network, freshly initialised."""


def _design(name: str, input_shape: InputShape, classes: int) -> _Design:
    if name not in BASELINES:
        raise UserError(f"unknown baseline {name!r}: use one of {', '.join(BASELINES)}")
    if classes < 2 or min(input_shape) < 1:
        raise UserError(f"no network for {classes} classes and images of shape {input_shape}")
    return _Adapted(name, input_shape, classes)


def _largest(name: str, design: _Design, max_params: int | None, max_macs: int | None) -> int:
    """The largest size within the limits, by bisection."""

    def fits(size: int) -> bool:
        macs, params = design.count(size)
        return macs <= (max_macs or math.inf) and params <= (max_params or math.inf)

    if not fits(1):
        macs, params = design.count(1)
        raise UserError(
            f"{name} does not fit the budget: its narrowest form takes {format_count(macs)} MACs "
            f"and {format_count(params)} params"
        )
    low, high = 1, design.largest + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
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

    def __init__(self, name: str, input_shape: InputShape, classes: int) -> None:
        from torchvision import models

        self._name, self._classes, self._image_channels = name, classes, input_shape[0]
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
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        return network.train()

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
            return channels // 58 * max(_LEAST_CHANNELS, 2 * round(58 * size / _FACTOR / 2))
        return max(_LEAST_CHANNELS, 2 * round(channels * size / _FACTOR / 2))

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
        kept = int(math.log2(side // _LEAST_SIDE)) if side >= _LEAST_SIDE else 0
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
