"""HTML pages about training runs, for `gankit report` and `gankit compare`."""

from gankit.report.page import write_comparison, write_report

__all__ = ["write_comparison", "write_report"]
