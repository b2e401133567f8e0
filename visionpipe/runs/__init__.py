"""Folder runs: scan, ledger, a window of chunks, results that add up."""

from visionpipe.runs.folder import rewrite_outputs, run_folder
from visionpipe.runs.labels import Labels
from visionpipe.runs.progress import RunProgress, Stage
from visionpipe.runs.report import RunReport

__all__ = ["Labels", "RunProgress", "RunReport", "Stage", "rewrite_outputs", "run_folder"]
