"""What several architectures share; no file here is an architecture by itself."""
