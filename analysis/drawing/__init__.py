"""Functions that draw one panel each, the house style, and figures made of panels."""
