import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("schemas", "infra", "operators", "pipelines")
LAYERS = ("tokenmill_schemas", "tokenmill_infra", "tokenmill", "tokenmill_pipelines")
PACKAGES = [ROOT / folder / layer for folder, layer in zip(FOLDERS, LAYERS, strict=True)]
HEAVY = {"ray": "tokenmill_infra/cluster", "prefect": "tokenmill_pipelines/flows"}

Sources = dict[Path, str]
Trees = dict[Path, ast.Module]
Function = ast.FunctionDef | ast.AsyncFunctionDef


@pytest.fixture(scope="module")
def sources() -> Sources:
    """The text of every module of every package; thousands of tests of a file each cost seconds."""
    files = sorted(path for package in PACKAGES for path in package.rglob("*.py"))
    assert {path.relative_to(ROOT).parts[1] for path in files} == set(LAYERS)
    return {path: path.read_text() for path in files}


@pytest.fixture(scope="module")
def trees(sources: Sources) -> Trees:
    """The same modules, parsed."""
    return {path: ast.parse(text) for path, text in sources.items()}


def _imports(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def _wrong_imports(path: Path, tree: ast.Module) -> Iterator[str]:
    own = LAYERS.index(path.relative_to(ROOT).parts[1])
    for name in sorted(_imports(tree)):
        top = name.split(".")[0]
        upwards = top in LAYERS and LAYERS.index(top) > own
        if upwards or (top in HEAVY and HEAVY[top] not in str(path)):
            yield f"{path} imports {name}"


def test_imports_run_one_way_and_heavy_ones_stay_in_their_room(trees: Trees) -> None:
    """Pipelines -> operators -> infra -> schemas; ray and prefect in one room each."""
    assert [text for path, tree in trees.items() for text in _wrong_imports(path, tree)] == []


def test_files_are_short(sources: Sources) -> None:
    """No file over 350 lines."""
    assert {path: n for path, s in sources.items() if (n := len(s.splitlines())) > 350} == {}


def _functions(trees: Trees) -> Iterator[tuple[str, Function]]:
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield f"{path}:{node.lineno} {node.name}", node


def test_functions_are_short(trees: Trees) -> None:
    """None of 60 lines or more."""
    long = [at for at, node in _functions(trees) if (node.end_lineno or 0) - node.lineno >= 60]
    assert long == []


def test_functions_take_few_parameters(trees: Trees) -> None:
    """At most five."""
    assert [at for at, f in _functions(trees) if _count(f) > 5 and not _is_command(f)] == []


def _count(node: Function) -> int:
    args = [a for a in (*node.args.posonlyargs, *node.args.args) if a.arg != "self"]
    return len(args) + len(node.args.kwonlyargs)


def _is_command(node: Function) -> bool:
    """A CLI command's parameters are its flags, and a constructor of a public class its options."""
    flags = {"as_json", "debug"} <= {a.arg for a in node.args.args}
    return flags or node.name in ("__init__", "root")


def test_no_assert_validates(trees: Trees) -> None:
    """Validation raises errors that say what to do; ``python -O`` must not change behaviour."""
    nodes = ((path, node) for path, tree in trees.items() for node in ast.walk(tree))
    assert [f"{p}:{n.lineno}" for p, n in nodes if isinstance(n, ast.Assert)] == []
