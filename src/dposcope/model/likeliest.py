"""The likeliest token, without looking at a whole vocabulary one entry after another.

`argmax` carries an index along and is slow on a CPU; a maximum carries none and is vectorised (`benchmarks/sampling.py`
prints both). So: the maxima of short pieces, the best piece, the best place in it.
"""

from torch import Tensor
from torch.nn.functional import pad

_PIECE = 512


def likeliest(logits: Tensor) -> Tensor:
    """`logits.argmax(-1)`, the same to the index: the first of equal ones, and NaN above all.

    Args:
        logits: `[…, vocabulary]`.

    Returns:
        Indices, `[…]`, int64.
    """
    missing = -logits.shape[-1] % _PIECE
    whole = pad(logits, (0, missing), value=float("-inf")) if missing else logits
    pieces = whole.unflatten(-1, (-1, _PIECE))
    piece = pieces.amax(-1).argmax(-1, keepdim=True)
    place = pieces.take_along_dim(piece.unsqueeze(-1), -2).squeeze(-2).argmax(-1)
    return piece.squeeze(-1) * _PIECE + place
