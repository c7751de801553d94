"""Neuron sets against Python's own sets of pairs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dposcope.errors import DposcopeError
from dposcope.neurons.sets import NeuronSet

BLOCKS, WIDTH = 3, 5
pairs = st.sets(st.tuples(st.integers(0, BLOCKS - 1), st.integers(0, WIDTH - 1)))
EVERY = {(block, neuron) for block in range(BLOCKS) for neuron in range(WIDTH)}


def made(members):
    mask = torch.zeros(BLOCKS, WIDTH, dtype=torch.bool)
    for block, neuron in members:
        mask[block, neuron] = True
    return NeuronSet(mask)


def members(neurons):
    return {tuple(pair) for pair in neurons.mask.nonzero().tolist()}


@given(pairs, pairs, pairs)
def test_laws_of_the_algebra(a, b, c):
    one, two, three = made(a), made(b), made(c)
    nothing, everything = NeuronSet.empty(BLOCKS, WIDTH), NeuronSet.all(BLOCKS, WIDTH)
    assert ~(one | two) == ~one & ~two
    assert ~(one & two) == ~one | ~two
    assert one & (two | three) == (one & two) | (one & three)
    assert one | (two & three) == (one | two) & (one | three)
    assert (one | two) - three == (one - three) | (two - three)
    assert ~~one == one
    assert one | ~one == everything
    assert one & ~one == nothing == one - one
    assert len(one | two) + len(one & two) == len(one) + len(two)
    assert len(one) + len(~one) == len(everything) == BLOCKS * WIDTH
    assert sum(one.per_block) == len(one)


@given(pairs, pairs, st.integers(0, 2**20), st.data())
def test_the_top_is_cut_from_one_ranking(a, b, seed, data):
    """The top of more holds the top of fewer; all of them are the set; and a part's best are the whole's if in it."""
    one, two = made(a), made(b)
    by = torch.randn(BLOCKS, WIDTH, generator=torch.Generator().manual_seed(seed))
    few, more = sorted(data.draw(st.lists(st.integers(0, len(one)), min_size=2, max_size=2)))
    assert one.top(few, by=by) - one.top(more, by=by) == made(set())
    assert len(one.top(few, by=by)) == few
    assert one.top(len(one), by=by) == one
    inside = one.top(few, by=by) & two
    assert (one & two).top(len(inside), by=by) == inside
    blocks = data.draw(st.sets(st.integers(0, BLOCKS - 1)))
    assert one.in_blocks(blocks) | two.in_blocks(blocks) == (one | two).in_blocks(blocks)
    assert len(one.in_blocks(blocks)) == sum(one.per_block[block] for block in blocks)


@given(pairs, pairs)
def test_algebra_is_that_of_sets(a, b):
    one, two = made(a), made(b)
    assert members(one | two) == a | b
    assert members(one & two) == a & b
    assert members(one - two) == a - b
    assert members(~one) == EVERY - a
    assert len(one) == len(a)
    assert (one == two) == (a == b)
    assert hash(made(a)) == hash(one)
    assert one.per_block == [sum(block == own for block, _ in a) for own in range(BLOCKS)]
    assert members(one) == a, "an operation changed its operand"


@given(pairs, st.lists(st.integers(-3, 3), min_size=BLOCKS * WIDTH, max_size=BLOCKS * WIDTH), st.data())
def test_top_is_a_stable_sort_of_members_by_score(a, scores, data):
    n = data.draw(st.integers(0, len(a)))
    by = torch.tensor(scores, dtype=torch.float32).view(BLOCKS, WIDTH)
    ranked = sorted(a, key=lambda pair: (-by[pair].item(), pair))
    assert members(made(a).top(n, by=by)) == set(ranked[:n])


@given(pairs, st.integers(0, 1000))
def test_a_random_set_keeps_the_count_of_every_block(a, seed):
    one = made(a)
    random = one.random_like(seed)
    assert random.per_block == one.per_block
    assert random == one.random_like(seed)


def test_random_sets_differ_by_seed_and_cover_everything():
    one = made({(0, 0), (1, 0), (1, 1)})
    drawn = [members(one.random_like(seed)) for seed in range(60)]
    assert len({frozenset(d) for d in drawn}) > 10
    assert set.union(*drawn) == {pair for pair in EVERY if pair[0] < 2}


def test_random_neurons_among_others_are_none_of_the_set_and_as_many_in_each_block():
    strongest = made({(0, 0), (1, 0), (1, 1)})
    for seed in range(20):
        drawn = strongest.random_like(seed, among=~strongest)
        assert not members(drawn) & members(strongest)
        assert drawn.per_block == strongest.per_block
        assert strongest.random_like(seed, among=NeuronSet.all(BLOCKS, WIDTH)) == strongest.random_like(seed)
    with pytest.raises(DposcopeError, match="block 0 has 0 neurons to draw 1 random ones from; ask for fewer"):
        strongest.random_like(0, among=made({(1, 2), (1, 3)}))


def test_top_ignores_scores_of_others_and_refuses_its_own_nan():
    by = torch.zeros(BLOCKS, WIDTH)
    by[2, 2] = float("nan")
    assert members(made({(0, 1), (1, 1)}).top(1, by=by)) == {(0, 1)}
    with pytest.raises(DposcopeError, match="scores hold NaN"):
        made({(2, 2)}).top(1, by=by)


def test_top_ranks_in_double():
    by = torch.zeros(BLOCKS, WIDTH, dtype=torch.float64)
    by[1, 1] = 1.0
    by[0, 0] = 1.0 - 1e-12
    assert members(made(EVERY).top(1, by=by)) == {(1, 1)}


@pytest.mark.parametrize("n", [-1, 3])
def test_top_takes_no_more_than_there_are(n):
    with pytest.raises(DposcopeError, match=f"cannot take the top {n} of 2 neurons"):
        made({(0, 0), (1, 1)}).top(n, by=torch.zeros(BLOCKS, WIDTH))


def test_scores_and_sets_must_fit():
    with pytest.raises(DposcopeError, match=r"scores have shape \[2, 5\], neurons \[3, 5\]"):
        made(set()).top(0, by=torch.zeros(2, 5))
    with pytest.raises(DposcopeError, match=r"sets of different models: \[3, 5\] and \[3, 6\]"):
        made(set()) | NeuronSet.empty(3, 6)
    with pytest.raises(DposcopeError, match="sets of different models"):
        made(set()) - NeuronSet.empty(1, 5)


@pytest.mark.parametrize("mask", [torch.zeros(2, 3), torch.zeros(3, dtype=torch.bool)])
def test_a_set_needs_a_mask(mask):
    with pytest.raises(DposcopeError, match=r"a NeuronSet needs a bool mask \[L, d_mlp\]"):
        NeuronSet(mask)


def test_empty_and_all():
    assert len(NeuronSet.empty(2, 3)) == 0
    assert len(NeuronSet.all(2, 3)) == 6
    assert ~NeuronSet.empty(2, 3) == NeuronSet.all(2, 3)
    assert NeuronSet.empty(2, 3) != NeuronSet.empty(3, 2)
    assert NeuronSet.empty(2, 3) != 0


def test_repr_tells_size_and_spread():
    mask = torch.zeros(4, 1000, dtype=torch.bool)
    mask[1, :900] = mask[2, :110] = True
    assert repr(NeuronSet(mask)) == "NeuronSet(1,010 of 4,000 neurons, 25.2%, in 2 blocks)"


def test_a_set_comes_back_from_its_file(tmp_path):
    kept = made({(0, 1), (2, 4)})
    kept.save(tmp_path / "set", about={"rule": "by hand"})
    assert NeuronSet.load(tmp_path / "set.safetensors") == kept
    (tmp_path / "set.safetensors").write_bytes(b"x")
    with pytest.raises(DposcopeError):
        NeuronSet.load(tmp_path / "set")


def test_some_blocks_of_a_set():
    assert made({(0, 1), (1, 1), (2, 4)}).in_blocks([0, 2]) == made({(0, 1), (2, 4)})
    assert len(made({(0, 1)}).in_blocks([1])) == 0


def test_matched_controls_have_as_many_neurons_of_each_size():
    stream = torch.Generator().manual_seed(1)
    by = torch.randn(4, 100, generator=stream).abs()
    chosen = NeuronSet(by > 1.2) | NeuronSet(torch.rand(4, 100, generator=stream) < 0.1)
    matched = chosen.random_matched(3, by=by, bins=8)
    order = by.flatten().double().argsort().tolist()
    for part in range(8):
        bin_ = order[part * 50 : (part + 1) * 50]
        assert sum(bool(matched.mask.flatten()[i]) for i in bin_) == sum(bool(chosen.mask.flatten()[i]) for i in bin_)
    assert matched != chosen
    assert matched == chosen.random_matched(3, by=by, bins=8) != chosen.random_matched(4, by=by, bins=8)
    with pytest.raises(DposcopeError, match="scores have shape"):
        chosen.random_matched(0, by=by[:2])
    with pytest.raises(DposcopeError, match="at least 1"):
        chosen.random_matched(0, by=by, bins=0)
    by[0, 0] = torch.nan
    with pytest.raises(DposcopeError, match="scores hold NaN"):
        chosen.random_matched(0, by=by)


def test_matched_controls_are_drawn_from_outside_the_set():
    by = torch.rand(4, 100, generator=torch.Generator().manual_seed(1))
    chosen = NeuronSet(torch.rand(4, 100, generator=torch.Generator().manual_seed(2)) < 0.2)
    matched = chosen.random_matched(3, by=by, bins=8, among=~chosen)
    assert len(matched) == len(chosen)
    assert len(matched & chosen) == 0
    order = by.flatten().double().argsort()
    for bin_ in order.tensor_split(8):
        assert matched.mask.flatten()[bin_].sum() == chosen.mask.flatten()[bin_].sum()
    everything = NeuronSet.all(4, 100)
    assert chosen.random_matched(3, by=by, bins=8, among=everything) == chosen.random_matched(3, by=by, bins=8)
    most = ~chosen
    with pytest.raises(DposcopeError, match=r"bin 1 of 8 by score has \d+ neurons to draw \d+ random ones from"):
        most.random_matched(3, by=by, bins=8, among=chosen)


@pytest.mark.parametrize("shape", [(4, 100), (4, 80), (2, 100)])
def test_controls_are_drawn_from_a_set_of_the_same_model(shape):
    other, some = NeuronSet.all(*shape), NeuronSet(torch.rand(3, 100) < 0.2)
    with pytest.raises(DposcopeError, match=r"to draw from do not fit a set of \[3, 100\]"):
        some.random_like(0, among=other)
    with pytest.raises(DposcopeError, match=r"to draw from do not fit a set of \[3, 100\]"):
        some.random_matched(0, by=torch.rand(3, 100), among=other)


def test_a_set_keeps_its_neurons_when_the_mask_is_written_to():
    mask = torch.zeros(BLOCKS, WIDTH, dtype=torch.bool)
    sets = []
    for block in range(BLOCKS):
        mask.zero_()
        mask[block] = True
        sets.append(NeuronSet(mask))
    assert [one.per_block for one in sets] == [[WIDTH, 0, 0], [0, WIDTH, 0], [0, 0, WIDTH]]
