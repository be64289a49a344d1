"""The flow ``train``."""

from __future__ import annotations

from tokenmill_pipelines.flows.learning import Learning, flow_of, run_prepared
from tokenmill_pipelines.train.config import parse_train_job, train_job_table
from tokenmill_pipelines.train.page import tiles
from tokenmill_pipelines.train.run import STAGES, TrainRun, open_train_run

TRAIN = Learning(
    name="train",
    parse=lambda job, base: parse_train_job(job, base=base),
    table=train_job_table,
    open_run=lambda job, observer, resume: open_train_run(job, observer, resume=resume),
    stages=STAGES,
    tiles=tiles,
)
train_flow = flow_of(TRAIN)


def run_as_flow(run: TrainRun) -> None:
    """Run a prepared training as a flow run that is named after its job."""
    run_prepared(train_flow, TRAIN, run)
