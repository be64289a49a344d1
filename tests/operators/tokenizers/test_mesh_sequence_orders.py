from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tokenmill.testing.shapes import Mesh, box, torus
from tokenmill.tokenizers.mesh_orders import amt, meshxl, treemeshgpt
from tokenmill_schemas.errors import AssetError, Reason

Soup = npt.NDArray[np.int32]
BINS = 128

#: Any triangles at all: few grid points, so that faces repeat, collapse and share edges.
soups = hnp.arrays(np.int32, st.tuples(st.integers(0, 14), st.just(3), st.just(3)),
                   elements=st.integers(0, 2))  # fmt: skip
seeds = st.integers(0, 10**6)


def placed(mesh: Mesh, offset: int = 0) -> Soup:
    """A mesh as a soup on the grid."""
    return (np.round(mesh.vertices * 9) + 30 + offset).astype(np.int32)[mesh.faces]


def manifold(seed: int) -> Soup:
    """One to three closed or torn surfaces that do not touch, faces and first corners anyhow."""
    rng = np.random.default_rng(seed)
    parts = []
    for part in range(rng.integers(1, 4)):
        mesh = torus(*rng.integers(3, 8, 2)) if rng.random() < 0.8 else box()
        soup = placed(mesh)[:, :, ::-1] // 2 + 40 * part
        torn = soup[rng.random(len(soup)) < rng.choice([1.0, 1.0, 0.95, 0.5])]
        parts.append(torn if is_manifold(torn) else soup)
    return rolled(np.concatenate(parts), seed)


def rolled(soup: Soup, seed: int) -> Soup:
    """The same oriented triangles in another order, each from another corner on."""
    rng = np.random.default_rng(seed)
    corner = (rng.integers(0, 3, len(soup))[:, None] + np.arange(3)) % 3
    turned = np.take_along_axis(soup, corner[:, :, None], axis=1)
    return turned[rng.permutation(len(soup))]


def is_manifold(soup: Soup) -> bool:
    """Whether the order of TreeMeshGPT takes it."""
    try:
        treemeshgpt.walked(soup)
    except AssetError:
        return False
    return True


def points_of(soup: Soup) -> list[list[tuple[int, ...]]]:
    """Faces as lists of tuples."""
    return [[tuple(corner) for corner in face] for face in soup.tolist()]


def oriented(soup: Soup) -> Counter[Any]:
    """The oriented triangles: whichever corner comes first."""
    return Counter(min((a, b, c), (b, c, a), (c, a, b)) for a, b, c in points_of(soup))


def unoriented(soup: Soup) -> Counter[Any]:
    """The triangles, whatever the order of their corners."""
    return Counter(tuple(sorted(face)) for face in points_of(soup))


@given(soups)
def test_meshxl_gives_the_very_array_back(soup: Soup) -> None:
    """Every soup comes back, to the bit, in nine ids a face."""
    tokens = meshxl.encode(soup, BINS)
    assert tokens["mesh"].shape == (9 * len(soup),)
    back = meshxl.decode(tokens, BINS)
    assert back.dtype == np.int32
    assert np.array_equal(back, soup)


@settings(max_examples=200)
@given(soups)
def test_amt_gives_the_triangles_of_any_soup_back(soup: Soup) -> None:
    """As a multiset without sense: open, closed, repeated, collapsed, many at one edge."""
    back = amt.decode(amt.encode(soup, BINS), BINS)
    assert back.dtype == np.int32
    assert unoriented(back) == unoriented(soup)


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_amt_and_treemeshgpt_give_surfaces_back(seed: int) -> None:
    """Closed and torn surfaces of several components; TreeMeshGPT keeps their sense."""
    soup = manifold(seed)
    assert unoriented(amt.decode(amt.encode(soup, BINS), BINS)) == unoriented(soup)
    assert oriented(treemeshgpt.decode(treemeshgpt.encode(soup, BINS), BINS)) == oriented(soup)


def has_half_edges(soup: Soup) -> bool:
    """Three corners a face, one face a half-edge, one border at most through a vertex."""
    faces = points_of(soup)
    halves = Counter((face[i - 1], face[i]) for face in faces for i in range(3))
    borders = Counter(a for a, b in halves if (b, a) not in halves)
    return all(len(set(face)) == 3 for face in faces) and not any(
        count > 1 for found in (halves, borders) for count in found.values()
    )


@settings(max_examples=200)
@given(soups)
def test_treemeshgpt_gives_a_soup_back_or_refuses_it(soup: Soup) -> None:
    """What has half-edges comes back; all else is refused, and nothing is lost in silence."""
    good = has_half_edges(soup)
    assert is_manifold(soup) == good
    if good:
        assert oriented(treemeshgpt.decode(treemeshgpt.encode(soup, BINS), BINS)) == oriented(soup)


def naive_amt(soup: Soup, bins: int) -> list[int]:
    """The sequence as the paper tells it, looking through all faces each time."""

    def key(point: tuple[int, ...]) -> tuple[int, ...]:
        return point[::-1]

    left = sorted((sorted(face, key=key) for face in points_of(soup)),
                  key=lambda face: [key(point) for point in face])  # fmt: skip
    ids: list[int] = []
    while left:
        strip = left.pop(0)
        while True:
            last = strip[-2:]
            fits = [face for face in left if not Counter(last) - Counter(face)]
            if not fits:
                break
            left.remove(fits[0])
            strip = [*strip, *(Counter(fits[0]) - Counter(last))]
        ids += [bins] * bool(ids) + [i for point in strip for i in point]
    return ids


@settings(max_examples=150, deadline=None)
@given(soups)
def test_amt_is_what_the_paper_tells(soup: Soup) -> None:
    """The first face that is left, then the first that is left at the strip's last two vertices."""
    assert amt.encode(soup, BINS)["mesh"].tolist() == naive_amt(soup, BINS)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_amt_of_surfaces_is_what_the_paper_tells(seed: int) -> None:
    """The same, of longer strips."""
    soup = manifold(seed)
    assert amt.encode(soup, BINS)["mesh"].tolist() == naive_amt(soup, BINS)


def naive_tree(soup: Soup, bins: int) -> list[list[int]]:
    """The answers of the walk, over a table from half-edges to third vertices."""
    none, end = (bins,) * 3, (bins + 1,) * 3
    faces = sorted(points_of(soup), key=lambda face: [point[::-1] for point in face[::-1]])
    third = {(f[i], f[i - 2]): f[i - 1] for f in faces for i in range(3)}
    answers: list[tuple[int, ...]] = []

    def meet(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
        apex = third.pop((a, b), none)
        third.pop((b, apex), None)
        third.pop((apex, a), None)
        return apex

    for second, _, first in faces:
        if (first, second) not in third:
            continue
        answers += [first, second, meet(first, second)]
        stack = [(first, second), (answers[-1], first), (second, answers[-1])]
        while stack:
            p, q = stack.pop()
            answers.append(meet(q, p))
            if answers[-1] != none:
                stack += [(answers[-1], q), (p, answers[-1])]
    return [list(answer) for answer in [*answers, end]]


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_treemeshgpt_walks_as_it_says(seed: int) -> None:
    """The answers are those of a walk over half-edges; the edges follow from them alone."""
    soup = manifold(seed)
    tokens = treemeshgpt.encode(soup, BINS)
    assert tokens["next"].tolist() == naive_tree(soup, BINS)
    assert np.array_equal(treemeshgpt.edges_after(tokens["next"], BINS), tokens["edge"])
    components = int((tokens["edge"] == BINS).all(axis=1).sum()) - 1
    assert len(tokens["next"]) == 2 * len(soup) + 4 * components + 1


@settings(max_examples=30, deadline=None)
@given(seeds, seeds)
def test_amt_does_not_see_how_faces_are_stored(seed: int, other: int) -> None:
    """Another order of faces, another first corner: the same sequence, and again when decoded."""
    soup = manifold(seed)
    tokens = amt.encode(soup, BINS)
    again = amt.encode(rolled(soup, other), BINS)
    assert np.array_equal(tokens["mesh"], again["mesh"])
    back = amt.encode(amt.decode(tokens, BINS), BINS)
    assert np.array_equal(tokens["mesh"], back["mesh"])


@settings(max_examples=30, deadline=None)
@given(seeds, seeds)
def test_treemeshgpt_does_not_see_the_order_of_faces(seed: int, other: int) -> None:
    """But it does see which corner comes first, as its authors' does."""
    soup = manifold(seed)
    assume(len(soup) > 1)
    tokens = treemeshgpt.encode(soup, BINS)
    again = treemeshgpt.encode(np.random.default_rng(other).permutation(soup), BINS)
    assert all(np.array_equal(tokens[name], again[name]) for name in tokens)


BAD = {
    "three faces at an edge": [[0, 1, 2], [1, 0, 3], [1, 0, 4]],
    "three faces at an edge, any sense": [[0, 1, 2], [1, 0, 3], [0, 1, 4]],
    "neighbours of different sense": [[0, 1, 2], [0, 1, 3]],
    "a face twice": [[0, 1, 2], [1, 2, 0]],
    "two equal corners": [[0, 1, 1]],
    "two fans at a vertex": [[0, 1, 2], [0, 3, 4]],
}
GOOD = {
    "nothing": np.zeros((0, 3), int),
    "a triangle": [[0, 1, 2]],
    "a triangle and its back": [[0, 1, 2], [0, 2, 1]],
    "two components": [[0, 1, 2], [3, 4, 5]],
}
CORNERS = np.array([[0, 0, 0], [9, 0, 0], [0, 9, 0], [0, 0, 9], [9, 9, 0], [9, 9, 9]], np.int32)


@pytest.mark.parametrize("faces", BAD.values(), ids=BAD)
def test_what_is_no_manifold_is_refused(faces: list[list[int]]) -> None:
    """Each kind with its reason, whatever corner comes first; the other orders take them."""
    soup = CORNERS[np.array(faces)]
    for seed in range(4):
        with pytest.raises(AssetError, match="manifold") as caught:
            treemeshgpt.encode(rolled(soup, seed), BINS)
        assert caught.value.reason is Reason.NON_MANIFOLD
    assert unoriented(amt.decode(amt.encode(soup, BINS), BINS)) == unoriented(soup)


@pytest.mark.parametrize("faces", GOOD.values(), ids=GOOD)
def test_the_smallest_manifolds_are_taken(faces: list[list[int]]) -> None:
    """Down to no face at all, which is the end alone."""
    soup = CORNERS[np.array(faces)]
    tokens = treemeshgpt.encode(soup, BINS)
    assert tokens["next"][-1].tolist() == [BINS + 1] * 3
    assert tokens["edge"][-1].tolist() == [BINS] * 6
    assert oriented(treemeshgpt.decode(tokens, BINS)) == oriented(soup)
    assert treemeshgpt.decode(tokens, BINS).shape == soup.shape
    assert amt.decode(amt.encode(soup, BINS), BINS).shape == soup.shape


@pytest.mark.timeout(20)
def test_many_faces_take_no_more_than_linear_time() -> None:
    """100,000 faces, also around one edge; what looks through them all each time needs hours."""
    count = 100_000
    soup = np.zeros((count, 3, 3), np.int32)
    soup[:, 1, 2] = 1
    soup[:, 2, 0], soup[:, 2, 1] = np.divmod(np.arange(count) + 1000, 1000)
    assert unoriented(amt.decode(amt.encode(soup, 1024), 1024)) == unoriented(soup)
    around = torus(250, 200)
    wide = (around.vertices * 1000 + 3000).astype(np.int32)[around.faces]
    assert len(treemeshgpt.decode(treemeshgpt.encode(wide, 8192), 8192)) == count


@pytest.mark.parametrize(
    ("ids", "text"),
    [([1] * 8, "strip 0 has 8"), ([1] * 6, "strip 0 has 6"), ([BINS], "strip 0 has 0"),
     ([1] * 9 + [BINS], "strip 1 has 0"), ([1] * 9 + [BINS] + [1] * 10, "strip 1 has 10")],
)  # fmt: skip
def test_broken_strips_are_refused(ids: list[int], text: str) -> None:
    """A strip is whole vertices, three of them at least; the error says which is not."""
    with pytest.raises(ValueError, match=text):
        amt.decode({"mesh": np.array(ids)}, BINS)


def test_broken_sequences_are_refused() -> None:
    """Sequences that end within a face, and streams of different lengths."""
    with pytest.raises(ValueError, match="9 ids a face, this one 10"):
        meshxl.decode({"mesh": np.zeros(10, np.uint8)}, BINS)
    with pytest.raises(ValueError, match="edge has 2 steps and next 3"):
        treemeshgpt.decode({"edge": np.zeros((2, 6)), "next": np.zeros((3, 3))}, BINS)


def test_a_model_that_goes_astray_is_told() -> None:
    """Answers behind the end, and components without a face."""
    stop, end, point = [BINS] * 3, [BINS + 1] * 3, [1, 2, 3]
    with pytest.raises(ValueError, match="answer 1 comes after the end"):
        treemeshgpt.edges_after(np.array([end, point]), BINS)
    for answers in ([stop], [point, stop]):
        with pytest.raises(ValueError, match=f"answer {len(answers) - 1} stops before"):
            treemeshgpt.edges_after(np.array(answers), BINS)
    assert treemeshgpt.edges_after(np.array([point]), BINS).tolist() == [[BINS] * 6]
