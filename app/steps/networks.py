"""Networks that are trained in full: what to build, and where each is stored."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import nn

from gemkit.architecture import Architecture
from gemkit.baselines import baseline
from gemkit.data import Dataset
from gemkit.errors import UserError
from gemkit.files import write_bytes
from gemkit.network import GEMNet, build, load_weights, save_weights
from gemkit.records import Baseline, Limits, Model
from gemkit.store import Run

from ..runs import architecture_of


@dataclass(frozen=True)
class Job:
    """One network to train.

    Attributes:
        name: id of the model or name of the baseline.
        architecture: what to build; None for a baseline.
        limits: what a baseline is made to fit.
        seed: of initialisation, order and augmentation.
        folder: where weights and checkpoints go.
        network: the baseline's name, where the job's is another.
    """

    name: str
    architecture: Architecture | None
    limits: Limits
    seed: int
    folder: Path
    network: str = ""

    @property
    def weights(self) -> Path:
        """The file of the trained weights."""
        return self.folder / "weights.safetensors"

    def check_weights(self) -> None:
        """Make sure that there are weights.

        Raises:
            UserError: there are none.
        """
        if not self.weights.is_file():
            raise UserError(f"there is no weights file {self.weights}")

    def build(self, dataset: Dataset) -> nn.Module:
        """The untrained network, initialised from the job's seed."""
        torch.manual_seed(self.seed)
        if self.architecture is not None:
            return build(self.architecture)
        return baseline(
            self.network or self.name,
            dataset.input_shape,
            dataset.classes,
            **asdict(self.limits),
        )


def save(network: nn.Module, path: Path) -> None:
    """Write any network's weights as safetensors; a GEMNet's with its architecture."""
    if isinstance(network, GEMNet):
        save_weights(network, path)
        return
    tensors = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    write_bytes(path, serialise(tensors))


def restored(job: Job, dataset: Dataset) -> nn.Module:
    """The trained network of a job that was done.

    Raises:
        UserError: its weights are missing, damaged or another network's.
    """
    network = job.build(dataset)
    if isinstance(network, GEMNet):
        load_weights(network, job.weights)
        return network
    job.check_weights()
    try:
        found = load_file(job.weights)
    except SafetensorError:
        found = {}
    own = network.state_dict()
    if {n: t.shape for n, t in found.items()} != {n: t.shape for n, t in own.items()}:
        raise UserError(f"{job.weights} is damaged or holds the weights of another network")
    # Not by load_state_dict: some of torchvision's networks want to know versions, which
    # safetensors do not carry. These tensors are the network's own.
    for name, tensor in own.items():
        tensor.copy_(found[name])
    return network


def entry_of(run: Run, job: Job) -> Model | Baseline:
    """What is stored of a job's network, among the run's models or baselines."""
    entries: list[Model] | list[Baseline]
    entries = run.baselines() if job.architecture is None else run.models()
    (found,) = [entry for entry in entries if entry.id == job.name]
    return found


def put(run: Run, job: Job, **changes: Any) -> None:
    """Store what has changed of a job's network."""
    run.put(replace(entry_of(run, job), **changes))


def job_of(run: Run, entry: Model | Baseline) -> Job:
    """The network of a run's entry, found or known."""
    if isinstance(entry, Model):
        folder = run.path / "models" / entry.id
        return Job(entry.id, architecture_of(run, entry), Limits(), entry.seed or 0, folder)
    return Job(entry.id, None, entry.limits, entry.seed or 0, run.path / "baselines" / entry.id)
