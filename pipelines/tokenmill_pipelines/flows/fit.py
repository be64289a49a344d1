"""The flow ``fit``."""

from __future__ import annotations

from contextlib import nullcontext

from tokenmill_pipelines.fit.config import fit_job_table, parse_fit_job
from tokenmill_pipelines.fit.facts import tiles
from tokenmill_pipelines.fit.run import STAGES, FitRun, open_fit_run
from tokenmill_pipelines.flows.learning import Learning, flow_of, run_prepared

FIT = Learning(
    name="fit",
    parse=lambda job, base: parse_fit_job(job, base=base),
    table=fit_job_table,
    open_run=lambda job, observer, resume: nullcontext(open_fit_run(job, observer, resume=resume)),
    stages=STAGES,
    tiles=tiles,
)
fit_flow = flow_of(FIT)


def run_as_flow(run: FitRun) -> None:
    """Run a prepared fit as a flow run that is named after its job."""
    run_prepared(fit_flow, FIT, run)
