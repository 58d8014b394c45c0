"""Pages and figures that are made from the code: `make docs`."""
