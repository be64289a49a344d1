import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("schemas", "infra", "operators", "pipelines")
LAYERS = ("tokenmill_schemas", "tokenmill_infra", "tokenmill", "tokenmill_pipelines")
PACKAGES = [ROOT / folder / layer for folder, layer in zip(FOLDERS, LAYERS, strict=True)]
FILES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))
HEAVY = {"ray": "tokenmill_infra/cluster", "prefect": "tokenmill_pipelines/flows"}


def _imports(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way_and_heavy_ones_stay_in_their_room(path: Path) -> None:
    """Pipelines -> operators -> infra -> schemas; ray and prefect in one room each."""
    own = LAYERS.index(path.relative_to(ROOT).parts[1])
    for name in _imports(ast.parse(path.read_text())):
        top = name.split(".")[0]
        if top in LAYERS:
            assert LAYERS.index(top) <= own, f"{path} imports {name}"
        if top in HEAVY:
            assert HEAVY[top] in str(path), f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    """No file over 350 lines, no function over 60, at most five parameters."""
    text = path.read_text()
    assert len(text.splitlines()) <= 350
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} is too long"
            args = [a for a in (*node.args.posonlyargs, *node.args.args) if a.arg != "self"]
            count = len(args) + len(node.args.kwonlyargs)
            assert count <= 5 or _is_command(node), f"{node.name} takes {count}"


def _is_command(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A CLI command's parameters are its flags, and a constructor of a public class its options."""
    flags = {"as_json", "debug"} <= {a.arg for a in node.args.args}
    return flags or node.name in ("__init__", "root")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_assert_validates(path: Path) -> None:
    """Validation raises errors that say what to do; ``python -O`` must not change behaviour."""
    asserts = [n.lineno for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Assert)]
    assert asserts == []
