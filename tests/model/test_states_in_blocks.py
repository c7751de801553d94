"""RecurrentGemma, whose blocks keep what they read of a text in themselves, padding too."""

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.interventions.fold import fold
from dposcope.interventions.gains import Gains
from dposcope.model.batches import batches
from dposcope.model.cache import check_keys_and_values
from dposcope.model.generate import continue_ids
from dposcope.training.batches import reading
from dposcope.training.batches.packing import pack
from dposcope.training.batches.reading import fits_one_row
from dposcope.training.objective import Objective
from dposcope.training.trainable import all_weights, low_rank
from helpers.families import assert_close, logits_of, random_gains
from helpers.more_families import MORE
from helpers.policies import disturb, material

IDS = [2, 40, 41, 55, 60, 61, 70, 33, 12, 90]
PROMPTS = [[2, 40, 41], [55], [2, 60, 61], [70], [33, 12, 90, 7], [8]]


@pytest.fixture(scope="module")
def recurrent():
    return MORE["recurrent_gemma"].build()


@torch.no_grad()
def greedy(lm, prompt: list[int], new_tokens: int) -> list[int]:
    """Each token by a whole pass."""
    ids = list(prompt)
    for _ in range(new_tokens):
        ids.append(int(logits_of(lm, ids)[-1].argmax()))
    return ids[len(prompt) :]


def test_only_texts_of_one_length_are_continued_together(recurrent):
    together = [one.rows for one in batches(recurrent, PROMPTS, batch_size=2, side="left")]
    assert together == [[4], [0, 2], [1, 3], [5]]
    assert all(one.mask.all() for one in batches(recurrent, PROMPTS, batch_size=3, side="left"))
    assert [one.rows for one in batches(recurrent, PROMPTS, batch_size=3, side="right")] == [[4, 0, 2], [1, 3, 5]]


def test_a_text_of_one_token_begins_without_the_last_texts_states(recurrent):
    lists = ([[2, 40, 41]], [[55]], PROMPTS, [[70]])
    # All of them before the first plain pass, which would drop the states.
    written = [continue_ids(recurrent, prompts, new_tokens=4, stop_at_end=False) for prompts in lists]
    for prompts, texts in zip(lists, written, strict=True):
        assert [one.ids for one in texts] == [greedy(recurrent, prompt, 4) for prompt in prompts]


def test_texts_do_not_share_a_row(recurrent, monkeypatch):
    """Known by its kinds of blocks, which are no field of its config."""
    assert not fits_one_row(recurrent.model, material())
    monkeypatch.setattr(reading, "_reads_packed", lambda *_: True)
    assert not fits_one_row(recurrent.model, material())


def test_a_pass_with_gradients_leaves_nothing_that_cannot_be_copied(recurrent):
    plain = logits_of(recurrent, IDS)
    recurrent.model(input_ids=torch.tensor([IDS]), use_cache=False)
    gains = Gains(random_gains(recurrent))
    with gains.on(recurrent):
        changed = logits_of(recurrent, IDS)
    recurrent.model(input_ids=torch.tensor([IDS]), use_cache=False)
    assert_close(logits_of(fold(recurrent, gains), IDS), changed, 2e-5)
    assert torch.equal(logits_of(recurrent, IDS), plain)


def test_all_weights_and_low_rank_train_and_are_exported(recurrent):
    batch = pack(material(windows=0), pad_id=3, shared=False)
    for train in (all_weights, low_rank):
        recurrent.model(input_ids=torch.tensor([IDS]), use_cache=False)
        with train(recurrent, Objective(0.1), recompute=True) as trainable:
            if train is low_rank:
                disturb(trainable.policy)
            trainable.policy(batch).loss.backward()
            assert all(one.grad is not None for one in trainable.policy.trainable.values())
            told = trainable.export().lm
            on = logits_of(recurrent, IDS) if train is low_rank else None
        if on is not None:
            assert_close(logits_of(told, IDS), on, 1e-5)
            assert (on - logits_of(recurrent, IDS)).abs().max() > 0.02


@pytest.mark.parametrize("name", ["recurrent_gemma", "openai-gpt"])
def test_pplm_is_refused_without_keys_and_values(name):
    """GPT-1 has no cache at all."""
    with pytest.raises(DposcopeError, match=r"keys and values.*; sample the pairs \(--method sample\)"):
        check_keys_and_values(MORE[name].build().model)
