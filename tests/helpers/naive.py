"""Slow, independent implementations that several test files hold the code against."""

import math

import torch

from dposcope.model.generate import generate
from helpers.families import logits_of, naive_vectors


def ranked_naively(lm, W: torch.Tensor) -> list[tuple[float, int, int]]:
    """(cosine, block, index) of every neuron, the highest cosine first."""
    rows = []
    for block in range(lm.n_blocks):
        for i, v in enumerate(naive_vectors(lm, block)):
            dot = sum(a * b for a, b in zip(v.tolist(), W.tolist(), strict=True))
            norms = math.sqrt(sum(a * a for a in v.tolist())) * math.sqrt(sum(b * b for b in W.tolist()))
            rows.append((dot / norms, block, i))
    return sorted(rows, reverse=True)


def naive_means(lm, texts, new_tokens=4):
    """Neuron means of both protocols over plain passes, by a hook on whatever projection dposcope found."""
    strict, reference = [], []
    for continuation in generate(lm, texts, new_tokens=new_tokens, stop_at_end=False, batch_size=1):
        ids, start = continuation.prompt_ids + continuation.ids, len(continuation.prompt_ids)
        rows = []
        handles = [m.register_forward_pre_hook(lambda _m, args, rows=rows: rows.append(args[0])) for m in lm.mlp_outs]
        logits_of(lm, ids)
        for handle in handles:
            handle.remove()
        flat = [row.reshape(-1, row.shape[-1]) for row in rows]
        # Where blocks differ, a narrow one has the first columns.
        seen = torch.stack([torch.nn.functional.pad(row, (0, lm.d_mlp - row.shape[1])) for row in flat]).double()
        ends = [place for place, token in enumerate(continuation.ids) if token in lm.end_ids]
        steps = ends[0] + 1 if ends else new_tokens
        strict.append(seen[:, start - 1 : start - 1 + steps])
        reference.append(seen[:, start : start + new_tokens])
    return torch.cat(strict, 1).mean(1), torch.cat(reference, 1).mean(1)
