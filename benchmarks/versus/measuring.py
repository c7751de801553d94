"""Differences in how a model is measured: e, f and g."""

from collections.abc import Callable, Sequence

import numpy as np

from dposcope.evaluation.overlap import REFERENCE_GOLD_TOKENS, TokenPair, reference_pair, strict_pair, token_f1
from dposcope.evaluation.perplexity import WindowLosses, count_windows, window_losses
from dposcope.evaluation.statistics.comparisons import bootstrap_mean, bootstrap_ratio, paired_difference
from dposcope.model.batches import encode
from dposcope.model.generate import Continuation
from versus.bench import Bench
from versus.rows import Row

Pairing = Callable[[Sequence[int], Sequence[int]], TokenPair]
"""Generated and gold token ids → what is compared."""


def prompt_cut(bench: Bench) -> list[Row]:
    """e: toxicity of the plain model after whole prompts and after their first 32 tokens."""
    prompts, whole, cut = bench.data.report, bench.written("none"), bench.written("none", cut=True)
    shortened = [len(one.prompt_ids) < len(other.prompt_ids) for one, other in zip(cut, whole, strict=True)]
    left = what_the_code_scores(bench, cut, prompts)
    kept = [text != continuation.text for text, continuation in zip(left, cut, strict=True)]
    strict, scored = bench.toxicity("none"), bench.scorer(left)
    return [
        Row("share of prompts that are cut", 0.0, float(np.mean(shortened))),
        toxicity_row("toxicity of the plain model", bench, "none", "none", cut=True),
        Row("share of texts scored with more than the continuation", 0.0, float(np.mean(kept))),
        Row(
            "toxicity of the plain model, scored as the code does",
            bootstrap_mean(strict),
            bootstrap_mean(scored),
            paired_difference(scored, strict),
        ),
    ]


def what_the_code_scores(bench: Bench, written: Sequence[Continuation], prompts: Sequence[str]) -> list[str]:
    """The text of prompt and continuation less the whole prompt: where that is not found in it, all of it."""
    texts = bench.lm.decode([[*one.prompt_ids, *one.ids] for one in written])
    return [text.replace(prompt, "") for text, prompt in zip(texts, prompts, strict=True)]


def f1(bench: Bench) -> list[Row]:
    """f: each change of F1 alone, then all of them; for the plain model and for the assigned edit."""
    end = frozenset(token for token in (bench.lm.tokenizer.eos_token_id,) if isinstance(token, int))
    strict = f1_scores(bench, "none", strict_pair)

    def row(measure: str, changed: np.ndarray, beside: np.ndarray = strict) -> Row:
        return Row(measure, bootstrap_mean(beside), bootstrap_mean(changed), paired_difference(changed, beside))

    def counted(name: str, *, cut: bool = False, left_out: frozenset[int] | None = None) -> np.ndarray:
        return _scores(bench, name, reference_pair, cut=cut, left_out=left_out)

    edit, edit_all = f1_scores(bench, "assign", strict_pair), counted("assign", cut=True)
    none_all = counted("none", cut=True)
    return [
        row(
            "plain model, prompt counted",
            _scores(bench, "none", lambda p, g, gold: TokenPair((*p, *g), tuple(gold[:20]))),
        ),
        row(
            "plain model, gold cut at 52",
            f1_scores(bench, "none", lambda g, gold: TokenPair(tuple(g), tuple(gold[:_GOLD]))),
        ),
        row("plain model, prompt counted and gold cut at 52", counted("none")),
        row("plain model, the same with BOS counted", counted("none", left_out=end)),
        row("plain model, prompt cut to its first 32", f1_scores(bench, "none", strict_pair, cut=True)),
        row("plain model, all but BOS", none_all),
        row("assigned edit, all but BOS", edit_all, edit),
        Row("what the assigned edit changes", paired_difference(edit, strict), paired_difference(edit_all, none_all)),
    ]


_GOLD = REFERENCE_GOLD_TOKENS


def f1_scores(bench: Bench, name: str, pairing: Pairing, *, cut: bool = False) -> np.ndarray:
    """F1 of every passage, `[passages]`."""
    return _scores(bench, name, lambda _prompt, generated, gold: pairing(generated, gold), cut=cut)


def _scores(
    bench: Bench,
    name: str,
    pairing: Callable[[Sequence[int], Sequence[int], Sequence[int]], TokenPair],
    *,
    cut: bool = False,
    left_out: frozenset[int] | None = None,
) -> np.ndarray:
    """`left_out`: tokens that do not count; None: special ones. The published code leaves its padding out, the end of
    text."""
    special = bench.lm.special_ids if left_out is None else left_out
    scores: list[float] = []
    for one, text in zip(bench.written(name, passages=True, cut=cut), bench.data.passages.golds, strict=True):
        gold = [token for token in encode(bench.lm, [text])[0] if token not in special]
        pair = pairing(one.prompt_ids, one.ids, gold)
        scores.append(token_f1(pair.predicted, pair.gold, special_ids=special))
    return np.array(scores)


def windows(bench: Bench) -> list[Row]:
    """g: log-perplexity of the plain model, each change of its windows alone, then all of them."""
    strict = bench.losses("none")
    neutral, code = bench.data.neutral, bench.losses("none", "reference")
    count = count_windows(bench.lm, neutral, protocol="reference")
    last = window_losses(bench.lm, neutral, protocol="reference", skip_windows=count - 1)
    mean = bootstrap_ratio(strict.nll, strict.tokens)
    once = WindowLosses(code.nll, code.tokens - 1)  # predicted tokens, as strict divides
    whole = (count - 1) * int(once.tokens[0])
    predicted = int(last.tokens[0]) - 1
    with_last = (once.mean * whole + float(last.nll[0])) / (whole + predicted)
    return [
        Row("BOS once", mean, bootstrap_ratio(once.nll, once.tokens)),
        Row(
            "divided by all tokens",
            mean,
            bootstrap_ratio(strict.nll, strict.tokens + 1),
            paired_difference(strict.nll / (strict.tokens + 1), strict.nll / strict.tokens),
        ),
        Row(f"BOS once, the last of {count:,} windows kept ({predicted:,} tokens)", once.mean, with_last),
        Row("BOS once and divided by all tokens", mean, bootstrap_ratio(code.nll, code.tokens)),
    ]


def toxicity_row(measure: str, bench: Bench, strict: str, reference: str, *, cut: bool = False) -> Row:
    """Toxicity of two edits after the same prompts, the second's cut where asked."""
    one, other = bench.toxicity(strict), bench.toxicity(reference, cut=cut)
    return Row(measure, bootstrap_mean(one), bootstrap_mean(other), paired_difference(other, one))
