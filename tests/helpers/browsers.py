"""Neuron browsers from made-up numbers, and hands for their page in a real browser."""

import json

import numpy as np

from dposcope.directions.lens import Lens
from dposcope.report.browser.neurons import GROUPS, NeuronBrowser, TokenActivations, TokenisedText
from helpers.pages import HOSTILE, STRONG

WORDS = ["the", "a", "river", "stone", "quiet", "lantern", "paper", "idiot", "green", "slowly", "ink", "bread", "kind"]


def lens(*words: str, logit: float = 9.0) -> Lens:
    """Its bottom holds the same words backwards."""
    logits = [logit - i for i in range(len(words))]
    return Lens(list(words), list(reversed(words)), logits, [value / 2 for value in logits])


def codes(cosine, mean) -> np.ndarray:
    """Group of every neuron by its definition."""
    names = np.where(cosine > 0, "T", "A").astype(object) + np.where(mean > 0, "P", "N").astype(object)
    names[(cosine == 0) | (mean == 0)] = "none"
    return np.vectorize(GROUPS.index)(names).astype(np.uint8)


def browser(
    blocks: int = 3,
    width: int = 40,
    *,
    n_lenses: int = 30,
    n_opened: int = 4,
    n_texts: int = 3,
    n_tokens: int = 12,
    **changes,
) -> NeuronBrowser:
    """Random numbers; every value of a field can be replaced."""
    stream = np.random.default_rng(0)
    shape, count = (blocks, width), blocks * width
    cosine = np.tanh(stream.normal(size=shape) / 4)
    before = stream.normal(size=shape) ** 3 / 5
    after = before + stream.normal(size=shape) / 10
    contribution = (before - after) * cosine * np.linspace(0.2, 2, blocks)[:, None]
    chosen = np.sort(stream.choice(count, size=min(n_lenses, count), replace=False))
    strongest = np.argsort(-np.abs(contribution).ravel())[:n_opened]
    made_texts = [
        TokenisedText([f" {WORDS[i]}" for i in stream.integers(len(WORDS), size=n_tokens)], n_tokens // 2)
        for _ in range(n_texts)
    ]
    total = n_texts * n_tokens
    fields = {
        "model": "a-model",
        "tuned": "a-model-dpo",
        "direction": "probe of block 2",
        "group": codes(cosine, before),
        "cosine": cosine,
        "mean_before": before,
        "mean_after": after,
        "contribution": contribution,
        "certain": np.abs(contribution) > 0.01,
        "lenses": {int(n): lens(*(f" {WORDS[i]}" for i in stream.integers(len(WORDS), size=4))) for n in chosen},
        "texts": made_texts,
        "activations": TokenActivations(
            strongest, stream.normal(size=(n_opened, total)), stream.normal(size=(n_opened, total))
        ),
        "notes": ["One direction is not toxicity."],
        "provenance": {"torch": "2.13.0", "seed": "0"},
    }
    return NeuronBrowser(**(fields | changes))


def hostile_browser() -> NeuronBrowser:
    """Every text in it is out to do harm, or cannot be shown; neuron 0.1 is the one with all of it."""
    texts = [f"{text} {STRONG}" for text in HOSTILE]
    tokens = [*HOSTILE, f" {STRONG}", "", "  ", "\u00a0", "\t"]
    halves = [*HOSTILE, STRONG[:2], STRONG[2:], "\n"]
    stream = np.random.default_rng(1)
    return browser(
        1,
        6,
        model=texts[0],
        tuned=texts[4],
        direction=texts[1],
        lenses={1: lens(*tokens)},
        texts=[TokenisedText(halves, 2)],
        activations=TokenActivations(
            np.array([1]), stream.normal(size=(1, len(halves))), stream.normal(size=(1, len(halves)))
        ),
        notes=texts,
        provenance={text: text for text in texts},
    )


def rows(tab) -> list[list[str]]:
    """What the table's drawn rows say."""
    drawn = "[...document.querySelectorAll('#neuron-table tbody tr')]"
    return tab.run(f"{drawn}.map((row) => [...row.cells].map((cell) => cell.innerText))")


def neurons(tab) -> list[str]:
    return [row[0] for row in rows(tab)]


def state(tab) -> str:
    return tab.run("document.getElementById('selection-state').textContent")


def put(tab, field: str, text: str):
    """Type over what the field holds."""
    tab.run(f"document.getElementById('{field}').focus(), document.getElementById('{field}').select()")
    tab.run("document.execCommand('delete')")
    tab.type(text)


def click(tab, selector: str):
    tab.run(f"document.querySelector({json.dumps(selector)}).click()")


def settle(tab):
    tab.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
