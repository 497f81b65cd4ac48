"""Targets: devices by name, each with budgets and perhaps a latency predictor.

    targets()                        # those that come with gemkit, then the user's own
    target("my-pi").latency          # a LatencyModel, made by `save_target`

A target is one JSON file. Those that come with gemkit lie beside this module and name the source of
each figure; the user's own lie in the user's configuration directory. For microcontrollers gemkit
bounds memory and size and delivers int8 files and C sources; it claims no latency there.
"""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from platformdirs import user_config_path

from gemkit.architecture import Skeleton
from gemkit.budget import Budget
from gemkit.errors import UserError
from gemkit.files import check_format, explain, read_json, write_json
from gemkit.records import plain, read

from .latency import LatencyModel

_KIND, _FORMAT = "gemkit target", 1
_SHIPPED = Path(__file__).parent / "targets"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Figure:
    """A property of a device and where it is written."""

    name: str
    value: float
    unit: str
    source: str


@dataclass(frozen=True)
class Toolchain:
    """A program that takes one of our files for a device, and where that is written."""

    name: str
    takes: str
    source: str


@dataclass(frozen=True)
class Target:
    """A device.

    Attributes:
        name: lower-case letters, digits, dots and dashes.
        description: one line for people.
        budget: what a network may cost there, where nothing else is asked for.
        figures: of the device, with sources.
        latency: predicts latency there, where it was measured.
        own: whether it is the user's own, not one that comes with gemkit.
        processor: of a microcontroller, which gets C files; None for others.
        toolchains: what takes our files there.
    """

    name: str
    description: str
    budget: Budget
    figures: tuple[Figure, ...] = ()
    latency: LatencyModel | None = None
    own: bool = True
    processor: str | None = None
    toolchains: tuple[Toolchain, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The content of a target file."""
        return {
            "kind": _KIND,
            "format": _FORMAT,
            "name": self.name,
            "description": self.description,
            "budget": self.budget.to_json(),
            "figures": plain(self.figures),
            "latency": None if self.latency is None else self.latency.to_json(),
            "processor": self.processor,
            "toolchains": plain(self.toolchains),
        }

    def limits(self, asked: Budget) -> Budget:
        """The budget of a command: what was asked for, and the device's own limits besides.

        Raises:
            UserError: a latency was asked for that nothing is known about.
        """
        if asked.latency_ms is not None and self.latency is None:
            raise UserError(
                f"the latency on {self.name} is not known: leave --max-latency out, or measure "
                "the device with `gemkit latency kit`"
            )

        def least(name: str) -> Any:
            values = [getattr(budget, name) for budget in (asked, self.budget)]
            known = [value for value in values if value is not None]
            return min(known) if known else None

        limits = {name: least(name) for name in ("macs", "params", "latency_ms", "memory_bytes")}
        return replace(asked, **limits, precision=self.budget.precision)

    def predictor(self, skeleton: Skeleton) -> LatencyModel | None:
        """What predicts latency there for the networks of a skeleton; None where nothing does.

        Raises:
            UserError: it was measured for other images or classes.
        """
        if self.latency is None or self.latency.skeleton == skeleton:
            return self.latency
        raise UserError(
            f"{self.name} was measured for {images_of(self.latency.skeleton)}, not for "
            f"{images_of(skeleton)}: measure a kit for these (gemkit latency kit --data ...)"
        )


def images_of(skeleton: Skeleton) -> str:
    """What networks of a skeleton are for: `images of 32x32x3 in 10 classes`."""
    channels, height, width = skeleton.input_shape
    return f"images of {height}x{width}x{channels} in {skeleton.classes} classes"


def config_folder() -> Path:
    """Where the user's own targets lie; the variable GEMKIT_CONFIG moves it."""
    if chosen := os.environ.get("GEMKIT_CONFIG"):
        return Path(chosen)
    return user_config_path("gemkit", appauthor=False, roaming=True)


def targets() -> list[Target]:
    """All targets known: those that come with gemkit, then the user's own, each by name.

    Raises:
        UserError: a file of the user's own is damaged; the sentence names it.
    """
    shipped = [read_target(path, own=False) for path in sorted(_SHIPPED.glob("*.json"))]
    folder = config_folder() / "targets"
    return shipped + [read_target(path) for path in sorted(folder.glob("*.json"))]


def target(name: str) -> Target:
    """A target by name, or by the path of its file.

    Raises:
        UserError: there is none of this name; the sentence lists those there are.
    """
    if name.endswith(".json"):
        return read_target(Path(name))
    for folder, own in ((config_folder() / "targets", True), (_SHIPPED, False)):
        path = folder / f"{name}.json"
        if _NAME.fullmatch(name) and path.is_file():
            return read_target(path, own)
    known = ", ".join(one.name for one in targets())
    raise UserError(
        f"there is no target {name!r}: those known are {known}; gemkit latency kit makes one "
        "of a device"
    )


def read_target(path: Path, own: bool = True) -> Target:
    """Read a target file.

    Raises:
        UserError: the file is missing, damaged or no target; the sentence names it.
    """
    value = read_json(path)
    if not isinstance(value, dict) or value.get("kind") != _KIND:
        raise UserError(f"{path} is no target of gemkit's")
    check_format(value.get("format"), _FORMAT, str(path))
    name, description = value.get("name"), value.get("description")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or not isinstance(description, str):
        raise UserError(f"{path}: a target needs a name and a description")
    processor = value.get("processor")
    if processor is not None and not isinstance(processor, str):
        raise UserError(f"{path}: processor is a name, such as cortex-m4")
    latency = value.get("latency")
    return Target(
        name,
        description,
        Budget.from_json(value.get("budget"), f"{path}: budget"),
        read(tuple[Figure, ...], value.get("figures", []), f"{path}: figures"),
        None if latency is None else LatencyModel.from_json(latency, f"{path}: latency"),
        own,
        processor,
        read(tuple[Toolchain, ...], value.get("toolchains", []), f"{path}: toolchains"),
    )


def check_name(name: str) -> None:
    """Make sure that a target of the user's own may be called so.

    Raises:
        UserError: the name is not possible or one of gemkit's.
    """
    if not _NAME.fullmatch(name) or name.endswith(".json"):
        raise UserError(
            f"{name!r} is no name for a target: use lower-case letters, digits, dots and dashes"
        )
    if (_SHIPPED / f"{name}.json").exists():
        raise UserError(f"{name!r} comes with gemkit and cannot be replaced: choose another name")


def save_target(
    name: str, latency: LatencyModel | None, budget: Budget | None = None, description: str = ""
) -> Path:
    """Keep a target of the user's own; one of the same name is replaced.

    Raises:
        UserError: the name is not possible or one of gemkit's, or the folder cannot be written.
    """
    check_name(name)
    if not description:
        description = "measured device"
        if latency is not None:
            machine = latency.device.get("machine", {})
            description = machine.get("board") or machine.get("processor") or description
    path = config_folder() / "targets" / f"{name}.json"
    write_json(path, Target(name, description, budget or Budget(), (), latency).to_json())
    return path


def remove_target(name: str) -> None:
    """Remove a target of the user's own.

    Raises:
        UserError: there is none of this name, or it comes with gemkit.
    """
    if name.endswith(".json"):
        raise UserError(f"{name!r} is a file: name a target of your own, or delete the file")
    if not target(name).own:
        raise UserError(f"{name!r} comes with gemkit and cannot be removed")
    path = config_folder() / "targets" / f"{name}.json"
    try:
        path.unlink()
    except OSError as error:
        raise explain(error, path) from None
