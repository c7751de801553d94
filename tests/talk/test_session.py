"""Answers: the plain model's at 0, the edit's at 1, to the bit, for every family."""

from dataclasses import replace

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.interventions.ablate import ablate
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.model.chat.asking import Turn
from dposcope.model.chat.prompts import encode_prompts, with_chat
from dposcope.model.generate import Sampling, generate
from dposcope.model.language_model import LanguageModel
from dposcope.talk.session import Session
from helpers.chats import BEGINS, with_template
from helpers.edits import both_of
from helpers.families import CONTEXT, TEXTS, build, hook_count, tiny

SAMPLING = Sampling(0.9, 0.8, 3)


def session_of(lm, **changes) -> Session:
    fields = {"lm": with_chat(lm), "edit": both_of(lm), "new_tokens": 8}
    return Session(**(fields | changes))


@pytest.mark.parametrize("sampling", [None, SAMPLING])
def test_answers_are_those_of_generate_under_the_edit(lm, sampling):
    session = session_of(lm, sampling=sampling)
    answered = session.answers(TEXTS, [0, 0.5, 1], batch_size=3)
    with_edit = {0: generate(lm, TEXTS, new_tokens=8, sampling=sampling, batch_size=3)}
    for strength in (0.5, 1):
        with session.edit.strength(strength).on(lm):
            with_edit[strength] = generate(lm, TEXTS, new_tokens=8, sampling=sampling, batch_size=3)
    for row, one in enumerate(answered):
        assert one.prompt == TEXTS[row]
        assert [answer.strength for answer in one.answers] == [0, 0.5, 1]
        for answer in one.answers:
            wanted = with_edit[answer.strength][row]
            assert (answer.text, answer.ids, answer.prompt_ids) == (wanted.text, wanted.ids, wanted.prompt_ids)
    assert any(one.answers[0].ids != one.answers[2].ids for one in answered)


def test_logits_at_0_are_the_plain_models_and_no_hook_is_there(lm):
    session = session_of(lm)
    ids = torch.tensor([[2, 40, 41]])
    plain = lm.model(input_ids=ids).logits
    with session.at(0):
        assert hook_count(lm.model) == 0
        assert torch.equal(lm.model(input_ids=ids).logits, plain)
    with session.at(1):
        edited = lm.model(input_ids=ids).logits
    with session.edit.on(lm):
        assert torch.equal(lm.model(input_ids=ids).logits, edited)
    assert not torch.equal(edited, plain)


@pytest.mark.parametrize("family", ["gpt2", "gemma3"])
def test_it_works_in_half_precision(family):
    whole = tiny(family)
    lm = LanguageModel(build(whole.model.config, dtype=torch.bfloat16), whole.tokenizer)
    session = session_of(lm)
    answers = session.answers(TEXTS[:2], [0, 1])
    with session.edit.on(lm):
        assert [one.answers[1].ids for one in answers] == [one.ids for one in generate(lm, TEXTS[:2], new_tokens=8)]


def test_one_answer_is_followed_as_it_is_written(llama):
    session, heard = session_of(llama), []
    answer = session.answer(TEXTS[0], 1, heard=heard.append)
    assert answer.ids == session.answers(TEXTS[:1], [1])[0].answers[0].ids
    assert heard == [llama.decode([answer.ids[: end + 1]])[0] for end in range(len(answer.ids))]
    assert session.answer(TEXTS[0], 1, new_tokens=2).ids == answer.ids[:2]


def test_a_listener_can_end_an_answer_and_leaves_no_hook(llama):
    def enough(_text: str) -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        session_of(llama).answer(TEXTS[0], 1, heard=enough)
    assert hook_count(llama.model) == 0


def test_a_chat_model_reads_its_template(llama):
    lm = with_template(llama, BEGINS)
    session = session_of(lm)
    assert session.answer("hi", 0).prompt_ids == encode_prompts(session.lm, ["hi"])[0]
    turns = (Turn("user", "hi"), Turn("assistant", "a cat"), Turn("user", "who"))
    assert session.answer(turns, 0).prompt_ids == encode_prompts(session.lm, [turns])[0]


def test_progress_is_told_over_all_strengths(llama):
    told = []
    session_of(llama).answers(TEXTS, [0, 1], batch_size=5, progress=lambda *one: told.append(one))
    assert told == [(5, 16), (8, 16), (13, 16), (16, 16)]


def test_what_does_not_fit_is_told_before_anything_is_written(llama):
    other = Edit.of(Gains(torch.full((2, 5), 0.5)))
    with pytest.raises(DposcopeError, match="use an edit made for this architecture"):
        session_of(llama, edit=other)
    with pytest.raises(DposcopeError, match="has shape"):
        session_of(llama, edit=Edit.of(ablate(torch.ones(3))))
    foreign = replace(both_of(llama), about={"fingerprint": "gpt2-00"})
    with pytest.raises(DposcopeError, match="was made for a gpt2 model"):
        session_of(llama, edit=foreign)
    with pytest.raises(DposcopeError, match=rf"do not fit into the {CONTEXT}.*--new-tokens"):
        session_of(llama, new_tokens=CONTEXT).answer("a", 0)
    with pytest.raises(DposcopeError, match=r"strength of 0\.5 needs an edit"):
        session_of(llama, edit=None).answers(["a"], [0, 0.5])
    assert session_of(llama, edit=None).answer("a", 0).ids
