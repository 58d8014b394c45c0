"""Names of the search's tensors in the state of a node."""

from fedkd.tuning.bags import PREFIX

CHOSEN = f"{PREFIX}chosen"
"""Number of the chosen cell: at the server, of each learner's."""
POINTS = f"{PREFIX}points"
"""(points, parameters) proposed so far, where they are not known from the start."""
SETUP = f"{PREFIX}setup/"
"""Prefix of the states of the cells after their set-up and start."""
