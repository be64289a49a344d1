import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenmill.decoders import open_decoder
from tokenmill.shards.columns import decode_stream, make_batch
from tokenmill.testing.checks import require_identity
from tokenmill.testing.shapes import box, non_manifold, torus
from tokenmill.testing.tokenizers import TELL
from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.base import Tokenizer
from tokenmill.views import open_view
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.errors import AssetError, JobError, Reason
from tokenmill_schemas.tokens import spec_from_json

VARIANTS = ("meshxl", "treemeshgpt", "amt")
OBJECTS = sorted((Path(__file__).parents[3] / "pipelines/samples/shapes/objects").iterdir())


def view_of(tokenizer: Tokenizer, shape: Any) -> Any:
    """The data of the tokenizer's own view of a shape."""
    options = dict(tokenizer.default_view)
    (view,) = open_view(options.pop("kind"), options).views(shape, "k")
    return view.data


def encoded(tokenizer: Tokenizer, views: Any) -> dict[str, Any]:
    """The tokens of views."""
    encoder = tokenizer.load()
    return encoder.encode(encoder.preprocess(views))


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two tokenizations are equal, sample by sample."""
    return set(one) == set(other) and all(
        np.array_equal(a, b) for name in one for a, b in zip(one[name], other[name], strict=True)
    )


def as_kept(variant: str, soup: Any) -> list[Any]:
    """What a variant keeps of a soup: all, oriented triangles, or triangles."""
    faces = [[tuple(corner) for corner in face] for face in soup.tolist()]
    if variant == "amt":
        return sorted(sorted(face) for face in faces)
    if variant == "treemeshgpt":
        return sorted(min([*f[i:], *f[:i]] for i in range(3)) for f in faces)
    return faces


@pytest.mark.parametrize("bins", [2, 128, 512, 65536])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_spec_sizes_the_tables(variant: str, bins: int) -> None:
    """Ids lie within vocabularies, in the narrowest types; shards take and give them back."""
    tokenizer = open_tokenizer("mesh_sequence", variant=variant, bins=bins)
    spec = tokenizer.spec((None,))
    assert spec == tokenizer.spec(None) == spec_from_json(spec.to_json())
    meshes = [torus(4, 3), box()] if bins > 2 else [box(), box((1, 1, 1))]
    tokens = encoded(tokenizer, [view_of(tokenizer, mesh.shape()) for mesh in meshes])
    for stream in spec.streams:
        (size,) = stream.vocab_sizes
        special = {"meshxl": 0, "treemeshgpt": 2 if stream.name == "next" else 1, "amt": 1}
        assert size == bins + special[variant]
        assert stream.order == "sequence"
        for ids in tokens[stream.name]:
            assert ids.dtype == stream.storage_dtype
            assert ids.max() < size
            assert ids.shape[1:] == stream.shape[1:]
    for layout in (ShardLayout(spec, "raw"), ShardLayout(spec, "bits")):
        batch = make_batch(layout, tokens, {"sample_id": ["a", "b"], "asset_key": ["a", "b"]})
        stored = {s.name: decode_stream(batch, s, layout.packing) for s in spec.streams}
        assert same(stored, tokens)


def test_streams_of_treemeshgpt_are_aligned() -> None:
    """Two vertices are read and one is answered, a step a row; the special ids have names."""
    spec = open_tokenizer("mesh_sequence", variant="treemeshgpt", bins=512).spec(None)
    edge, after = spec.streams
    assert (edge.shape, after.shape, after.aligned_with) == ((None, 6), (None, 3), "edge")
    assert dict(edge.special_ids) == {"none": 512}
    assert dict(after.special_ids) == {"stop": 512, "eos": 513}
    assert edge.storage_dtype == after.storage_dtype == "uint16"


def test_only_meshxl_knows_its_length() -> None:
    """Nine ids a face; the others' lengths depend on the mesh."""
    specs = {v: open_tokenizer("mesh_sequence", variant=v).spec((7,)) for v in VARIANTS}
    shapes = {v: [s.shape for s in spec.streams] for v, spec in specs.items()}
    assert shapes == {"meshxl": [(63,)], "treemeshgpt": [(None, 6), (None, 3)], "amt": [(None,)]}
    with pytest.raises(JobError, match="meshes of F faces"):
        open_tokenizer("mesh_sequence").spec((64, 64))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_description(variant: str) -> None:
    """It pickles and tells the same identity in another process; no GPU is asked for."""
    config = open_tokenizer("mesh_sequence", variant=variant, bins=64)
    require_identity(config)
    assert pickle.loads(pickle.dumps(config)) == config
    told = subprocess.run(
        [sys.executable, "-c", TELL], input=pickle.dumps(config), capture_output=True, check=True
    )
    assert json.loads(told.stdout) == config.identity
    assert config.default_view == {"kind": "mesh", "rule": variant, "bins": 64}
    assert (config.takes, config.can_decode, config.resources.gpus) == (("mesh",), True, 0)


def test_identities_tell_variants_and_bins_apart() -> None:
    """Everything that can change an id is in it."""
    configs = [
        open_tokenizer("mesh_sequence", variant=variant, bins=bins)
        for variant in VARIANTS
        for bins in (128, 512)
    ]
    assert len({json.dumps(config.identity) for config in configs}) == 6


@pytest.mark.parametrize("options", [{"variant": "bpt"}, {"bins": 1}, {"bins": 65537}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    """Unknown orders and impossible bins are refused when the job is read."""
    with pytest.raises(JobError):
        open_tokenizer("mesh_sequence", **options)


@pytest.mark.parametrize("variant", VARIANTS)
def test_batches_do_not_matter_and_views_are_left_alone(variant: str) -> None:
    """A mesh's ids are the same alone, among others, and stacked with others of its size."""
    tokenizer = open_tokenizer("mesh_sequence", variant=variant)
    sides = ((4, 3), (3, 4), (5, 6), (6, 5))
    views = [view_of(tokenizer, torus(*pair).shape()) for pair in sides]
    before = [view.copy() for view in views]
    whole = encoded(tokenizer, views)
    for i, view in enumerate(views):
        view.setflags(write=False)
        alone = encoded(tokenizer, view[None])
        assert same(alone, {name: whole[name][i : i + 1] for name in whole})
        assert np.array_equal(view, before[i])
    assert same(encoded(tokenizer, views[::-1]), {n: whole[n][::-1] for n in whole})
    assert same(encoded(tokenizer, np.stack(views[2:])), {n: whole[n][2:] for n in whole})


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_tokens_of_a_store_decode(variant: str) -> None:
    """Meshes at once, in the types that a shard gives, to a list of int32[F, 3, 3]."""
    tokenizer = open_tokenizer("mesh_sequence", variant=variant)
    views = [view_of(tokenizer, mesh.shape()) for mesh in (torus(), box(), torus(3, 3))]
    encoder = tokenizer.load("cpu")
    back = encoder.decode(encoder.encode(encoder.preprocess(views)))
    encoder.close()
    assert [soup.dtype for soup in back] == [np.int32] * 3
    for soup, view in zip(back, views, strict=True):
        assert as_kept(variant, soup) == as_kept(variant, view)


def test_a_mesh_that_is_no_manifold_rejects_its_asset() -> None:
    """The error has its reason, crosses processes, and comes from TreeMeshGPT alone."""
    for variant in VARIANTS:
        tokenizer = open_tokenizer("mesh_sequence", variant=variant)
        view = view_of(tokenizer, non_manifold().shape())
        if variant == "treemeshgpt":
            with pytest.raises(AssetError, match="manifold") as caught:
                encoded(tokenizer, [view])
            assert pickle.loads(pickle.dumps(caught.value)).reason is Reason.NON_MANIFOLD
        else:
            assert len(encoded(tokenizer, [view])["mesh"]) == 1


def test_views_must_be_meshes_of_its_bins() -> None:
    """What would leave the vocabulary is refused with the key that mends it."""
    wide = view_of(open_tokenizer("mesh_sequence", bins=512), torus().shape())
    with pytest.raises(JobError, match=r"view\.bins.*0\.\.511.*128 bins"):
        encoded(open_tokenizer("mesh_sequence"), [wide])
    with pytest.raises(JobError, match=r"view\.bins"):
        encoded(open_tokenizer("mesh_sequence", bins=512), [wide - 1])
    for wrong in (np.zeros((2, 32, 32, 3), np.uint8), np.zeros((2, 5, 3, 3), np.float32)):
        with pytest.raises(JobError, match=r"view\.kind"):
            encoded(open_tokenizer("mesh_sequence"), wrong)


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: path.stem)
def test_sample_objects_come_back(path: Path) -> None:
    """Real objects through decoder and view: each order gives them back, or says why not."""
    with path.open("rb") as stream:
        shape = open_decoder("shape").decode(AssetRef(path.name, f"mem://{path.name}"), stream)
    for variant in VARIANTS:
        tokenizer = open_tokenizer("mesh_sequence", variant=variant)
        view = view_of(tokenizer, shape)
        try:
            tokens = encoded(tokenizer, [view])
        except AssetError as error:
            assert (variant, error.reason) == ("treemeshgpt", Reason.NON_MANIFOLD)  # noqa: PT017
            continue
        (soup,) = tokenizer.load().decode(tokens)
        assert as_kept(variant, soup) == as_kept(variant, view)
        if variant == "amt":  # shorter than nine ids a face, its authors' reason for it
            assert len(tokens["mesh"][0]) < 0.75 * 9 * len(view)
