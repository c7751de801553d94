"""The lens, written from its definition."""

import torch


@torch.no_grad()
def naive_logits(lm, x: torch.Tensor) -> torch.Tensor:
    """final_norm, lm_head, soft-cap, each written out; one vector `[d]`, in the model's precision."""
    model = lm.model
    norm = model.transformer.ln_f if model.config.model_type == "gpt2" else model.model.norm
    logits = model.lm_head(norm(x.to(lm.dtype).reshape(1, 1, -1)))[0, 0].float()
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def ranked(lm, logits: torch.Tensor, k: int) -> list[str]:
    order = sorted(range(len(logits)), key=lambda token: -float(logits[token]))[:k]
    return [lm.tokenizer.decode([token]) for token in order]
