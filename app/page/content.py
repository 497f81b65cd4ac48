"""What the page shows of a run: all candidates as columns, and one network in detail.

A run is read once and again only after another process has changed it. Ten thousand candidates
go to the browser as one compressed table, where they are drawn, sorted and filtered; a selection
asks the server for a single network.
"""

import contextlib
import functools
import gzip
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Self

from gemkit.architecture import Architecture, Skeleton
from gemkit.budget import Budget
from gemkit.cell import Cell
from gemkit.errors import UserError
from gemkit.export import exporter
from gemkit.records import (
    DataInfo,
    Latency,
    Measurement,
    Model,
    Network,
    Recommendation,
    Trial,
    TrialSummary,
)
from gemkit.store import Run

from .. import formatting
from ..hints import command
from ..runs import is_elsewhere, skeletons_of, target_name
from . import cell_svg, downloads, names, offer
from .shares import Shares, Times, measure_shares
from .shares import shares as take_apart

LOOK_EVERY = 0.2
"""Seconds between two looks at whether another process has changed the run."""
_COLUMNS = (
    "id", "name", "kind", "accuracy", "macs", "params", "memory", "latency", "nodes", "width",
    "round",
)  # fmt: skip


@dataclass(frozen=True)
class Content:
    """A run as it was at one moment.

    Attributes:
        models: networks that were trained fully (their accuracy is known).
        baselines: likewise, with the trainings of a comparison.
        skeletons: that the run's networks can have, the first in front; none in runs that do not
            say what their networks are made of.
        device: the device that latencies are predicted for; None where they are of the machine
            that measured the networks.
        writing: whether a process is writing to the run.
        version: grows with every change.
        recommendation: which network is the best on the hold-out; None where none was judged.
        fastest_files: as of `gemkit.store.Run.fastest_files`.
    """

    trials: tuple[TrialSummary, ...]
    models: tuple[Model, ...]
    baselines: tuple[Network, ...]
    data: DataInfo | None
    skeletons: tuple[Skeleton, ...]
    device: str | None
    writing: bool
    version: int
    recommendation: Recommendation | None = None
    fastest_files: Mapping[str, Measurement] = field(default_factory=dict)

    @property
    def networks(self) -> tuple[Network, ...]:
        """Models and baselines."""
        return (*self.models, *self.baselines)

    @property
    def done(self) -> int:
        """How many candidates have an accuracy."""
        return sum(trial.state == "done" for trial in self.trials)

    @functools.cached_property
    def by_id(self) -> Mapping[str, TrialSummary]:
        """The trials by their id."""
        return {trial.id: trial for trial in self.trials}

    @functools.cached_property
    def names(self) -> Mapping[str, str]:
        """The trained networks' names."""
        return names.network_names(self.models, self.baselines)

    def name(self, id: str) -> str:
        """What a network or candidate is called; its id where nothing has it."""
        trial = self.by_id.get(id)
        return self.names.get(id) or (id if trial is None else names.design_name(trial))

    def network(self, id: str) -> Network | None:
        """The trained network or baseline of that id."""
        return next((entry for entry in self.networks if entry.id == id), None)

    def kind(self, id: str) -> str:
        """The folder of the run in which a network lies."""
        return "models" if any(model.id == id for model in self.models) else "baselines"

    def latency(self, network: Network) -> Latency | None:
        """The latency of a trained network: on the run's device, or as measured."""
        if self.device is None:
            return network.latency_ms
        there = network.target if isinstance(network, Model) else None
        return None if there is None else there.latency_ms

    @functools.cached_property
    def table(self) -> bytes:
        """All points as columns, JSON, gzip; `kind` is 0 for a candidate, 1 for a network trained
        fully, 2 for a known one."""
        columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}

        def add(
            kind: int,
            entry: TrialSummary | Network,
            latency: Latency | None,
            **more: Any,
        ) -> None:
            values = {
                "id": entry.id,
                "name": self.names.get(entry.id)
                if isinstance(entry, Network)
                else names.design_name(entry),
                "kind": kind,
                "accuracy": None if entry.accuracy is None else round(entry.accuracy, 6),
                "macs": entry.macs,
                "params": entry.params,
                "memory": entry.peak_memory_bytes,
                "latency": None if latency is None else latency.p50,
                **more,
            }
            for name, column in columns.items():
                column.append(values.get(name))

        for model in self.models:
            trial = self.by_id.get(model.id)
            add(
                1,
                model,
                self.latency(model),
                nodes=model.nodes,
                width=model.width,
                round=None if trial is None else trial.round,
            )
        for baseline in self.baselines:
            add(2, baseline, self.latency(baseline))
        for trial in self.trials:
            if trial.state == "done":
                add(
                    0,
                    trial,
                    trial.latency_ms,
                    nodes=trial.nodes,
                    width=trial.width,
                    round=trial.round,
                )
        states = [trial.state for trial in self.trials]
        value = {
            "version": self.version,
            "device": self.device,
            "writing": self.writing,
            "states": {state: states.count(state) for state in dict.fromkeys(states)},
            "columns": columns,
        }
        return gzip.compress(json.dumps(value, separators=(",", ":")).encode(), compresslevel=5)


@functools.lru_cache(maxsize=256)
def _is_damaged(path: Path, changed: int) -> bool:
    try:
        exporter.read_info(path)
    except UserError:
        return True
    return False


class PageRun:
    """The run that a page shows; safe to be used by many threads.

    Attributes:
        folder: the run's folder.
        asked: the folder as commands name it; no more than its name where a visitor would learn
            of this computer's folders.
        budget: its limits.
        info: its configuration, machine and versions.
        computer: what visitors call the machine that runs the page.
    """

    def __init__(self, run: Run) -> None:
        self.folder = run.path.resolve()
        self.asked = self.folder.name if run.path.is_absolute() else str(run.path)
        self.budget: Budget = run.budget
        self.info = run.info
        self.computer = "this computer"
        self._run = run
        self._lock = threading.Lock()
        self._seen: tuple[int, bool] | None = None
        self._looked = -LOOK_EVERY
        self._content: Content | None = None
        self._drawn_cell = functools.lru_cache(maxsize=1024)(self._find_drawn_cell)
        self._times: dict[str, Times] = {}

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a run to be shown.

        Raises:
            UserError: there is no run, it is damaged or of a newer version.
        """
        return cls(Run.open(folder))

    def close(self) -> None:
        """Close the run's database."""
        self._run.close()

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.name

    @property
    def content(self) -> Content:
        """The run as it is now, or was a moment ago."""
        content = self._content
        if content is not None and time.monotonic() - self._looked < LOOK_EVERY:
            return content
        with self._lock:
            seen = (self._run.change_count(), self._run.is_being_written())
            if self._content is None or seen != self._seen:
                self._content, self._seen = self._read(writing=seen[1]), seen
            self._looked = time.monotonic()
            return self._content

    def _read(self, writing: bool) -> Content:
        others: list[Network] = [*self._run.baselines(), *self._run.compared()]
        return Content(
            tuple(self._run.trial_summaries()),
            tuple(one for one in self._run.models() if one.accuracy is not None),
            tuple(one for one in others if one.accuracy is not None),
            self._run.setting("data", DataInfo),
            skeletons_of(self._run),
            target_name(self._run) if is_elsewhere(self._run) else None,
            writing,
            1 if self._content is None else self._content.version + 1,
            self._run.recommendation(),
            self._run.fastest_files(),
        )

    def trials(self) -> list[Trial]:
        """All trials with their cells; by a connection of its own, since it takes seconds."""
        with Run.open(self.folder) as run:
            return run.trials()

    def trial(self, id: str) -> Trial | None:
        """One trial with its cell."""
        with self._lock:
            found = self._run.trials_named(id)
        return found[0] if found else None

    # -- what stands at the top

    @property
    def offer(self) -> offer.Offer | None:
        """Which network to take; None where none is trained."""
        content = self.content
        return offer.choose(
            content.models,
            content.baselines,
            content.recommendation,
            lambda id: self.onnx(id) is not None,
        )

    @property
    def first(self) -> str | None:
        """What is selected when the page opens: the network to take, else the best candidate."""
        found = self.offer
        if found is not None:
            return found.offered.id
        done = formatting.best_trials(one for one in self.content.trials if one.state == "done")
        return done[0].id if done else None

    @property
    def title(self) -> str:
        """What the page is about."""
        data = self.content.data
        name = data.name if data else self.info.config.get("data", "your images")
        return f"Small networks for {name}"

    @property
    def chooses_by_time(self) -> bool:
        """Whether measurements of this machine say which of a network's files to take."""
        return self.info.config.get("target") is None and self.budget.precision == "fp32"

    # -- one network

    def drawn_cell(self, id: str) -> "DrawnCell | None":
        """The cell and architecture of a network or candidate; None for what has no cell."""
        return self._drawn_cell(id, self.content.version)

    def _find_drawn_cell(self, id: str, version: int) -> "DrawnCell | None":
        content = self.content
        model = content.network(id)
        if isinstance(model, Model):
            cell, width, number = model.cell, model.width, model.skeleton
        elif model is not None:
            return None
        else:
            trial = self.trial(id)
            if trial is None:
                return None
            cell, width, number = trial.cell, trial.width, trial.skeleton
        if number >= len(content.skeletons) or width is None:
            return DrawnCell(cell, None)
        return DrawnCell(cell, Architecture((cell,), content.skeletons[number], width))

    def onnx(self, id: str) -> Path | None:
        """A network's fp32 ONNX file, where it is there."""
        for file in self.files(id):
            if file.name == "model.onnx":
                return file.path
        return None

    def files(self, id: str) -> tuple[downloads.Download, ...]:
        """The files of a network that may be taken."""
        content = self.content
        if content.network(id) is None:
            return ()
        return downloads.downloads(self.folder, content.kind(id), id)

    def file_to_take(self, id: str) -> downloads.Download | None:
        """The ONNX file that is handed out first, of those that are there and sound.

        The fastest that is about as accurate as the fp32 file, where that was measured here; where
        the run's limits are meant in another precision, the file in that; else the fp32 file.
        """
        best, precision = self.content.fastest_files.get(id), self.budget.precision
        name = "model.onnx" if precision == "fp32" else f"model.{precision}.onnx"
        if best is not None and best.onnx is not None:
            name = Path(best.onnx).name
        files = {file.name: file for file in self.files(id)}
        wanted = files.get(name)
        if wanted is None or _is_damaged(wanted.path, wanted.path.stat().st_mtime_ns):
            return files.get("model.onnx")
        return wanted

    def file_text(self, id: str) -> str:
        """What is known of the file to take: precision, time for one picture, size."""
        file = self.file_to_take(id)
        if file is None:
            return formatting.NONE
        best, entry = self.measured_to_take(id), self.content.network(id)
        time = None if best is None else best.latency_ms
        if best is None and file.name == "model.onnx" and entry is not None:
            time = entry.latency_ms
        known = [file.precision, *([] if time is None else [formatting.latency(time)])]
        return ", ".join([*known, formatting.size(file.size)])

    def measured_to_take(self, id: str) -> Measurement | None:
        """What was measured of the file to take, where a measurement chose it."""
        file, best = self.file_to_take(id), self.content.fastest_files.get(id)
        if file is None or best is None or Path(best.onnx or "").name != file.name:
            return None
        return best

    def missing(self, id: str) -> str | None:
        """Why a trained network has no sound ONNX file, in one sentence; None if it has."""
        entry = self.content.network(id)
        if entry is None:
            return "Tried briefly only: there is no file to download but its cell."
        if entry.state == "failed":
            return f"Not delivered: {entry.error}."
        if entry.onnx is None:
            return f"No ONNX file yet: {command('export', self.asked, id)}"
        if self.onnx(id) is None:
            return f"Its file {entry.onnx} is missing: {command('export', self.asked, id)}"
        path = self.folder / entry.onnx
        if _is_damaged(path, path.stat().st_mtime_ns):
            return (
                f"Its file {entry.onnx} is damaged: delete it, then "
                f"{command('export', self.asked, id)}"
            )
        return None

    def runnable(self) -> list[tuple[str, str]]:
        """Networks with an ONNX file, best first, as label and id; baselines last."""
        content = self.content
        found = []
        for entry in content.networks:
            if self.onnx(entry.id) is not None:
                share = formatting.percent(entry.accuracy, 1)
                label = f"{content.name(entry.id)} ({share} right)"
                found.append((label, entry.id))
        return found

    def stem(self, id: str) -> str:
        """How the names of a network's downloads begin."""
        return names.file_stem(self.name, self.content.name(id))

    def download_link(self, id: str, text: str = "") -> str:
        """The button that fetches a network's file to take, as HTML; the first one without a text.

        Empty where it has no file.
        """
        file = self.file_to_take(id)
        if file is None:
            return ""
        said = text or f"Download {escape(self.content.name(id))}"
        return (
            f'<a class="gk-button{"" if text else " gk-primary"}" '
            f'download="{file.called(self.stem(id))}" '
            f'href="run/files/{escape(id)}/{file.name}">{said} (ONNX {self.file_text(id)})</a>'
        )

    def thumbnail(self, id: str) -> str:
        """A small drawing of a cell, as HTML; empty for what has none."""
        drawn = self.drawn_cell(id)
        return "" if drawn is None else cell_svg.thumbnail(drawn.cell)

    def times(self, id: str) -> Times | None:
        """Which part of a network takes how much time, once that is measured."""
        return self._times.get(id)

    def profile(self, ended: threading.Event) -> None:
        """Measure which part of each network takes how much time; for a thread of its own.

        Args:
            ended: set from elsewhere when nobody wants to know any more.
        """
        for model in self.content.models:
            path = self.onnx(model.id)
            if path is not None and not ended.is_set():
                with contextlib.suppress(UserError):  # a damaged file: said where it is tried
                    self._times[model.id] = measure_shares(path)


@dataclass(frozen=True)
class DrawnCell:
    """A cell and the network it stands in."""

    cell: Cell
    architecture: Architecture | None

    @functools.cached_property
    def apart(self) -> Shares | None:
        """Its cost, taken apart."""
        return None if self.architecture is None else take_apart(self.architecture)
