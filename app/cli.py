"""The command line: `gemkit run` and its steps.

Only options are read here; the work is done by the steps, and what they return is printed by
`terminal`. Both are imported inside the commands, so that `gemkit --help` answers at once.
"""

import functools
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.core import ParameterSource

from gemkit import __version__
from gemkit.budget import Budget, format_count
from gemkit.errors import UserError
from gemkit.files import is_file, is_folder, write_json

from .hints import command
from .options import (
    COUNT,
    FILE,
    FOLDER,
    NAME_LIST,
    NUMBER_LIST,
    PRECISION_LIST,
    PROVIDER_LIST,
    SIZES,
    STRATEGY_LIST,
    THREAD_LIST,
    batch_option,
    data_option,
    device_option,
    final_options,
    json_option,
    limit_options,
    recipe_option,
    search_options,
    seed_option,
    workers_option,
)

if TYPE_CHECKING:
    from rich.console import Console


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
)
@click.version_option(__version__, prog_name="gemkit")
@click.pass_context
def cli(context: click.Context, /) -> None:
    """Finds small image-classification networks that fit a device and delivers them as ONNX files.

    Begin with:  gemkit run --data digits
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _console(stderr: bool = False) -> "Console":
    from .terminal.progress import console_for

    console = console_for(stderr=stderr, soft_wrap=True)
    if not console.is_terminal:
        console.width = 140  # a file or a pipe has room for whole tables
    return console


def _with_json(command: Callable[..., object]) -> Callable[..., None]:
    """Give a command a `console` and the option `--json`, which writes what the command returns."""

    @json_option
    @functools.wraps(command)
    def whole(json_file: str | None, **options: Any) -> None:
        from gemkit.records import plain  # late: it knows architectures, which take long to import

        _check_json(json_file)
        value = command(console=_console(stderr=json_file == "-"), **options)
        if value is None or not json_file:
            return
        if json_file == "-":
            click.echo(json.dumps(plain(value), indent=2, allow_nan=False))
        else:
            write_json(Path(json_file), plain(value))

    return whole


def _check_json(json_file: str | None) -> None:
    """Refuse a place for the JSON that cannot be written before hours are spent."""
    if json_file and json_file != "-":
        path = Path(json_file)
        if is_folder(path):
            raise UserError(f"--json: {path} is a folder; name a file, or give --json last")
        if not is_folder(path.resolve().parent):
            raise UserError(f"--json: the folder of {path} does not exist")


class Interrupted(Exception):
    """Ctrl-C, with the sentence that says how to go on."""


@contextmanager
def _resumable(command: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; what is finished is kept: go on with `{command}`"
        ) from None


def _again(out: Path | None = None) -> str:
    """The present command line; with `out`, the one that continues it."""
    context = click.get_current_context()
    words = ["gemkit", *context.meta.get("gemkit.words", [context.info_name or ""])]
    if out is not None:
        if not any(word.split("=")[0] == "--out" for word in words):
            words += ["--out", str(out)]
        if "--resume" not in words:
            words.append("--resume")
    return shlex.join(words)


_LIMITS = {
    "max_macs": "macs",
    "max_params": "params",
    "max_latency": "latency_ms",
    "max_memory": "memory_bytes",
}
"""Options and the fields of a budget that they set."""


def _budget(options: dict[str, Any], precision: str) -> Budget:
    """The limits among the options, which are taken out of them."""
    limits = {field: options.pop(name) for name, field in _LIMITS.items()}
    return Budget(**limits, precision=precision)


def _search_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of the search from the options of the command line.

    With `--resume` what was not given is as the run was begun.
    """
    from .runs import default_out

    if options["resume"]:
        _as_begun(options)
    precision = options.pop("precision")
    if options["target"] is not None:
        from .devices import precision_for

        precision = precision_for(options["target"], precision)
    budget = _budget(options, precision or "fp32")
    if options["out"] is None:
        options["out"] = default_out(options["data"], options["resume"])
    return {**options, "budget": budget}


_KEPT = (
    "data", "target", "nodes", "aggregation", "trials", "strategy", "encoder", "device", "seed",
    "promote", "promote_epochs", "in_rounds", "any_width",
)  # fmt: skip
"""Options that a run's configuration holds, whoever began it."""


def _given_at_first(commands: Sequence[str]) -> dict[str, Any]:
    """The options that were given on a run's first command line, where it is known."""
    try:
        _, name, *words = shlex.split(commands[0])
        context = cli.commands[name].make_context(name, words)
    except (IndexError, KeyError, ValueError, click.ClickException):
        return {}
    return {
        option: value
        for option, value in context.params.items()
        if context.get_parameter_source(option) is not ParameterSource.DEFAULT
    }


def _as_begun(options: dict[str, Any]) -> None:
    """Put the options that a run was begun with in the place of those not given now."""
    from gemkit.recipe import trial_epochs
    from gemkit.store import Run, is_run

    from .runs import default_out

    path = options["out"] or default_out(options["data"], resume=True)
    if not is_run(path):
        return
    with Run.open(path) as run:
        begun, first = run.config, _given_at_first(run.setting("commands", list[str], []))
    sources = click.get_current_context().get_parameter_source
    given = {name for name in options if sources(name) is not ParameterSource.DEFAULT}
    for name in set(_KEPT) - given:
        if begun.get(name) is not None:
            options[name] = begun[name]
    if not given & {*_LIMITS, "precision", "target"}:
        limits = Budget.from_json(begun["budget"])
        options |= {name: getattr(limits, field) for name, field in _LIMITS.items()}
        options["precision"] = limits.precision
    if "epochs" not in given and begun.get("epochs") != trial_epochs(first.get("recipe")):
        options["epochs"] = begun.get("epochs")
    for name in ("epochs", "recipe", "top", "workers", "time_limit", "teacher", "unlabelled"):
        if name in first and name in options and name not in given:
            options[name] = first[name]


@cli.command()
@search_options
@final_options
@_with_json
def run(console: "Console", **options: Any) -> object:
    """Search, train the best, export, measure and report: from data to ONNX files."""
    from . import formatting
    from .steps import pipeline
    from .terminal.measurements import print_measurements

    arguments = _search_arguments(options)
    with _resumable(_again(arguments["out"])):
        finished = pipeline.run(**arguments, console=console, command=_again())
    with finished:
        content = finished.content()
    print_measurements([one for entry in content.networks for one in entry.measurements], console)
    if content.recommendation is not None:
        console.print(formatting.recommendation_line(content.recommendation))
    console.print(f"next: {command('app', finished.path)}")
    return content


@cli.command()
@search_options
@_with_json
def search(console: "Console", **options: Any) -> object:
    """Search for networks: the first step of `run`."""
    from .steps.search import search

    arguments = _search_arguments(options)
    with _resumable(_again(arguments["out"])):
        finished = search(**arguments, console=console, command=_again())
    with finished:
        content = finished.content()
    console.print(f"next: {command('train', finished.path)}")
    return content


@cli.command()
@click.argument("run_folder", metavar="RUN", type=FOLDER)
@click.argument("ids", metavar="[ID]...", nargs=-1)
@final_options
@click.option("--epochs", type=click.IntRange(1, 100_000), help="Epochs.  [default: by the recipe]")
@batch_option
@click.option("--tensorboard", is_flag=True, help="Write event files for TensorBoard.")
@click.option("--compile", is_flag=True, help="Use torch.compile: worth it in long trainings.")
@click.option("--data", help="Train on other data of the same shape.  [default: the run's]")
@workers_option
@device_option
@_with_json
def train(console: "Console", run_folder: Path, ids: tuple[str, ...], **options: Any) -> object:
    """Train networks of RUN, the IDs given or the best, and the strongest known network.

    Continues by itself after an interruption; what is trained already is left alone. On several
    GPUs:  torchrun --nproc-per-node 4 -m gemkit.app train RUN
    """
    from .steps.final_training import train_along
    from .steps.torchrun import lead_or_follow
    from .steps.train import train

    with _resumable(_again()):
        models = lead_or_follow(
            lambda: train(run_folder, ids, console=console, **options), train_along
        )
    if models is not None:
        console.print(f"next: {command('export', run_folder)}")
    return models


@cli.command()
@click.argument("run_folder", metavar="RUN|zoo:NAME", type=FOLDER)
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option(
    "--precision",
    type=PRECISION_LIST,
    default="fp32",
    show_default=True,
    help="Also in these precisions, e.g. fp32,fp16,int8.",
)
@click.option(
    "--optimize",
    is_flag=False,
    flag_value="latency",
    type=click.Choice(("latency", "memory")),
    help="Also a graph rewritten to be faster here, or to need less memory.",
)
@click.option(
    "--input",
    type=click.Choice(("float", "uint8")),
    default="float",
    show_default=True,
    help="uint8: the file takes pixels (batch, height, width, channels) and normalises them.",
)
@click.option("--softmax", is_flag=True, help="The file gives probabilities, not logits.")
@click.option("--opset", type=int, help="Version of ONNX's operators, 13 to 23.  [default: 13]")
@click.option("--batch", type=int, help="Fix the batch size.  [default: any size]")
@click.option(
    "--format",
    type=click.Choice(("onnx", "c", "ort")),
    default="onnx",
    show_default=True,
    help="c: also C99 sources for microcontrollers, checked by compiling them.  ort: also files in "
    "onnxruntime's own format, for its minimal builds, with the operators they need.",
)
@click.option(
    "--data",
    help="Where the run's data are now, if it keeps no pictures and they have moved.  Of zoo:NAME: "
    "images like those it was trained on, to make fp16 and int8 with.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Also copy the files to this folder. Files that take or give something else than the "
    "run's own go there alone.  [default then: RUN/deploy]  Of zoo:NAME: the file.  "
    "[default: NAME.onnx]",
)
@_with_json
def export(console: "Console", run_folder: Path, ids: tuple[str, ...], **options: Any) -> object:
    """Write trained networks of RUN, or a ready-made one, as ONNX files, checked against PyTorch.

    `gemkit zoo` lists the ready-made ones.
    """
    from . import zoo
    from .steps.export import export
    from .steps.export_zoo import export_zoo

    if zoo.is_zoo(run_folder):
        if ids:
            raise UserError(f"{run_folder} is one network: it has no ids such as {ids[0]}")
        made = export_zoo(str(run_folder), console=console, **options)
        look = command("predict", run_folder, "PICTURE")
        console.print(f"next: {command('bench', made[0]['onnx'])}   or   {look}")
        return made
    if options["out"] is not None and is_file(options["out"]):
        raise UserError(f"--out: {options['out']} is a file; a run's networks go to a folder")
    with _resumable(_again()):
        delivery = export(run_folder, ids, console=console, **options)
    files = "" if delivery.folder is None else "/*.onnx"  # for the shell to fill in
    console.print(f"next: {command('bench', delivery.folder or run_folder)}{files}")
    return delivery


@cli.command()
@_with_json
def zoo(console: "Console") -> object:
    """List the ready-made networks that come with gemkit."""
    from .terminal.show import show_zoo

    return show_zoo(console)


@cli.command()
@click.argument("what", metavar="RUN|MODEL.onnx|NAME|zoo:NAME...", nargs=-1, required=True)
@click.option(
    "--threads", type=THREAD_LIST, default="1", show_default=True, help="Thread counts, e.g. 1,2."
)
@click.option(
    "--batch",
    type=NUMBER_LIST,
    default=(),
    help="Batch sizes, e.g. 1,8.  [default: what the file is fixed to, or 1]",
)
@click.option(
    "--size",
    type=SIZES,
    default=(),
    help="Of what a file leaves open beside the batch, e.g. 224x224.",
)
@click.option(
    "--provider",
    type=PROVIDER_LIST,
    default="cpu",
    show_default=True,
    help="Execution providers of onnxruntime, e.g. cpu,cuda.",
)
@_with_json
def bench(console: "Console", what: tuple[str, ...], **options: Any) -> object:
    """Measure latency with onnxruntime.

    Give a RUN (its models and baselines, whose figures are stored there), or ONNX files, names of
    torchvision networks and zoo:NAME, which are then measured beside one another.
    """
    from .steps.bench import bench
    from .terminal.measurements import print_measurements

    with _resumable(_again()):
        measurements = bench(*what, console=console, **options)
    print_measurements(measurements, console)
    if is_folder(Path(what[0])):
        console.print(f"next: {command('app', what[0])}")
    return measurements


@cli.command()
@click.argument("run_folder", metavar="RUN|zoo:NAME", type=FOLDER)
@click.argument("id", metavar="[ID]", required=False)
@click.option(
    "--out", type=FILE, help="Where the picture of ID goes (.png or .svg).  [default: in RUN]"
)
@click.option("--all", "everything", is_flag=True, help="List all trials, not the best twenty.")
@_with_json
def show(
    console: "Console", run_folder: Path, id: str | None, out: Path | None, everything: bool
) -> object:
    """Show the trials and models of RUN, or one of its cells (ID) with its cost and a picture.

    Of zoo:NAME: what its card says.
    """
    from . import zoo
    from .terminal import show

    if zoo.is_zoo(run_folder):
        if id is not None or out is not None:
            raise UserError(f"{run_folder} is shown by its card alone: leave out ID and --out")
        return show.show_zoo_network(str(run_folder), console)
    if out is not None and id is None:
        raise UserError("--out is for the picture of a cell: name its ID as well")
    if id is None:
        return show.show_run(run_folder, console, everything=everything)
    return show.show_cell(run_folder, id, console, out)


@cli.command()
@click.argument("model", metavar="MODEL.onnx|zoo:NAME", type=FILE)
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=FILE)
@click.option(
    "--top",
    type=click.IntRange(1, 1000),
    default=3,
    show_default=True,
    help="Classes named for each image.",
)
@_with_json
def predict(console: "Console", model: Path, images: tuple[Path, ...], top: int) -> object:
    """Classify images with an ONNX file that gemkit wrote, or a ready-made network."""
    from . import zoo
    from .steps.predict import check_all_used, predict

    with zoo.files([str(model)]) as made:
        file = Path(made.get(str(model), model))
        value = predict(file, images, top, console)
    # What could be used is delivered before the sentence about what could not.
    click.get_current_context().call_on_close(lambda: check_all_used(value))
    return value


@cli.command()
@click.argument("data", metavar="DATA")
@click.option("--out", metavar="PICTURE", type=FILE, help="Draw images of every class, as PNG.")
@click.option(
    "--skip-unusable",
    is_flag=True,
    help="List the pictures that cannot be read in the folder, to be left out from now on.",
)
@_with_json
def data(console: "Console", data: str, out: Path | None, skip_unusable: bool) -> object:
    """Look at a data set: what is read, what is left out, and what may mislead.

    DATA is what --data takes, such as imagefolder:PATH.
    """
    from .terminal.data import show_data

    return show_data(data, out, skip_unusable, console)


@cli.command()
@data_option
@click.option("--max-macs", type=COUNT, required=True, help="Each network takes at most so many.")
@click.option(
    "--seeds",
    type=click.IntRange(1, 1000),
    default=3,
    show_default=True,
    help="Trainings of every network.",
)
@click.option(
    "--share",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Share of --max-macs that the found network and the random cells get.",
)
@recipe_option
@click.option("--epochs", type=click.IntRange(1, 100_000), help="Epochs.  [default: by the recipe]")
@batch_option
@click.option(
    "--images", type=click.IntRange(1), help="Train on so many images.  [default: on all]"
)
@click.option(
    "--networks",
    type=NAME_LIST,
    default="",
    help="Some of found, narrow, random and the baselines (docs/training.md), e.g. "
    "found,darts_v2.  [default: all]",
)
@click.option(
    "--run", type=FOLDER, help="Take the found network from this run.  [default: search for one]"
)
@click.option("--trials", type=click.IntRange(1, 1_000_000), help="Of the search.  [default: 16]")
@seed_option
@workers_option
@device_option
@click.option("--out", type=FOLDER, help="Folder of the comparison.  [default: runs/compare-DATA]")
@_with_json
def compare(console: "Console", data: str, out: Path | None, **options: Any) -> object:
    """Train found networks, random cells and known networks side by side under one recipe.

    What is finished is kept in --out, so the same command goes on after an interruption.
    """
    from gemkit.store import is_run

    from .steps.compare import compare, default_out
    from .terminal.comparisons import print_comparison

    folder = out or default_out(data)
    with _resumable(_again()):
        value = compare(data, out=folder, console=console, **options)
    print_comparison(value, console)
    source = options["run"] or (folder / "search" if is_run(folder / "search") else None)
    if source is not None:
        console.print(f"next: {command('train', source)}")
    else:
        macs = format_count(options["max_macs"])
        console.print(f"next: {command('search', '--data', data, '--max-macs', macs)}")
    return value


@cli.command()
@click.argument("table", type=click.Path(path_type=Path))
@click.option("--metric", help="What is searched for: a metric of the table.")
@click.option("--latency", metavar="NAME", help="Predict this latency instead of searching.")
@click.option(
    "--queries",
    type=click.IntRange(1, 100_000),
    default=150,
    show_default=True,
    help="Cells that a search may ask for.",
)
@click.option(
    "--samples",
    type=click.IntRange(1, 100_000),
    default=100,
    show_default=True,
    help="Measured cells that a latency is predicted from.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1, 10_000),
    default=30,
    show_default=True,
    help="Repetitions with other random numbers.",
)
@click.option(
    "--strategies",
    type=STRATEGY_LIST,
    default="nasgem,bo,bo+embedding,evolution,evolution+embedding,random",
    show_default=True,
    help="What is compared.",
)
@click.option("--unique", is_flag=True, help="Merge cells that compute the same.")
@workers_option
@click.option(
    "--out", type=FOLDER, help="Folder of figures and results.  [default: runs/ablate-TABLE-METRIC]"
)
@_with_json
def ablate(
    console: "Console",
    table: Path,
    metric: str | None,
    latency: str | None,
    queries: int,
    samples: int,
    strategies: tuple[str, ...],
    out: Path | None,
    **options: Any,
) -> object:
    """Compare search strategies on a tabular benchmark (NAS-Bench-101, -201 or npz).

    What is finished is kept in --out, so the same command goes on after an interruption.
    """
    from .steps import ablate as step
    from .terminal.comparisons import print_latency_predictions, print_strategies

    if (metric is None) == (latency is None):
        raise UserError("name either a --metric to search for or a --latency to predict")
    folder = out or Path("runs") / f"ablate-{table.stem}-{metric or latency}".replace("/", "-")
    with _resumable(_again()):
        if latency is not None:
            value = step.latency(table, latency, folder, console, samples=samples, **options)
            print_latency_predictions(value, console)
        else:
            value = step.strategies(
                table, str(metric), folder, console, queries=queries, names=strategies, **options
            )
            print_strategies(value, console)
    return value


@cli.group()
def latency() -> None:
    """Learn how fast networks run on another device, for `--target`."""


@latency.command("kit")
@click.option("--out", type=FILE, required=True, help="The zip file to write, e.g. kit.zip.")
@data_option
@limit_options
@click.option(
    "--aggregation",
    type=click.Choice(("concat", "sum", "both")),
    default="both",
    show_default=True,
    help="Kind of cells to measure.",
)
@click.option(
    "--samples",
    type=click.IntRange(12, 10_000),
    default=100,
    show_default=True,
    help="Networks to measure.",
)
@seed_option
@_with_json
def latency_kit(console: "Console", **options: Any) -> object:
    """Write a zip to measure a device with: it needs Python 3.8, onnxruntime and numpy only.

    The networks in it are those that a search on --data could find; the limits bound their size.
    """
    from .devices import kit
    from .terminal.devices import print_kit

    value = kit(budget=_budget(options, "fp32"), console=console, **options)
    print_kit(value, console)
    return value


@latency.command("fit")
@click.argument("measurements", nargs=-1, required=True, type=FILE)
@click.option("--name", required=True, help="Name of the target, e.g. my-pi.")
@click.option("--description", default="", help="One line about it.  [default: what was measured]")
@click.option(
    "--prior",
    metavar="TARGET",
    help="A target measured before, for the same images, to start from.  [default: where 50 "
    "networks or fewer were measured, the one of yours that helps, if any does]",
)
@limit_options
@_with_json
def latency_fit(
    console: "Console",
    measurements: tuple[Path, ...],
    name: str,
    description: str,
    prior: str | None,
    **options: Any,
) -> object:
    """Make a target of the file that measure.py wrote on a device.

    The limits become the target's own: what a network may cost there at most.
    """
    from .devices import fit
    from .terminal.devices import print_fit

    value = fit(measurements, name, _budget(options, "fp32"), description, prior)
    print_fit(value, console)
    return value


@latency.command("predict")
@click.argument("cell", metavar="CELL.json", type=FILE)
@click.option("--target", metavar="NAME", required=True, help="See `gemkit targets`.")
@click.option(
    "--width",
    "widths",
    type=NUMBER_LIST,
    default="8,16,32",
    show_default=True,
    help="Widths of the first stage.",
)
@_with_json
def latency_predict(console: "Console", cell: Path, target: str, widths: tuple[int, ...]) -> object:
    """Predict the latency of a cell on a target."""
    from .devices import predict_latency
    from .terminal.devices import print_predictions

    value = predict_latency(cell, target, widths)
    print_predictions(value, target, console)
    return value


@cli.command()
@click.argument("name", required=False)
@click.option("--remove", is_flag=True, help="Remove a target of your own.")
@_with_json
def targets(console: "Console", name: str | None, remove: bool) -> object:
    """List the devices known, or all that is known about the one called NAME."""
    from gemkit.export import targets as known

    from .devices import about
    from .terminal.devices import print_target, print_targets

    if name is None:
        if remove:
            raise UserError("--remove: name the target to remove")
        found = known.targets()
        print_targets(found, console)
        return [about(one) for one in found]
    if remove:
        known.remove_target(name)
        console.print(f"removed {name}")
        return {"removed": name}
    print_target(known.target(name), console)
    return about(known.target(name))


def _host_names(_: click.Context, __: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not re.fullmatch(r"[\w.-]+", name):
            raise UserError(f"--allow-host: {name!r} is no host name; give one like demo.example")
    return tuple(name.lower().rstrip(".") for name in names)


def _root_path(_: click.Context, __: click.Parameter, path: str) -> str:
    if path.strip("/") and not re.fullmatch(r"(/[\w.~-]+)+/?", path):
        raise UserError(f"--root-path: {path!r} is no path; give one like /gemkit")
    return path.rstrip("/")


@cli.command()
@click.argument("run_folder", metavar="RUN", type=FOLDER)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=7860, show_default=True, help="Port."
)
@click.option(
    "--auth",
    metavar="USER",
    help="Ask visitors for this user and a password: the one in GEMKIT_PASSWORD, else typed now.",
)
@click.option("--read-only", is_flag=True, help="No searching or measuring; for the public.")
@click.option(
    "--fetch-runtime",
    is_flag=True,
    help="First fetch onnxruntime-web from npm's registry, to measure in visitors' browsers.",
)
@click.option(
    "--allow-host",
    metavar="NAME",
    multiple=True,
    callback=_host_names,
    help="Also answer requests for this host name, as a proxy passes them on. Repeatable.",
)
@click.option(
    "--root-path",
    metavar="PATH",
    default="",
    callback=_root_path,
    help="The prefix that a proxy in front of the page takes away, such as /gemkit.",
)
def app(run_folder: Path, host: str, port: int, auth: str | None, **options: Any) -> None:
    """Open a page to browse the networks of RUN, try them and download them."""
    from .page import page

    login = None if auth is None else (auth, _password(auth))
    page.serve(run_folder, host, port, _console(), login=login, **options)


@cli.command()
@click.argument("run_folder", metavar="RUN", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="The folder to make.")
@_with_json
def space(console: "Console", run_folder: Path, out: Path) -> object:
    """Make the folder of a Hugging Face Space that shows RUN, or zoo:NAME, to the public."""
    from . import huggingface

    return huggingface.make_space(run_folder, out, console)


def _password(user: str) -> str:
    """The page's password, from the environment or a prompt: never from the command line."""
    if not user or ":" in user:
        raise UserError("--auth: a user's name is not empty and has no colon")
    found = os.environ.get("GEMKIT_PASSWORD")
    if found is None:
        if not sys.stdin.isatty():
            raise UserError("--auth: give the password in the variable GEMKIT_PASSWORD")
        found = str(click.prompt(f"password for {user}", hide_input=True, err=True))
    if len(found) < 8:
        raise UserError("--auth: the password must have at least 8 characters")
    return found


def _stop(message: str, code: int) -> NoReturn:
    click.echo(f"gemkit: {' '.join(message.split())}", err=True)
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and end the process.

    Bad input ends with one sentence and code 2, Ctrl-C with one sentence and code 130. A fault of
    gemkit's own keeps its traceback.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with cli.make_context("gemkit", list(words)) as context:
            context.meta["gemkit.words"] = words
            cli.invoke(context)
    except click.exceptions.Exit as ended:
        sys.exit(ended.exit_code)
    except click.ClickException as error:
        help_with = (
            error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
        )
        hint = f" (see `{help_with} --help`)" if help_with else ""
        _stop(error.format_message().rstrip(".") + hint, 2)
    except UserError as error:
        _stop(str(error), 2)
    except Interrupted as stopped:
        _stop(str(stopped), 130)
    except (KeyboardInterrupt, click.Abort):
        _stop("interrupted", 130)
    except BrokenPipeError:
        # The reader (head, a closed pager) has seen enough.
        sys.stderr.close()
        sys.exit(0)
    sys.exit(0)
