"""Directions in residual space, and the lens that reads them."""
