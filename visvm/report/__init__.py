"""Reports of results: plain-text tables, curves, and a self-contained HTML page."""

from visvm.report.html_page import Report, ReportExample, render
from visvm.report.leaderboard import PageTable
from visvm.report.plots import Plot, Series, to_svg
from visvm.report.table import at_equal_length, name_of, paired_table, results_table

__all__ = [
    "PageTable",
    "Plot",
    "Report",
    "ReportExample",
    "Series",
    "at_equal_length",
    "name_of",
    "paired_table",
    "render",
    "results_table",
    "to_svg",
]
