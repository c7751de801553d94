"""Conditions: what is measured of one, and how all of a run compare."""
