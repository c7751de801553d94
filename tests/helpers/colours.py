"""How far apart colours are to readers with and without colour-blindness."""

import numpy as np
from numpy.typing import NDArray

SEEN = {
    "trichromat": np.eye(3),
    "deuteranope": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "protanope": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
}
"""Reader → what is left of linear RGB (Machado, Oliveira and Fernandes 2009, severity 1)."""
_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])


def difference(one: str, other: str, reader: str) -> float:
    """ΔE of 1976 between two colours such as `#993300`."""
    return float(np.linalg.norm(_lab(one, reader) - _lab(other, reader)))


def _lab(colour: str, reader: str) -> NDArray[np.float64]:
    value = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    x, y, z = _XYZ @ np.clip(SEEN[reader] @ linear, 0, 1) / _WHITE
    x, y, z = (one ** (1 / 3) if one > 0.008856 else 7.787 * one + 16 / 116 for one in (x, y, z))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])
