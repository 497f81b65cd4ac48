"""The rules between the packages, read off the source code."""

import ast
import runpy
import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path

import networkx
import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "gemkit": "gemkit",
    "search": "gemkit.search",
    "export": "gemkit.export",
    "app": "gemkit.app",
}
"""Folders and what they are imported as."""
ALLOWED = {
    "gemkit": {"gemkit"},
    "search": {"gemkit", "search"},
    "export": {"gemkit", "export"},
    "app": {"gemkit", "search", "export", "app"},
}
"""For each folder, the folders that it may import from."""
SOURCES = sorted(path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([PACKAGES[folder], *rest]).removesuffix(".__init__")


MODULES = {module_of(path): path for path in SOURCES}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imported(path: Path) -> list[tuple[str, str | None, int]]:
    """Every import of a file, also those inside functions: module, name (or None), line.

    Relative ones are spelled out; a module that is imported as a name counts as a module.
    """
    found: list[tuple[str, str | None, int]] = []
    module = module_of(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, None, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *base.split(".")]).rstrip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                whole = inner in MODULES
                found.append((inner if whole else base, None if whole else alias.name, node.lineno))
    return found


def defined(path: Path) -> tuple[set[str], set[str]]:
    """Names that a module makes itself, and names that it only imports."""
    own, passed = set[str](), set[str]()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            passed |= {alias.asname or alias.name for alias in node.names}
    return own, passed - own


def folder_of(module: str) -> str | None:
    """The folder that a module lies in, None where it is not ours."""
    if module not in MODULES:
        return None
    return MODULES[module].relative_to(ROOT).parts[0]


def test_there_are_sources() -> None:
    assert len(SOURCES) > 20


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards_only(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    for module, _, line in imported(path):
        assert module.split(".")[0] not in {"search", "export", "app"}, f"{path}:{line}"
        above = folder_of(module)
        assert above is None or above in ALLOWED[folder], f"{path}:{line} imports {module}"


def test_imports_make_no_circle() -> None:
    graph = networkx.DiGraph()
    for module, path in MODULES.items():
        needed = {one for one, *_ in imported(path) if one in MODULES}
        graph.add_edges_from((module, one) for one in needed - {module})
    circles = [part for part in networkx.strongly_connected_components(graph) if len(part) > 1]
    assert not circles


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_are_imported_from_where_they_are_made(path: Path) -> None:
    for module, name, line in imported(path):
        if module in MODULES and name is not None:
            passed = defined(MODULES[module])[1]
            assert name not in passed, f"{path}:{line}: {module} only passes {name} on"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_loads_pickles(path: Path) -> None:
    """Tables and weights published as pickles are opened in one place each, by `torch.load` with
    `weights_only=True`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom) and path.name != "convert_tables.py":
            names = [alias.name for alias in node.names]
            module = node.module if isinstance(node, ast.ImportFrom) else None
            assert not {"pickle", "dill", "joblib"} & {module, *names}, f"{path}:{node.lineno}"
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in {"pickle.load", "pickle.loads"}, f"{path}:{node.lineno}"
            assert "Unpickler" not in node.attr, f"{path}:{node.lineno}"
        if isinstance(node, ast.ImportFrom):
            assert node.module != "pickle", f"{path}:{node.lineno}"
        if not isinstance(node, ast.Call):
            continue
        keywords = {word.arg: word.value for word in node.keywords}
        allow = keywords.get("allow_pickle")
        assert allow is None or (isinstance(allow, ast.Constant) and allow.value is False), (
            f"{path}:{node.lineno}"
        )
        if isinstance(node.func, ast.Attribute) and ast.unparse(node.func) == "torch.load":
            only = keywords.get("weights_only")
            assert path.name in ("convert_tables.py", "teachers.py"), f"{path}:{node.lineno}"
            assert isinstance(only, ast.Constant), f"{path}:{node.lineno}"
            assert only.value is True, f"{path}:{node.lineno}"


def test_documented_names_exist(tmp_path: Path) -> None:
    """Functions and classes that documents name, and the columns of docs/formats.md."""
    import importlib
    import re

    from gemkit.budget import Budget
    from gemkit.store import Run

    texts = [path.read_text() for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]]
    names = set(re.findall(r"\bgemkit(?:\.\w+)+", "\n".join(texts)))
    formats = (ROOT / "docs" / "formats.md").read_text()
    about_files = re.search(r"metadata keys with JSON values:.*?\n- ", formats, re.DOTALL)
    assert about_files is not None
    names -= set(re.findall(r"gemkit\.\w+", about_files[0])) | {"gemkit.search", "gemkit.export"}
    assert len(names) > 30
    for name in names:
        module, _, attribute = name.rpartition(".")
        try:
            importlib.import_module(name)
        except ImportError:
            assert hasattr(importlib.import_module(module), attribute), name
    Run.create(tmp_path / "run", {"budget": Budget().to_json(), "seed": 0}).close()
    for table in ("trials", "models"):
        with closing(sqlite3.connect(tmp_path / "run" / "search.db")) as database:
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
        (row,) = [line for line in formats.splitlines() if line.startswith(f"| `{table}`")]
        assert re.findall(r"`(\w+)`", row)[1:] == columns


def test_the_results_page_is_what_the_results_files_say() -> None:
    maker = runpy.run_path(str(ROOT / "experiments" / "results_page.py"))
    assert maker["PAGE"].read_text() == maker["page"](), "run: python experiments/results_page.py"
