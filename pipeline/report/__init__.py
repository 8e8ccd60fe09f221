"""The report of a run: one HTML file that opens offline, built from nothing but the files of the run directory."""

from pipeline.report.build import build

__all__ = ["build"]
