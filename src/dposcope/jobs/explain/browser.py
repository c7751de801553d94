"""Data for the neuron browser of `dposcope explain`: contributions, lenses, texts, and activations on the texts."""

from collections.abc import Mapping, Sequence

import torch

from dposcope.data.token_ids import token_texts
from dposcope.directions.lens import Lens, lens
from dposcope.jobs.explain.explanation import Explanation
from dposcope.model.generate import generate
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.contributions import Contributions
from dposcope.neurons.traces import trace
from dposcope.report.browser.neurons import NeuronBrowser, TokenActivations, TokenisedText

LENSES = 4_000
"""Number of neurons, those of largest |Δ|, with a lens in the page. Toxic and anti-toxic neurons have one, too."""
TRACED = 300
"""Number of neurons, those of largest |Δ|, shown token by token. With 20 texts of 70 tokens, less than a megabyte."""
LENS_TOKENS = 50
"""Most tokens of each side of a lens in the page; with `LENSES`, some megabytes. Tables have as many as asked."""
TEXTS, PROMPT_TOKENS = 20, 48


def browser_of(
    base: LanguageModel,
    tuned: LanguageModel,
    explanation: Explanation,
    prompts: Sequence[str],
    *,
    lens_tokens: int = 10,
    notes: Sequence[str] = (),
    provenance: Mapping[str, str] | None = None,
) -> NeuronBrowser:
    """The browser of two models.

    Args:
        base: before tuning.
        tuned: after.
        explanation: of the two models.
        prompts: the first 20 are shown, each with the base model's own continuation, which both models read.
        lens_tokens: of each side of a lens, at most 50.
        notes: warnings about how to read the numbers.
        provenance: versions, seed and protocol.
    """
    change = explanation.contributions
    strongest = strongest_neurons(change, LENSES)
    extra = [explanation.toxic.top().mask | explanation.anti_toxic.top().mask]
    shown = sorted({*strongest, *extra[0].flatten().nonzero().squeeze(1).tolist()})
    written = generate(base, prompts[:TEXTS], max_prompt_tokens=PROMPT_TOKENS)
    # A special token at the start is an attention sink. Its huge activations would make all others look like 0.
    heads = [int(one.prompt_ids[0] in base.special_ids) for one in written]
    read = [one.prompt_ids + one.ids for one in written]
    visible = torch.cat([torch.arange(len(ids)) >= head for ids, head in zip(read, heads, strict=True)]).numpy()
    traced = strongest[:TRACED]
    texts = [
        TokenisedText(token_texts(base.tokenizer, ids[head:]), len(one.prompt_ids) - head)
        for one, ids, head in zip(written, read, heads, strict=True)
    ]
    return NeuronBrowser.of(
        change,
        model=base.name,
        tuned=tuned.name,
        direction=explanation.direction.kind.replace("_", " "),
        lenses=_lenses(base, shown, min(lens_tokens, LENS_TOKENS)),
        texts=texts,
        activations=TokenActivations(
            torch.tensor(traced).numpy(),
            trace(base, read, traced)[:, visible],
            trace(tuned, read, traced)[:, visible],
        ),
        notes=list(notes),
        provenance=provenance,
    )


def strongest_neurons(change: Contributions, n: int) -> list[int]:
    """The n neurons of largest |Δ|, each as block · d_mlp + index, the largest first."""
    size = change.total.abs()
    ranked = size if change.here is None else size.where(change.here, -1.0)
    return ranked.flatten().argsort(descending=True, stable=True)[: min(n, change.neurons)].tolist()


def _lenses(lm: LanguageModel, neurons: Sequence[int], k: int) -> dict[int, Lens]:
    lenses: dict[int, Lens] = {}
    for block in range(lm.n_blocks):
        here = [neuron for neuron in neurons if neuron // lm.d_mlp == block]
        if here:
            vectors = lm.value_vectors(block)[torch.tensor(here) % lm.d_mlp]
            lenses |= dict(zip(here, lens(lm, vectors, k=k), strict=True))
    return lenses
