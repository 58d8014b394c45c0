"""Search over the settings of a method: what is tried, on whose validation samples, and what it costs."""
