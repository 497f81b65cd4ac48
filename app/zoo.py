"""Ready-made networks that come with gemkit: `zoo:NAME` wherever a network can be named.

Each is a pair of files in `networks/`: NAME.safetensors, its weights, and NAME.json, its card,
which says how it was made, what it reaches, and the SHA-256 of the weights. Matrices and kernels
are kept in half precision (biases, norms and statistics are not), so that twice as many fit into
the package; what the card says was measured with the weights so rounded. `experiments/zoo.py`
makes them.
"""

import copy
import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemkit import __version__
from gemkit.architecture import Architecture
from gemkit.budget import Budget
from gemkit.cost import cost, verify
from gemkit.errors import UserError
from gemkit.export.exporter import export_onnx
from gemkit.files import read_json, write_bytes, write_json
from gemkit.records import Latency, Machine, Measurement, plain, read

from . import formatting

if TYPE_CHECKING:
    from gemkit.network import GEMNet

FOLDER = Path(__file__).parent / "networks"
PREFIX = "zoo:"
NAMES = ("gemnet-tiny", "gemnet-small", "gemnet-base")
"""Those planned, for about 3, 15 and 40 M MACs on images of 32x32; shipped are `cards()`."""
MOST_BYTES = 2_000_000
"""A network's weights are smaller than this, so that the package stays small."""


@dataclass(frozen=True)
class Weights:
    """A network's file of weights, beside its card."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known of a ready-made network.

    Attributes:
        data, data_note: the images it was trained on, and what is to be known of them.
        accuracy, accuracy_interval, test_images: on the test set, with its 95 % interval.
        latency_ms, measurements: on the machine that made it.
        search, training: how it was made; `text` says it for people.
        mean, std: by which its input is normalised, one value a channel.
        limits: what it cannot be used for, in sentences.
        command: that makes it anew.
        architecture: as `Architecture.to_json` gives it.
    """

    name: str
    data: str
    accuracy: float
    macs: int
    params: int
    peak_memory_bytes: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    architecture: dict[str, Any]
    weights: Weights
    id: str
    accuracy_interval: tuple[float, float]
    search: dict[str, Any]
    training: dict[str, Any]
    budget: Budget
    data_note: str = ""
    test_images: int | None = None
    latency_ms: Latency | None = None
    measurements: tuple[Measurement, ...] = ()
    limits: tuple[str, ...] = ()
    command: str = ""
    machine: Machine = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def network(self) -> Architecture:
        """Its architecture."""
        return Architecture.from_json(self.architecture, self.name)


HEADS = ("network", "MACs", "params", "accuracy", "95 % interval", "data", "weights")


def is_zoo(name: object) -> bool:
    """Whether a name means a network of the zoo."""
    return str(name).startswith(PREFIX)


def cards(folder: Path | None = None) -> list[Card]:
    """The cards of all networks shipped, the smallest first.

    Raises:
        UserError: a card cannot be read.
    """
    paths = (folder or FOLDER).glob("*.json")
    found = [read(Card, read_json(path), str(path)) for path in paths]
    return sorted(found, key=lambda card: (card.macs, card.name))


def card(name: str, folder: Path | None = None) -> Card:
    """The card of a network; its name may begin with `zoo:`.

    Raises:
        UserError: no such network; the sentence lists those there are.
    """
    wanted = name.removeprefix(PREFIX)
    there = {one.name: one for one in cards(folder)}
    if wanted not in there:
        raise UserError(
            f"there is no network {wanted!r} in the zoo: "
            f"it has {', '.join(there) or 'none in this version'}"
        )
    return there[wanted]


def load(name: str, folder: Path | None = None) -> "GEMNet":
    """A network with its weights, in evaluation mode; the file is checked against its card.

    Raises:
        UserError: no such network, or its file is damaged.
    """
    from safetensors.torch import load as tensors

    from gemkit.network import build

    known = card(name, folder)
    path = (folder or FOLDER) / known.weights.file
    content = path.read_bytes() if path.is_file() else b""
    if _digest(content) != known.weights.sha256:
        raise UserError(f"{path} is not the file that its card describes: install gemkit again")
    network = build(known.network)
    network.load_state_dict(tensors(content))  # half precision becomes the network's own
    network.eval()
    return network


def rounded(network: "GEMNet") -> "GEMNet":
    """A copy with its weights as the zoo keeps them: those of more than one dimension as halves."""
    found = copy.deepcopy(network)
    for weight in found.parameters():
        if weight.ndim > 1:
            weight.data = weight.data.half().float()
    return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def pack(network: "GEMNet", about: Mapping[str, Any], folder: Path | None = None) -> Card:
    """Put a network into the zoo.

    Args:
        about: the fields of its card, but for what is read from the network and its file here:
            architecture, costs and weights.

    Returns:
        the whole card.

    Raises:
        UserError: the weights are too large, or the folder cannot be written.
    """
    from safetensors.torch import save

    architecture = network.architecture
    verify(architecture, network)
    halved = {name for name, weight in network.named_parameters() if weight.ndim > 1}
    content = save(
        {
            name: (value.half() if name in halved else value).contiguous()
            for name, value in network.state_dict().items()
        }
    )
    if len(content) >= MOST_BYTES:
        raise UserError(
            f"the weights of {about['name']} take {len(content):,} bytes, "
            f"those of the zoo less than {MOST_BYTES:,}: search with fewer --max-params"
        )
    price = cost(architecture)
    file_name = f"{about['name']}.safetensors"
    whole = {
        **about,
        "id": architecture.id,
        "macs": price.macs,
        "params": price.params,
        "peak_memory_bytes": price.peak_memory_bytes,
        "architecture": architecture.to_json(),
        "weights": {"file": file_name, "bytes": len(content), "sha256": _digest(content)},
    }
    folder = folder or FOLDER
    write_bytes(folder / file_name, content)
    found = read(Card, plain(whole), str(about["name"]))
    write_json(
        folder / f"{found.name}.json", plain(found)
    )  # last: a network is there with its card
    return found


def write(known: Card, path: Path, **form: Any) -> dict[str, Any]:
    """Write a network's fp32 file; nothing but its card and weights is needed for it."""
    network = load(known.name)
    exported = export_onnx(
        network,
        path,
        input_shape=network.architecture.skeleton.input_shape,
        class_names=known.class_names,
        mean=known.mean,
        std=known.std,
        metadata={
            "id": known.name,
            "accuracy": known.accuracy,
            "data": known.data,
            "macs": known.macs,
            "params": known.params,
            "peak_memory_bytes": known.peak_memory_bytes,
            "version": __version__,
        },
        **form,
    )
    return {**exported.to_json(), "onnx": str(path), "precision": "fp32"}


def row(known: Card) -> tuple[str, ...]:
    """A network as a row under HEADS."""
    low, high = known.accuracy_interval
    return (
        known.name,
        formatting.count(known.macs),
        formatting.count(known.params),
        formatting.percent(known.accuracy),
        f"{100 * low:.2f} to {100 * high:.2f}",
        known.data,
        formatting.size(known.weights.bytes),
    )


@contextmanager
def files(names: Sequence[str]) -> Iterator[dict[str, str]]:
    """ONNX files of the zoo's networks among `names`, while the block lasts: name -> path.

    Raises:
        UserError: no such network.
    """
    wanted = [name for name in dict.fromkeys(names) if is_zoo(name)]
    known = {name: card(name) for name in wanted}
    if not wanted:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="gemkit-zoo-") as folder:
        paths = {}
        for name, one in known.items():
            path = Path(folder) / f"{one.name}.onnx"
            write(one, path)
            paths[name] = str(path)
        yield paths
