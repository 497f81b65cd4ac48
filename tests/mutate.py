"""Mutation testing: small faults are put into a module, one at a time, and its tests must see them.

    python tests/mutate.py gemkit/cost.py --count 100

The faults go into a copy of the packages. One that every test passes is printed: either the module
computes the same with it, or a test is missing. What the tests import is loaded once, and each
fault is tried in a fork of this process.
"""

import argparse
import ast
import copy
import difflib
import gc
import importlib
import os
import random
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]
TESTS = {
    "gemkit/architecture.py": "gemkit/test_architecture.py gemkit/test_cost.py "
    "-k 'test_architecture or hand or smallest'",
    "gemkit/batches.py": "gemkit/test_train.py -k 'not checking and not torchrun and not crash'",
    "gemkit/budget.py": "gemkit/test_budget.py",
    "gemkit/canonical.py": "gemkit/test_cell.py -k 'not flipped and not agree'",
    "gemkit/cell.py": "gemkit/test_cell.py -k 'not flipped and not agree and not small'",
    "gemkit/cost.py": "gemkit/test_cost.py -k 'not fvcore and not steps_write'",
    "gemkit/files.py": "gemkit/test_files.py",
    "gemkit/folders.py": "gemkit/test_folders.py",
    "gemkit/identity.py": "gemkit/test_identity.py",
    "gemkit/layers.py": "gemkit/test_layers.py",
    "gemkit/npz.py": "gemkit/test_data.py",
    "gemkit/operations.py": "gemkit/test_cell.py gemkit/test_cost.py -k 'small or hand or stay'",
    "gemkit/pictures.py": "gemkit/test_pictures.py gemkit/test_data.py",
    "gemkit/records.py": "gemkit/test_store.py",
    "gemkit/regression.py": "gemkit/test_regression.py",
    "gemkit/store.py": "gemkit/test_store.py",
    "gemkit/survey.py": "gemkit/test_survey.py",
    "gemkit/workers.py": "gemkit/test_workers.py",
    "search/cell_space.py": "search/test_cell_space.py",
    "search/loop.py": "search/test_loop.py",
    "search/nasgem.py": "search/test_nasgem.py",
    "search/predictor.py": "search/test_predictor.py",
    "search/sampling.py": "search/test_sampling.py",
    "search/similarity.py": "search/test_similarity.py",
    "search/strategies.py": "search/test_strategies.py",
    "search/tables.py": "search/test_tables.py",
    "search/wl.py": "search/test_wl.py",
    "export/card.py": "export/test_card.py",
    "export/figures.py": "export/test_figures.py",
    "export/onnx_builder.py": "export/test_onnx_builder.py",
    "export/optimize.py": "export/test_optimize.py -k 'optimi or pays or outputs or bytes or bad'",
    "export/rewrites.py": "export/test_optimize.py -k 'not order and not optimised and not thirty'",
    "export/schedule.py": "export/test_optimize.py -k 'order or partial or star'",
    "export/targets.py": "export/test_targets.py",
    "export/timing.py": "export/test_timing.py",
}
"""The tests of each module, those that take minutes left out."""
LOADED = "numpy scipy.sparse networkx torch torchvision fvcore.nn onnx onnxruntime grakel PIL"
MEMORY = 6 << 30
"""Bytes that a mutant may ask for."""

OTHERS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.And: (ast.Or,), ast.Or: (ast.And,), ast.Add: (ast.Sub,), ast.Sub: (ast.Add,),
    ast.Mult: (ast.FloorDiv,), ast.Div: (ast.Mult,), ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.FloorDiv,), ast.Pow: (ast.Mult,), ast.LShift: (ast.RShift,),
    ast.RShift: (ast.LShift,), ast.BitAnd: (ast.BitOr,), ast.BitOr: (ast.BitAnd,),
    ast.BitXor: (ast.BitAnd,), ast.Break: (ast.Continue,), ast.Continue: (ast.Break,),
}  # fmt: skip
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list"}
UNTOUCHED = ("annotation", "returns", "decorator_list", "type_params")


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in a node's place."""
    for other in OTHERS.get(type(node), ()):
        yield other()
    match node:
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.UnaryOp(operand=operand):
            yield operand
        case ast.BoolOp(values=values):
            yield from values
        case ast.Compare():
            yield ast.UnaryOp(ast.Not(), node)
        case ast.IfExp(body=body, orelse=orelse):
            yield from (body, orelse)
        case ast.If(test=test) | ast.While(test=test) if not isinstance(test, ast.Compare):
            changed = copy.copy(node)
            changed.test = ast.UnaryOp(ast.Not(), test)
            yield changed
        case ast.comprehension(ifs=[_, *_]):
            yield ast.comprehension(node.target, node.iter, [], node.is_async)
        case ast.Return(value=ast.AST()):
            yield ast.Return(None)
        case ast.Slice(lower=lower, upper=upper, step=step):
            if lower:
                yield ast.Slice(None, upper, step)
            if upper:
                yield ast.Slice(lower, None, step)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=given) if name in CALLS:
            yield ast.Call(ast.Name(CALLS[name]), args, [] if name == "sorted" else given)
        case ast.Call(func=function, args=args, keywords=given):
            for index in range(len(given)):
                yield ast.Call(function, args, [*given[:index], *given[index + 1 :]])
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Raise() | ast.Delete():
            yield ast.Pass()
        case ast.Assign(targets=[ast.Subscript() | ast.Attribute() | ast.Tuple()]):
            yield ast.Pass()


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def faults(node: ast.AST, line: int = 1) -> Iterator[int]:
    """Put every fault into a tree, one after the other; says the line, and then mends it."""
    if isinstance(node, ast.Raise):
        return  # an error may be left out; what it says is not changed
    for field, value in ast.iter_fields(node):
        places = value if isinstance(value, list) else [value]
        for index, child in enumerate(places if field not in UNTOUCHED else []):
            if not isinstance(child, ast.AST) or _is_for_types(child):
                continue
            here = getattr(child, "lineno", line)
            for variant in variants(child):
                changed = [*places[:index], variant, *places[index + 1 :]]
                setattr(node, field, changed if isinstance(value, list) else variant)
                yield here
            setattr(node, field, value)
            yield from faults(child, here)


def draw(source: str, count: int, seed: int) -> tuple[list[tuple[int, str]], int]:
    """Some mutants of a module, each the line of its fault and its text; how many there are."""
    tree = ast.parse(source)
    known = sum(1 for _ in faults(tree))
    drawn = set(random.Random(seed).sample(range(known), min(count, known)))
    return [(n, ast.unparse(tree)) for i, n in enumerate(faults(tree)) if i in drawn], known


def copied(folder: Path) -> None:
    """The packages, importable from `folder`, and the tests."""
    for part in ("gemkit", "search", "export", "app", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "networks")
        shutil.copytree(ROOT / part, folder / part, ignore=ignored)
    for part in ("search", "export", "app"):
        (folder / "gemkit" / part).symlink_to(folder / part)
    shutil.copy(ROOT / "pyproject.toml", folder)


def prepare(folder: Path) -> None:
    """Load here what every fork needs, and let it find the copy."""
    for name in LOADED.split():
        importlib.import_module(name)
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]  # no failure is made smaller
    hypothesis.settings.register_profile("mutants", phases=phases, database=None)
    hypothesis.settings.load_profile("mutants")
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    # Nothing is compiled into a file, so that no mutant is taken for another.
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    pytest.main(["--version"])  # loads pytest's own modules
    gc.freeze()  # forks need not search all this for garbage


def passes(folder: Path, tests: list[str], seed: int, seconds: float) -> bool | None:
    """Whether the tests pass in a fork; None where they come to no end."""
    child = os.fork()
    if not child:
        os.setsid()
        sink = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(sink, 1), os.dup2(sink, 2)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "_hypothesis_pytestplugin"]
        seeds = [f"--seed={seed}", f"--hypothesis-seed={seed}"]
        os._exit(pytest.main([*options, *seeds, *tests]))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def survivors(module: str, folder: Path, count: int, seed: int) -> None:
    """Try mutants of one module, and print those that its tests do not see."""
    source = (ROOT / module).read_text()
    whole = ast.unparse(ast.parse(source)).splitlines()
    drawn, known = draw(source, count, seed)
    print(f"{module}: {len(drawn)} of {known} mutants", flush=True)
    tests = [f"tests/{word}" if ".py" in word else word for word in shlex.split(TESTS[module])]
    started = time.monotonic()
    if not passes(folder, tests, seed, 600):
        sys.exit(f"the tests fail without any fault:\n{(folder / 'output.txt').read_text()}")
    seconds = 2 * (time.monotonic() - started) + 20
    found: Counter[str] = Counter()
    for line, text in drawn:
        (folder / module).write_text(text)
        ended = passes(folder, tests, seed, seconds)
        found["survived" if ended else "killed" if ended is False else "came to no end"] += 1
        if ended:
            changes = difflib.unified_diff(whole, text.splitlines(), n=0, lineterm="")
            print(f"line {line}:", *list(changes)[3:], sep="\n    ", flush=True)
    (folder / module).write_text(source)
    print(module, *(f"{number} {what}" for what, number in found.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="all of the core by default")
    parser.add_argument("--count", type=int, default=100, help="mutants drawn of each module")
    parser.add_argument("--seed", type=int, default=random.randrange(2**31))
    options = parser.parse_args()
    if unknown := set(options.modules) - set(TESTS):
        parser.error(f"no tests are named for {', '.join(unknown)}: add them to TESTS")
    print(f"--seed {options.seed}")
    with tempfile.TemporaryDirectory() as name:
        copied(Path(name))
        prepare(Path(name))
        for module in options.modules or TESTS:
            survivors(module, Path(name), options.count, options.seed)


if __name__ == "__main__":
    main()
