"""Edit: gains and ablations as one value."""

import json
import math
from dataclasses import replace

import pytest
import torch

from dposcope.artefacts import save_tensors
from dposcope.errors import DposcopeError
from dposcope.interventions.ablate import Ablation, ablate
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.interventions.shipped import shipped_edit, shipped_edits
from helpers.families import assert_close, copied, logits_of, random_direction, random_gains, random_head_gains, trace
from helpers.more_families import MORE

IDS = [2, 40, 41, 55, 60, 61, 70, 33, 12, 90]


def taken(direction, weight):
    unit = (direction / direction.norm()).float()
    return lambda block, rows: rows - weight * (rows @ unit).unsqueeze(1) * unit


def test_gains_come_first_then_ablations_in_turn(lm):
    values, one, two = random_gains(lm), random_direction(lm, 1), random_direction(lm, 2)

    def write(block, rows):
        return taken(two, 1.3)(block, taken(one, 0.7)(block, rows))

    expected = trace(lm, IDS, neurons=lambda block, m: m * values[block], mlp=write, attention=write).logits
    edit = Edit.of(ablate(one, weight=0.7), Gains(values), ablate(two, weight=1.3))
    with edit.on(lm):
        assert_close(logits_of(lm, IDS), expected)
    with Edit.of(Edit.of(Gains(values), ablate(one, weight=0.7)), ablate(two, weight=1.3)).on(lm):
        assert_close(logits_of(lm, IDS), expected)


def with_scaled_heads(lm, values):
    """The plain model with what reads the heads scaled channel by channel, loop by loop."""
    other = copied(lm)
    gpt2 = lm.model.config.model_type == "gpt2"
    for block in range(lm.n_blocks):
        module = (
            other.model.transformer.h[block].attn.c_proj if gpt2 else other.model.model.layers[block].self_attn.o_proj
        )
        with torch.no_grad():
            for channel, gain in enumerate(values[block]):
                (module.weight[channel] if gpt2 else module.weight[:, channel]).mul_(gain)
    return other


def test_gains_of_heads_scale_what_heads_give(lm):
    values = random_head_gains(lm)
    gains = Gains(values, of="heads")
    expected = logits_of(with_scaled_heads(lm, values), IDS)
    for one in (gains, Edit.of(gains)):
        with one.on(lm) as applied:
            assert_close(logits_of(lm, IDS), expected)
        assert set(applied.fired) == {f"heads.{block}" for block in range(lm.n_blocks - 1)}  # the last is left alone
    assert (expected - logits_of(lm, IDS)).abs().max() > 1e-2


def test_gains_of_both_kinds_stand_side_by_side(llama):
    of_neurons, of_heads = Gains(random_gains(llama)), Gains(random_head_gains(llama), of="heads")
    edit = Edit.of(of_heads, of_neurons)
    assert edit.gains is of_neurons
    assert edit.head_gains is of_heads
    scaled = with_scaled_heads(llama, of_heads.values)
    with of_neurons.on(scaled):
        expected = logits_of(scaled, IDS)
    with edit.on(llama):
        assert_close(logits_of(llama, IDS), expected)
    twice = Edit.of(edit, of_heads)
    assert torch.equal(twice.gains.values, of_neurons.values)
    torch.testing.assert_close(twice.head_gains.values, of_heads.values**2)
    half = edit.strength(0.5).head_gains
    assert half.of == "heads"
    torch.testing.assert_close(half.values, 1 + 0.5 * (of_heads.values - 1))
    shuffled = edit.control(3).head_gains
    assert shuffled.of == "heads"
    for before, after in zip(of_heads.values, shuffled.values, strict=True):
        assert sorted(before.tolist()) == sorted(after.tolist())


def test_gains_in_the_wrong_place_are_refused(llama):
    of_heads = Gains(random_head_gains(llama), of="heads")
    with pytest.raises(DposcopeError, match=r"make it by Edit\.of"):
        Edit(of_heads)
    with pytest.raises(DposcopeError, match="channels of heads do not fit"):
        Gains(random_gains(llama), of="heads").changes(llama)
    with pytest.raises(DposcopeError, match="of"):
        Gains(random_gains(llama), of="tails")


def test_joined_gains_multiply(llama):
    first, second = random_gains(llama, 1), random_gains(llama, 2)
    joined = Edit.of(Gains(first), Gains(second))
    torch.testing.assert_close(joined.gains.values, first * second)
    with joined.on(llama):
        together = logits_of(llama, IDS)
    with Gains(first).on(llama), Gains(second).on(llama):
        assert_close(logits_of(llama, IDS), together)


@pytest.mark.parametrize("shape", [(1, 8), (2, 8), (3, 1)])
def test_gains_of_other_shapes_are_not_joined(shape):
    for of in ("neurons", "heads"):
        with pytest.raises(
            DposcopeError,
            match=rf"gains of \[3, 8\] and \[{shape[0]}, {shape[1]}\] {of} cannot be joined; join edits of",
        ):
            Edit.of(Gains(torch.full((3, 8), 2.0), of=of), Gains(torch.full(shape, 2.0), of=of))


def test_fired_counts_passes_with_several_ablations(llama):
    edit = Edit.of(ablate(random_direction(llama, 1)), ablate(random_direction(llama, 2)))
    with edit.on(llama) as applied:
        logits_of(llama, IDS)
    assert set(applied.fired.values()) == {1}


def test_nothing_is_the_plain_model_to_the_bit(llama):
    for edit in (Edit(), Edit.of(), Edit.of(Gains(random_gains(llama)), ablate(random_direction(llama))).strength(0.0)):
        with edit.on(llama):
            inside = logits_of(llama, IDS)
        assert torch.equal(inside, logits_of(llama, IDS))


def test_strength_goes_to_every_part(llama):
    edit = Edit.of(Gains(random_gains(llama)), ablate(random_direction(llama), weight=0.8), about={"a": 1})
    half = edit.strength(0.5)
    torch.testing.assert_close(half.gains.values, 1 + 0.5 * (edit.gains.values - 1))
    assert [a.weight for a in half.ablations] == [0.4]
    assert half.about == {"a": 1, "scaled_by": 0.5}
    assert half.strength(0.4).about["scaled_by"] == 0.2
    assert edit.strength(1.0) is edit
    assert Edit().strength(2.0).gains is None
    with pytest.raises(DposcopeError, match="strength of nan"):
        edit.strength(math.nan)


def test_facts_are_joined_the_given_ones_win():
    parts = [Edit(about={"a": 1, "b": 1}), Edit(about={"b": 2})]
    assert Edit.of(*parts, about={"c": 3}).about == {"a": 1, "b": 2, "c": 3}
    assert Edit.of(*parts, about={"a": 9}).about == {"a": 9, "b": 2}


def test_the_strength_of_a_part_is_not_that_of_the_whole():
    half = Edit.of(Gains(torch.full((2, 3), 0.5)), about={"model": "m"}).strength(0.5)
    assert Edit.of(half).about == half.about == {"model": "m", "scaled_by": 0.5}
    assert Edit.of(half, ablate(torch.ones(4))).about == {"model": "m"}
    assert Edit.of(half, half).strength(0.25).about == {"model": "m", "scaled_by": 0.25}


@pytest.mark.parametrize("order", [0, 1])
def test_positional_gains_do_not_become_gains_everywhere(llama, order):
    gains = Gains(random_gains(llama))
    pair = [gains, replace(gains, positions="last")]
    with pytest.raises(DposcopeError, match=r"all positions; apply positional gains with Gains\.on"):
        Edit.of(*(pair if order else pair[::-1]))
    with pytest.raises(DposcopeError, match="all positions"):
        Edit.of(replace(gains, positions="last"))
    with pytest.raises(DposcopeError, match="all positions"):
        Edit(replace(gains, positions="prompt"))


# On disk


def stored_alike(edit, again):
    assert (edit.gains is None) == (again.gains is None)
    if edit.gains is not None:
        assert torch.equal(edit.gains.values, again.gains.values)
    assert (edit.head_gains is None) == (again.head_gains is None)
    if edit.head_gains is not None:
        assert torch.equal(edit.head_gains.values, again.head_gains.values)
        assert again.head_gains.of == "heads"
    assert len(edit.ablations) == len(again.ablations)
    for a, b in zip(edit.ablations, again.ablations, strict=True):
        assert torch.equal(a.direction, b.direction)
        assert (a.weight, a.blocks, a.mlp, a.attention) == (b.weight, b.blocks, b.mlp, b.attention)
    assert edit.about == again.about


@pytest.mark.parametrize("name", ["edit", "edit.safetensors", "edit.json"])
def test_an_edit_comes_back_as_it_was(tmp_path, llama, name):
    directions = [random_direction(llama, seed) for seed in range(3)]
    edits = [
        Edit.of(
            Gains(random_gains(llama)),
            Ablation(directions[0], 0.1, (2, 0)),
            Ablation(directions[1], 1.7, None, mlp=False),
            Ablation(directions[2], 1 / 3, attention=False),
            about={"model": "tiny", "settings": {"alpha": 0.1, "blocks": [1, 2]}},
        ),
        Edit.of(Gains(random_gains(llama))),
        Edit.of(ablate(directions[0])),
        Edit.of(Gains(random_head_gains(llama), of="heads"), Gains(random_gains(llama))),
        Edit(),
    ]
    for edit in edits:
        edit.save(tmp_path / name)
        again = Edit.load(tmp_path / "edit")
        stored_alike(edit, again)
        with edit.on(llama):
            before = logits_of(llama, IDS)
        with again.on(llama):
            assert torch.equal(logits_of(llama, IDS), before)


def test_saving_again_and_again_changes_nothing(tmp_path, llama):
    edit = Edit.of(ablate(random_direction(llama)), Gains(random_gains(llama)))
    for _ in range(3):
        edit.save(tmp_path / "edit")
        edit = Edit.load(tmp_path / "edit")
    stored_alike(Edit.of(ablate(random_direction(llama)), Gains(random_gains(llama))), edit)


def test_a_direction_of_another_length_in_a_file_counts_as_its_unit_vector(tmp_path, llama):
    """Another program may write it; y − w (y·u) u would be wrong by |u|²."""
    edit = Edit.of(ablate(random_direction(llama), weight=0.7))
    unit = edit.ablations[0].direction
    facts = {"weight": 0.7, "blocks": None, "mlp": True, "attention": True}
    stored = {"ablations": [facts], "about": {}, "trained": "nothing"}
    save_tensors(tmp_path / "edit", "Edit", {"ablation.0": 3 * unit}, stored)
    again = Edit.load(tmp_path / "edit")
    assert_close(again.ablations[0].direction, unit, 1e-6)
    with edit.on(llama):
        expected = logits_of(llama, IDS)
    with again.on(llama):
        assert_close(logits_of(llama, IDS), expected)
    save_tensors(tmp_path / "none", "Edit", {"ablation.0": 0 * unit}, stored)
    with pytest.raises(DposcopeError):
        Edit.load(tmp_path / "none")


def test_another_kind_of_file_is_refused(tmp_path, llama):
    Edit.of(Gains(random_gains(llama))).save(tmp_path / "edit")
    facts = json.loads((tmp_path / "edit.json").read_text())
    (tmp_path / "edit.json").write_text(json.dumps(facts | {"kind": "Direction"}))
    with pytest.raises(DposcopeError, match="holds 'Direction', not 'Edit'"):
        Edit.load(tmp_path / "edit")


def test_one_line_for_people(llama):
    values = torch.ones(3, 24)
    values[0, :5] = 0.9
    edit = Edit.of(Gains(values), ablate(torch.ones(16), weight=0.51234))
    assert edit.told(llama) == "gains on 5 of 72 neurons + ablation w = 0.512"
    assert str(edit) == "gains on 5 neurons + ablation w = 0.512"
    assert str(Edit()) == "no change"


def test_only_neurons_that_the_model_has_are_counted():
    lm = MORE["gemma4_wide"].build()
    assert lm.columns.widths == [24, 24, 48, 48]
    edit = Edit(Gains(torch.full((4, 48), 0.5)))
    assert edit.told(lm) == "gains on 144 of 144 neurons"


def test_an_edit_says_whether_its_gains_were_trained(tmp_path):
    computed, learned = (Edit(Gains(torch.full((2, 3), 0.5)), trained=kind) for kind in ("nothing", "gains"))
    assert computed.origin == "No training took place."
    assert learned.origin.startswith("Its gains were learned from preference pairs")
    learned.save(tmp_path / "edit")
    kept = [
        Edit.load(tmp_path / "edit"),
        learned.strength(0.5),
        learned.gains_alone(),
        *(Edit.of(*parts) for parts in ([learned, computed], [computed, learned], [learned, ablate(torch.ones(16))])),
    ]
    assert [edit.trained for edit in kept] == ["gains"] * len(kept)
    assert Edit.of(computed, computed).trained == learned.control(0).trained == "nothing"


def test_shipped_edits_were_learned():
    assert {shipped_edit(name).trained for name in shipped_edits()} == {"gains"}
