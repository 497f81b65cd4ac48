"""What a run holds, as typed records: trials, trained networks, measurements, run information.

A record's JSON, in files, in the store and for programs, has the documented names
(`docs/formats.md`); fields without a name of their own stand under `extra`. Reading takes a JSON
object without the fields that were added later, so a new field needs a default and no new format.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar, Literal, Self, TypeVar

import msgspec

from gemkit.architecture import Architecture
from gemkit.budget import Budget
from gemkit.cell import Cell
from gemkit.errors import UserError

State = Literal["queued", "running", "done", "failed"]
"""What can be said of a trial or a network."""
Scalar = str | int | float | bool | None
Machine = Mapping[str, Scalar]
"""What `gemkit.machine.describe_machine` says of a machine: shown as it is."""

Kind = TypeVar("Kind")


def read(kind: type[Kind], value: Any, where: str) -> Kind:
    """Turn plain JSON values into a record, or into a plain type such as `list[str]`.

    What is null counts as not given; names that a record does not have are passed over.

    Raises:
        UserError: something is missing or of another type; the sentence begins with `where`.
    """
    own = getattr(kind, "from_json", None)
    return _converted(kind, value, where) if own is None else own(value, where)


def _converted(kind: type[Kind], value: Any, where: str) -> Kind:
    if isinstance(value, dict):
        value = {name: one for name, one in value.items() if one is not None}
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, UserError) as error:
        raise UserError(f"{where}: {error}") from None


def plain(value: Any) -> Any:
    """A record, or anything made of records, as plain JSON values."""
    if hasattr(value, "to_json"):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value


class _Sparse:
    """A record whose JSON leaves out what has its default."""

    def to_json(self) -> dict[str, Any]:
        """The record under the names that programs read, without what is not known."""
        return _said(self, [one.name for one in fields(self)])  # type: ignore[arg-type]


def _said(record: Any, names: list[str]) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in names}
    return {
        one.name: plain(values[one.name])
        for one in fields(record)
        if one.name in values
        and values[one.name] != (one.default if one.default_factory is MISSING else {})
    }


@dataclass(frozen=True)
class Latency(_Sparse):
    """Milliseconds of one call. `latency_ms` is this in every record.

    Attributes:
        p50, p90, p95, p99: percentiles; only the median where it is predicted.
        p50_low, p50_high: confidence interval of the median.
        noisy: whether that interval is wide or p99 far above the median.
        at_most: a predicted median with the margin for its uncertainty.
    """

    p50: float
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    p50_low: float | None = None
    p50_high: float | None = None
    noisy: bool | None = None
    at_most: float | None = None


@dataclass(frozen=True, kw_only=True)
class Measurement(_Sparse):
    """One ONNX file measured under one set of conditions.

    Attributes:
        model: the file or network that was asked for; in a run the network's id.
        throughput: images a second.
        load_ms: how long opening the file took.
        p50_wall: the median by the wall clock, in milliseconds.
        distribution_ms: wall time below which 1, 5, 10, 20, ... 90, 95 and 99 of 100 calls stay.
        clock: what p50 counts, "processor" or "wall" time.
        calm_ms: the lowest figure, which other work on the machine hardly changes.
        calibration_ms: of the calibration network at the machine's fastest.
        drift: by which share that network was slower in the median.
        rounds, calls: how often was measured, in how many interleaved rounds.
        noisy: as in `latency_ms`.
        spread: of version 0.1, how far the medians of the rounds lie apart.
        nodes: how many nodes of the graph each provider ran.
        peak_rss_bytes, model_rss_bytes: memory of a process that does nothing else, all of it and
            without what onnxruntime itself takes.
        notes: sentences that a reader should know.
        accuracy: of the file on the test images, where it says it.
        id, onnx, date: of a run: the network, its file relative to the run, and when (UTC).
    """

    model: str
    provider: str
    precision: str
    threads: int
    batch: int
    latency_ms: Latency
    throughput: float
    load_ms: float
    file_bytes: int
    peak_rss_bytes: int | None = None
    model_rss_bytes: int | None = None
    p50_wall: float | None = None
    distribution_ms: tuple[float, ...] = ()
    clock: str | None = None
    calm_ms: float | None = None
    calibration_ms: float | None = None
    drift: float | None = None
    rounds: int | None = None
    calls: int | None = None
    noisy: bool | None = None
    spread: float | None = None
    nodes: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] | None = None
    accuracy: float | None = None
    machine: Machine = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    id: str | None = None
    onnx: str | None = None
    date: str | None = None

    @property
    def conditions(self) -> tuple[str | None, str, int, int]:
        """What two measurements share when the later one replaces the earlier."""
        return self.onnx, self.provider, self.threads, self.batch


@dataclass(frozen=True)
class Prediction(_Sparse):
    """An accuracy foreseen by a strategy: mean and, where it says one, standard deviation."""

    mean: float
    std: float | None = None


@dataclass(frozen=True)
class ShortTraining:
    """What a trial reached before it was trained longer."""

    epochs: int
    accuracy: float


@dataclass(frozen=True)
class Epoch:
    """One epoch of a training: mean loss, learning rate at its end, how long it took."""

    epoch: int
    loss: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class Mistake:
    """A wrong answer: `index` of the test image, its label, and what the network said instead."""

    index: int
    label: int
    predicted: int
    probability: float


@dataclass(frozen=True)
class OnTarget(_Sparse):
    """What is known of a network on the device that a run is for.

    Attributes:
        latency_ms: None where the run has no latency predictor.
        measured: whether that was measured there; it is predicted else.
    """

    name: str
    latency_ms: Latency | None = None
    measured: bool | None = None


@dataclass(frozen=True)
class Limits(_Sparse):
    """What a known network was made to fit.

    Attributes:
        any_width: whether its channels may be any number, as they might in version 0.1.0.
    """

    max_macs: int | None = None
    max_params: int | None = None
    any_width: bool = True


class _Stored:
    """A record that the store keeps: a column for each of `NAMES`, all else in `extra`."""

    NAMES: ClassVar[tuple[str, ...]]

    def to_json(self) -> dict[str, Any]:
        """The record under the names that programs read."""
        mine = [one.name for one in fields(self)]  # type: ignore[arg-type]
        named = {name: plain(getattr(self, name)) for name in self.NAMES}
        return {**named, "extra": _said(self, [name for name in mine if name not in self.NAMES])}

    @classmethod
    def from_json(cls, value: Any, where: str) -> Self:
        """Read what `to_json` gave.

        Raises:
            UserError: something is missing or of another type; the sentence begins with `where`.
        """
        value = read(dict[str, Any], value, where)
        extra = read(dict[str, Any], value.get("extra", {}), f"{where}: extra")
        return _converted(cls, {**extra, **value}, where)


@dataclass(frozen=True)
class Trial(_Stored):
    """One architecture evaluated on the proxy task.

    Attributes:
        index: position in the run, from 0; with the run's seed it decides the trial's seed.
        round: the search round that proposed it; 0 is the first sample.
        key: canonical key; no two trials of a run share it.
        width: channels of the first stage.
        latency_ms: predicted, None when the run has no latency model.
        epochs: how long it is trained.
        accuracy: on the proxy's validation part, a fraction; None unless done.
        error: why it failed.
        started, ended: time of day (UTC, ISO 8601); nothing is decided by them.
        seconds: how long the trial took.
        predicted: the accuracy that the strategy foresaw.
        short: what it reached before it was queued to be trained longer.
        long_error: why the longer training failed.
        tried_again: whether it was queued once more after a row of failures.
        skeleton: number of the skeleton around the cell among those of the run.
    """

    NAMES: ClassVar[tuple[str, ...]] = (
        "id",
        "index",
        "round",
        "key",
        "state",
        "cell",
        "width",
        "accuracy",
        "macs",
        "params",
        "peak_memory_bytes",
        "latency_ms",
        "epochs",
        "seed",
        "error",
        "started",
        "ended",
        "seconds",
    )

    index: int
    round: int
    key: str
    cell: Cell
    width: int
    macs: int
    params: int
    peak_memory_bytes: int
    seed: int
    epochs: int
    latency_ms: Latency | None = None
    state: State = "queued"
    accuracy: float | None = None
    error: str | None = None
    started: str | None = None
    ended: str | None = None
    seconds: float | None = None
    predicted: Prediction | None = None
    short: ShortTraining | None = None
    long_error: str | None = None
    tried_again: bool = False
    skeleton: int = 0

    @property
    def id(self) -> str:
        """Short name: the first ten digits of the key."""
        return self.key[:10]

    @property
    def nodes(self) -> int:
        """Nodes of the cell, its input not counted."""
        return self.cell.nodes


@dataclass(frozen=True)
class TrialSummary:
    """A trial without its cell, of which only the numbers of nodes and edges are known."""

    index: int
    id: str
    round: int
    state: State
    macs: int
    params: int
    peak_memory_bytes: int
    width: int
    epochs: int
    nodes: int
    edges: int
    accuracy: float | None = None
    error: str | None = None
    latency_ms: Latency | None = None


@dataclass(frozen=True)
class HoldOut:
    """What a network made of the hold-out of `gemkit.data.final_split`.

    Attributes:
        wrong: rows of the images that it classified wrongly; all networks see the same images.
        loss: mean cross-entropy of its probabilities, in nats; None in older runs.
    """

    accuracy: float
    images: int
    wrong: tuple[int, ...] = ()
    loss: float | None = None


@dataclass(frozen=True)
class Recommendation(_Sparse):
    """Which network of a run is the best on the hold-out, and by how much.

    Attributes:
        id: of a model or a baseline.
        kind: whether the search found it or it was known.
        images: of the hold-out.
        holdout_accuracy: its share classified rightly there.
        accuracy: on the test set, which decided nothing.
        rival: the best network of the other kind; None where none was judged.
        better_by: by how much it is better than that on the hold-out, as a fraction.
        interval: 95 % interval of this difference, image by image.
        test_better_by: the same difference on the test set.
        equal: the other networks of the same accuracy on the hold-out.
        chosen_by: what decided between it and these; None where there are none.
    """

    id: str
    kind: Literal["found", "known"]
    images: int
    holdout_accuracy: float
    accuracy: float | None = None
    rival: str | None = None
    better_by: float | None = None
    interval: tuple[float, float] | None = None
    test_better_by: float | None = None
    equal: tuple[str, ...] = ()
    chosen_by: Literal["loss", "macs"] | None = None


@dataclass(frozen=True, kw_only=True)
class Network(_Stored):
    """A network that is trained in full, and what came of it.

    Attributes:
        latency_ms: of the fp32 file at batch 1, one thread, CPU.
        accuracy: on the test set, a fraction; None unless trained.
        onnx: the fp32 file, relative to the run.
        parity_max_abs: largest difference between that file and PyTorch.
        seed: of initialisation, order and augmentation.
        error: why there is no accuracy, or no file.
        seconds: how long its training took.
        curve: the epochs of its training.
        images_per_second: of its training.
        confusion: test images by class (row) and by what the network said (column); empty for many
            classes.
        mistakes: the wrong answers of most confidence.
        recipe: the name and the settings of its training.
        holdout: how it did on the training images that it was not trained on.
    """

    NAMES: ClassVar[tuple[str, ...]] = (
        "id",
        "macs",
        "params",
        "peak_memory_bytes",
        "latency_ms",
        "accuracy",
        "onnx",
        "parity_max_abs",
        "seed",
        "epochs",
        "state",
        "error",
        "seconds",
        "measurements",
    )

    id: str
    macs: int | None = None
    params: int | None = None
    peak_memory_bytes: int | None = None
    latency_ms: Latency | None = None
    accuracy: float | None = None
    onnx: str | None = None
    parity_max_abs: float | None = None
    seed: int | None = None
    epochs: int | None = None
    state: State = "queued"
    error: str | None = None
    seconds: float | None = None
    measurements: tuple[Measurement, ...] = ()
    curve: tuple[Epoch, ...] = ()
    images_per_second: float | None = None
    confusion: tuple[tuple[int, ...], ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    recipe: Mapping[str, Scalar] = field(default_factory=dict)
    holdout: HoldOut | None = None


@dataclass(frozen=True, kw_only=True)
class Model(Network):
    """A network that the search found.

    Attributes:
        width: None where it fits a latency budget at no width.
        trial: index of its trial.
        skeleton: as of its trial.
        validation_accuracy: what that reached.
        measured_before_training_ms: p50 by which its width was chosen.
        target: what is known of it on the device that the run is for.
    """

    NAMES: ClassVar[tuple[str, ...]] = ("id", "cell", "width", *Network.NAMES[1:])

    cell: Cell
    width: int | None = None
    trial: int | None = None
    skeleton: int = 0
    validation_accuracy: float | None = None
    measured_before_training_ms: float | None = None
    target: OnTarget | None = None

    @property
    def nodes(self) -> int:
        """Nodes of the cell, its input not counted."""
        return self.cell.nodes


@dataclass(frozen=True, kw_only=True)
class Baseline(Network):
    """A known network, trained beside the models within the run's limits."""

    limits: Limits = Limits()


@dataclass(frozen=True, kw_only=True)
class Compared(Network):
    """One training of a comparison; `id` is `NETWORK@SEED`.

    Attributes:
        network: the network's name: `found`, `narrow`, `random` or a known one's.
        architecture: None for a known network.
    """

    NAMES: ClassVar[tuple[str, ...]] = ("id", "network", *Network.NAMES[1:])

    network: str
    architecture: Architecture | None = None

    @classmethod
    def from_json(cls, value: Any, where: str) -> Self:
        """Read what `to_json` gave, whichever version's architecture it holds."""
        value = read(dict[str, Any], value, where)
        extra = dict(read(dict[str, Any], value.get("extra", {}), f"{where}: extra"))
        architecture = extra.pop("architecture", None)
        found = super().from_json({**value, "extra": extra}, where)
        if architecture is None:
            return found
        return replace(found, architecture=Architecture.from_json(architecture, where))


@dataclass(frozen=True)
class DataInfo(_Sparse):
    """What a run remembers of its data.

    Attributes:
        note: where they are from, for the report.
        train, test: numbers of images.
        input_shape: channels, height and width.
        mean, std: one value a channel, of the training images scaled to 0..1.
    """

    name: str
    note: str = ""
    train: int | None = None
    test: int | None = None
    input_shape: tuple[int, int, int] | None = None
    class_names: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


TEACHER_SETTING = "teacher"
"""Under which a run keeps what it knows of its teacher."""


@dataclass(frozen=True)
class TeacherInfo(_Sparse):
    """The larger network that a run's networks learned from.

    Attributes:
        name: as the user wrote it.
        accuracy: on the test images, a fraction.
        side: pixels of the images that it is shown.
        macs, params: None where they are not known.
        latency_ms: processor time for one image, in PyTorch or onnxruntime.
        views: that it saw of every image.
        images: how many images it saw, those without labels included.
        unlabelled: folder of pictures without labels, absolute; empty without.
        head: how its classifier was fitted; empty where it names the classes itself.
        note: what a reader should know of its weights.
    """

    name: str
    accuracy: float
    side: int
    macs: int | None = None
    params: int | None = None
    latency_ms: float | None = None
    views: int = 0
    images: int = 0
    unlabelled: str = ""
    head: str = ""
    note: str = ""


@dataclass(frozen=True)
class RunInfo:
    """A run's `config.json`.

    Attributes:
        format: of the folder.
        created: time of day (UTC, ISO 8601).
        config: all options that decide a result, by name; "budget" and "seed" are among them.
        machine, versions: what began the run.
    """

    format: int
    created: str
    config: dict[str, Any]
    machine: Machine
    versions: Mapping[str, str]

    @property
    def seed(self) -> int:
        """The seed from which every random stream of the run is derived."""
        return int(self.config["seed"])

    @property
    def budget(self) -> Budget:
        """The run's hard limits."""
        return Budget.from_json(self.config["budget"])


@dataclass(frozen=True)
class RunContent:
    """All that a run holds at one moment; `id` is its folder's name.

    Attributes:
        recommendation: None where no trained network was judged on the hold-out.
        fastest_files: what was measured of the file to use of each network, by its id, where
            several were measured (`gemkit.recommendation.fastest_file`).
    """

    id: str
    info: RunInfo
    trials: tuple[Trial, ...]
    models: tuple[Model, ...]
    baselines: tuple[Baseline, ...]
    compared: tuple[Compared, ...]
    recommendation: Recommendation | None = None
    fastest_files: Mapping[str, Measurement] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The run under the names that programs read."""
        return {
            "run": {
                "id": self.id,
                "created": self.info.created,
                "seed": self.info.seed,
                "config": self.info.config,
                "machine": self.info.machine,
                "versions": self.info.versions,
            },
            "budget": self.info.config["budget"],
            "trials": plain(self.trials),
            "models": plain(self.models),
            "baselines": plain(self.baselines),
            "compared": plain(self.compared),
            "recommended": self.recommendation and self.recommendation.id,
            "recommended_files": {id: one.onnx for id, one in self.fastest_files.items()},
            "recommendation": plain(self.recommendation),
        }

    @property
    def networks(self) -> tuple[Network, ...]:
        """All that were to be trained in full: models, baselines, a comparison's trainings."""
        return (*self.models, *self.baselines, *self.compared)
