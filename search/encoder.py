"""The graph encoder: labelled directed graphs to vectors whose cosine follows a WL similarity.

That an encoder is trained first, guided by a Weisfeiler-Lehman kernel, is the paper's; the network
and its training are ours. Messages pass along and against the edges; nothing depends on the order
of the nodes. The number of labels is configuration, so one encoder class serves the 30-node space
and tabular benchmarks alike.

The encoder that comes with gemkit (`encoder.safetensors`, for the default space) is rebuilt by

    python -m gemkit.search.encoder --out search/encoder.safetensors
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich import progress as bars
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from gemkit.cell import OPERATIONS, CellArrays
from gemkit.errors import UserError
from gemkit.files import check_format, is_file, is_folder, write_bytes

from . import sampling, similarity

FORMAT = 1
"""Version of the file; a newer one is refused."""
_MOST = 1024  # labels, rounds or sizes of an encoder; a damaged file must not ask for a million
SHIPPED = Path(__file__).with_name("encoder.safetensors")
"""The trained encoder of the default space."""


@dataclass(frozen=True)
class EncoderConfig:
    """What an encoder is built from.

    Attributes:
        labels: number of labels a node can have.
        hidden: size of a node's vector.
        rounds: rounds of message passing.
        dimension: size of the embedding.
        similarity: name of the target it was trained on (a key of SIMILARITIES).
    """

    labels: int = len(OPERATIONS)
    hidden: int = 32
    rounds: int = 2
    dimension: int = 128
    similarity: str = similarity.DEFAULT

    def __post_init__(self) -> None:
        for name in ("labels", "hidden", "rounds", "dimension"):
            value = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value <= _MOST:
                raise ValueError(f"{name} is {value!r}, possible is 1 to {_MOST}")


class GraphEncoder(nn.Module):
    """Graphs to vectors; a plain module, so a predictor may train it further."""

    def __init__(self, config: EncoderConfig | None = None) -> None:
        super().__init__()
        self.config = config or EncoderConfig()
        hidden = self.config.hidden
        # Row 0 stands for an absent node, which has no edges and is left out of the pooling.
        self.label = nn.Parameter(torch.randn(self.config.labels + 1, hidden) * 0.5)
        self.degrees = nn.Linear(4, hidden)
        self.rounds = nn.ModuleList(
            nn.Linear(3 * hidden, hidden) for _ in range(self.config.rounds)
        )
        self.last = nn.Linear(hidden, 2 * hidden)
        pooled = hidden * (self.config.rounds + 3)
        self.readout = nn.Sequential(
            nn.BatchNorm1d(pooled),
            nn.Linear(pooled, 2 * self.config.dimension),
            nn.ReLU(),
            nn.Linear(2 * self.config.dimension, self.config.dimension),
        )

    def forward(self, labels: Tensor, adjacency: Tensor) -> Tensor:
        """Embed graphs.

        Args:
            labels: (n, m) integers, -1 where there is no node.
            adjacency: (n, m, m) bool or float, [b, i, j] an edge i -> j; none at absent places.

        Returns:
            (n, dimension) float32.
        """
        edges = adjacency.to(self.label.dtype)
        after, before = edges.sum(2), edges.sum(1)
        ahead, behind = (after + 1).rsqrt(), (before + 1).rsqrt()
        # Sums are divided by the root of how many they add, so that they neither grow nor vanish
        # with density; the target does the same.
        back = (edges * behind[:, None, :]).transpose(1, 2)
        edges = edges * ahead[:, :, None]
        degrees = torch.stack([ahead, behind, 1 / ahead / 4, 1 / behind / 4], dim=2)
        nodes = torch.relu(self.label[labels.long() + 1] + self.degrees(degrees))
        present = (labels >= 0).to(edges.dtype)
        mean = (present / present.sum(1, keepdim=True)).unsqueeze(1)
        pooled = [torch.bmm(mean, nodes)]
        for layer in self.rounds:
            messages = [nodes, torch.bmm(edges, nodes), torch.bmm(back, nodes)]
            nodes = torch.relu(layer(torch.cat(messages, dim=2)))
            pooled.append(torch.bmm(mean, nodes))
        pooled.append(torch.bmm(mean, torch.relu(self.last(nodes))))
        vectors: Tensor = self.readout(torch.cat(pooled, dim=2).squeeze(1))
        return vectors


def embed(
    encoder: GraphEncoder,
    labels: NDArray[Any],
    adjacency: NDArray[np.bool_],
    threads: int | None = None,
) -> NDArray[np.float32]:
    """Embed many graphs without gradients.

    Graphs are sorted by size and embedded in small groups, each cut to its largest graph.

    Args:
        labels: (n, m) integers, -1 where there is no node (absent nodes last).
        adjacency: (n, m, m) bool.
        threads: groups embedded at the same time; by default as many as torch uses.

    Returns:
        (n, dimension) float32.
    """
    sizes = (labels >= 0).sum(axis=1)
    order = np.argsort(sizes, kind="stable")
    found = np.empty((len(labels), encoder.config.dimension), dtype=np.float32)
    training = encoder.training
    encoder.eval()

    def group(start: int) -> None:
        rows = order[start : start + _GROUP]
        places = int(sizes[rows[-1]])
        with torch.inference_mode():
            vectors = encoder(
                torch.from_numpy(labels[rows, :places]),
                torch.from_numpy(adjacency[rows, :places, :places]),
            )
        found[rows] = vectors.numpy()

    # One torch thread per group: groups are small, and waiting for each other costs more.
    threads = threads or torch.get_num_threads()
    starts = range(0, len(labels), _GROUP)
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in pool.map(group, starts, chunksize=1):
            pass
    encoder.train(training)
    return found


_GROUP = 64
_RATE = 5e-3  # largest of AdamW; it falls to zero along a cosine


@dataclass(frozen=True)
class TrainedEncoder:
    """A trained encoder and its curve: `step` and running `loss` at regular steps."""

    encoder: GraphEncoder
    curve: list[dict[str, float]]


Progress = Callable[[int, int, float], None]
"""Called with (steps done, steps in all, running loss)."""


def train_encoder(
    labels: NDArray[Any],
    adjacency: NDArray[np.bool_],
    config: EncoderConfig | None = None,
    *,
    families: NDArray[np.integer] | None = None,
    steps: int = 1500,
    batch: int = 256,
    seed: int = 0,
    progress: Progress | None = None,
) -> TrainedEncoder:
    """Train an encoder so that cosines of embeddings follow the similarity named in `config`.

    A batch holds groups of related graphs. The loss is the squared error over all its pairs plus
    that over the pairs inside groups, each divided by the variance of its targets: over all pairs
    the counts alone explain nearly everything, so without the second term topology is not learned.

    Args:
        labels, adjacency: the graphs to learn from, (n, m) and (n, m, m).
        families: (n,) equal numbers for graphs whose differences shall be learned finely, eight
            at least each. By default graphs are grouped by size, number of edges and labels.
        progress: called after every step.
    """
    config = config or EncoderConfig()
    rng = np.random.default_rng(seed)
    target = similarity.SIMILARITIES[config.similarity](labels, adjacency, config.labels)
    groups = _groups(labels, adjacency, families, config.labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = GraphEncoder(config)
    optimiser = torch.optim.AdamW(encoder.parameters(), lr=_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, _RATE, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    inside = torch.zeros(batch, batch, dtype=torch.bool)
    for start in range(0, batch, _FAMILY):
        inside[start : start + _FAMILY, start : start + _FAMILY] = True
    inside.fill_diagonal_(False)
    apart = ~torch.eye(batch, dtype=torch.bool)
    scale = _scales(rng, target, groups, batch, inside, apart)
    curve: list[dict[str, float]] = []
    running = 0.0
    encoder.train()
    for step in range(steps):
        rows = _batch(rng, groups, batch)
        vectors = nn.functional.normalize(
            encoder(torch.from_numpy(labels[rows]), torch.from_numpy(adjacency[rows]))
        )
        wrong = (vectors @ vectors.T - _products(target, rows)) ** 2
        loss = wrong[apart].mean() / scale[0] + wrong[inside].mean() / scale[1]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        running += (loss.item() - running) * (1.0 if step == 0 else 0.02)
        if progress is not None:
            progress(step + 1, steps, running)
        if (step + 1) % max(1, steps // 50) == 0 or step + 1 == steps:
            curve.append({"step": step + 1, "loss": round(running, 5)})
    encoder.eval()
    return TrainedEncoder(encoder, curve)


_FAMILY = 8


def _groups(
    labels: NDArray[Any],
    adjacency: NDArray[np.bool_],
    families: NDArray[np.integer] | None,
    kinds: int,
) -> NDArray[np.intp]:
    """Positions of graphs (g, 8): the members of each group."""
    if families is None:
        counts = [(labels == kind).sum(axis=1) for kind in range(kinds)]
        order = np.lexsort((*counts, adjacency.sum(axis=(1, 2)), (labels >= 0).sum(axis=1)))
    else:
        order = np.argsort(families, kind="stable")
    if len(order) < _FAMILY:
        raise ValueError(f"an encoder needs at least {_FAMILY} graphs to learn from")
    return order[: len(order) // _FAMILY * _FAMILY].reshape(-1, _FAMILY)


def _batch(rng: np.random.Generator, groups: NDArray[np.intp], batch: int) -> NDArray[np.intp]:
    return groups[rng.integers(len(groups), size=batch // _FAMILY)].ravel()


def _products(target: Any, rows: NDArray[np.intp]) -> Tensor:
    vectors = target[rows]
    found = vectors @ vectors.T
    return torch.from_numpy(found if isinstance(found, np.ndarray) else found.toarray())


def _scales(
    rng: np.random.Generator,
    target: Any,
    groups: NDArray[np.intp],
    batch: int,
    inside: Tensor,
    apart: Tensor,
) -> tuple[float, float]:
    """Variance of the target over all pairs, and inside groups around each group's mean."""
    drawn = [_products(target, _batch(rng, groups, batch)) for _ in range(16)]
    everywhere = torch.stack([values[apart] for values in drawn]).var().item()
    within = torch.stack([values[inside] for values in drawn]).reshape(-1, _FAMILY * (_FAMILY - 1))
    return max(everywhere, 1e-6), max(within.var(dim=1).mean().item(), 1e-6)


def training_cells(rng: np.random.Generator, families: int) -> tuple[CellArrays, NDArray[np.int64]]:
    """Random cells, each with seven relatives: three redrawn with equal counts, four mutants.

    Returns:
        the cells (8 times `families`) and the family of each.
    """
    cells = sampling.random_cells(rng, families)
    parts = [cells]
    parts += [sampling.reshuffled(rng, cells) for _ in range(3)]
    parts += [sampling.mutate(rng, cells, rng.integers(1, 9, size=families)) for _ in range(4)]
    numbers = np.tile(np.arange(families), len(parts))
    return CellArrays.concatenate(parts), numbers


def train_for_cells(
    config: EncoderConfig | None = None,
    *,
    seed: int = 0,
    steps: int = 3500,
    families: int = 2000,
    progress: Progress | None = None,
) -> TrainedEncoder:
    """Train an encoder for the 30-node space on cells drawn from `seed`."""
    cells, numbers = training_cells(np.random.default_rng(seed), families)
    return train_encoder(
        cells.operations,
        cells.adjacency,
        config,
        families=numbers,
        steps=steps,
        seed=seed,
        progress=progress,
    )


def save_encoder(
    encoder: GraphEncoder, path: Path, curve: list[dict[str, float]] | None = None
) -> None:
    """Write weights, configuration and training curve into one safetensors file."""
    # One entry: safetensors writes several in an order that changes from run to run.
    about = {"format": FORMAT, "config": asdict(encoder.config), "curve": curve or []}
    state = {name: value.contiguous() for name, value in encoder.state_dict().items()}
    write_bytes(path, save(state, {_ABOUT: json.dumps(about, sort_keys=True)}))


_ABOUT = "gemkit_encoder"


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not is_file(path):
        raise UserError(f"no encoder file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(_ABOUT, "{}"))
            state = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is no readable safetensors file: {error}") from None
    if not isinstance(about, dict) or "config" not in about:
        raise UserError(
            f"{path} holds no graph encoder: "
            "train one with python -m gemkit.search.encoder --out FILE"
        )
    check_format(about.get("format"), FORMAT, str(path))
    return about, state


def load_encoder(path: Path) -> GraphEncoder:
    """Read what `save_encoder` wrote.

    Raises:
        UserError: the file is missing, damaged or holds no encoder of this version.
    """
    about, state = _read(path)
    try:
        encoder = GraphEncoder(EncoderConfig(**about["config"]))
        encoder.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        why = " ".join(str(error).split())  # PyTorch's has lines
        raise UserError(f"{path} is a damaged encoder file: {why}") from None
    return encoder.eval()


def load_curve(path: Path) -> list[dict[str, float]]:
    """The training curve stored in an encoder's file; empty when there is none."""
    curve: list[dict[str, float]] = _read(path)[0].get("curve", [])
    return curve


@lru_cache(maxsize=1)
def default_encoder() -> GraphEncoder:
    """The encoder of the default space that comes with gemkit. Copy it before changing it."""
    return load_encoder(SHIPPED)


def encoder_for_cells(path: Path | None = None) -> GraphEncoder:
    """The encoder in a file, or the one that comes with gemkit, for `gemkit.cell`'s operations.

    Raises:
        UserError: as `load_encoder`; or it was trained on another number of operations.
    """
    encoder = default_encoder() if path is None else load_encoder(path)
    if encoder.config.labels != len(OPERATIONS):
        raise UserError(
            f"{path or SHIPPED} is an encoder of {encoder.config.labels} kinds of nodes, but cells "
            f"have {len(OPERATIONS)}: train one with python -m gemkit.search.encoder --out FILE"
        )
    return encoder


def main(arguments: list[str] | None = None) -> int:
    """Train the encoder of the default space and write it: `python -m gemkit.search.encoder`.

    Returns 0, or 2 with a sentence on standard error.
    """
    try:
        _train_and_write(arguments)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _train_and_write(arguments: list[str] | None) -> None:
    parser = argparse.ArgumentParser(description="train the graph encoder of the 30-node space")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--hidden", type=int, default=EncoderConfig.hidden)
    parser.add_argument("--rounds", type=int, default=EncoderConfig.rounds)
    parser.add_argument("--dimension", type=int, default=EncoderConfig.dimension)
    parser.add_argument(
        "--similarity", choices=similarity.SIMILARITIES, default=EncoderConfig.similarity
    )
    chosen = parser.parse_args(arguments)
    if chosen.steps < 1 or chosen.seed < 0:
        raise UserError(
            f"--steps {chosen.steps} --seed {chosen.seed}: "
            "at least 1 step and a seed from 0 are needed"
        )
    try:
        config = EncoderConfig(
            hidden=chosen.hidden,
            rounds=chosen.rounds,
            dimension=chosen.dimension,
            similarity=chosen.similarity,
        )
    except ValueError as error:
        raise UserError(str(error)) from None
    if is_folder(chosen.out):
        raise UserError(f"--out: {chosen.out} is a folder; name a file")
    probe = chosen.out.with_name(f".{chosen.out.name}.probe")
    write_bytes(probe, b"")  # refused now, not after the training
    probe.unlink()
    torch.set_num_threads(1)  # sums in one order: the same file every time
    started, used = time.perf_counter(), time.process_time()
    columns = (
        bars.BarColumn(),
        bars.TextColumn("loss {task.fields[loss]:.3f}"),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(bars.TextColumn("training the encoder"), *columns) as bar:
        task = bar.add_task("train", total=chosen.steps, loss=float("nan"))
        trained = train_for_cells(
            config,
            seed=chosen.seed,
            steps=chosen.steps,
            progress=lambda step, _, loss: bar.update(task, completed=step, loss=loss),
        )
    save_encoder(trained.encoder, chosen.out, trained.curve)
    print(
        f"wrote {chosen.out}: {chosen.out.stat().st_size} bytes, loss {trained.curve[-1]['loss']}, "
        f"{time.perf_counter() - started:.0f} s ({time.process_time() - used:.0f} s of processor)"
    )


if __name__ == "__main__":
    sys.exit(main())
