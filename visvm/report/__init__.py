"""Results for people: tables in plain text, curves, and one self-contained HTML page."""

from visvm.report.page import Example, Report, render
from visvm.report.plots import Plot, Series, to_svg
from visvm.report.table import name_of, paired_table, results_table

__all__ = [
    "Example",
    "Plot",
    "Report",
    "Series",
    "name_of",
    "paired_table",
    "render",
    "results_table",
    "to_svg",
]
