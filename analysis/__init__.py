"""Result tables in, statistics and figures out.

This room reads a results folder and nothing else: it imports none of the other rooms. `load` gives
the tidy table; `analysis.report.make_report` writes the figures and the report.
"""

from analysis.results.absent import filled
from analysis.results.journal import ResultsError
from analysis.results.table import finished, load, read_study, rebuild

__all__ = ["ResultsError", "filled", "finished", "load", "read_study", "rebuild"]
