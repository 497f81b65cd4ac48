"""`gemkit app`: a page to browse a run's networks, look at their cells, try and download them.

The layout is `layout_of`; what it shows comes from `Shown`, which reads the run's folder. Only
files that the run's models and figures consist of are served.
"""

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemkit.cell import Cell
from gemkit.errors import UserError
from gemkit.store import Run

from . import tables

if TYPE_CHECKING:
    import gradio
    from PIL.Image import Image
    from rich.console import Console

_HEADS = ("network", "test accuracy", "MACs", "params", "peak memory", "p50", "p90", "p99", "kind")
_FILES = (
    "model.onnx",
    "model.fp16.onnx",
    "model.int8.onnx",
    "cell.json",
    "card.md",
    "weights.safetensors",
    "bench.json",
)
_MAX_UPLOAD = "10mb"
_CSS = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; }
#cell img, .figure img { background: white; border-radius: 8px; }
"""


@dataclass(frozen=True)
class Shown:
    """What the page shows of a run.

    Attributes:
        folder: the run.
        content: the run's JSON.
        data: name, note and shape of the data (`data` setting of the run).
        budget: the budget in words.
    """

    folder: Path
    content: dict[str, Any]
    data: dict[str, Any]
    budget: str

    @classmethod
    def read(cls, folder: Path) -> "Shown":
        """Read a run; raises UserError where there is none or where it has no trial yet."""
        with Run.open(folder) as run:
            shown = cls(
                folder.resolve(), run.to_json(), run.setting("data", {}), run.budget.describe()
            )
        if not shown.networks:
            raise UserError(
                f"{folder} has no trained network yet: run `gemkit train {folder}` first"
            )
        return shown

    @property
    def networks(self) -> list[dict[str, Any]]:
        """The models that have been trained, in the order of the search."""
        return [model for model in self.content["models"] if model["accuracy"] is not None]

    def network(self, id: str) -> dict[str, Any]:
        """The model of that id."""
        return next(model for model in self.networks if model["id"] == id)

    def rows(self) -> list[list[str]]:
        """The table of models and baselines."""
        rows = []
        for kind, entries in (("found", self.networks), ("baseline", self.content["baselines"])):
            rows += [[*tables.model_row(entry)[:8], kind] for entry in entries]
        return rows

    def files(self, id: str) -> list[str]:
        """Paths of the model's files that can be downloaded, the ONNX file first."""
        folder = self.folder / "models" / id
        return [str(folder / name) for name in _FILES if (folder / name).is_file()]

    def picture(self, id: str) -> str | None:
        """The path of the picture of a model's cell, drawn if it is not there."""
        from . import figures, show

        path = self.folder / "models" / id / "cell.png"
        if not path.is_file():
            model = self.network(id)
            cell = Cell.from_json(model["cell"])
            figure = figures.cell_figure(cell, f"Cell {id}", show.describe(model, cell))
            try:
                figures.save(figure, path)
            except UserError:  # a run that may only be read
                return None
        return str(path)

    def figure(self, *names: str) -> str | None:
        """The path of the first of these figures that the run has."""
        for name in names:
            path = self.folder / "figures" / f"{name}.png"
            if path.is_file():
                return str(path)
        return None

    def facts(self, id: str) -> str:
        """What is known of a model, as Markdown."""
        model = self.network(id)
        latency = model["latency_ms"]
        lines = [
            f"### {id}",
            f"**{tables.percent(model['accuracy'])}** test accuracy, "
            f"**{tables.count(model['macs'])}** MACs, **{tables.count(model['params'])}** params, "
            f"{tables.size(model['peak_memory_bytes'])} of activations",
        ]
        if latency:
            lines.append(
                f"**{tables.latency(latency)}** an image (p50; p90 "
                f"{tables.latency(latency, 'p90')}, p99 {tables.latency(latency, 'p99')}) with "
                "onnxruntime on the CPU, one thread, batch 1, on the machine that ran the search: "
                f"{self.content['run']['machine'].get('processor', 'unknown processor')}"
            )
        if model["onnx"] is None:
            lines.append(f"No ONNX file yet: `gemkit export {self.folder} {id}`")
        return "\n\n".join(lines)

    def examples(self) -> list[str]:
        """Images of the test set that the run keeps to be tried."""
        return [str(path) for path in sorted((self.folder / "examples").glob("*.png"))[:12]]

    def served(self) -> list[str]:
        """The only folders whose files the page may give away."""
        return [str(self.folder / name) for name in ("models", "figures", "examples")]


def classify(shown: Shown, id: str, image: "Image | None") -> tuple[dict[str, float], str]:
    """Class probabilities of an uploaded image by the model's ONNX file, and a line about it."""
    from . import predict

    if image is None:
        raise UserError("choose an image first")
    model = shown.network(id)
    if model["onnx"] is None:
        raise UserError(f"{id} has no ONNX file yet: run `gemkit export {shown.folder} {id}`")
    classifier = predict.Classifier.open(shown.folder / model["onnx"])
    probabilities, milliseconds = classifier.classify(image)
    note = (
        f"{milliseconds:.2f} ms in onnxruntime; the image was brought to "
        f"{' x '.join(map(str, classifier.info.input_shape[1:]))} pixels"
    )
    return dict(zip(classifier.info.class_names, probabilities.tolist(), strict=True)), note


def layout_of(shown: Shown) -> "gradio.Blocks":
    """The page."""
    import gradio as gr

    networks = [model["id"] for model in shown.networks]
    run = shown.content["run"]
    name = shown.data.get("name", run["config"].get("data"))
    trials = sum(trial["state"] == "done" for trial in shown.content["trials"])
    first = networks[0]
    table = shown.rows()

    def select(id: str) -> tuple[Any, ...]:
        return shown.facts(id), shown.picture(id), shown.files(id)

    def clicked(event: gr.SelectData) -> Any:
        row = event.index[0] if isinstance(event.index, list | tuple) else event.index
        chosen = event.row_value[0] if event.row_value else table[row][0]
        return gr.update(value=chosen) if chosen in networks else gr.update()

    def try_it(id: str, image: Any) -> tuple[dict[str, float], str]:
        try:
            return classify(shown, id, image)
        except UserError as error:
            raise gr.Error(str(error)) from None

    with gr.Blocks(title=f"gemkit: {run['id']}", analytics_enabled=False) as blocks:
        gr.Markdown(
            f"# Small networks for {name}\n"
            f"gemkit trained {tables.number(trials, 'candidate')} on a small share of the data, "
            f"then the best {len(networks)} on all of it. Asked for: {shown.budget}. "
            "Each row is a network that is ready to run; click one to see it."
        )
        listing = gr.Dataframe(
            table,
            headers=list(_HEADS),
            interactive=False,
            label="networks, in the order of the search; latency on the CPU, one thread",
            elem_id="networks",
        )
        chosen = gr.Radio(networks, value=first, label="network", elem_id="chosen")
        with gr.Row():
            with gr.Column(scale=3):
                facts = gr.Markdown(shown.facts(first), elem_id="facts")
                picture = gr.Image(
                    shown.picture(first),
                    show_label=False,
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    elem_id="cell",
                )
                gr.Markdown(
                    "The cell that the network repeats: each line carries a node's output to "
                    "the nodes that read it."
                )
                for path in (shown.figure("latency", "macs"), shown.figure("progress")):
                    if path:
                        gr.Image(
                            path,
                            show_label=False,
                            interactive=False,
                            buttons=["download", "fullscreen"],
                            elem_classes="figure",
                        )
            with gr.Column(scale=2):
                files = gr.File(
                    shown.files(first),
                    label="download (model.onnx is all that a device needs)",
                    file_count="multiple",
                    interactive=False,
                    elem_id="files",
                )
                image = gr.Image(
                    label="try it: an image",
                    type="pil",
                    sources=["upload", "clipboard"],
                    height=220,
                    elem_id="image",
                )
                button = gr.Button("Classify", variant="primary", elem_id="classify")
                answer = gr.Label(num_top_classes=5, label="answer", elem_id="answer")
                took = gr.Markdown(elem_id="took")
                if shown.examples():
                    gr.Examples(
                        [[path] for path in shown.examples()],
                        [image],
                        label="images of the test set",
                    )
        chosen.change(select, [chosen], [facts, picture, files])
        listing.select(clicked, None, [chosen])
        button.click(try_it, [chosen, image], [answer, took], concurrency_limit=2)
    return blocks


def _check_port(host: str, port: int) -> None:
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        raise UserError(f"--host: there is no address {host!r}; use 127.0.0.1 or 0.0.0.0") from None
    family, kind, protocol, _, address = addresses[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UserError(
                f"cannot listen on {host}:{port} ({reason}): choose another with --port"
            ) from None


def launch(folder: Path, host: str, port: int) -> "tuple[gradio.Blocks, str]":
    """Start the page in the background; returns it and its address.

    Raises:
        UserError: no run, nothing trained in it, or the address cannot be used.
    """
    import os

    shown = Shown.read(folder)
    _check_port(host, port)
    # Gradio would ask its makers for news, and whether the machine is on the internet.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    blocks = layout_of(shown)
    blocks.queue(max_size=32)
    _, address, _ = blocks.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        show_error=False,
        allowed_paths=shown.served(),
        max_file_size=_MAX_UPLOAD,
        footer_links=[],
        css=_CSS,
        ssr_mode=False,
    )
    return blocks, address


def serve(folder: Path, host: str, port: int, console: "Console") -> None:
    """Show the page until Ctrl-C."""
    blocks, address = launch(folder, host, port)
    console.print(f"the page is at {address} (stop it with Ctrl-C)")
    try:
        blocks.block_thread()
    except KeyboardInterrupt:
        pass
    finally:
        blocks.close(verbose=False)
