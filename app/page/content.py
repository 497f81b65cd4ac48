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
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Self

from gemkit.architecture import Architecture, Skeleton
from gemkit.budget import Budget
from gemkit.cell import Cell
from gemkit.errors import UserError
from gemkit.records import DataInfo, Latency, Model, Network, Trial, TrialSummary
from gemkit.store import Run

from .. import formatting
from ..hints import command
from ..runs import is_elsewhere, skeletons_of, target_name
from . import cell_svg, downloads
from .shares import Shares, Times, measure_shares
from .shares import shares as take_apart

LOOK_EVERY = 0.2
"""Seconds between two looks at whether another process has changed the run."""
_COLUMNS = (
    "id", "kind", "accuracy", "macs", "params", "memory", "latency", "nodes", "width", "round",
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
    """

    trials: tuple[TrialSummary, ...]
    models: tuple[Model, ...]
    baselines: tuple[Network, ...]
    data: DataInfo | None
    skeletons: tuple[Skeleton, ...]
    device: str | None
    writing: bool
    version: int

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
    from gemkit.export import exporter

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
    def first(self) -> str | None:
        """What is selected when the page opens: the best network, else the best candidate."""
        content = self.content
        if content.models:
            fine = [one for one in content.models if self.onnx(one.id)]
            return (fine or content.models)[0].id
        done = formatting.best_trials(one for one in content.trials if one.state == "done")
        return done[0].id if done else None

    @property
    def title(self) -> str:
        """What the page is about."""
        data = self.content.data
        name = data.name if data else self.info.config.get("data", "your images")
        return f"Small networks for {name}"

    def introduction(self) -> str:
        """Title and the sentences under it, as Markdown."""
        content = self.content
        lines = [f"# {self.title}"]
        if not content.trials:
            lines.append(
                "This run has no candidate yet. The page shows them as they appear; "
                f"a search goes on with `{command('search', '--out', self.asked, '--resume')}`."
            )
        else:
            text = (
                f"A search tried **{formatting.number(content.done, 'candidate')}** on a "
                "small share "
                "of the images"
            )
            if content.models:
                text += f" and trained the best **{len(content.models)}** on all of them"
            text += (
                f". Asked for: {self.budget.describe()}. Each point is a network: "
                "click one to see it, try it and take it with you."
            )
            lines.append(text)
        return "\n\n".join(lines)

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

    def missing(self, id: str) -> str | None:
        """Why a trained network has no sound ONNX file, in one sentence; None if it has."""
        entry = self.content.network(id)
        if entry is None:
            return "Not trained fully: a candidate has no file to download but its cell."
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
                label = f"{entry.id}  ({formatting.percent(entry.accuracy, 1)})"
                found.append((label, entry.id))
        return found

    def facts(self, id: str) -> str:
        """Name and figures of what is selected, as HTML."""
        content = self.content
        entry = content.network(id)
        trial = content.by_id.get(id)
        if entry is None and trial is None:
            return f'<p class="gk-empty">There is nothing called {escape(id)} in this run.</p>'
        shown = entry or trial
        assert shown is not None
        if entry is None:
            what, where = "candidate", "validation images"
        elif content.kind(id) == "models":
            what, where = "found network", "test images"
        else:
            what, where = "known network, trained alike", "test images"
        tiles = [
            (formatting.percent(shown.accuracy), f"of the {where} right"),
            (formatting.count(shown.macs), "multiply-accumulates an image"),
            (formatting.count(shown.params), "parameters"),
            (formatting.size(shown.peak_memory_bytes), "of activations at once"),
        ]
        if entry is not None and entry.latency_ms is not None:
            tiles.append((formatting.latency(entry.latency_ms), "an image (CPU, one thread)"))
        if content.device is not None:
            there = content.latency(entry) if entry else shown.latency_ms
            if there is not None:
                tiles.append(
                    (formatting.latency(there), f"an image on {content.device}, predicted")
                )
        elif entry is None and shown.latency_ms is not None:
            tiles.append((formatting.latency(shown.latency_ms), "an image, predicted"))
        boxes = "".join(
            f"<div><b>{escape(value)}</b><span>{escape(text)}</span></div>" for value, text in tiles
        )
        note = ""
        if entry is not None and trial is not None and trial.accuracy is not None:
            note = (
                f'<p class="gk-note">As a candidate, trained {trial.epochs} epochs on a tenth: '
                f"{formatting.percent(trial.accuracy)} of validation images.</p>"
            )
        elif trial is not None and trial.state == "failed":
            note = f'<p class="gk-note">This candidate failed: {escape(str(trial.error))}</p>'
        return (
            f'<div class="gk-facts"><h3>{escape(id)} <small>{what}</small></h3>'
            f'<div class="gk-tiles">{boxes}</div>{note}{self._take(id)}</div>'
        )

    def _take(self, id: str) -> str:
        """What can be downloaded, as HTML."""
        files = self.files(id)
        missing = self.missing(id)
        if not files:
            link = ""
            if self.drawn_cell(id) is not None:
                link = (
                    f' <a class="gk-button" download href="run/cells/{escape(id)}.json">'
                    "Download the cell</a>"
                )
            return f'<p class="gk-note">{escape(missing or "")}</p>{link}'
        rows = "".join(
            f'<tr><td><a download href="run/files/{escape(id)}/{file.name}">{file.name}</a>'
            f"<span>{escape(file.told)}</span></td><td>{formatting.size(file.size)}</td>"
            f'<td><code title="SHA-256: {file.sha256}">{file.sha256[:12]}…</code>'
            f'<button class="gk-copy" data-copy="{file.sha256}" '
            f'aria-label="copy the SHA-256 of {file.name}">copy</button></td></tr>'
            for file in files
        )
        first = ""
        if missing is None:
            first = (
                f'<a class="gk-button gk-primary" download="{escape(id)}.onnx" '
                f'href="run/files/{escape(id)}/model.onnx">Download the network (ONNX, '
                f"{formatting.size(files[0].size)})</a> "
            )
        else:
            first = f'<p class="gk-note gk-warn">{escape(missing)}</p>'
        return (
            f'<p class="gk-take">{first}<a class="gk-button" download '
            f'href="run/zip/{escape(id)}.zip">All files (zip)</a></p>'
            f"<details><summary>{formatting.number(len(files), 'file')}, one by one, with SHA-256"
            f'</summary><div class="gk-wide"><table class="gk-table gk-files"><thead><tr><th>file'
            f"</th><th>size</th><th>SHA-256</th></tr></thead><tbody>{rows}</tbody></table></div>"
            "</details>"
        )

    def cell(self, id: str) -> str:
        """The drawing of a cell and the cost of each part, as HTML."""
        drawn = self.drawn_cell(id)
        if drawn is None:
            return (
                '<p class="gk-empty">A known network from torchvision: it is not made of one '
                "cell, so there is none to draw.</p>"
            )
        return drawn.html(self._times.get(id))

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

    def html(self, times: Times | None) -> str:
        """The drawing and the cost by part."""
        with _DRAWING:
            return _drawn(self.cell, self.apart, times)


_DRAWING = threading.Lock()
"""Of many threads only one computes at a time: more would only keep the server from answering."""


@functools.lru_cache(maxsize=1024)
def _drawn(cell: Cell, apart: Shares | None, times: Times | None) -> str:
    head = (
        "<h4>The cell that the network "
        f"repeats</h4><p>{formatting.number(cell.nodes, 'convolution')}, "
        f"{formatting.number(len(cell.edges), 'connection')}. Each line carries a node's "
        "output to the "
        "nodes that read it; point at a node to see what it does and costs.</p>"
    )
    svg = cell_svg.cell_svg(cell, apart, times)
    if apart is None:
        return head + svg
    most = max(macs for _, macs in apart.parts)
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td><div class="gk-bar"><i style="width:'
        f'{100 * macs / most:.1f}%"></i></div></td><td>{formatting.count(macs)}</td>'
        f"<td>{formatting.percent(macs / apart.total, 1)}</td></tr>"
        for name, macs in apart.parts
    )
    return (
        f"{head}{svg}<h4>Where the multiply-accumulates go</h4>"
        f'<div class="gk-wide"><table class="gk-table gk-parts"><tbody>{rows}</tbody></table></div>'
    )
