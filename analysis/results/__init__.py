"""Results folders read as one tidy table, and which of its rows count."""
