"""GEMNet: the PyTorch network of an architecture.

stem -> stages of cells, 2x2 max-pooling between them -> global average pooling -> classifier.
The stem is one 3x3 convolution (padding 1), batch norm and ReLU per stride. How many channels `w`
stem and stages have is `gemkit.architecture`'s to say.

A cell with a `c`-channel input at width `w` (predecessor: SwiftNet, by the paper's first author;
the aggregation by sum is ours, after RandWire):

- A node joins what it reads, then computes `w` channels from it. With "concat" the inputs are put
  side by side in the order of their index; with "sum" they are added.
- `conv1x1`: 1x1 convolution, batch norm, ReLU. `sep3x3`: depthwise 3x3 convolution, batch norm,
  ReLU, then 1x1 convolution, batch norm, ReLU. No convolution has a bias; all strides are 1.
- With "sum", where c differs from w at some width, one 1x1 convolution and batch norm (`entry`)
  first bring the cell input to `w` channels for all nodes that read it.
- output = ReLU(BN(conv1x1(join(leaves))) + BN(conv1x1(cell input))), `w` channels; in a skeleton of
  shortcut "identity" the cell input is added as it is where it has `w` channels at every width.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from gemkit.architecture import Architecture
from gemkit.cell import Cell
from gemkit.errors import UserError
from gemkit.files import check_format, is_file, unreadable, write_bytes
from gemkit.operations import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Sequence

WEIGHTS_FORMAT = 1
"""Of the files of `save_weights`."""


class _Depthwise(nn.Conv2d):
    """A depthwise convolution that also trains fast on images smaller than its kernel.

    There oneDNN's weight gradient is up to fifty times slower on the CPU than for the same images
    with their border of zeros written out (8.3 against 0.2 ms, 696 channels of 2x2, PyTorch 2.14).
    """

    def forward(self, input: Tensor) -> Tensor:
        size = self.kernel_size[0]
        if self.training and input.device.type == "cpu" and min(input.shape[2:]) < size:
            return F.conv2d(F.pad(input, (size // 2,) * 4), self.weight, groups=self.groups)
        return super().forward(input)


class _Pointwise(nn.Conv2d):
    """A 1x1 convolution; on a GPU a matrix product, since cuDNN takes long to plan each new shape
    of convolution."""

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cuda":
            return super().forward(input)
        out = F.linear(input.permute(0, 2, 3, 1), self.weight.flatten(1))
        return out.permute(0, 3, 1, 2)


def _convolution(
    channels_in: int, channels: int, size: int = 1, *, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """A convolution without bias that keeps the image's size (at stride 1), and its batch norm."""
    kind = _Depthwise if groups > 1 else _Pointwise if size == 1 else nn.Conv2d
    return [
        kind(channels_in, channels, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
    ]


def _operation(name: str, channels_in: int, channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for convolution in BY_NAME[name].convolutions:
        if convolution.is_depthwise:
            layers += _convolution(channels_in, channels_in, convolution.kernel, groups=channels_in)
        else:
            layers += _convolution(channels_in, channels, convolution.kernel)
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class GEMCell(nn.Module):
    """One cell: (batch, channels_in, h, w) -> (batch, channels, h, w)."""

    def __init__(
        self, cell: Cell, channels_in: int, channels: int, plain: bool, identity: bool
    ) -> None:
        super().__init__()
        concat = cell.aggregation == "concat"
        self.aggregation = cell.aggregation
        self._reads = cell.predecessors
        self._leaves = cell.leaves
        # The position in the order of execution at which a node's tensor is read last.
        last = {node: max(readers) for node, readers in enumerate(cell.successors) if readers}
        self._dies = tuple(
            tuple(node for node, reader in last.items() if reader == position)
            for position in range(len(cell.operations))
        )
        self.entry = (
            None if concat or plain else nn.Sequential(*_convolution(channels_in, channels))
        )
        self.nodes = nn.ModuleList()
        for node in range(1, len(cell.operations)):
            sizes = [channels if source else channels_in for source in cell.predecessors[node]]
            self.nodes.append(
                _operation(cell.operations[node], sum(sizes) if concat else channels, channels)
            )
        joined = channels * len(cell.leaves) if concat else channels
        self.output = nn.Sequential(*_convolution(joined, channels))
        self.projection = None if identity else nn.Sequential(*_convolution(channels_in, channels))

    def _join(self, tensors: "Sequence[Tensor]") -> Tensor:
        if len(tensors) == 1:
            return tensors[0]
        if self.aggregation == "concat":
            return torch.cat(list(tensors), 1)
        total = tensors[0] + tensors[1]
        for tensor in tensors[2:]:
            total += tensor
        return total

    def forward(self, x: Tensor) -> Tensor:
        alive = {0: x if self.entry is None else self.entry(x)}
        for node, operation in enumerate(self.nodes, start=1):
            joined = self._join([alive[source] for source in self._reads[node]])
            for source in self._dies[node]:
                del alive[source]
            alive[node] = operation(joined)
            del joined
        joined = self._join([alive.pop(leaf) for leaf in self._leaves])
        out: Tensor = self.output(joined)
        del joined
        out += x if self.projection is None else self.projection(x)
        return F.relu(out, inplace=True)


class GEMNet(nn.Module):
    """The network of an architecture: images (batch, c, h, w) -> logits (batch, classes).

    Its convolutions start with He's initialisation, from PyTorch's global generator.

    Attributes:
        architecture: what the network was built from.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        skeleton = architecture.skeleton
        self.architecture = architecture
        stem: list[nn.Module] = []
        channels = skeleton.input_shape[0]
        for stride, wide in zip(skeleton.stem_strides, architecture.stem_channels, strict=True):
            stem += _convolution(channels, wide, 3, stride=stride)
            stem.append(nn.ReLU(inplace=True))
            channels = wide
        self.stem = nn.Sequential(*stem)
        self.stages = nn.ModuleList()
        stages = zip(
            skeleton.stages, architecture.stage_cells, architecture.stage_channels, strict=True
        )
        for index, (stage, cell, wide) in enumerate(stages):
            blocks = []
            for repeat in range(stage.repeats):
                plain = skeleton.is_plain(index, repeat)
                identity = plain and skeleton.shortcut == "identity"
                blocks.append(GEMCell(cell, channels, wide, plain, identity))
                channels = wide
            self.stages.append(nn.Sequential(*blocks))
        self.classifier = nn.Linear(channels, skeleton.classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for index, stage in enumerate(self.stages):
            if index:
                x = F.max_pool2d(x, 2)
            x = stage(x)
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        logits: Tensor = self.classifier(x)
        return logits


def build(architecture: Architecture) -> GEMNet:
    """The network of an architecture, freshly initialised from PyTorch's global generator."""
    return GEMNet(architecture)


def save_weights(network: GEMNet, path: Path) -> None:
    """Write weights and batch statistics as safetensors, with the architecture as metadata.

    Raises:
        UserError: the file cannot be written.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()
    }
    about = {"format": WEIGHTS_FORMAT, **network.architecture.to_json()}
    write_bytes(path, save(tensors, {"format": "pt", "gemkit.architecture": json.dumps(about)}))


def load_weights(network: GEMNet, path: Path) -> None:
    """Fill a network from a file of `save_weights`, which must be of the same architecture.

    Raises:
        UserError: the file is missing, damaged or of another network; the network is unchanged.
    """
    architecture, tensors = _read(path)
    _check_same(architecture, network.architecture, path)
    _fill(network, tensors, path)


def load_network(path: Path) -> GEMNet:
    """Build the network that a file of `save_weights` describes, with its weights.

    Raises:
        UserError: the file is missing, damaged or no file of gemkit's.
    """
    architecture, tensors = _read(path)
    network = build(architecture)
    _fill(network, tensors, path)
    return network


def _read(path: Path) -> tuple[Architecture, dict[str, Tensor]]:
    path = Path(path)
    if not is_file(path):
        raise UserError(f"there is no weights file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            written = (file.metadata() or {}).get("gemkit.architecture")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError:
        raise UserError(
            f"{path} is no whole safetensors file: it is damaged or was cut short"
        ) from None
    except OSError as error:
        raise unreadable(error, path) from None
    if written is None:
        raise UserError(f"{path} was not written by gemkit: it does not say which network it is")
    try:
        value: Any = json.loads(written)
    except (ValueError, RecursionError):
        raise UserError(
            f"{path} does not say which network it is: its metadata is damaged"
        ) from None
    if isinstance(value, dict):
        check_format(value.pop("format", 1), WEIGHTS_FORMAT, str(path))
    return Architecture.from_json(value, str(path)), tensors


def _check_same(found: Architecture, wanted: Architecture, path: Path) -> None:
    def say(what: str, have: object, want: object) -> UserError:
        return UserError(f"{path} holds weights {what} {have}, but the network's is {want}")

    if found.skeleton.classes != wanted.skeleton.classes:
        raise UserError(
            f"{path} holds weights for {found.skeleton.classes} classes, "
            f"but the network has {wanted.skeleton.classes}"
        )
    if found.id != wanted.id:
        raise say("of cell", found.id, wanted.id)
    if found.cells != wanted.cells:
        raise UserError(
            f"{path} holds weights of cell {found.id} with its nodes in another order: "
            "use the cell.json written with it"
        )
    if found.width != wanted.width:
        raise say("of width", found.width, wanted.width)
    if found.skeleton != wanted.skeleton:
        raise say("of skeleton", found.skeleton.to_json(), wanted.skeleton.to_json())


def _fill(network: GEMNet, tensors: dict[str, Tensor], path: Path) -> None:
    own = network.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        have, want = tensors.get(name), own.get(name)
        if have is None or want is None:
            raise UserError(f"{path} has {'no' if have is None else 'a surplus'} tensor {name!r}")
        if (have.shape, have.dtype) != (want.shape, want.dtype):
            raise UserError(
                f"{path} has tensor {name!r} as {have.dtype} {list(have.shape)}, "
                f"where the network has {want.dtype} {list(want.shape)}"
            )
    network.load_state_dict(tensors)
