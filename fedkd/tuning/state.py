"""Names under which the search keeps things in the state of a node."""

from fedkd.tuning.bags import OWN

CHOSEN = f"{OWN}chosen"
"""Number of the chosen cell: at the server, of each learner's."""
POINTS = f"{OWN}points"
"""(points, parameters) proposed so far, where they are not known from the start."""
SETUP = f"{OWN}setup/"
"""Prefix of what set-up and start of the cells left in their states."""
