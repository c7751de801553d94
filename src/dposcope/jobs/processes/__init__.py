"""A run that several processes work in."""
