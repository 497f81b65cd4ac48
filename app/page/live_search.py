"""A search that a visitor starts on the page: a real one, in a process and a run of its own.

It is `gemkit search` on the digits within set limits. One runs at a time. The page reads its run
as it reads any other that is being written; cancelling interrupts it as Ctrl-C would, so that it
can be resumed.
"""

import contextlib
import hashlib
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemkit.errors import UserError
from gemkit.records import TrialSummary
from gemkit.store import is_run

from .. import formatting
from ..hints import command
from . import downloads, facts
from .content import PageRun
from .embedding_map import EmbeddingMap

if TYPE_CHECKING:
    import gradio

MOST_TRIALS = 40
MOST_NODES = 30
_MINUTES = 10
_BEST_SHOWN = 3
"""So many of the best candidates are shown with their cells."""
_STRATEGIES = ("nasgem", "random", "evolution", "bo+embedding")


@dataclass(frozen=True)
class SearchRequest:
    """What a visitor asked for; refused when it is outside the limits.

    Attributes:
        kilo_macs: limit in thousands of multiply-accumulates.
    """

    trials: int = 12
    nodes: int = 12
    kilo_macs: int = 1000
    strategy: str = "nasgem"
    epochs: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("designs", self.trials, 4, MOST_TRIALS),
            ("steps", self.nodes, 2, MOST_NODES),
            ("thousands of MACs", self.kilo_macs, 100, 5000),
            ("epochs", self.epochs, 1, 3),
            ("seed", self.seed, 0, 2**31 - 1),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise UserError(f"{name}: from {least} to {most} are possible here, not {value}")
        if self.strategy not in _STRATEGIES:
            raise UserError(f"the strategies here are {', '.join(_STRATEGIES)}")

    def command(self, folder: Path) -> list[str]:
        """The command line that does it."""
        return [
            sys.executable, "-m", "gemkit.app", "search", "--data", "digits",
            "--trials", str(self.trials), "--nodes", str(self.nodes),
            "--max-macs", f"{self.kilo_macs}k", "--strategy", self.strategy,
            "--epochs", str(self.epochs), "--seed", str(self.seed), "--workers", "1",
            "--time", f"{_MINUTES}m", "--device", "cpu", "--out", str(folder),
        ]  # fmt: skip


class LiveSearch:
    """The one search that a page may run; safe to be used by many threads.

    Attributes:
        state: idle, running, cancelling, cancelled, finished or failed.
    """

    strategies: Sequence[str] = _STRATEGIES

    def __init__(self, stem: Path, beside: str) -> None:
        self._stem, self._beside = stem, beside
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self._request: SearchRequest | None = None
        self._cancelled = False
        self._owner = ""
        self._shown: PageRun | None = None
        self._map: EmbeddingMap | None = None

    @property
    def folder(self) -> Path | None:
        """The run of the latest search."""
        return self._folder

    @property
    def state(self) -> str:
        with self._lock:
            if self._process is None:
                return "idle"
            code = self._process.poll()
            if code is None:
                return "cancelling" if self._cancelled else "running"
            if self._cancelled:
                return "cancelled"
            return "finished" if code == 0 else "failed"

    def belongs_to(self, visitor: str) -> bool:
        """Whether a visitor started the latest search."""
        return self._owner == visitor

    def start(self, request: SearchRequest, visitor: str = "") -> None:
        """Begin a search that belongs to a visitor.

        Raises:
            UserError: one is running, or its run cannot be written.
        """
        with self._lock:
            if self.state in ("running", "cancelling"):
                raise UserError("a search is running already: wait until it has ended")
            self._forget()
            number, folder = 1, self._stem
            while folder.exists():
                number += 1
                folder = self._stem.with_name(f"{self._stem.name}-{number}")
            self._folder, self._request, self._owner = folder, request, visitor
            self._launch(request.command(folder))

    def resume(self) -> None:
        """Go on with the search that was cancelled or failed.

        Raises:
            UserError: there is none.
        """
        with self._lock:
            running = self.state in ("running", "cancelling")
            if self._request is None or self._folder is None or running:
                raise UserError("there is no search to resume")
            self._launch([*self._request.command(self._folder), "--resume"])

    def _launch(self, command: list[str]) -> None:
        assert self._folder is not None
        log = self._log
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with open(log, "ab") as output:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )
        except OSError as error:
            raise UserError(f"a search cannot be started here: {error.strerror}") from None
        self._cancelled = False

    @property
    def _log(self) -> Path:
        assert self._folder is not None
        return self._folder.with_name(f".{self._folder.name}.log")

    def cancel(self) -> None:
        """Interrupt the search; what is finished is kept. It ends in the background."""
        with self._lock:
            process = self._process
            if process is None or process.poll() is not None or self._cancelled:
                return
            self._cancelled = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
        threading.Thread(target=_end, args=(process,), daemon=True).start()

    def close(self) -> None:
        """End what is running."""
        self.cancel()
        if self._process is not None:
            _end(self._process)
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        if self._folder is not None:
            self._log.unlink(missing_ok=True)
        if self._shown is not None:
            self._shown.close()
        self._shown = self._map = None

    def shown(self) -> PageRun | None:
        """The run of the search, from the moment it exists."""
        with self._lock:
            if self._shown is None and self._folder is not None and is_run(self._folder):
                with contextlib.suppress(UserError):  # its database is being made
                    self._shown = PageRun.open(self._folder)
                    self._map = EmbeddingMap(self._shown)
            return self._shown

    # -- as HTML

    def html(self, visitor: str = "") -> str:
        """How the search stands, for a visitor: text, its course, its cells, its best ones."""
        with self._lock:
            state, shown, request = self.state, self.shown(), self._request
        if request is None:
            return (
                '<p class="gk-empty">Nothing has been started yet. Choose limits and start: the '
                "designs appear here one by one.</p>"
            )
        log = ""
        if self._log.is_file():
            lines = self._log.read_bytes()[-20_000:].decode(errors="replace").splitlines()
            log = "\n".join(line for line in lines if line.strip())[-1500:]
        if shown is None:
            text = "preparing: reading the data and sampling cells"
            if state in ("failed", "cancelled"):
                text = "the search ended early"
            if state == "cancelling":
                text = "cancelling"
            return (
                f'<p class="gk-note" id="live-state" data-state="{state}">{text}…</p>'
                f'<div class="gk-log">{escape(log)}</div>'
            )
        content = shown.content
        done = [trial for trial in content.trials if trial.accuracy is not None]
        best = max((trial.accuracy or 0.0 for trial in done), default=None)
        status = {
            "running": "searching",
            "cancelling": "cancelling: what is finished is kept",
            "cancelled": "cancelled; it can be resumed",
            "finished": f"finished: the run is {shown.name}; next: "
            f"{command('train', Path(self._beside).with_name(shown.name))}",
            "failed": "it ended early",
        }[state]
        if not self.belongs_to(visitor):
            status += " (another visitor started it)"
        head = (
            f'<p class="gk-note" id="live-state" data-state="{state}" data-done="{len(done)}">'
            f"<b>{len(done)} of {request.trials}</b> designs trained, best "
            f"<b>{formatting.percent(best)}</b> of the validation pictures: {escape(status)}</p>"
        )
        assert self._map is not None
        places = self._map.places()
        log_box = "" if state == "finished" else f'<div class="gk-log">{escape(log)}</div>'
        return (
            f'{head}<div class="gk-two"><div><h4>Share right, design by design</h4>'
            f"{_course(content.trials, request.trials)}</div><div><h4>Where their cells lie</h4>"
            f"{_places(places, content.trials)}</div></div>{_best(shown)}{log_box}"
        )

    def cell_file(self, id: str) -> bytes | None:
        """One of its cells as a file to download."""
        shown = self.shown()
        drawn = None if shown is None else shown.drawn_cell(id)
        return None if drawn is None else downloads.cell_file(drawn.cell)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Wait for an interrupted search, but not for long."""
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


_WIDTH, _HEIGHT = 460, 260


def _best(shown: PageRun) -> str:
    """The best candidates so far, each to be opened: figures, drawing, download."""
    done = [trial for trial in shown.content.trials if trial.accuracy is not None]
    boxes = []
    for trial in formatting.best_trials(done)[:_BEST_SHOWN]:
        id, name = escape(trial.id), escape(shown.content.name(trial.id))
        figures = (
            f"{formatting.percent(trial.accuracy)} of the validation pictures, "
            f"{formatting.count(trial.macs)} MACs"
        )
        boxes.append(
            f'<details class="gk-best" data-id="{id}"><summary><b>{name}</b> {figures}</summary>'
            f'<p class="gk-take"><a class="gk-button" download href="run/live/{id}.json">'
            f"Download the cell</a></p>{facts.cell(shown, trial.id)}</details>"
        )
    head = "<h4>The best so far: open one to see its cell</h4>" if boxes else ""
    return head + "".join(boxes)


def _course(trials: Sequence[TrialSummary], planned: int) -> str:
    """Accuracy by trial with the best so far as a line, as SVG."""
    done = [(trial.index, trial.accuracy) for trial in trials if trial.accuracy is not None]
    if not done:
        return '<p class="gk-empty">the first design is being trained</p>'
    low = min(accuracy for _, accuracy in done) - 0.02
    high = max(accuracy for _, accuracy in done) + 0.02

    def point(index: float, accuracy: float) -> tuple[float, float]:
        x = 46 + (index + 0.5) / max(planned, 1) * (_WIDTH - 60)
        return x, 12 + (high - accuracy) / (high - low) * (_HEIGHT - 46)

    parts, best, path = [], 0.0, ""
    for step in range(5):
        value = low + (high - low) * step / 4
        y = point(0, value)[1]
        parts.append(
            f'<line x1="46" x2="{_WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}" '
            f'stroke="var(--border-color-primary)"/><text x="40" y="{y + 4:.1f}" '
            f'text-anchor="end">{100 * value:.0f} %</text>'
        )
    for index, accuracy in done:
        x, y = point(index, accuracy)
        before, best = best, max(best, accuracy)
        path += f"M{x:.1f} {y:.1f}" if not path else ""
        if before:
            path += f"L{x:.1f} {point(index, before)[1]:.1f}L{x:.1f} {point(index, best)[1]:.1f}"
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="#1f8a8a"/>')
    parts.append(f'<path d="{path}" fill="none" stroke="var(--gk-conv)" stroke-width="2"/>')
    parts.append(
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 6}" text-anchor="middle">design, of {planned}</text>'
    )
    return _plot(parts, "share right of the designs in order")


def _places(places: dict[str, Any], trials: Sequence[TrialSummary]) -> str:
    """The map of the search's cells as SVG."""
    if "error" in places:
        return f'<p class="gk-empty">{escape(str(places["error"]))}</p>'
    known = {trial.id: trial.accuracy for trial in trials}
    xs, ys = places["x"], places["y"]
    wide, tall = (max(xs) - min(xs)) or 1.0, (max(ys) - min(ys)) or 1.0
    done = [one.accuracy for one in trials if one.accuracy is not None]
    least, most = min(done, default=0.0), max(done, default=1.0)
    parts = []
    for id, x, y in zip(places["id"], xs, ys, strict=True):
        accuracy = known.get(id)
        share = 0.0
        if accuracy is not None and most > least:
            share = (accuracy - least) / (most - least)
        colour = f"hsl({260 - 200 * share:.0f} 60% 50%)" if accuracy is not None else "none"
        parts.append(
            f'<circle cx="{20 + (x - min(xs)) / wide * (_WIDTH - 40):.1f}" '
            f'cy="{20 + (max(ys) - y) / tall * (_HEIGHT - 40):.1f}" r="6" fill="{colour}" '
            f'stroke="var(--gk-quiet)"><title>{escape(str(id))}: '
            f"{formatting.percent(accuracy)}</title></circle>"
        )
    return _plot(parts, "map of the cells; empty rings wait or are being trained")


def _plot(parts: Sequence[str], label: str) -> str:
    return (
        f'<svg class="gk-svgplot" role="img" aria-label="{label}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}">{"".join(parts)}</svg>'
        f'<p class="gk-note">{label}</p>'
    )


def _number(label: str, limits: str, value: int, id: str) -> "gradio.Number":
    import gradio as gr

    return gr.Number(value, precision=0, label=label, info=limits, min_width=150, elem_id=id)


def tab(live: LiveSearch, computer: str, visitor: "gradio.BrowserState") -> None:
    """The tab's layout.

    Args:
        visitor: keeps a visitor's sign over reloads; stands outside of all tabs, since what is in
            a tab works only once it was opened.
        computer: what visitors call the machine that searches.
    """
    import gradio as gr

    gr.Markdown(
        f"Search for a network yourself: on {computer}, for the handwritten digits that come with "
        "scikit-learn. Every design is a real network, trained on a small share of the images."
    )
    with gr.Row():
        trials = _number("designs", f"4 to {MOST_TRIALS}", 12, "live-trials")
        nodes = _number("steps of a cell", f"at most, 2 to {MOST_NODES}", 12, "live-nodes")
        macs = _number("thousand MACs", "at most, 100 to 5000", 1000, "live-macs")
        epochs = _number("epochs for each", "1 to 3", 1, "live-epochs")
        strategy = gr.Dropdown(
            list(_STRATEGIES),
            value="nasgem",
            label="strategy",
            info="how designs are chosen",
            min_width=150,
        )
        seed = _number("seed", "another, other cells", 0, "live-seed")
    with gr.Row():
        start = gr.Button("Start", variant="primary", elem_id="live-start")
        cancel = gr.Button("Cancel", elem_id="live-cancel", interactive=False)
        resume = gr.Button("Resume", elem_id="live-resume", interactive=False)
    view = gr.HTML(live.html(), apply_default_css=False, elem_id="live-view")
    timer = gr.Timer(2)
    # Whoever started a search may end it, after a reload too; others see it.
    seen = gr.State("")
    outputs = [view, start, cancel, resume, seen]

    def look(visitor: str, before: str = "") -> tuple[object, ...]:
        state = live.state
        running = state in ("running", "cancelling")
        own = live.belongs_to(visitor)
        html = live.html(visitor)
        now = hashlib.sha256(f"{state} {own} {html}".encode()).hexdigest()
        if now == before:  # what is open or selected stays so
            return (gr.skip(),) * len(outputs)
        return (
            html,
            gr.update(interactive=not running),
            gr.update(interactive=own and state == "running"),
            gr.update(interactive=own and state in ("cancelled", "failed")),
            now,
        )

    def started(visitor: str, *values: object) -> tuple[object, ...]:
        names = ("trials", "nodes", "kilo_macs", "epochs", "strategy", "seed")
        try:
            request = SearchRequest(**dict(zip(names, values, strict=True)))  # type: ignore[arg-type]
            live.start(request, visitor)
        except UserError as error:
            gr.Warning(str(error))
        return look(visitor)

    def resumed(visitor: str) -> tuple[object, ...]:
        if live.belongs_to(visitor):
            try:
                live.resume()
            except UserError as error:
                gr.Warning(str(error))
        return look(visitor)

    def cancelled(visitor: str) -> tuple[object, ...]:
        if live.belongs_to(visitor):
            live.cancel()
        return look(visitor)

    asked = [visitor, trials, nodes, macs, epochs, strategy, seed]
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    start.click(started, asked, outputs, **private)
    cancel.click(cancelled, visitor, outputs, **private)
    resume.click(resumed, visitor, outputs, **private)
    timer.tick(look, [visitor, seen], outputs, queue=False, **private)
    root = gr.context.Context.root_block
    if root is not None:
        recognised = root.load(
            lambda visitor: visitor or secrets.token_hex(16), visitor, visitor, **private
        )
        recognised.then(look, visitor, outputs, **private)
