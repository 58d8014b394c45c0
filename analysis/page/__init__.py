"""The report's text and tables, and its HTML page."""
