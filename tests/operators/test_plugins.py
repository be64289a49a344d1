import sys
from pathlib import Path

import pytest

from tokenmill.plugins import find, open_operator
from tokenmill_schemas.errors import JobError

PACKAGE = "tokenmill.tokenizers"


def test_a_module_that_is_not_found_says_what_to_do() -> None:
    """A module beside the job file is not found by itself: the command has no working folder."""
    with pytest.raises(JobError, match="install it, or name its folder in PYTHONPATH"):
        find(PACKAGE, "my_vq:MyVq", path="tokenizer.kind")


def test_a_dependency_that_is_not_found_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module was found, so its folder is not what is missing."""
    (tmp_path / "needy_vq.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(JobError, match="needs 'no_such_dependency'") as caught:
        find(PACKAGE, "needy_vq:MyVq", path="tokenizer.kind")
    assert "PYTHONPATH" not in str(caught.value)


def test_a_class_of_another_module_is_built_strictly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out-of-tree operators get the same checks as ours."""
    text = "import dataclasses\n\n\n@dataclasses.dataclass\nclass MyVq:\n    depth: int = 1\n"
    (tmp_path / "out_of_tree_vq.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    kind = "out_of_tree_vq:MyVq"
    assert open_operator(PACKAGE, kind, {"depth": 3}, path="tokenizer").depth == 3
    with pytest.raises(JobError, match=r"^tokenizer\.dpth: .*did you mean 'depth'"):
        open_operator(PACKAGE, kind, {"dpth": 3}, path="tokenizer")
    with pytest.raises(JobError, match="has no class 'Other'"):
        find(PACKAGE, "out_of_tree_vq:Other", path="tokenizer.kind")
    sys.modules.pop("out_of_tree_vq")
