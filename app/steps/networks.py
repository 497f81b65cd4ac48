"""Networks of a run between steps: what to build, and where it is stored."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemkit.architecture import Architecture, Skeleton
from gemkit.cell import Cell
from gemkit.data import Dataset
from gemkit.errors import UserError
from gemkit.records import Trial
from gemkit.store import Run

if TYPE_CHECKING:
    from torch import nn


LATENCY_FILE = "latency.json"
"""A run's latency predictor, where its budget limits latency."""


@dataclass(frozen=True)
class Job:
    """One network to train.

    Attributes:
        name: id of the model or name of the baseline.
        architecture: what to build; None for a baseline.
        limits: a baseline's `max_macs`, `max_params` and `any_width`.
        seed: of initialisation, order and augmentation.
        folder: where weights and checkpoints go.
        network: the baseline's name, where the job's is another.
    """

    name: str
    architecture: Architecture | None
    limits: Mapping[str, Any]
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

    def build(self, dataset: Dataset) -> "nn.Module":
        """The untrained network, initialised from the job's seed."""
        import torch

        from gemkit.baselines import baseline
        from gemkit.network import build

        torch.manual_seed(self.seed)
        if self.architecture is not None:
            return build(self.architecture)
        return baseline(
            self.network or self.name, dataset.input_shape, dataset.classes, **self.limits
        )


def save(network: "nn.Module", path: Path) -> None:
    """Write any network's weights as safetensors; a GEMNet's with its architecture."""
    from safetensors.torch import save as serialise

    from gemkit.files import write_bytes
    from gemkit.network import GEMNet, save_weights

    if isinstance(network, GEMNet):
        save_weights(network, path)
        return
    tensors = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    write_bytes(path, serialise(tensors))


def restored(job: Job, dataset: Dataset) -> "nn.Module":
    """The trained network of a job that was done.

    Raises:
        UserError: its weights are missing, damaged or another network's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from gemkit.network import GEMNet, load_weights

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


def open_run(run: Run | Path | str) -> Run:
    """The run, open for writing; a run that is open for reading is opened a second time."""
    return Run.open(run.path if isinstance(run, Run) else run, write=True)


def ranked_trials(run: Run) -> list[Trial]:
    """The trials that have an accuracy, in the order of the search.

    Raises:
        UserError: there are none.
    """
    done = [trial for trial in run.trials() if trial.accuracy is not None]
    if not done:
        raise UserError(
            f"{run.path} has no finished trial: run `gemkit search --out {run.path} --resume` first"
        )
    order = {id: place for place, id in enumerate(run.setting("ranking", []))}
    return sorted(
        done, key=lambda one: (order.get(one.id, len(order)), -(one.accuracy or 0), one.index)
    )


def skeleton_of(run: Run) -> Skeleton:
    return Skeleton.from_json(run.setting("skeleton"), where=f"{run.path}: skeleton")


def check_suits(run: Run, dataset: Dataset, data: str) -> None:
    """Make sure that data are of the images that a run's networks were searched for.

    Raises:
        UserError: they have another shape or number of classes.
    """
    skeleton = skeleton_of(run)
    if (dataset.input_shape, dataset.classes) != (skeleton.input_shape, skeleton.classes):
        raise UserError(
            f"{data} has {dataset.classes} classes of {dataset.input_shape} images, but "
            f"{run.path} was searched for {skeleton.classes} classes of {skeleton.input_shape}"
        )


def put(run: Run, job: Job, **values: Any) -> None:
    (run.put_baseline if job.architecture is None else run.put_model)(job.name, **values)


def baseline_job(run: Run, entry: Mapping[str, Any]) -> Job:
    # Runs that do not say so were made when any even number of channels would do.
    limits = {"any_width": True, **(entry["extra"] or {}).get("limits", {})}
    return Job(entry["id"], None, limits, entry["seed"], run.path / "baselines" / entry["id"])


def architecture_of(run: Run, model: Mapping[str, Any]) -> Architecture:
    where = f"{run.path}: model {model['id']}"
    return Architecture((Cell.from_json(model["cell"], where),), skeleton_of(run), model["width"])


def model_job(run: Run, model: Mapping[str, Any]) -> Job:
    folder = run.path / "models" / model["id"]
    return Job(model["id"], architecture_of(run, model), {}, model["seed"], folder)


def about(dataset: Dataset) -> dict[str, Any]:
    """What a run remembers of its data."""
    return {
        "name": dataset.name,
        "note": dataset.note,
        "train": len(dataset.y_train),
        "test": len(dataset.y_test),
        "input_shape": list(dataset.input_shape),
        "class_names": list(dataset.class_names),
    }


def data_of(run: Run) -> str:
    """The data that the run's final networks are trained on: the search's, or what `train` got."""
    return str(run.setting("final_data", run.config["data"]))


def is_elsewhere(run: Run) -> bool:
    """Whether a run's latency budget means another device, where nothing can be measured now."""
    return run.config.get("target") is not None and run.budget.latency_ms is not None


def target_name(run: Run) -> str | None:
    """The device that a run is for, without the folders of its file; None where it named none."""
    name = run.config.get("target")
    return Path(name).stem if name is not None and name.endswith(".json") else name


def on_target(run: Run, architecture: Architecture) -> dict[str, Any] | None:
    """What is known of a network on the run's target; None without a target.

    Returns:
        `name` and, where the latency is predicted, `latency_ms` (`p50` and `at_most`, with the
        safety margin) and `measured`, which is False.
    """
    name = target_name(run)
    if name is None:
        return None
    found: dict[str, Any] = {"name": name}
    path = run.path / LATENCY_FILE
    if is_elsewhere(run) and path.is_file():
        from gemkit.cell import CellArrays
        from gemkit.export.latency import load_model

        cells = CellArrays.from_cells([architecture.cells[0]])
        p50, at_most = load_model(path).quote(cells, architecture.width)[0]
        found |= {"latency_ms": {"p50": p50, "at_most": at_most}, "measured": False}
    return found
