"""Ready-made networks that come with gemkit: `zoo:NAME` wherever a network can be named.

Each is a pair of files in `networks/`: NAME.safetensors, its weights, and NAME.json, its card,
which says how it was made, what it reaches, and the SHA-256 of the weights. Matrices and kernels
are kept in half precision (biases, norms and statistics are not), so that twice as many fit into
the package; what the card says was measured with the weights so rounded. `experiments/zoo.py`
makes them.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemkit.errors import UserError
from gemkit.files import read_json, write_bytes, write_json

from . import formatting

if TYPE_CHECKING:
    from rich.console import Console

    from gemkit.network import GEMNet

FOLDER = Path(__file__).parent / "networks"
PREFIX = "zoo:"
NAMES = ("gemnet-tiny", "gemnet-small", "gemnet-base")
"""Those planned, for about 3, 15 and 40 M MACs on images of 32x32; shipped are `cards()`."""
MOST_BYTES = 2_000_000
"""A network's weights are smaller than this, so that the package stays small."""
HEADS = ("network", "MACs", "params", "accuracy", "95 % interval", "data", "weights")


def is_zoo(name: object) -> bool:
    """Whether a name means a network of the zoo."""
    return str(name).startswith(PREFIX)


def cards(folder: Path | None = None) -> list[dict[str, Any]]:
    """The cards of all networks shipped, the smallest first.

    Raises:
        UserError: a card cannot be read.
    """
    found: list[dict[str, Any]] = [read_json(path) for path in (folder or FOLDER).glob("*.json")]
    return sorted(found, key=lambda card: (card["macs"], card["name"]))


def card(name: str, folder: Path | None = None) -> dict[str, Any]:
    """The card of a network; its name may begin with `zoo:`.

    Raises:
        UserError: no such network; the sentence lists those there are.
    """
    wanted = name.removeprefix(PREFIX)
    there = {one["name"]: one for one in cards(folder)}
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
    from safetensors.torch import load as read

    from gemkit.architecture import Architecture
    from gemkit.network import build

    known = card(name, folder)
    path = (folder or FOLDER) / known["weights"]["file"]
    content = path.read_bytes() if path.is_file() else b""
    if _digest(content) != known["weights"]["sha256"]:
        raise UserError(f"{path} is not the file that its card tells of: install gemkit again")
    network = build(Architecture.from_json(known["architecture"], known["name"]))
    network.load_state_dict(read(content))  # half precision becomes the network's own
    network.eval()
    return network


def rounded(network: "GEMNet") -> "GEMNet":
    """A copy with its weights as the zoo keeps them: those of more than one dimension as halves."""
    import copy

    found = copy.deepcopy(network)
    for weight in found.parameters():
        if weight.ndim > 1:
            weight.data = weight.data.half().float()
    return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def pack(network: "GEMNet", about: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """Put a network into the zoo.

    Args:
        about: its card, but for what is read from the network and its file here: architecture,
            costs and weights.

    Returns:
        the whole card.

    Raises:
        UserError: the weights are too large, or the folder cannot be written.
    """
    from safetensors.torch import save

    from gemkit.cost import cost, verify

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
    write_json(folder / f"{about['name']}.json", whole)  # last: a network is there with its card
    return whole


def row(known: Mapping[str, Any]) -> tuple[str, ...]:
    """A network as a row under HEADS."""
    low, high = known["accuracy_interval"]
    return (
        known["name"],
        formatting.count(known["macs"]),
        formatting.count(known["params"]),
        formatting.percent(known["accuracy"]),
        f"{100 * low:.2f} to {100 * high:.2f}",
        known["data"],
        formatting.size(known["weights"]["bytes"]),
    )


def show(console: "Console") -> list[dict[str, Any]]:
    """Print what is shipped.

    Returns:
        the cards.
    """
    from .terminal.show import table_of

    found = cards()
    if found:
        console.print(table_of("Networks that come with gemkit", HEADS, [row(c) for c in found]))
        console.print(f"next: gemkit export {PREFIX}{found[0]['name']} --out network.onnx")
    else:
        console.print("no networks come with this version of gemkit")
    return found


def show_one(name: str, console: "Console") -> dict[str, Any]:
    """Print what the card of a network says.

    Returns:
        the card.

    Raises:
        UserError: no such network.
    """
    from .terminal.show import table_of

    known = card(name)
    console.print(table_of(known["name"], HEADS, [row(known)]))
    for text in (
        known["search"]["text"],
        f"Trained {known['training']['text']}.",
        known["data_note"],
        *known["limits"],
    ):
        console.print(text)
    console.print(f"made with: {known['command']}")
    console.print(f"next: gemkit export {PREFIX}{known['name']} --out network.onnx")
    return known


def export(
    name: str,
    *,
    precision: Sequence[str] = ("fp32",),
    optimize: str | None = None,
    out: Path | str | None = None,
    input: str = "float",
    softmax: bool = False,
    opset: int | None = None,
    batch: int | None = None,
    data: str | None = None,
    console: "Console",
) -> list[dict[str, Any]]:
    """Write a network of the zoo as a checked ONNX file, with its card beside it.

    Args:
        name: with or without `zoo:`.
        precision: fp32 is always written; others, as `NAME.int8.onnx` and so on, are made and
            judged on images of `data`.
        out: the file, or a folder for it; by default NAME.onnx here.
        data: images of the kind that the network was trained on, for other precisions.
        optimize, input, softmax, opset, batch: as `pipeline.export` takes them.

    Returns:
        one entry: its card and the `files` written.

    Raises:
        UserError: no such network, or an option is not possible.
    """
    from gemkit.export.exporter import DEFAULT_OPSET, check_options

    from .steps.export import convert, files_of

    known = card(name)
    others = [kind for kind in precision if kind != "fp32"]
    opset = opset or DEFAULT_OPSET
    check_options(batch, opset)
    if others and data is None:
        raise UserError(
            f"--precision {','.join(others)} is made and judged on images that are not shipped: "
            f"give --data with images like those of {known['data']}, or export fp32"
        )
    dataset = None
    if data is not None:
        dataset = _suiting(data, known)
    path = Path(out) if out is not None else Path(f"{known['name']}.onnx")
    if path.suffix != ".onnx":
        path = path / f"{known['name']}.onnx"
    exported = _write(
        known,
        path,
        preprocessing=input == "uint8",
        softmax=softmax,
        opset=opset,
        batch=batch,
    )
    console.print(
        f"{path}: {formatting.size(exported['file_bytes'])}, parity "
        f"{exported['parity_max_abs']:.1e}; "
        f"{formatting.percent(known['accuracy'])} on {known['data']} by its card",
    )
    made = [exported]
    if optimize is not None or dataset is not None:
        made += convert(path, precision, optimize, dataset, console)
    about = path.with_suffix(".card.md")
    _write_card(known, path, about, exported["parity_max_abs"], files_of(path)[1:])
    console.print(f"card: {about}")
    console.print(
        f"next: gemkit bench {path}   or   gemkit predict {PREFIX}{known['name']} PICTURE"
    )
    return [{**known, "onnx": str(path), "files": made}]


def _suiting(data: str, known: Mapping[str, Any]) -> Any:
    from gemkit.data import load as load_data

    dataset = load_data(data)
    shape = known["architecture"]["skeleton"]["input_shape"]
    if (list(dataset.input_shape), dataset.classes) != (list(shape), len(known["class_names"])):
        raise UserError(
            f"{data} has {dataset.classes} classes of {dataset.input_shape} images, but "
            f"{known['name']} tells {len(known['class_names'])} classes of {tuple(shape)} apart"
        )
    return dataset


def _write(known: Mapping[str, Any], path: Path, **form: Any) -> dict[str, Any]:
    """Write the fp32 file; nothing but the card and the weights is needed for it."""
    from gemkit import __version__
    from gemkit.export.exporter import export_onnx

    network = load(known["name"])
    exported = export_onnx(
        network,
        path,
        input_shape=network.architecture.skeleton.input_shape,
        class_names=known["class_names"],
        mean=known["mean"],
        std=known["std"],
        metadata={
            "id": known["name"],
            "accuracy": known["accuracy"],
            "data": known["data"],
            "macs": known["macs"],
            "params": known["params"],
            "peak_memory_bytes": known["peak_memory_bytes"],
            "version": __version__,
        },
        **form,
    )
    return {**exported.to_json(), "onnx": str(path), "precision": "fp32"}


def _write_card(
    known: Mapping[str, Any], path: Path, about: Path, parity: float, files: Sequence[Path]
) -> None:
    from gemkit.budget import Budget
    from gemkit.export.card import write_card
    from gemkit.files import write_text

    write_card(
        about,
        path,
        data=known["data"],
        accuracy=known["accuracy"],
        test_images=known["test_images"],
        training=known["training"]["text"],
        budget=Budget.from_json(known["budget"]),
        parity_max_abs=parity,
        measurements=known["measurements"],
        files=files,
    )
    more = [
        "",
        "## Where it comes from",
        "",
        known["search"]["text"],
        "",
        known["data_note"],
        "",
        f"Made with `{known['command']}`.",
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in known["limits"]),
    ]
    write_text(about, about.read_text(encoding="utf-8") + "\n".join(more) + "\n")


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
            path = Path(folder) / f"{one['name']}.onnx"
            _write(one, path)
            paths[name] = str(path)
        yield paths
