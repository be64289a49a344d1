"""The report of a run: one HTML page that needs nothing but itself, and a summary in Markdown.

Both are pure functions of a `RunRecord`.
"""

from __future__ import annotations

from tokenmill_pipelines.report.markdown import markdown_summary
from tokenmill_pipelines.report.page import write_report
from tokenmill_pipelines.report.record import Quarantined, Reconstruction, RunRecord

__all__ = ["Quarantined", "Reconstruction", "RunRecord", "markdown_summary", "write_report"]
