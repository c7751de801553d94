"""Sentence features at the end of every block, in one pass: what steering, ablation and projection are made from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dposcope.artefacts import NoFacts, load_tensors, save_tensors
from dposcope.model.batches import batches, encode
from dposcope.model.frames import Frame
from dposcope.model.generate import Progress
from dposcope.model.hooks import Change, hooked, residual_site
from dposcope.model.language_model import LanguageModel

_MAX_TOKENS = 128


@dataclass(frozen=True, eq=False)
class BlockFeatures:
    """Mean residual stream of labelled texts at the end of each block."""

    toxic: Tensor
    """`[L, n, d]`, float32; row i answers row i of `civil` where texts are pairs."""
    civil: Tensor
    """`[L, n, d]`."""
    norms: Tensor
    """Mean |x| over tokens, `[L]`."""

    def difference(self, block: int) -> Tensor:
        """Mean toxic minus mean other feature of a block, `[d]`, float64."""
        return self.toxic[block].double().mean(0) - self.civil[block].double().mean(0)

    def save(self, stem: str | Path, gigabytes: float) -> None:
        """Write `stem.safetensors` and `stem.json`, with the memory that it took."""
        tensors = {"toxic": self.toxic, "civil": self.civil, "norms": self.norms}
        save_tensors(stem, "BlockFeatures", tensors, {"gigabytes": gigabytes})

    @classmethod
    def load(cls, stem: str | Path) -> "BlockFeatures":
        """Read what `save` wrote."""
        tensors = load_tensors(stem, "BlockFeatures", NoFacts).tensors
        return cls(tensors["toxic"], tensors["civil"], tensors["norms"])


@torch.inference_mode()
def block_features(
    lm: LanguageModel,
    texts: Sequence[str],
    labels: Sequence[bool] | np.ndarray,
    *,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> BlockFeatures:
    """Mean over the real tokens of each text, special ones left out, cut to 128 tokens (as `residual_features`).

    Args:
        lm: the model.
        texts: of both classes, as many of each.
        labels: True where toxic.
        batch_size: texts at a time.
        progress: called after each batch.
    """
    special = torch.tensor(sorted(lm.special_ids), dtype=torch.long, device=lm.device)
    means = torch.zeros(lm.n_blocks, len(texts), lm.d_model)
    norms, counts = torch.zeros(lm.n_blocks, dtype=torch.float64), torch.zeros(lm.n_blocks, dtype=torch.float64)
    encoded = encode(lm, texts, max_tokens=min(_MAX_TOKENS, lm.context_length), keep="start")
    done = 0
    for batch in batches(lm, encoded, batch_size=batch_size, side="right"):
        counted = (batch.mask == 1) & ~torch.isin(batch.ids, special)
        # A text of nothing but special tokens keeps them: it has no other feature.
        counted = torch.where(counted.any(1, keepdim=True), counted, batch.mask == 1)

        def observe(block: int, counted: Tensor = counted, rows: Sequence[int] = batch.rows) -> Change:
            def look(stream: Tensor, _frame: Frame) -> None:
                for place, row in enumerate(rows):
                    tokens = stream[place][counted[place]].double()
                    means[block, row] = tokens.mean(0).float().cpu()
                    norms[block] += float(tokens.norm(dim=1).sum())
                    counts[block] += len(tokens)

            return look

        with hooked(lm, [(residual_site(lm, block), observe(block)) for block in range(lm.n_blocks)]):
            lm.model.base_model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
        done += len(batch.rows)
        if progress is not None:
            progress(done, len(texts))
    toxic = torch.from_numpy(np.asarray(labels, dtype=bool))
    return BlockFeatures(means[:, toxic], means[:, ~toxic], norms / counts.clamp(min=1))
