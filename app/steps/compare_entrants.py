"""The networks that take part in a comparison: found, drawn at random, and known."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from gemkit.architecture import Architecture, Skeleton, skeleton_for
from gemkit.budget import Budget, format_count
from gemkit.cell import CellArrays
from gemkit.cost import cost, count_with_fvcore, largest_widths
from gemkit.data import Dataset
from gemkit.errors import UserError
from gemkit.records import Limits
from gemkit.search.cell_space import CellSpace
from gemkit.search.sampling import random_cells
from gemkit.store import Run

from ..comparison import FOUND, NARROW, RANDOM, kind
from ..runs import check_suits, network_of, ranked_trials
from .networks import Job

_SPENT = 0.95


@dataclass(frozen=True)
class Entrant:
    """One network that takes part.

    Attributes:
        name: `found`, `narrow`, `random` or a baseline's name.
        jobs: one for each seed, in the order of the seeds; those of `random` are different cells.
        macs, params: of the first job's network.
    """

    name: str
    jobs: tuple[Job, ...]
    macs: int
    params: int


def check_same(run: Run, entrants: Sequence[Entrant]) -> None:
    """Make sure that what is stored was trained of the networks that take part now.

    Raises:
        UserError: a row is of another network.
    """
    stored = {one.id: one.architecture for one in run.compared()}
    for entrant in entrants:
        for job in entrant.jobs:
            known = stored.get(job.name)
            if known and job.architecture is not None and known != job.architecture:
                raise UserError(
                    f"{run.path} holds {job.name} trained as another network: its size follows "
                    "from those that were compared before; choose another --out"
                )


def of_run(path: Path, dataset: Dataset, data: str, max_macs: int) -> Architecture:
    """The network that a run ranks first.

    Raises:
        UserError: it was searched for other images, or for a larger budget.
    """
    with Run.open(path) as run:
        check_suits(run, dataset, data)
        best = ranked_trials(run)[0]
        network = network_of(run, best)
    if best.macs > max_macs:
        raise UserError(
            f"--run {path}: its best network takes {format_count(best.macs)} MACs, more than "
            f"--max-macs {format_count(max_macs)}"
        )
    return network


def gather(
    run: Run,
    seeds: Mapping[str, int],
    dataset: Dataset,
    max_macs: int,
    budget: Budget,
    found: Architecture | None,
    console: Console,
) -> Iterator[Entrant]:
    """What is trained; a network of which no form is small enough is left out and said so."""
    skeleton = skeleton_for(dataset.input_shape, dataset.classes)
    numbers = {name: [run.seed + place for place in range(seeds[name])] for name in seeds}
    if found is not None:
        budget = Budget(macs=cost(found).macs)  # random cells of equal cost
        if FOUND in seeds:
            yield _cells(run, FOUND, [found] * seeds[FOUND], numbers[FOUND])
    if RANDOM in seeds:
        cells = [random_network(skeleton, budget, seed) for seed in numbers[RANDOM]]
        yield _cells(run, RANDOM, cells, numbers[RANDOM])
    least: int | None = None
    for name in seeds:
        if name in (FOUND, NARROW, RANDOM):
            continue
        jobs = tuple(
            Job(
                _row(name, seed),
                None,
                Limits(max_macs, any_width=False),
                seed,
                _folder(run, name, seed),
                name,
            )
            for seed in numbers[name]
        )
        try:
            network = jobs[0].build(dataset)
        except UserError as error:
            console.print(f"  left out: {error}")
            continue
        macs, params = count_with_fvcore(network, dataset.input_shape)
        if kind(name) == "differentiable":
            least = min(macs, least or macs)
        yield Entrant(name, jobs, macs, params)
    if NARROW in seeds and found is not None and least is not None:
        limit = Budget(macs=int(run.config["share"] * least))
        (width,) = largest_widths(CellArrays.from_cells(found.cells), skeleton, limit)
        if width:
            narrow = replace(found, width=int(width))
            yield _cells(run, NARROW, [narrow] * seeds[NARROW], numbers[NARROW])


def _row(name: str, seed: int) -> str:
    return f"{name}@{seed}"


def _folder(run: Run, name: str, seed: int) -> Path:
    return run.path / "trainings" / f"{name}-{seed}"


def _cells(
    run: Run, name: str, architectures: Sequence[Architecture], seeds: Sequence[int]
) -> Entrant:
    jobs = tuple(
        Job(_row(name, seed), architecture, Limits(), seed, _folder(run, name, seed))
        for architecture, seed in zip(architectures, seeds, strict=True)
    )
    price = cost(architectures[0])
    return Entrant(name, jobs, price.macs, price.params)


def random_network(skeleton: Skeleton, budget: Budget, seed: int) -> Architecture:
    """The seed's random cell of thirty nodes, at the largest width within the budget.

    The first that spends 95 % of the budget; where widths are too coarse, the one nearest to it.
    """
    space = CellSpace(skeleton, budget)
    rng = np.random.default_rng((seed, 30))
    for _ in range(100):
        cells = random_cells(rng, 512, space.nodes, space.aggregation)
        whole = cells[(cells.pruned().operations >= 0).sum(1) == space.nodes + 1]
        fitting = space.fitting(whole)
        if len(fitting):
            macs = fitting.payload.macs
            enough = macs >= _SPENT * (budget.macs or 0)
            return space.architecture(fitting, int((enough if enough.any() else macs).argmax()))
    raise UserError(
        f"no random cell of {space.nodes} nodes fits {budget.describe()}: allow more, or leave "
        f"{RANDOM} out of --networks"
    )
