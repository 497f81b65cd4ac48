"""`gemkit space`: a folder that a Hugging Face Space runs as it is, with a run in it.

A Space installs `requirements.txt` and then runs the file that its README names, from the folder
that was pushed. gemkit's own sources lie therefore in it, under the names they are imported by.
"""

import re
import shutil
import sqlite3
import tempfile
from contextlib import closing
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING

from gemkit.cell import write_cell
from gemkit.errors import UserError
from gemkit.files import explain, read_json, write_bytes, write_json, write_text
from gemkit.records import DataInfo, Model
from gemkit.store import Run

from . import formatting, zoo
from .hints import command
from .page.content import PageRun
from .steps import export_zoo

if TYPE_CHECKING:
    from rich.console import Console

_PACKAGES = ("gemkit", "gemkit.search", "gemkit.export", "gemkit.app")
_OURS = ("README.md", "requirements.txt", ".gitattributes", "app", "gemkit", "space")
_THEIRS = (".git", ".gitignore")
_README = """\
---
title: "{title}"
emoji: 🔬
colorFrom: blue
colorTo: green
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app/space.py
license: apache-2.0
short_description: Small networks found by gemkit, to try and to take along
---

# {title}

{story} Look at cells and at what they cost, try them on your images, measure them in your browser,
and download the ONNX files.
"""
_LARGE_FILES = "".join(
    f"*.{ending} filter=lfs diff=lfs merge=lfs -text\n"
    for ending in ("onnx", "safetensors", "db", "png")
)


def make_space(folder: Path, out: Path, console: "Console") -> list[str]:
    """Write the folder of a Space that shows a run, or a network of the zoo.

    Args:
        folder: a run with at least one exported network, or `zoo:NAME`.
        out: a new or empty folder, the clone of an empty Space, or what was made here before;
            that is replaced.

    Returns:
        the files' names, in order.

    Raises:
        UserError: no run, nothing in it to show, or the folder holds something else.
    """
    with tempfile.TemporaryDirectory(prefix="gemkit-space-") as scratch:
        if zoo.is_zoo(folder):
            folder = _run_of(zoo.card(str(folder)), Path(scratch) / "run")
        return _make_space(folder, out, console)


def _run_of(known: zoo.Card, path: Path) -> Path:
    """A run that holds a ready-made network alone, as a search would have left it."""
    network = known.network
    config = {"data": known.data, "budget": known.budget.to_json(), "seed": 0}
    shape, onnx = network.skeleton.input_shape, f"models/{known.name}/model.onnx"
    with Run.create(path, config) as run:
        run.set_setting("skeleton", network.skeleton)
        run.set_setting(
            "data",
            DataInfo(
                known.data,
                known.data_note,
                test=known.test_images,
                input_shape=shape,
                class_names=known.class_names,
                mean=known.mean,
                std=known.std,
            ),
        )
        zoo.write(known, path / onnx)
        write_cell((path / onnx).with_name("cell.json"), network.cells[0])
        export_zoo.write_card(known, path / onnx, (path / onnx).with_name("card.md"))
        run.put(
            Model(
                id=known.name,
                cell=network.cells[0],
                width=network.width,
                macs=known.macs,
                params=known.params,
                peak_memory_bytes=known.peak_memory_bytes,
                accuracy=known.accuracy,
                state="done",
                onnx=onnx,
                latency_ms=known.latency_ms,
                measurements=known.measurements,
            )
        )
    return path


def _make_space(folder: Path, out: Path, console: "Console") -> list[str]:
    shown = PageRun.open(folder)
    try:
        if not shown.runnable():
            raise UserError(
                f"{folder} has no network to take along: run `{command('export', folder)}` first"
            )
        if out.resolve() == shown.folder or shown.folder in out.resolve().parents:
            raise UserError(f"--out: {out} lies in the run itself; choose another folder")
        if out.resolve() in shown.folder.parents:  # what lies there is replaced
            raise UserError(f"--out: the run lies in {out}; choose another folder")
        _clear(out)
        try:
            _copy_run(shown, out / "space" / "run")
            _copy_sources(out)
        except OSError as error:
            raise explain(error, out) from None
        readme = _README.format(
            title=shown.title.replace('"', "'").replace("\\", "/"),
            gradio=metadata.version("gradio"),
            story=_story(shown),
        )
        write_text(out / "requirements.txt", "".join(f"{one}\n" for one in requirements()))
        write_text(out / ".gitattributes", _LARGE_FILES)
        write_text(out / "README.md", readme)
    finally:
        shown.close()
    files = [
        path
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.relative_to(out).parts[0] != ".git"
    ]
    size = formatting.size(sum(path.stat().st_size for path in files))
    console.print(
        f"{out}: {formatting.number(len(files), 'file')}, {size}; the run's configuration "
        "(with the machine it was made on) and all its candidates are among them"
    )
    console.print(f"try it here: python {out / 'app' / 'space.py'}   then push it to a Space")
    return [str(path.relative_to(out)) for path in files]


def _story(shown: PageRun) -> str:
    content = shown.content
    if not content.trials:
        return f"A ready-made network of gemkit's: {content.models[0].id}."
    return (
        f"gemkit tried {formatting.number(content.done, 'design')} (asked for: "
        f"{shown.budget.describe()}) and trained {len(content.models)} of them in full."
    )


def requirements() -> list[str]:
    """What a Space has to install: what gemkit needs, its runtime the one for processors."""
    wanted = [one for one in metadata.requires("gemkit") or [] if "extra ==" not in one]
    return sorted(re.sub(r"^onnxruntime-gpu\b", "onnxruntime", one) for one in wanted)


def _clear(out: Path) -> None:
    """Remove what was made there before.

    Raises:
        UserError: the folder holds something else, or cannot be read or written.
    """
    try:
        names = {path.name for path in out.iterdir()} if out.exists() else set()
        readme = out / "README.md"
        made = readme.is_file() and "app_file: app/space.py" in readme.read_text(errors="replace")
        plain = {"README.md", ".gitattributes"}  # a new Space has them
        foreign = names - set(_THEIRS) - (set(_OURS) if made else plain)
        if foreign:
            raise UserError(
                f"--out: {out} holds something else ({sorted(foreign)[0]}); choose a new folder, "
                "or the clone of a new Space"
            )
        for name in set(_OURS) & names:
            path = out / name
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    except OSError as error:
        raise explain(error, out) from None


def _copy_run(shown: PageRun, target: Path) -> None:
    """Copy of a run what the page shows and gives away, and nothing else."""
    content = shown.content
    target.mkdir(parents=True)
    # A copy without the log of a run that is being written, which a plain file could not show.
    place = f"{(shown.folder / 'search.db').as_uri()}?mode=ro"
    with closing(sqlite3.connect(place, uri=True)) as source:
        source.execute("VACUUM INTO ?", (str(target / "search.db"),))
    # Where on this machine the data lie is nobody's business.
    with closing(sqlite3.connect(target / "search.db")) as copied, copied:
        copied.execute("DELETE FROM settings WHERE name IN ('final_data', 'identity')")
    config = read_json(shown.folder / "config.json")
    config["config"] |= {"data": content.data.name if content.data else "", "identity": None}
    write_json(target / "config.json", config)
    if (shown.folder / "encoder.safetensors").is_file():
        write_bytes(
            target / "encoder.safetensors", (shown.folder / "encoder.safetensors").read_bytes()
        )
    for example in sorted((shown.folder / "examples").glob("*.png"))[:12]:
        write_bytes(target / "examples" / example.name, example.read_bytes())
    for entry in content.networks:
        for file in shown.files(entry.id):
            to = target / content.kind(entry.id) / entry.id / file.name
            write_bytes(to, file.path.read_bytes())


def _copy_sources(out: Path) -> None:
    """Copy gemkit's packages to where they are imported from, and the file that a Space runs."""
    for name in _PACKAGES:
        (source,) = import_module(name).__path__
        target = out.joinpath(*name.split("."))
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted(Path(source).rglob("*")):
            inside = path.relative_to(source)
            if path.is_file() and not {"__pycache__", "networks"} & set(inside.parts):
                (target / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target / inside)
    (out / "app").mkdir()
    shutil.copyfile(out / "gemkit" / "app" / "page" / "space.py", out / "app" / "space.py")
