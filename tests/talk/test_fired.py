import pytest
import torch

from dposcope.directions.lens import lens
from dposcope.interventions.edit import Edit
from dposcope.model.chat.prompts import with_chat
from dposcope.model.hooks import hooked, neuron_site
from dposcope.talk.fired import edited_neurons, fired
from dposcope.talk.session import Session
from helpers.edits import ablation_of, both_of
from helpers.families import hook_count

IDS = [2, 40, 41, 55, 60]


def session_of(lm, edit) -> Session:
    return Session(with_chat(lm), edit)


def test_the_neurons_are_those_whose_gains_are_furthest_from_1(lm):
    session = session_of(lm, both_of(lm))
    found = edited_neurons(session, 5)
    gains = session.edit.gains.values
    by_hand = sorted(
        (
            (abs(float(gains[block, index]) - 1), block, index)
            for block in range(lm.n_blocks)
            for index in range(lm.d_mlp)
        ),
        reverse=True,
    )
    assert [(one.block, one.index) for one in found] == [(block, index) for _, block, index in by_hand[:5]]
    for one in found:
        assert one.gain == pytest.approx(float(gains[one.block, one.index]))
        assert list(one.promotes) == lens(lm, lm.value_vectors(one.block)[one.index].detach(), k=5)[0].top


@pytest.mark.parametrize("strength", [0.5, 1])
def test_activations_are_those_of_one_pass_without_and_with_the_edit(lm, strength):
    session = session_of(lm, both_of(lm))
    neurons = edited_neurons(session, 4)
    seen = {}

    def look(name, block):
        def change(m, _frame):
            seen[name, block] = m[0].float().clone()

        return neuron_site(lm, block), change

    ids = torch.tensor([IDS])
    with hooked(lm, [look("before", block) for block in range(lm.n_blocks)]):
        lm.model(input_ids=ids)
    with session.edit.strength(strength).on(lm), hooked(lm, [look("after", block) for block in range(lm.n_blocks)]):
        lm.model(input_ids=ids)
    for row in fired(session, neurons, IDS, strength):
        for name, values in (("before", row.before), ("after", row.after)):
            torch.testing.assert_close(torch.tensor(values), seen[name, row.neuron.block][:, row.neuron.index])
        assert abs(row.before[row.peak]) == max(map(abs, row.before))
    assert hook_count(lm.model) == 0


def test_an_edit_without_gains_shows_no_neurons(llama):
    session = session_of(llama, Edit.of(ablation_of(llama)))
    assert edited_neurons(session) == []
    assert fired(session, [], IDS, 1) == []
    assert edited_neurons(session_of(llama, None)) == []


def test_neurons_that_keep_their_gain_are_not_shown(llama):
    edit = both_of(llama)
    few = edit.gains.only(edit.gains.furthest(2))
    assert len(edited_neurons(session_of(llama, Edit.of(few)))) == 2
