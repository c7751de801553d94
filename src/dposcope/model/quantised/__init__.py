"""Models whose weights are codes of 4 or 8 bits: how they are loaded, and the numbers that the codes stand for."""
