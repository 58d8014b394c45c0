"""Scores of federations, comparisons of methods, and times to a target."""
