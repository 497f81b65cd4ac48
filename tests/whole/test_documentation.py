"""What the documents tell a reader to do is done here, as it stands in them, at small sizes.

Commands come from the documents' code blocks; none is repeated here. The rules of `Reader.follow`:

- `gemkit ...` and `python -m ...` run in this process, scripts in one of their own. `gemkit` gets
  the options of `SMALL` after its own (the last one counts). `*` is expanded, `ID` is a network
  that the run delivered.
- `make demo` is what the Makefile says it is.
- The other machine of `scp` is this folder, too. Lines that install packages are left out.
- A change of the code (a block marked `diff`) is made in a copy of the packages, and what follows
  it runs there.

Trials run in this process, and measurements take milliseconds.
"""

import functools
import glob
import json
import os
import pickle
import re
import runpy
import shlex
import shutil
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from PIL import Image

from gemkit import fine_tuning
from gemkit.app import cli
from gemkit.app.page import server
from gemkit.app.steps import pipeline, search, train
from gemkit.export import exporter, timing
from gemkit.recipe import Recipe
from gemkit.store import Run
from gemkit.workers import Workers
from nasbench_records import framed, small_nasbench101

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
INSTALLING = ("pip install", "python3 -m venv", "source .venv")

_SEARCH = "--trials 3 --epochs 1 --nodes 5 --max-macs 1M --workers 1 --device cpu"
SMALL = {
    "search": _SEARCH,
    "run": f"{_SEARCH} --top 1",
    "compare": "--max-macs 1M --seeds 1 --epochs 1 --images 99 --workers 1 --networks found,random",
    "bench": "--threads 1 --batch 1",
    "latency kit": "--samples 12",
    "ablate": "--queries 12 --samples 12 --seeds 2 --workers 1",
}
FEW = "bo,random"
"""Strategies compared where a command names none."""


@dataclass(frozen=True)
class Block:
    """A code block: the heading above it, what stands after the three ticks, its lines."""

    section: str
    language: str
    text: str


def blocks(document: str) -> list[Block]:
    """The code blocks of a document, in order."""
    found, section, language, lines = [], "", None, list[str]()
    for line in (ROOT / document).read_text().splitlines():
        if line.startswith("```"):
            if language is None:
                language, lines = line[3:], []
            else:
                found.append(Block(section, language, "\n".join(lines) + "\n"))
                language = None
        elif language is not None:
            lines.append(line)
        elif line.startswith("#"):
            section = line.lstrip("# ")
    assert language is None, f"{document}: a code block has no end"
    return found


def commands(text: str) -> Iterator[str]:
    """The commands of a block, without comments."""
    for line in text.splitlines():
        command = re.sub(r"\s#.*", "", line).strip()
        if command and not command.startswith(INSTALLING):
            yield command


class Reader:
    """Somebody who does in a folder what a document says.

    Attributes:
        done: the commands that were run.
        copied: whether the packages were copied into the folder to be changed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: list[str] = []
        self.copied = False

    def follow(self, document: str, *sections: str) -> None:
        """Do everything in a document, or in some of its sections."""
        found = [block for block in blocks(document) if not sections or block.section in sections]
        assert found, f"{document}: no code in {sections}"
        waiting: list[str] = []
        for block in found:
            if block.language == "":
                waiting += commands(block.text)
            if not self.copied:
                self.run(waiting)
                waiting = []
            if block.language == "python":
                exec(compile(block.text, document, "exec"), {"__name__": "__main__"})
            elif block.language == "diff":
                self.change(block.text)
        self.run(waiting)

    def run(self, lines: Sequence[str]) -> None:
        self.done += lines
        if self.copied:
            self._run_the_copy(lines)
            return
        for line in lines:
            for words in self.words(line):
                if words[0] == "gemkit" or words[1] == "-m":
                    self._here(words)
                elif words[0] == "scp":
                    self._copy(words[1:])
                else:
                    subprocess.run(words, check=True, cwd=self.folder)

    def words(self, line: str) -> list[list[str]]:
        """The commands of a line as words, with everything that a shell would fill in."""
        if line == "make demo":
            said = subprocess.run(
                ["make", "--no-print-directory", "-n", "-o", "install", "demo"],
                cwd=ROOT, capture_output=True, text=True, check=True,
            )  # fmt: skip
            line = said.stdout.strip().splitlines()[-1].replace(".venv/bin/", "")
        found = []
        for part in line.split(" && "):
            words: list[str] = []
            for word in shlex.split(part):
                word = self.with_id(word)
                words += sorted(glob.glob(word, root_dir=self.folder)) if "*" in word else [word]
            if words[0] == "python":
                words[0] = sys.executable
                if words[1] == "gemkit-kit/measure.py":
                    words += ["--rounds", "2", "--seconds", "0.005"]
            elif words[0] == "gemkit":
                name = " ".join(words[1:3]) if words[1] == "latency" else words[1]
                words += SMALL.get(name, "").split()
                if name == "ablate" and "--strategies" not in words:
                    words += ["--strategies", FEW]
                if name == "app":
                    words += ["--port", str(free_port())]
            else:
                assert words[0] in ("scp", "cp", "make"), (
                    f"{line!r} is nothing that a reader can do"
                )
            found.append(words)
        return found

    def with_id(self, word: str) -> str:
        run, placeholder, rest = word.partition("/models/ID/")
        if not placeholder:
            return word
        with Run.open(self.folder / run) as opened:
            delivered = [model.id for model in opened.models() if model.onnx]
        return f"{run}/models/{delivered[0]}/{rest}"

    def _here(self, words: Sequence[str]) -> None:
        try:
            if words[0] == "gemkit":
                cli.main(words[1:])
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", list(words[2:]))
                runpy.run_module(words[2], run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            if ended.code:
                pytest.fail(f"{shlex.join(words)}: exit code {ended.code}")

    def _copy(self, words: Sequence[str]) -> None:
        *sources, target = (re.sub(r"^\w+@[\w.]+:", "./", word) for word in words if word != "-r")
        for source in sources:
            if (self.folder / source).parent != self.folder / target:
                shutil.copy(self.folder / source, self.folder / target)

    def change(self, diff: str) -> None:
        """Make a change in a copy of the packages; what it shows of the file must be there."""
        if not self.copied:
            copy_packages(self.folder)
            self.copied = True
        head, *lines = diff.splitlines()
        path = self.folder / head.removeprefix("--- ")
        before = "".join(line[1:] + "\n" for line in lines if not line.startswith("+"))
        after = "".join(line[1:] + "\n" for line in lines if not line.startswith("-"))
        text = path.read_text()
        assert text.count(before) == 1, f"{head}: the lines shown are not in the file"
        path.write_text(text.replace(before, after))

    def _run_the_copy(self, lines: Sequence[str]) -> None:
        self.script(
            "follow.py", json.dumps([words for line in lines for words in self.words(line)])
        )

    def script(self, name: str, *words: str) -> None:
        """Run a script of this folder with the changed packages."""
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name(name)), *words],
            cwd=self.folder, capture_output=True, text=True, check=False,
            env=os.environ | {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        print(done.stdout)
        assert done.returncode == 0, done.stderr


def copy_packages(folder: Path) -> None:
    """The packages as in a clone, importable from there."""
    for package in ("gemkit", "search", "export", "app"):
        ignored = shutil.ignore_patterns("__pycache__", *(["networks"] if package == "app" else []))
        shutil.copytree(ROOT / package, folder / package, ignore=ignored)
        if package != "gemkit":
            (folder / "gemkit" / package).symlink_to(folder / package)


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """Somebody in an empty folder, whose trials run in this process and who measures briefly."""
    monkeypatch.setenv("GEMKIT_CONFIG", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    here = classmethod(lambda cls, count=1: cls(lambda: ThreadPoolExecutor(1), 1))
    monkeypatch.setattr(Workers, "local", here)
    measure = timing.measure

    def briefly(*files: Any, **how: Any) -> list[dict[str, Any]]:
        return measure(*files, **how | {"rounds": 1, "seconds": 0.001})

    monkeypatch.setattr(timing, "measure", briefly)
    small = functools.partial(search.search, trials=3, epochs=1, nodes=5, workers=1, device="cpu")
    brief = functools.partial(train.train, top=1, epochs=1)
    for module in (search, pipeline):
        monkeypatch.setattr(module, "search", small)
    for module in (train, pipeline):
        monkeypatch.setattr(module, "train", brief)
    return Reader(tmp_path)


@pytest.fixture
def visited(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a page said to a visitor, who then leaves it."""
    found: list[str] = []

    def visit(server: Any) -> None:
        with urllib.request.urlopen(server.address, timeout=30) as answer:
            found.append(answer.read().decode())

    monkeypatch.setattr(server.Server, "wait", visit)
    return found


def photographs(folder: Path, seed: int) -> None:
    """Pictures of two classes, dark and light, in `photos` and as `photo.jpg`."""
    rng = np.random.default_rng(seed)
    for part, count in (("train", 20), ("test", 6)):
        for name, low in (("cat", 0), ("dog", 128)):
            place = folder / "photos" / part / name
            place.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(low, low + 128, (40, 52, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{index}.jpg")
    shutil.copy(folder / "photos" / "test" / "dog" / "0.jpg", folder / "photo.jpg")


# ---- README


def test_two_commands_give_a_network(reader: Reader) -> None:
    reader.follow("README.md", "gemkit")
    assert reader.done == ["gemkit export zoo:gemnet-tiny --out tiny.onnx"]
    assert exporter.read_info(Path("tiny.onnx")).class_names[0] == "airplane"


def test_a_visitor_sees_the_demo(reader: Reader, visited: list[str]) -> None:
    reader.follow("README.md", "See it work")
    assert (reader.folder / "runs/demo/report.md").is_file()
    assert list(Path("runs/demo/models").glob("*/model.onnx"))
    assert "gradio" in visited[0]


def test_an_engineer_delivers_for_a_device(reader: Reader) -> None:
    reader.follow("README.md", "You have a device")
    measured = json.loads(Path("bench.json").read_text())
    assert {"mobilenet_v3_small"} < {one["model"] for one in measured}
    assert {"fp32", "fp16", "int8"} <= {one["precision"] for one in measured}
    with Run.open(Path("runs/first")) as run:
        assert run.config["target"] == "my-device"


def test_a_researcher_compares(reader: Reader) -> None:
    reader.follow("README.md", "You do research")
    assert {trial["state"] for trial in json.loads(Path("nasgem.json").read_text())["trials"]} == {
        "done"
    }
    compared = json.loads(Path("runs/compare/compare.json").read_text())
    assert {"found", "random"} <= {one["id"] for one in compared["networks"]}
    with Run.open(Path("runs/python")) as run:
        assert run.models()[0].latency_ms


# ---- Tutorials


def test_my_raspberry_pi_needs_20_ms(reader: Reader, seed: int) -> None:
    photographs(reader.folder, seed)
    reader.follow("docs/tutorials/raspberry-pi.md")
    assert list(Path("deploy").glob("*.onnx"))


@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc")
def test_my_microcontroller_has_256_kb(reader: Reader) -> None:
    reader.follow("docs/tutorials/microcontroller.md")
    (folder,) = Path("runs/board/models").glob("*/model.int8-c")
    assert json.loads((folder / "project.json").read_text())["verified"]
    assert (folder / "classify").is_file()
    assert list(Path("deploy").glob("*.int8-c/network.c"))
    assert Path("tiny-c/network.c").is_file()


def test_my_own_images(
    reader: Reader,
    seed: int,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fine_tuning, "RECIPE", Recipe(epochs=1))
    photographs(reader.folder, seed)
    reader.follow("docs/tutorials/own-images.md")
    assert capfd.readouterr().out.splitlines()[-1] in ("cat", "dog")


def small_tables(folder: Path, rng: np.random.Generator) -> None:
    """Forty cells in each of the three files that people publish, in their own forms."""
    import torch

    names = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
    cells = set[str]()
    while len(cells) < 40:
        a, b, c, d, e, f = rng.choice(names, 6)
        cells.add(f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|")

    def results() -> dict[str, Any]:
        accuracy = float(rng.uniform(10, 95))
        return {"flop": 10.0, "params": 0.1, "eval_acc1es": {"x-valid@199": accuracy}}

    infos = {
        row: {"full": {"all_results": {("cifar10-valid", 777): results()}}}
        for row in range(len(cells))
    }
    folder.mkdir()
    stored = {"meta_archs": sorted(cells), "arch2infos": infos}
    torch.save(stored, folder / "NAS-Bench-201-v1_1-096897.pth")
    measured = {
        "config": [{"arch_str": cell} for cell in sorted(cells)],
        "raspi4_latency": [cell.count("conv") + float(rng.random()) for cell in sorted(cells)],
    }
    content = pickle.dumps({"nasbench201": {"cifar10": measured}}, 2)
    (folder / "HW-NAS-Bench-v1_0.pickle").write_bytes(content)
    content = framed(small_nasbench101(int(rng.integers(1000)), 30))
    (folder / "nasbench_only108.tfrecord").write_bytes(content)


def test_reproduce_the_ablation(reader: Reader, seed: int) -> None:
    small_tables(reader.folder / "tables", np.random.default_rng(seed))
    reader.follow("docs/tutorials/ablation.md")
    for table in (
        "nasbench201_cifar10-cifar10-valid_x-valid_199",
        "nasbench_only108-validation_accuracy",
        "my_table-my_metric",
    ):
        assert Path(f"runs/ablate-{table}/regret.png").is_file()


def test_add_an_operation(reader: Reader, seed: int) -> None:
    reader.follow("docs/tutorials/add-an-operation.md")
    # Not by Run: in this process the table of operations is as it was.
    with closing(sqlite3.connect("runs/five/search.db")) as database:
        ((parity,),) = database.execute("SELECT max(parity_max_abs) FROM models")
    assert parity <= 1e-4
    reader.script("new_operation.py", str(seed))


def test_add_a_strategy(reader: Reader) -> None:
    made = next(block for block in blocks("docs/tutorials/ablation.md") if "my_table" in block.text)
    exec(compile(made.text, "ablation.md", "exec"), {})
    reader.follow("docs/tutorials/add-a-strategy.md")
    with Run.open(Path("runs/best-three")) as run:
        assert run.config["strategy"] == "best-three"


# ---- All documents


def test_python_in_the_documents_says_what_it_prints(capfd: pytest.CaptureFixture[str]) -> None:
    for block in blocks("docs/cells.md"):
        exec(compile(block.text, "docs/cells.md", "exec"), {})
        expected = re.findall(r"print\(.*\)  # (.+)", block.text)
        assert capfd.readouterr().out.splitlines() == expected


def anchors(path: Path) -> set[str]:
    """The headings of a document as links name them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.is_relative_to(ROOT), f"{path}: {link}"
        assert target.exists(), f"{path}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{path}: {link}"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/index.md").read_text()
    for path in (ROOT / "docs").rglob("*.md"):
        name = str(path.relative_to(ROOT / "docs"))
        assert name == "index.md" or f"]({name}" in index, name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_options_exist(path: Path) -> None:
    """Of every `gemkit COMMAND --option` in code, in a line or in a block."""
    text = path.read_text()
    code = "\n".join(re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    spans = re.findall(r"^(?:\S+=\S* |.*&& )?(gemkit .+)", code, re.MULTILINE)
    spans += re.findall(r"^    (gemkit .+)", text, re.MULTILINE)
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    spans += [span.replace("\n", " ") for span in re.findall(r"`(gemkit [^`]+)`", text)]
    for span in spans:
        words = re.sub(r"(?<!\S)#.*", "", span).split()
        command: click.Command = cli.cli
        for word in words[1:]:
            if not isinstance(command, click.Group) or not re.fullmatch(r"[a-z]+", word):
                break
            found = command.get_command(click.Context(command), word)
            assert found is not None, f"{path}: {span}"
            command = found
        options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
        for word in words:
            if word.startswith("--"):
                name = re.split(r"[=,;.)\]]", word)[0]
                assert name in options | {"--help", "--version"}, f"{path}: {span}: {name}"
