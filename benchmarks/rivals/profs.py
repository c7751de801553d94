"""ProFS (Uppal et al. 2024, "Model editing as a robust and denoised variant of DPO"): a toxic subspace projected out.

Per block, with X⁺ and X⁻ the `[n, d]` features of civil and toxic sentences: D = (X⁺ − X⁻) / 2; μ the first right
singular vector of X⁺, which holds what all text shares; D (I − μμᵀ) = U S Vᵀ; P = Σ_{i≤k} v_i v_iᵀ; and the value
vectors of the MLP become V (I − P). Biases stay. The published settings: k = 2 and blocks from 10 of 24 for GPT-2
medium, 500 pairs; here features leave special tokens out, and ranks are swept.
"""

from collections.abc import Sequence
from functools import cache

import torch
from benchmarks.rivals.features import BlockFeatures
from benchmarks.rivals.lines import Line
from benchmarks.rivals.placing import spread
from benchmarks.rivals.replaced import Replaced
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from dposcope.model.language_model import LanguageModel

RANKS = (1.0, 2.0, 5.0, 10.0)


def toxic_directions(toxic: Tensor, civil: Tensor, rank: int) -> Tensor:
    """The first right singular vectors of the centred differences, `[k, d]`, float64, orthonormal.

    Args:
        toxic: X⁻, `[n, d]`.
        civil: X⁺, `[n, d]`.
        rank: k; fewer are returned where n or d is smaller.
    """
    plus, minus = civil.double(), toxic.double()
    shared = torch.linalg.svd(plus, full_matrices=False).Vh[0]
    differences = (plus - minus) / 2
    centred = differences - torch.outer(differences @ shared, shared)
    return torch.linalg.svd(centred, full_matrices=False).Vh[:rank]


def projected(directions: dict[int, Tensor]) -> Replaced:
    """V (I − P) in some blocks.

    Args:
        directions: block → `[k, d]`, orthonormal rows.
    """

    def make(lm: LanguageModel) -> dict[str, Tensor]:
        names = {id(parameter): name for name, parameter in lm.model.named_parameters()}
        new: dict[str, Tensor] = {}
        for block, rows in directions.items():
            module = lm.mlp_outs[block]
            weight = module.get_parameter("weight")
            vectors = lm.value_vectors(block).double()
            basis = rows.to(vectors.device, torch.float64)
            left = vectors - (vectors @ basis.T) @ basis
            new[names[id(weight)]] = left if isinstance(module, Conv1D) else left.T
        return new

    return Replaced(make)


def projections(features: BlockFeatures, evaluations: int) -> tuple[Line, ...]:
    """Later half of the blocks, and all of them: two lines over ranks."""
    blocks = len(features.norms)
    most = int(max(RANKS))

    @cache
    def basis(block: int) -> Tensor:
        return toxic_directions(features.toxic[block], features.civil[block], most)

    def line(name: str, chosen: Sequence[int]) -> Line:
        return Line(
            name,
            lambda k: projected({block: basis(block)[: int(k)] for block in chosen}),
            symbol="k",
            strengths=spread(RANKS, max(1, evaluations // 2)),
        )

    return (line(f"blocks from {blocks // 2}", range(blocks // 2, blocks)), line("all blocks", range(blocks)))
