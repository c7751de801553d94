"""Log-perplexity against full logits of every window, counted by hand."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import tokenization_utils_base

from dposcope.errors import DposcopeError
from dposcope.evaluation import perplexity
from dposcope.evaluation.perplexity import window_losses
from dposcope.interventions.gains import Gains
from dposcope.model.language_model import LanguageModel
from helpers.families import TEXTS, copied, gpt2_like_tokenizer, random_gains, tiny, trace

TEXT = "\n\n".join(TEXTS)
WINDOW = 24


def ids_of(lm, text=TEXT):
    return lm.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


def loss_of(lm, ids, **rules):
    """Summed over the tokens after the first, from the model's own logits, in float64."""
    logits = trace(lm, ids, **rules).logits.double().numpy()
    total = 0.0
    for position in range(len(ids) - 1):
        row = logits[position]
        total += np.log(np.exp(row - row.max()).sum()) + row.max() - row[ids[position + 1]]
    return total


def strict_windows(lm, window=WINDOW):
    """Whole windows, each of `window` tokens with <bos> in front where the tokenizer has one."""
    begin = [] if lm.tokenizer.bos_token_id is None else [lm.tokenizer.bos_token_id]
    ids, room = ids_of(lm), window - len(begin)
    return [begin + ids[i * room : (i + 1) * room] for i in range(len(ids) // room)]


def reference_windows(lm, window=WINDOW):
    """<bos> once at the very start, the last partial window kept."""
    begin = [] if lm.tokenizer.bos_token_id is None else [lm.tokenizer.bos_token_id]
    ids = begin + ids_of(lm)
    return [ids[i : i + window] for i in range(0, len(ids), window)]


def test_strict(lm):
    windows = strict_windows(lm)
    losses = window_losses(lm, TEXT, window=WINDOW)
    expected = [loss_of(lm, window) for window in windows]
    np.testing.assert_allclose(losses.nll, expected, rtol=3e-6)
    assert losses.tokens.tolist() == [WINDOW - 1] * len(windows)
    assert losses.mean == pytest.approx(sum(expected) / (len(windows) * (WINDOW - 1)), rel=1e-6)
    assert losses.nll.dtype == np.float64


def test_reference(lm):
    windows = reference_windows(lm)
    losses = window_losses(lm, TEXT, protocol="reference", window=WINDOW)
    expected = [loss_of(lm, window) for window in windows]
    assert len(windows[-1]) < WINDOW, "the last window is whole: this tests too little"
    np.testing.assert_allclose(losses.nll, expected, rtol=3e-6)
    assert losses.tokens.tolist() == [len(window) for window in windows]
    assert losses.mean == pytest.approx(sum(expected) / sum(map(len, windows)), rel=1e-6)


def test_a_last_window_of_a_single_token_counts_for_the_reference(llama):
    """ "Divided by all tokens": the lone one predicts nothing but is one of them."""
    ids = ids_of(llama)
    window = (len(ids) + 1 - 1) // 3  # <bos> and all but one token fill three windows
    text = llama.tokenizer.decode(ids[: 3 * window])
    assert len(ids_of(llama, text)) == 3 * window
    losses = window_losses(llama, text, protocol="reference", window=window)
    assert losses.tokens.sum() == 3 * window + 1


def test_the_text_is_tokenised_once_without_its_own_special_tokens(llama):
    assert 2 not in ids_of(llama)
    windows = strict_windows(llama)
    assert all(window[0] == 2 and 2 not in window[1:] for window in windows)


def test_the_same_windows_are_made_tokens_of_once(llama, monkeypatch):
    """Condition after condition reads them; any other windows are read anew."""
    lm, read, stream = replace(llama, tokenizer=copy.deepcopy(llama.tokenizer)), [], perplexity.TokenStream
    monkeypatch.setattr(perplexity, "TokenStream", lambda *given: read.append(given) or stream(*given))
    first = window_losses(lm, TEXT, window=WINDOW)
    with Gains(random_gains(lm)).on(lm):
        assert window_losses(lm, TEXT, window=WINDOW).mean != first.mean
    assert window_losses(lm, TEXT, window=WINDOW).nll.tolist() == first.nll.tolist()
    assert len(read) == 1
    others = (
        {"window": WINDOW + 1}, {"skip_windows": 1}, {"max_windows": 2}, {"max_windows": 2, "spread": True},
        {"protocol": "reference"},
    )  # fmt: skip
    for number, other in enumerate(others):
        found = window_losses(lm, TEXT, **{"window": WINDOW, **other})
        assert found.nll.tolist() == window_losses(copied(llama), TEXT, **{"window": WINDOW, **other}).nll.tolist()
        assert len(read) == 3 + 2 * number
    assert len(window_losses(lm, TEXTS[0] + TEXT, window=WINDOW).nll) > len(first.nll)
    assert window_losses(lm, TEXT, window=WINDOW).nll.tolist() == first.nll.tolist()
    many = len(read)
    lm.tokenizer.add_tokens("zyzzyva")
    window_losses(lm, TEXT, window=WINDOW)
    assert len(read) == many + 1, "the tokenizer may divide the text otherwise"


def test_a_tokenizer_without_bos_has_windows_without(llama):
    tokenizer = gpt2_like_tokenizer()
    tokenizer.bos_token = None
    lm = LanguageModel(llama.model, tokenizer)
    ids = ids_of(lm)
    expected = [loss_of(lm, ids[i : i + WINDOW]) for i in range(0, len(ids) - WINDOW + 1, WINDOW)]
    np.testing.assert_allclose(window_losses(lm, TEXT, window=WINDOW).nll, expected, rtol=3e-6)


@pytest.mark.parametrize("protocol", ["strict", "reference"])
@pytest.mark.parametrize("chunk", [1, 7, 23, 24, 1000])
def test_the_chunk_size_does_not_matter(gemma2, protocol, chunk):
    whole = window_losses(gemma2, TEXT, protocol=protocol, window=WINDOW)
    chunked = window_losses(gemma2, TEXT, protocol=protocol, window=WINDOW, chunk=chunk)
    np.testing.assert_allclose(chunked.nll, whole.nll, rtol=1e-6)


def test_no_more_logits_than_a_chunk_are_made(llama):
    lm = copied(llama)
    rows = []
    lm.model.lm_head.register_forward_hook(lambda _m, args, _o: rows.append(args[0].reshape(-1, 16).shape[0]))
    window_losses(lm, TEXT, window=WINDOW, chunk=5)
    assert max(rows) == 5
    assert sum(rows) == (WINDOW - 1) * len(strict_windows(lm))


@pytest.mark.parametrize("protocol", ["strict", "reference"])
def test_windows_can_be_skipped_and_limited(llama, protocol):
    whole = window_losses(llama, TEXT, protocol=protocol, window=WINDOW)
    assert len(whole.nll) >= 4
    for skip, most in ((0, 2), (1, 2), (2, None), (3, 1), (0, 1000)):
        part = window_losses(llama, TEXT, protocol=protocol, window=WINDOW, skip_windows=skip, max_windows=most)
        stop = None if most is None else skip + most
        assert part.nll.tolist() == whole.nll[skip:stop].tolist()
        assert part.tokens.tolist() == whole.tokens[skip:stop].tolist()


@pytest.mark.parametrize(("skip", "most"), [(0, 3), (2, 4), (1, 1), (0, 1000)])
def test_windows_can_be_spread_over_the_text(llama, skip, most):
    whole = window_losses(llama, TEXT, window=8, skip_windows=skip).nll.tolist()
    assert len(whole) == len(set(whole)) > 8
    some = window_losses(llama, TEXT, window=8, skip_windows=skip, max_windows=most, spread=True).nll.tolist()
    parts = min(most, len(whole))
    assert len(some) == parts
    for part, loss in enumerate(some):  # one of every equal part of the text
        assert part * len(whole) < (whole.index(loss) + 1) * parts
        assert whole.index(loss) * parts < (part + 1) * len(whole)


def test_windows_are_cut_to_the_context(llama):
    assert window_losses(llama, TEXT, window=1024).tokens.tolist() == [127]


def test_interventions_around_it_apply_at_every_position(lm):
    gains = random_gains(lm)
    expected = [loss_of(lm, window, neurons=lambda block, m: m * gains[block]) for window in strict_windows(lm)]
    for where in ("all", "last", "generated", "prompt"):
        with Gains(gains, positions=where).on(lm):
            np.testing.assert_allclose(window_losses(lm, TEXT, window=WINDOW).nll, expected, rtol=1e-5)


def test_the_references_position_zero_of_every_window(lm):
    """What the published code measures: the edit acts on the first token alone."""
    gains = random_gains(lm)

    def first_only(block, m):
        return torch.cat([m[:1] * gains[block], m[1:]])

    windows = reference_windows(lm)
    expected = [loss_of(lm, window, neurons=first_only) for window in windows]
    with Gains(gains, positions="first").on(lm):
        losses = window_losses(lm, TEXT, protocol="reference", window=WINDOW)
    np.testing.assert_allclose(losses.nll, expected, rtol=1e-5)


def test_half_precision_losses_are_added_up_in_double(gemma2):
    lm = copied(gemma2)
    lm.model.to(torch.bfloat16)
    losses = window_losses(lm, TEXT, window=WINDOW, chunk=4)
    expected = [loss_of(lm, window) for window in strict_windows(lm)]
    np.testing.assert_allclose(losses.nll, expected, rtol=1e-2)


@pytest.mark.parametrize("settings", [{"window": 100}, {"skip_windows": 99}], ids=str)
def test_a_text_without_a_window_is_refused(gpt2, settings):
    lm = LanguageModel(gpt2.model, gpt2.tokenizer)
    text = "the cat" if "window" in settings else TEXT
    with pytest.raises(DposcopeError, match=r"no window of \d+ tokens( after the first 99)?; give a longer text"):
        window_losses(lm, text, **({"window": WINDOW} | settings))


def test_the_complaint_names_the_window_that_was_used(llama):
    """1,024 asked for, but the context allows 128: that is what the text must fill."""
    with pytest.raises(DposcopeError, match="no window of 128 tokens"):
        window_losses(llama, "the cat")


def test_an_empty_text_is_refused(llama, gpt2):
    for lm in (llama, gpt2):
        for protocol in ("strict", "reference"):
            with pytest.raises(DposcopeError, match="no window"):
                window_losses(lm, "", protocol=protocol)


@pytest.mark.parametrize(
    "settings",
    [{"window": 1}, {"window": 0}, {"window": -3}, {"chunk": 0}, {"skip_windows": -1}, {"max_windows": 0}],
    ids=str,
)
def test_sizes_without_meaning_are_refused(family_lm, settings):
    for family in ("llama", "qwen2"):
        with pytest.raises(DposcopeError):
            window_losses(family_lm(family), TEXT, **({"window": WINDOW} | settings))


def test_progress_counts_windows(llama):
    calls = []
    window_losses(llama, TEXT, window=60, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]


def test_long_texts_raise_no_alarm_and_leave_the_tokenizer_alone(monkeypatch):
    """A tokenizer that warns of texts longer than its model is told not to: the windows are short."""
    told: list[str] = []
    monkeypatch.setattr(tokenization_utils_base.logger, "warning", lambda words, *_: told.append(words))
    lm = tiny("llama")
    lm.tokenizer.model_max_length = WINDOW
    before = lm.tokenizer.backend_tokenizer.to_str()
    window_losses(lm, TEXT * 3, window=WINDOW)
    assert lm.tokenizer.backend_tokenizer.to_str() == before
    assert told == []
    lm.tokenizer(TEXT * 3)
    assert "longer than the specified maximum" in " ".join(told)


@pytest.mark.parametrize("most", [0, -1])
def test_no_window_at_most_is_refused_by_its_name(llama, most):
    with pytest.raises(DposcopeError, match=f"max_windows {most} is below 1"):
        window_losses(llama, TEXT, window=WINDOW, max_windows=most)
