"""Increments after compaction: names that come again are not those of what is hidden."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.pipelines.test_increments import BROKEN, Corpus, run, shown

from tokenmill.store import Store
from tokenmill.store.compact import compact
from tokenmill.store.verify import verify_store
from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.run import open_run
from tokenmill_pipelines.stages import STAGES, run_stage
from tokenmill_schemas.errors import CorruptShardError


def test_what_is_again_as_it_was_before_a_compaction_is_shown(tmp_path: Path) -> None:
    """Compaction keeps a lone shard's file under another unit, whose rows may be hidden since."""
    corpus = Corpus(tmp_path)
    store = Store.of(str(tmp_path / "store"))
    broken = {"b": (BROKEN, 1)}
    for grey in (10, 10, 11, 10):
        job = corpus.job({"a": (grey, grey)} | (broken if store.log.head_number() else {}))
        run(replace(job, limits=replace(job.limits, max_quarantined_fraction=1.0)))
        if store.snapshot().number == 2:
            before = store.segments(store.snapshot(), ["path"]).column("path").to_pylist()
            compact(store)
            after = store.segments(store.snapshot(), ["path"]).column("path").to_pylist()
            assert after == [path for path in before if path]
    assert shown(store) == {"a": 10}
    assert verify_store(store, store.snapshot()).problems == ()


def test_a_run_that_slept_while_a_gc_swept_commits_no_holes(tmp_path: Path) -> None:
    """Its listing is looked for like its shards before anything becomes visible."""
    with open_run(Corpus(tmp_path).job({"a": (10, 1)}), SilentObserver()) as slow:
        for name, stage in STAGES:
            if name == "verify":
                slow.assembly.store.storage.delete(slow.planned.plans[0].path)
                with pytest.raises(CorruptShardError, match="run again"):
                    run_stage(slow, name, stage)
                break
            run_stage(slow, name, stage)
