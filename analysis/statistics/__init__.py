"""Intervals, tests and estimates on plain numbers."""
