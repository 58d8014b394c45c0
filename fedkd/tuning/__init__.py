"""Search over the settings of a method."""
