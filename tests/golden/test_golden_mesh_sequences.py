from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenmill.decoders.base import Shape
from tokenmill.testing.golden import load_case
from tokenmill.tokenizers.mesh_orders.treemeshgpt import walked
from tokenmill.tokenizers.mesh_sequence import MeshSequence
from tokenmill.views import open_view

GOLDEN = Path(__file__).parent


def cases(folder: str) -> list[Any]:
    """(shape, bins, record) for each mesh of a golden file."""
    case = load_case(GOLDEN / folder / "sequences.json")
    found = []
    for name, record in case["ids"].items():
        mesh, _, bits = name.partition("@")
        vertices = np.array(case["meshes"][mesh]["vertices"], np.float64)
        faces = np.array(case["meshes"][mesh]["faces"], np.int64)
        facts = {"asset.uri": f"mem://{mesh}", "asset.content": "mesh"}
        shape = Shape("mesh", vertices, faces, facts)
        found.append(pytest.param(shape, 2 ** int(bits[:1] or 7), record, id=name))
    return found


def soup_of(tokenizer: MeshSequence, shape: Shape) -> Any:
    """The view that the tokenizer asks for."""
    options = dict(tokenizer.default_view)
    (view,) = open_view(options.pop("kind"), options).views(shape, "k")
    return view.data


def tokens_of(tokenizer: MeshSequence, shape: Shape) -> dict[str, Any]:
    """The tokens of a shape in the tokenizer's own view."""
    encoder = tokenizer.load()
    tokens = encoder.encode(encoder.preprocess([soup_of(tokenizer, shape)]))
    return {name: ids for name, (ids,) in tokens.items()}


@pytest.mark.parametrize(("shape", "bins", "record"), cases("meshxl"))
def test_meshxl(shape: Shape, bins: int, record: dict[str, Any]) -> None:
    """The official ids, and the sequences that its language model is trained on."""
    tokenizer = MeshSequence("meshxl", bins)
    ids = tokens_of(tokenizer, shape)["mesh"].tolist()
    assert ids == record["ids"]
    special = dict(tokenizer.spec(None)["mesh"].special_ids)
    framed = [special["bos"], *ids, special["eos"]]
    assert framed + [special["pad"]] * (len(record["lm_ids"]) - len(framed)) == record["lm_ids"]
    assert len(framed) == record["attention_length"]


@pytest.mark.parametrize(("shape", "bins", "record"), cases("treemeshgpt"))
def test_treemeshgpt(shape: Shape, bins: int, record: dict[str, Any]) -> None:
    """The official vertices and both streams, in numbers and in coordinates."""
    tokenizer = MeshSequence("treemeshgpt", bins)
    steps = walked(soup_of(tokenizer, shape))
    assert steps.vertices.tolist() == record["vertices"]
    assert steps.edges.tolist() == record["edges"]
    assert steps.nexts.tolist() == record["gt_ind"]
    spec, tokens = tokenizer.spec(None), tokens_of(tokenizer, shape)
    edge, after = dict(spec["edge"].special_ids), dict(spec["next"].special_ids)
    points = dict(enumerate(record["vertices"]))
    first = points | {-1: [edge["none"]] * 3}
    second = points | {-1: [after["stop"]] * 3, -2: [after["eos"]] * 3}
    assert tokens["edge"].tolist() == [first[a] + first[b] for a, b in record["edges"]]
    assert tokens["next"].tolist() == [second[i] for i in record["gt_ind"]]
    count = record["n_seq"] + 2 * record["components"] + 1
    assert len(tokens["next"]) == count == 2 * record["n_faces"] + 4 * record["components"] + 1


@pytest.mark.parametrize(("shape", "bins", "record"), cases("meshanything-v2-amt"))
def test_amt(shape: Shape, bins: int, record: dict[str, Any]) -> None:
    """The official ids, and those that its language model is trained on."""
    tokenizer = MeshSequence("amt", bins)
    ids = tokens_of(tokenizer, shape)["mesh"].tolist()
    assert ids == record["ids"]
    special = dict(tokenizer.spec(None)["mesh"].special_ids)
    moved = [i + special["lm_offset"] for i in ids]
    assert [special["lm_bos"], *moved, special["lm_eos"]] == record["lm_ids"]
    assert ids.count(special["restart"]) == record["restarts"]


@pytest.mark.parametrize("folder", ["treemeshgpt", "meshanything-v2-amt"])
def test_the_faces_come_back(folder: str) -> None:
    """What is decoded has the recorded vertices, and as many faces as there were."""
    variant = {"treemeshgpt": "treemeshgpt", "meshanything-v2-amt": "amt"}[folder]
    for case in cases(folder):
        shape, bins, record = case.values
        tokenizer = MeshSequence("amt" if variant == "amt" else "treemeshgpt", bins)
        tokens = {name: [ids] for name, ids in tokens_of(tokenizer, shape).items()}
        (soup,) = tokenizer.load().decode(tokens)
        points = np.unique(soup.reshape(-1, 3)[:, ::-1], axis=0)[:, ::-1].tolist()
        assert points == record.get("vertices", record.get("sorted_vertices"))
        if variant == "amt":
            numbers = [sorted(points.index(corner) for corner in face) for face in soup.tolist()]
            assert sorted(numbers) == record["sorted_faces"]
        assert len(soup) == record.get("n_faces", record.get("n_faces_after"))
