"""Features of comments, written from their definitions."""

import torch

from helpers.families import copied, trace


def token_ids(lm, text: str, cut: int = 128) -> list[int]:
    return lm.tokenizer(text)["input_ids"][:cut]


def naive_strict(lm, text: str, block: int, cut: int = 128) -> torch.Tensor:
    """Rows `[n, d]` that count: what the block returned at tokens that are not special."""
    ids = token_ids(lm, text, cut)
    rows = trace(lm, ids).stream[block].double()
    return torch.stack([row for token, row in zip(ids, rows, strict=True) if token not in lm.tokenizer.all_special_ids])


@torch.no_grad()
def naive_reference(lm, text: str) -> torch.Tensor:
    """Rows `[128, d]`: hidden_states[-1] of one text, <eos> on its left, mask given, nothing left out."""
    ids = token_ids(lm, text)
    pad = lm.tokenizer.eos_token_id
    missing = 128 - len(ids)
    model = copied(lm).model  # asking for hidden states leaves transformers' own hooks on a model
    output = model(
        input_ids=torch.tensor([[pad] * missing + ids]),
        attention_mask=torch.tensor([[0] * missing + [1] * len(ids)]),
        output_hidden_states=True,
        use_cache=False,
    )
    return output.hidden_states[-1][0].double()
