"""How many of a server's tokens are the model's own, against reading each text by itself."""

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.evaluation.sampled.agreement import Agreement, agreement
from dposcope.model.generate import Continuation, Sampling, generate
from helpers.edits import gains_of
from helpers.families import TEXTS


def naive(lm, written) -> Agreement:
    same = 0
    for one in written:
        ids = torch.tensor([[*one.prompt_ids, *one.ids]])
        with torch.inference_mode():
            own = lm.model(ids).logits[0].argmax(-1)[len(one.prompt_ids) - 1 : -1]
        same += int((own == ids[0, len(one.prompt_ids) :]).sum())
    return Agreement(same, sum(len(one.ids) for one in written))


def test_greedy_texts_agree_wholly_and_sampled_ones_in_part(lm):
    greedy = [*generate(lm, TEXTS, new_tokens=6), Continuation([5], [], "")]
    tokens = sum(len(one.ids) for one in greedy)
    assert agreement(lm, greedy, batch_size=3) == Agreement(tokens, tokens)
    drawn = generate(lm, TEXTS, new_tokens=6, sampling=Sampling(temperature=2.0))
    found = agreement(lm, drawn, batch_size=3)
    assert found == naive(lm, drawn)
    assert 0 < found.same < found.tokens


def test_an_edited_model_agrees_with_its_own_texts(family_lm):
    lm = family_lm("gemma3")
    edit = gains_of(lm)
    with edit.on(lm):
        written = generate(lm, TEXTS, new_tokens=6)
        assert agreement(lm, written).share == 1
    assert agreement(lm, written).share < 1


def test_a_small_share_is_told_and_a_smaller_one_refused():
    assert Agreement(0, 0).check("s", "m").share == 1
    assert Agreement(90, 100).note is None
    assert "100 greedy tokens of the server were read here, and 89 are" in (Agreement(89, 100).note or "")
    assert Agreement(70, 100).check("s", "m") == Agreement(70, 100)
    with pytest.raises(DposcopeError, match="s does not write what m writes: of 100 greedy tokens 69 are"):
        Agreement(69, 100).check("s", "m")
