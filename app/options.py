"""What the options of the command line are, and how their texts are read."""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gemkit.budget import PRECISIONS, parse_bytes, parse_count, parse_latency_ms
from gemkit.errors import UserError
from gemkit.search.strategies import STRATEGIES

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # generic since click 8.5 only

Command = TypeVar("Command", bound=Callable[..., Any])

RECIPES = ("proxy", "standard", "full")
DEVICES = ("auto", "cpu", "cuda")
_DURATION = re.compile(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*(s|m|min|h)\s*", re.IGNORECASE)
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600}


class Parsed(_ParamType):
    """An option whose text a function reads; the function's sentence is the error."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self.parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.parse(value)
        except UserError as error:
            option = param.opts[0] if param and param.opts else self.name
            raise UserError(f"{option}: {error}") from None


def parse_duration(text: str) -> float:
    """Read a time limit into seconds: `30m`, `90s`, `1.5h`.

    Raises:
        UserError: the text is no duration or has no unit.
    """
    match = _DURATION.fullmatch(text)
    seconds = float(match.group(1)) * _SECONDS[match.group(2).lower()] if match else 0.0
    if not 0 < seconds < math.inf:
        raise UserError(f"{text!r} is no time: write it like 90s, 30m or 2h (the unit is needed)")
    return seconds


def list_of(parse: Callable[[str], Any], what: str) -> Callable[[str], tuple[Any, ...]]:
    def read(text: str) -> tuple[Any, ...]:
        parts = [part.strip() for part in text.split(",")]
        if not all(parts):
            raise UserError(f"{text!r} is no list of {what}: separate them by single commas")
        return tuple(dict.fromkeys(parse(part) for part in parts))

    return read


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(_whole(1_000_000)(part) for part in text.lower().split("x"))
    except UserError:
        raise UserError(f"{text!r} is no size: write it like 224x224, or 512") from None


def _whole(most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = 0
        if not 1 <= value <= most:
            raise UserError(f"{text!r} must be a whole number from 1 to {most:,}")
        return value

    return read


def one_of(names: Sequence[str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in names:
            raise UserError(f"{text!r} is none of {', '.join(names)}")
        return text.lower()

    return read


COUNT = Parsed("COUNT", parse_count)
LATENCY = Parsed("TIME", parse_latency_ms)
BYTES = Parsed("SIZE", parse_bytes)
DURATION = Parsed("TIME", parse_duration)
PRECISION_LIST = Parsed("LIST", list_of(one_of(tuple(PRECISIONS)), "precisions"))
NUMBER_LIST = Parsed("LIST", list_of(_whole(1_000_000), "numbers"))
THREAD_LIST = Parsed("LIST", list_of(_whole(1024), "numbers"))
STRATEGY_LIST = Parsed("LIST", list_of(one_of(STRATEGIES), "strategies"))
NAME_LIST = Parsed("LIST", lambda text: list_of(str.lower, "names")(text) if text else ())
SIZES = Parsed("HxW", _sizes)
PROVIDER_LIST = Parsed("LIST", list_of(str, "providers"))
FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)


def options(*added: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        for option in reversed(added):
            command = option(command)
        return command

    return add


json_option = click.option(
    "--json",
    "json_file",
    is_flag=False,
    flag_value="-",
    metavar="[FILE]",
    help="Write the result as JSON to FILE; without FILE (give it last) to standard output, "
    "with progress on standard error.",
)
data_option = click.option(
    "--data",
    default="digits",
    show_default=True,
    help="digits, cifar10, cifar100, imagefolder:PATH[@PIXELS] or npz:FILE.",
)
seed_option = click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    default=0,
    show_default=True,
    help="Everything random derives from it.",
)
device_option = click.option(
    "--device",
    type=click.Choice(DEVICES),
    default="auto",
    show_default=True,
    help="Where networks are trained.",
)
workers_option = click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    help="Processes that train at the same time.  [default: one per core]",
)
resume_option = click.option(
    "--resume",
    is_flag=True,
    help="Continue what is in --out, with the options it was begun with; begin where there is "
    "nothing.",
)

limit_options = options(
    click.option("--max-macs", type=COUNT, help="At most so many MACs, e.g. 40M."),
    click.option("--max-params", type=COUNT, help="At most so many parameters, e.g. 500k."),
    click.option(
        "--max-latency",
        type=LATENCY,
        help="At most so long for one image, e.g. 2ms: the median (onnxruntime, CPU, one thread) "
        "on this machine or on --target.",
    ),
    click.option(
        "--max-memory", type=BYTES, help="At most so much memory for activations, e.g. 256kB."
    ),
)
budget_options = options(
    limit_options,
    click.option(
        "--target",
        metavar="NAME",
        help="Stay within the budgets of a device, see `gemkit targets`; its latency is predicted.",
    ),
    click.option(
        "--precision",
        type=click.Choice(tuple(PRECISIONS)),
        help="Element type that memory and latency budgets refer to.  "
        "[default: fp32, or the target's]",
    ),
)
search_options = options(
    data_option,
    budget_options,
    click.option(
        "--nodes",
        type=click.IntRange(1, 30),
        default=30,
        show_default=True,
        help="Nodes of the complete graph whose sub-graphs are searched.",
    ),
    click.option(
        "--aggregation",
        type=click.Choice(("concat", "sum")),
        default="concat",
        show_default=True,
        help="How a node joins several inputs.",
    ),
    click.option(
        "--any-width",
        is_flag=True,
        help="Let networks have any number of channels, not only multiples of 8 (of 4 below 32).",
    ),
    click.option(
        "--trials",
        type=click.IntRange(1, 1_000_000),
        help="Networks trained on the proxy task.  [default: 16, of few images none are compared]",
    ),
    click.option(
        "--time",
        "time_limit",
        type=DURATION,
        help="Start no new trial after so long, e.g. 30m.  [default: no limit]",
    ),
    workers_option,
    click.option(
        "--dask",
        metavar="ADDRESS",
        help="Scheduler of a Dask cluster that runs the trials, e.g. tcp://host:8786.",
    ),
    click.option(
        "--strategy",
        type=click.Choice(STRATEGIES),
        default="nasgem",
        show_default=True,
        help="What decides which networks are trained next.",
    ),
    click.option(
        "--encoder",
        type=FILE,
        help="A trained graph encoder (safetensors).  [default: the one that comes with gemkit]",
    ),
    click.option(
        "--epochs",
        type=click.IntRange(1, 100_000),
        help="Epochs of every training.  [default: by recipe]",
    ),
    device_option,
    seed_option,
    click.option(
        "--promote",
        type=click.IntRange(0, 1000),
        default=0,
        show_default=True,
        help="Short trials first: train the best N again, longer, before they are ranked.",
    ),
    click.option(
        "--promote-epochs",
        type=click.IntRange(1, 100_000),
        help="How long --promote trains.  [default: three times a trial]",
    ),
    click.option(
        "--in-rounds",
        is_flag=True,
        help="With several workers: wait for a round's end before the next. Repeats exactly, but "
        "workers idle.",
    ),
    click.option("--out", type=FOLDER, help="Folder of the run.  [default: runs/DATA]"),
    resume_option,
)
recipe_option = click.option(
    "--recipe",
    type=click.Choice(RECIPES),
    default="standard",
    show_default=True,
    help="How they are trained.",
)
batch_option = click.option(
    "--batch-size",
    type=click.IntRange(2, 65536),
    help="Images a training step.  [default: by the recipe]",
)
final_options = options(
    click.option(
        "--top",
        type=click.IntRange(1, 100),
        default=2,
        show_default=True,
        help="How many of the best networks are trained in full and delivered.",
    ),
    click.option(
        "--recipe",
        type=click.Choice((*RECIPES, "taught")),
        help="How they are trained.  [default: standard, or taught with --teacher]",
    ),
    click.option(
        "--teacher",
        metavar="NAME",
        help="Let them learn from a larger network: efficientnet-lite0, a network of torchvision, "
        "FILE.onnx, zoo:NAME or RUN/models/ID; NAME@PIXELS for the size of its images.",
    ),
    click.option(
        "--unlabelled",
        type=FOLDER,
        help="Pictures without labels that the teacher shows them as well.",
    ),
)
