"""Forms of deep cells, and skeletons around them, trained side by side at equal MACs.

    OMP_NUM_THREADS=1 nice -n 19 python experiments/deep_cells.py [--rounds sums,frames] [--list]

Every training is one line of `results/deep_cells.json`, written as it ends; a run that was stopped
goes on where it was. Images: CIFAR-10 (JPEG q75 copy), its training part alone: `TRAINED` to train
on, `JUDGED` others to judge by. Every network is as wide as `MACS` allow, at any width, so that
forms and skeletons are compared at equal MACs.

The networks are built here and not by `gemkit.network`, because most of the forms did not stay.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gemkit import data, train
from gemkit.cell import Cell
from gemkit.cost import count_with_fvcore
from gemkit.files import read_json, write_json
from gemkit.machine import describe_machine, versions
from gemkit.network import _Pointwise
from gemkit.recipe import RECIPES
from gemkit.search.sampling import random_cells

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT.parent / "shared" / "data" / "cifar10_jpeg.npz"
RESULTS = ROOT / "results" / "deep_cells.json"
TRAINED, JUDGED = 3000, 4000
MACS = 3_000_000
RECIPE = RECIPES["standard"].changed(epochs=10)


@dataclass(frozen=True)
class Form:
    """How a cell becomes layers.

    Attributes:
        residual: a node adds what it joined (of a concatenation: the mean of its parts of the
            node's width) to what it computes.
        mean: sums are divided by the number of what they add.
        pre: ReLU stands before a node's convolutions instead of after them.
        inner: whether a ReLU stands between depthwise and pointwise convolution.
        weighted: one learnable weight an edge (a softmax over what a node reads).
        zero: the last scale of each branch beside an identity starts at 0.
        identity: the cell's input is added as it is, where its channels agree.
        output: whether the joined leaves pass a convolution.
        share: channels of a node as a share of the cell's.
        squeezed: the cell's output passes squeeze-and-excitation (Hu et al. 2018) before what is
            beside it is added.
        smooth: hard-swish (Howard et al. 2019) in place of ReLU at the end of a cell.
        all_smooth: hard-swish in place of every ReLU of stem and cells.
    """

    residual: bool = False
    mean: bool = False
    pre: bool = False
    inner: bool = True
    weighted: bool = False
    zero: bool = False
    identity: bool = False
    output: bool = True
    share: float = 1.0
    squeezed: bool = False
    smooth: bool = False
    all_smooth: bool = False

    @property
    def activation(self) -> type[nn.Module]:
        """Of stem and nodes."""
        return nn.Hardswish if self.all_smooth else nn.ReLU


@dataclass(frozen=True)
class Frame:
    """A skeleton: stem of (kernel, stride, channels as a share of the width), stages of (width
    factor, repeats), whether images are pooled (2x2) after the stem, and hidden units of the
    classifier (none, or so many times the last stage's channels)."""

    stem: tuple[tuple[int, int, float], ...] = ((3, 1, 1.0), (3, 2, 1.0))
    stages: tuple[tuple[float, int], ...] = ((1, 1), (2, 1), (4, 1))
    pooled: bool = False
    hidden: float = 0.0


class Squeezed(nn.Module):
    """Squeeze-and-excitation with a quarter of the channels inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, max(4, channels // 4), 1),
            nn.ReLU(),
            nn.Conv2d(max(4, channels // 4), channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.layers(x)


@dataclass(frozen=True)
class Job:
    """One training."""

    cell: str
    form: Form = field(default_factory=Form)
    frame: Frame = field(default_factory=Frame)
    seed: int = 0
    macs: int = MACS
    epochs: int = RECIPE.epochs
    trained: int = TRAINED

    @property
    def name(self) -> str:
        parts = [f"{key}={value}" for key, value in _changed(self.form, Form()).items()]
        parts += [f"{key}={value}" for key, value in _changed(self.frame, Frame()).items()]
        rest = Job(self.cell, self.form, self.frame)
        parts += [f"{key}={value}" for key, value in _changed(self, rest).items()]
        return " ".join([self.cell, *parts]).replace(", ", ",")


def _changed(value: Any, standard: Any) -> dict[str, Any]:
    usual = asdict(standard)
    return {key: one for key, one in asdict(value).items() if one != usual[key]}


# --------------------------------------------------------------------------------- cells


def cell_of(name: str) -> Cell:
    """`star5` (separable nodes that read the input alone), `chain6`, `dense4` (each reads all
    before it), `expand3` (three 1x1 convolutions, which one separable node reads) or `random20.3`
    (20 nodes, the third drawn); `sum:` before it for sums."""
    aggregation, _, kind = name.rpartition(":")
    aggregation = aggregation or "concat"
    letters = kind.rstrip("0123456789.")
    if letters == "random":
        nodes, _, number = kind.removeprefix("random").partition(".")
        return _random(int(nodes), int(number), aggregation)
    count = int(kind.removeprefix(letters))
    if letters == "expand":
        wide = range(1, count + 1)
        edges = [(0, node) for node in wide] + [(node, count + 1) for node in wide]
        return Cell(("input", *["conv1x1"] * count, "sep3x3"), tuple(edges), aggregation)
    nodes = range(1, count + 1)
    edges = {
        "star": [(0, node) for node in nodes],
        "chain": [(node - 1, node) for node in nodes],
        "dense": [(source, node) for node in nodes for source in range(node)],
    }[letters]
    return Cell(("input", *["sep3x3"] * count), tuple(edges), aggregation)


def _random(nodes: int, number: int, aggregation: str) -> Cell:
    rng = np.random.default_rng([nodes, number])
    cell = random_cells(rng, 1, nodes, smallest=nodes).cell(0)
    return Cell(cell.operations, cell.edges, aggregation)


def depth_of(cell: Cell) -> int:
    """Nodes on the longest path."""
    depth = [0] * len(cell.operations)
    for source, target in cell.edges:
        depth[target] = max(depth[target], depth[source] + 1)
    return max(depth)


# ------------------------------------------------------------------------------ networks


def _convolution(
    channels_in: int, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    kind = _Pointwise if kernel == stride == 1 else nn.Conv2d
    return [
        kind(channels_in, channels, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
    ]


def _node(operation: str, channels_in: int, channels: int, form: Form) -> nn.Sequential:
    layers: list[nn.Module] = [nn.ReLU()] if form.pre else []
    if operation == "sep3x3":
        layers += _convolution(channels_in, channels_in, 3, groups=channels_in)
        layers += [form.activation()] if form.inner else []
    layers += _convolution(channels_in, channels)
    if form.zero and form.residual:
        nn.init.zeros_(layers[-1].weight)
    return nn.Sequential(*layers)


class DeepCell(nn.Module):
    """A cell in one of the forms."""

    def __init__(self, cell: Cell, channels_in: int, channels: int, form: Form) -> None:
        super().__init__()
        self.form, self.reads, self.leaves = form, cell.predecessors, cell.leaves
        self.summed = cell.aggregation == "sum"
        width = max(2, round(form.share * channels))
        self.entry = None
        start = channels_in
        if self.summed and channels_in != width:
            self.entry = nn.Sequential(*_convolution(channels_in, width))
            start = width
        self.width = width
        self.nodes = nn.ModuleList()
        self.weights = nn.ParameterList()
        for node, operation in enumerate(cell.operations[1:], start=1):
            sizes = [width if source else start for source in cell.predecessors[node]]
            self.nodes.append(_node(operation, width if self.summed else sum(sizes), width, form))
            self.weights.append(nn.Parameter(torch.zeros(len(sizes))))
        joined = width if self.summed else width * len(cell.leaves)
        self.output = nn.Sequential(*_convolution(joined, channels)) if form.output else None
        if form.squeezed and self.output is not None:
            self.output.append(Squeezed(channels))
        # The cell's input beside its nodes: as it is, by the entry, or by a projection of its own.
        self.own = form.identity and channels_in == channels
        self.by_entry = form.identity and self.entry is not None and width == channels
        self.projection = (
            None
            if self.own or self.by_entry or not form.output
            else nn.Sequential(*_convolution(channels_in, channels))
        )
        if form.zero and self.output is not None and (self.own or self.by_entry):
            nn.init.zeros_(self.output[-1].weight)

    def _total(self, parts: Sequence[Tensor], weight: Tensor | None) -> Tensor:
        if len(parts) == 1:
            return parts[0]
        if weight is not None and self.form.weighted:
            shares = weight.softmax(0)
            return sum(part * share for part, share in zip(parts, shares, strict=True))
        total = sum(parts[1:], parts[0])
        return total / len(parts) if self.form.mean else total

    def forward(self, x: Tensor) -> Tensor:
        form = self.form
        first = x if self.entry is None else self.entry(x)
        values = [first]
        for node, operation in enumerate(self.nodes, start=1):
            parts = [values[source] for source in self.reads[node]]
            if self.summed:
                joined = base = self._total(parts, self.weights[node - 1])
            else:
                joined = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
                alike = [part for part in parts if part.shape[1] == self.width]
                base = sum(alike) / len(alike) if form.residual and alike else None
            out = operation(joined)
            if form.residual and base is not None:
                out = out + base
            values.append(out if form.pre else form.activation()(out))
        leaves = [values[leaf] for leaf in self.leaves]
        if self.summed:
            joined = self._total(leaves, None)
        else:
            joined = leaves[0] if len(leaves) == 1 else torch.cat(leaves, 1)
        if self.output is None:
            return joined if form.residual else torch.relu(joined + first)
        out = self.output(torch.relu(joined) if form.pre else joined)
        out = out + (x if self.own else first if self.by_entry else self.projection(x))
        if form.smooth or form.all_smooth:
            return nn.functional.hardswish(out)
        return out if form.pre else torch.relu(out)


class DeepNet(nn.Module):
    """A network of such cells for 32x32 colour images and ten classes."""

    def __init__(self, cell: Cell, form: Form, frame: Frame, width: float) -> None:
        super().__init__()
        stem: list[nn.Module] = []
        channels = 3
        for kernel, stride, share in frame.stem:
            inner = max(4, round(share * width))
            stem += [*_convolution(channels, inner, kernel, stride), form.activation()]
            channels = inner
        if frame.pooled:
            stem.append(nn.MaxPool2d(2))
        self.stem = nn.Sequential(*stem)
        self.stages = nn.ModuleList()
        for factor, repeats in frame.stages:
            wide = max(4, round(factor * width))
            blocks = []
            for _ in range(repeats):
                blocks.append(DeepCell(cell, channels, wide, form))
                channels = wide
            self.stages.append(nn.Sequential(*blocks))
        hidden = round(frame.hidden * channels)
        self.classifier = nn.Linear(channels, 10)
        if hidden:
            self.classifier = nn.Sequential(
                nn.Linear(channels, hidden), nn.Hardswish(), nn.Linear(hidden, 10)
            )
        self.pre = form.pre
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for index, stage in enumerate(self.stages):
            x = stage(nn.functional.max_pool2d(x, 2) if index else x)
        x = torch.relu(x) if self.pre else x
        return self.classifier(x.mean((2, 3)))


class Residual(nn.Module):
    """A ResNet for small images (He et al. 2016): 6n + 2 layers, shortcuts without weights."""

    def __init__(self, blocks: int, width: float) -> None:
        super().__init__()
        channels = round(width)
        self.stem = nn.Sequential(*_convolution(3, channels, 3), nn.ReLU())
        self.blocks = nn.ModuleList()
        for stage in range(3):
            for block in range(blocks):
                wide, stride = round(width * 2**stage), 2 if stage and not block else 1
                self.blocks.append(
                    nn.Sequential(
                        *_convolution(channels, wide, 3, stride),
                        nn.ReLU(),
                        *_convolution(wide, wide, 3),
                    )
                )
                channels = wide
        self.classifier = nn.Linear(channels, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            out = block(x)
            if out.shape != x.shape:
                x = x[:, :, ::2, ::2]
                x = nn.functional.pad(x, (0, 0, 0, 0, 0, out.shape[1] - x.shape[1]))
            x = torch.relu(out + x)
        return self.classifier(x.mean((2, 3)))


def network_of(job: Job, width: float) -> nn.Module:
    if job.cell.startswith("resnet"):
        return Residual((int(job.cell.removeprefix("resnet")) - 2) // 6, width)
    return DeepNet(cell_of(job.cell), job.form, job.frame, width)


def _counted(network: nn.Module) -> int:
    """MACs by hooks, which takes a tenth of fvcore's time."""
    macs = 0

    def note(module: Any, _: Any, output: Tensor) -> None:
        nonlocal macs
        macs += module.weight.numel() * output.shape[2:].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(note)
    with torch.inference_mode():
        network.eval()(torch.zeros(1, 3, 32, 32))
    return macs


def widest(job: Job) -> tuple[nn.Module, float, int, int]:
    """The widest network within the job's MACs: it, its width, MACs and params."""
    low, high = 4, 1024  # quarters of a channel: stages of more channels than the first use them
    while high - low > 1:
        middle = (low + high) // 2
        macs = _counted(network_of(job, middle / 4))
        low, high = (middle, high) if macs <= job.macs else (low, middle)
    torch.manual_seed(job.seed)
    network = network_of(job, low / 4)
    return network, low / 4, *count_with_fvcore(network, (3, 32, 32))


def baseline_of(job: Job) -> tuple[nn.Module, float, int, int]:
    from gemkit.baselines import baseline

    torch.manual_seed(job.seed)
    network = baseline(job.cell.removeprefix("known:"), (3, 32, 32), 10, max_macs=job.macs)
    return network, 0, *count_with_fvcore(network, (3, 32, 32))


# -------------------------------------------------------------------------------- rounds


def rounds() -> dict[str, list[Job]]:
    """The trainings by round, each in the order in which they are worth doing."""
    base = Form()
    stream = Form(residual=True, mean=True, pre=True, identity=True, zero=True)
    light = Frame(stem=((3, 2, 1.0),))
    narrow = Frame(stem=((3, 1, 0.5), (3, 2, 1.0)))
    deep = replace(light, stages=((1, 2), (2, 3), (4, 2)))
    cell, larger = "random12.9", "random24.4"
    singles = (
        Form(identity=True),
        Form(residual=True, mean=True),
        Form(pre=True, inner=False, weighted=True, identity=True),  # RandWire's nodes
        Form(inner=False),
        Form(weighted=True),
        Form(identity=True, output=False),
        replace(stream, zero=False),
    )
    return {
        "references": [
            Job(name) for name in ("star5", "resnet20", "sum:chain4", "known:mobilenet_v3_small")
        ],
        "first": [Job(f"sum:{cell}"), Job(f"sum:{cell}", stream), Job(cell)],
        "stems": [Job("star5", frame=frame) for frame in (light, narrow)],
        "sums": [Job(f"sum:{cell}", form) for form in singles],
        "pairs": [
            Job("star5", Form(identity=True), Frame(light.stem, ((1, 2), (2, 2), (4, 2)))),
            Job(f"sum:{cell}", Form(residual=True, mean=True, inner=False)),
            Job("star5", Form(inner=False), light),
            Job(f"sum:{cell}", Form(residual=True, mean=True, inner=False), light),
        ],
        "frames": [
            Job("star5", Form(identity=True), Frame(light.stem, ((1, 2), (2, 2), (4, 2)))),
            Job("star5", frame=Frame(((3, 1, 1.0),), ((1, 1), (2, 1), (4, 1), (8, 1)))),
            Job("star5", frame=Frame(narrow.stem, ((1, 1), (1.5, 1), (2, 1)))),
            Job("star2", Form(identity=True), Frame(light.stem, ((1, 2), (2, 2), (4, 2)))),
        ],
        "concats": [
            Job(cell, form)
            for form in (
                Form(share=0.5),
                Form(residual=True, identity=True),
                Form(inner=False),
            )
        ],
        # What MobileNetV3-small has and our space has not; as long as a CPU affords.
        "levers": [
            replace(job, epochs=20, trained=10_000)
            for job in (
                Job("star5", frame=light),
                Job("known:mobilenet_v3_small"),
                Job("star5", frame=replace(light, hidden=4.0)),
                Job("star5", frame=replace(light, stages=((1, 1), (2, 1), (4, 1), (8, 1)))),
                Job("star5", Form(squeezed=True), light),
                Job("star1", frame=light),
                Job("chain3", frame=light),
                Job("star5", frame=Frame(((3, 2, 0.5), (3, 1, 1.0)))),
                Job("star1", Form(identity=True), deep),
                Job("known:shufflenet_v2"),
                Job("resnet20"),
                Job("star1", Form(smooth=True), light),
                Job("star1", Form(squeezed=True, smooth=True), light),
            )
        ],
        # One separable convolution with what MobileNetV3-small has besides, and deeper.
        "single": [
            replace(job, epochs=20, trained=10_000)
            for job in (
                Job("star1", Form(squeezed=True), light),
                Job("star1", Form(identity=True), deep),
                Job("star1", Form(squeezed=True, smooth=True), light),
            )
        ],
        "growth": [
            replace(Job("star1", form, replace(light, stages=stages)), epochs=20, trained=10_000)
            for form, stages in (
                (Form(identity=True), ((1, 1), (2, 2), (4, 2))),
                (base, ((1, 1), (3, 1), (6, 1))),
                (base, ((1, 1), (1.5, 1), (2, 1))),
                (Form(identity=True), ((1, 1), (2, 2), (4, 1))),
                (Form(identity=True), ((1, 1), (2, 1), (4, 2))),
            )
        ],
        "activations": [
            Job("star1", form, light, seed, epochs=20, trained=10_000)
            for seed in range(3)
            for form in (
                Form(smooth=True),
                Form(all_smooth=True),
                Form(squeezed=True, smooth=True),
                Form(squeezed=True, all_smooth=True),
                base,
            )
        ],
        "long": [
            Job("star1", form, light, seed, epochs=60, trained=10_000)
            for seed in range(3)
            for form in (Form(smooth=True), base)
        ],
        "bottlenecks": [
            Job(f"expand{count}", Form(smooth=True), light, epochs=20, trained=10_000)
            for count in (3, 2)
        ],
        "larger": [
            Job(name, form, light)
            for name, form in (
                (f"sum:{larger}", base),
                (f"sum:{larger}", Form(identity=True)),
                (larger, Form(share=0.5)),
                (larger, base),
            )
        ],
    }


@lru_cache(maxsize=1)
def _images(path: Path) -> tuple[Any, ...]:
    dataset = data.load(f"npz:{path}")
    order = np.random.default_rng(0).permutation(len(dataset.y_train))
    return np.asarray(dataset.x_train)[order[:30_000]], dataset.y_train[order[:30_000]], dataset


def carry_out(job: Job, path: Path) -> dict[str, Any]:
    """Train and judge."""
    x, y, dataset = _images(path)
    torch.set_num_threads(1)
    make = baseline_of if job.cell.startswith("known:") else widest
    network, width, macs, params = make(job)
    started = time.process_time()
    trained = train.train(
        network,
        x[JUDGED : JUDGED + job.trained],
        y[JUDGED : JUDGED + job.trained],
        x[:JUDGED],
        y[:JUDGED],
        recipe=RECIPE.changed(job.epochs),
        mean=dataset.mean,
        std=dataset.std,
        seed=job.seed,
        device="cpu",
    )
    return {
        "name": job.name,
        "accuracy": trained.accuracy,
        "macs": macs,
        "params": params,
        "width": width,
        "loss": round(trained.curve[-1]["loss"], 4),
        "processor_seconds": round(time.process_time() - started, 1),
    }


def todo(names: Sequence[str], done: set[str]) -> Iterator[Job]:
    """The jobs of these rounds that are not done, each once."""
    seen = set(done)
    for name in names:
        for job in rounds()[name]:
            if job.name not in seen:
                seen.add(job.name)
                yield job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", default="references,first,stems,sums,frames,concats,larger")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--list", action="store_true", help="only say what would be trained")
    parser.add_argument("--images", type=Path, default=IMAGES)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    results = read_json(options.out) if options.out.exists() else {"trainings": []}
    done = {one["name"] for one in results["trainings"]}
    jobs = list(todo(options.rounds.split(","), done))
    if options.list:
        print("\n".join(job.name for job in jobs))
        return
    results |= {
        "task": f"{TRAINED} training images of CIFAR-10 (JPEG q75 copy), judged on {JUDGED} others",
        "recipe": RECIPE.to_json(),
        "machine": describe_machine(),
        "versions": versions(),
    }
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as workers:
        futures = [workers.submit(carry_out, job, options.images) for job in jobs]
        for future in as_completed(futures):
            found = future.result()
            results["trainings"].append(found)
            write_json(options.out, results)
            print(
                f"{found['accuracy']:.4f} {found['processor_seconds']:6.0f} s "
                f"width {found['width']:5} {found['macs'] / 1e6:.2f} M  {found['name']}",
                flush=True,
            )


if __name__ == "__main__":
    main()
