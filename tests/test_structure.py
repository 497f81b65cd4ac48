"""The rules between the packages, read off the source code."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "gemkit": "gemkit",
    "search": "gemkit.search",
    "export": "gemkit.export",
    "app": "gemkit.app",
}
ALLOWED = {
    "gemkit": set[str](),
    "search": {"gemkit.search"},
    "export": {"gemkit.export"},
    "app": {"gemkit.search", "gemkit.export", "gemkit.app"},
}
SOURCES = sorted(path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Absolute names that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module, node.lineno
            if node.module == "gemkit":
                for alias in node.names:
                    yield f"gemkit.{alias.name}", node.lineno


def test_there_are_sources() -> None:
    assert len(SOURCES) > 20


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards_only(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    for name, line in imported(path):
        assert name.split(".")[0] not in {"search", "export", "app"}, f"{path}:{line}"
        for package in set(PACKAGES.values()) - {"gemkit"}:
            if name == package or name.startswith(package + "."):
                assert package in ALLOWED[folder], f"{path}:{line} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_loads_pickles(path: Path) -> None:
    """Tables published as pickles are opened by their converter alone, by `torch.load` with
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
            assert path.name == "convert_tables.py", f"{path}:{node.lineno}"
            assert isinstance(only, ast.Constant), f"{path}:{node.lineno}"
            assert only.value is True, f"{path}:{node.lineno}"


def test_documented_names_exist() -> None:
    """Functions and classes that documents name, and the columns of docs/formats.md."""
    import importlib
    import re

    from gemkit import store

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
    for table in ("trials", "models"):
        created = re.search(rf"CREATE TABLE {table} \((.*?)\n\);", store._SCHEMA, re.DOTALL)
        assert created is not None
        columns = re.findall(r"\"?(\w+)\"? (?:TEXT|INTEGER|REAL)", created[1])
        (row,) = [line for line in formats.splitlines() if line.startswith(f"| `{table}`")]
        assert re.findall(r"`(\w+)`", row)[1:] == columns


def test_the_results_page_is_what_the_results_files_say() -> None:
    sys.path.insert(0, str(ROOT / "experiments"))
    import results_page

    written = results_page.PAGE.read_text()
    assert written == results_page.page(), "run: python experiments/results_page.py"
