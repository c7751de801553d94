"""Interchange: parts take the values that they have in another model on the same tokens."""

from contextlib import ExitStack, contextmanager

import pytest
import torch
from transformers import DynamicCache

from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.interventions.edited import edited
from dposcope.interventions.gains import Gains
from dposcope.interventions.paired.interchange import HeldModel, Interchange, InterchangeWith, Parts
from dposcope.model.cache import cache_argument
from dposcope.model.frames import Positions
from dposcope.model.generate import generate
from dposcope.neurons.sets import NeuronSet
from helpers import mixtures
from helpers.families import (
    MIXTURES,
    TEXTS,
    assert_close,
    bits,
    copied,
    hook_count,
    logits_of,
    random_gains,
    tiny,
    trace,
    without_end,
)
from helpers.more_families import MORE

IDS = [2, 40, 41, 55, 60, 61, 70, 33, 12, 90]


def tuned(lm, seed=7):
    """Another model of the same family."""
    other = copied(lm)
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.model.parameters():
            noise = torch.randn(parameter.shape, generator=stream)
            parameter.add_(noise, alpha=0.1 * float(parameter.std()))
    return other


def some_neurons(lm, seed=3):
    return NeuronSet(torch.rand(lm.n_blocks, lm.d_mlp, generator=torch.Generator().manual_seed(seed)) < 0.3)


def head_mask(lm):
    mask = torch.zeros(lm.n_blocks, lm.n_heads, dtype=torch.bool)
    mask[0, 1] = mask[-1, 0] = mask[-1, 2] = True
    return mask


# Against runs written out by hand: record the other model's values, then put them in.


def test_neurons_take_the_other_models_values_at_every_position(lm):
    other, neurons = tuned(lm), some_neurons(lm)
    theirs = trace(other, IDS).neurons

    def rule(block, m):
        m = m.clone()
        for position in range(len(m)):
            for neuron in range(lm.d_mlp):
                if neurons.mask[block, neuron]:
                    m[position, neuron] = theirs[block][position, neuron]
        return m

    expected = trace(lm, IDS, neurons=rule).logits
    with Interchange(other, Parts(neurons)).on(lm):
        assert_close(logits_of(lm, IDS), expected)
    assert not torch.allclose(expected, trace(lm, IDS).logits, atol=1e-3)


@pytest.mark.parametrize("family", MIXTURES)
def test_neurons_of_a_mixture_take_the_other_models_values_and_0_where_it_did_not_send_the_token(family):
    lm = mixtures.shared_mixture(family)
    other, neurons, width = tuned(lm), some_neurons(lm), lm.experts.width
    theirs, unsent = mixtures.run(other, IDS).activations, []

    def rule(block, token, expert, m):
        chosen = neurons.mask[block, expert * width : (expert + 1) * width]
        place = (block, token, expert)
        if place not in theirs:
            unsent.append(place)
        return torch.where(chosen, theirs.get(place, torch.zeros_like(m)), m)

    expected = mixtures.run(lm, IDS, rule).logits
    assert unsent, "both models send every token to the same experts: this tests too little"
    with Interchange(other, Parts(neurons)).on(lm):
        assert_close(logits_of(lm, IDS), expected, 2e-5)
    before = logits_of(lm, IDS)
    with Interchange(lm, Parts(neurons)).on(lm):
        assert torch.equal(logits_of(lm, IDS), before), "a patch by itself changes a bit"


@pytest.mark.parametrize(("part", "site"), [("mlps", "mlp"), ("attentions", "attention"), ("residuals", "stream")])
def test_blocks_take_what_the_other_model_writes(lm, part, site):
    other, chosen = tuned(lm), {0, lm.n_blocks - 1}
    theirs = getattr(trace(other, IDS), site)
    expected = trace(lm, IDS, **{site: lambda block, x: theirs[block] if block in chosen else x}).logits
    with Interchange(other, Parts(**{part: chosen})).on(lm):
        assert_close(logits_of(lm, IDS), expected)


def test_a_whole_block_is_its_attention_and_its_mlp(lm):
    other = tuned(lm)
    theirs = trace(other, IDS)
    expected = trace(
        lm,
        IDS,
        attention=lambda block, x: theirs.attention[block] if block == 1 else x,
        mlp=lambda block, x: theirs.mlp[block] if block == 1 else x,
    ).logits
    with Interchange(other, Parts.blocks([1])).on(lm):
        assert_close(logits_of(lm, IDS), expected)


def test_heads_take_their_channels(lm):
    other, mask = tuned(lm), head_mask(lm)

    def inputs(of, rule=None):
        seen, handles = {}, []
        for block, projection in enumerate(of.attention_outs):

            def look(_module, args, block=block):
                x = args[0] if rule is None else rule(block, args[0])
                seen[block] = x[0]
                return (x, *args[1:])

            handles.append(projection.register_forward_pre_hook(look))
        logits = logits_of(of, IDS)
        for handle in handles:
            handle.remove()
        return seen, logits

    theirs, _ = inputs(other)
    width = lm.d_attention // lm.n_heads

    def rule(block, x):
        x = x.clone()
        for head in range(lm.n_heads):
            if mask[block, head]:
                x[0, :, head * width : (head + 1) * width] = theirs[block][:, head * width : (head + 1) * width]
        return x

    expected = inputs(lm, rule)[1]
    with Interchange(other, Parts(heads=mask)).on(lm):
        assert_close(logits_of(lm, IDS), expected)


def test_generation_follows_the_other_model_token_by_token(lm):
    """Both models read what the base writes under the interchange, with its own values at each step."""
    other, neurons = tuned(lm), some_neurons(lm)

    def step(ids):
        theirs = trace(other, ids).neurons
        return trace(lm, ids, neurons=lambda block, m: torch.where(neurons.mask[block], theirs[block], m)).logits

    with Interchange(other, Parts(neurons)).on(lm):
        written = {cache: generate(lm, TEXTS, new_tokens=8, batch_size=3, use_cache=cache) for cache in (True, False)}
        alone = [generate(lm, [text], new_tokens=8)[0] for text in TEXTS]
    for row, one in enumerate(written[True]):
        ids = list(one.prompt_ids)
        for _ in range(8):
            ids.append(int(step(ids)[-1].argmax()))
            if ids[-1] in lm.end_ids:
                break
        assert one.ids == without_end(lm, ids[len(one.prompt_ids) :])
        assert one.ids == written[False][row].ids == alone[row].ids


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_self_patch_does_nothing_to_the_bit(lm, dtype):
    lm = copied(lm)
    lm.model.to(dtype)
    plain = logits_of(lm, IDS)
    everywhere = range(lm.n_blocks)
    for parts in (
        Parts(NeuronSet.all(lm.n_blocks, lm.d_mlp)),
        Parts(some_neurons(lm)),
        Parts(heads=head_mask(lm)),
        Parts(mlps=everywhere, attentions=everywhere),
        Parts(residuals=everywhere),
    ):
        for source in (lm, copied(lm)):
            for where in Positions:
                with Interchange(source, parts, positions=where).on(lm):
                    assert torch.equal(logits_of(lm, IDS), plain)


def test_all_that_the_stream_is_made_of_gives_the_other_model(lm):
    """The last residual stream, and the base's own final norm and unembedding."""
    other = tuned(lm)
    with torch.no_grad():
        for mine, theirs in zip(lm.final_norm.parameters(), other.final_norm.parameters(), strict=True):
            theirs.copy_(mine)
        # Of a tied model, this sets the embedding as well, so the other model reads with it.
        other.model.get_output_embeddings().weight.copy_(lm.model.get_output_embeddings().weight)
    wanted = trace(other, IDS).logits
    with Interchange(other, Parts(residuals=[lm.n_blocks - 1])).on(lm):
        assert_close(logits_of(lm, IDS), wanted)


def test_the_reverse_gives_the_tuned_model_the_bases_values(lm):
    other, neurons = tuned(lm), some_neurons(lm)
    theirs = trace(lm, IDS).neurons
    expected = trace(other, IDS, neurons=lambda block, m: torch.where(neurons.mask[block], theirs[block], m)).logits
    with Interchange(lm, Parts(neurons)).on(other):
        assert_close(logits_of(other, IDS), expected)


def test_of_an_edit_the_scaled_activations_are_taken(lm):
    """All neurons by interchange are the whole of an edit that only scales neurons."""
    edit = Edit(Gains(random_gains(lm)))
    with edit.on(lm):
        wanted = logits_of(lm, IDS)
    with edited(lm, edit) as other, Interchange(other, Parts(NeuronSet.all(lm.n_blocks, lm.d_mlp))).on(lm):
        assert_close(logits_of(lm, IDS), wanted)


def test_positions_choose_where(lm):
    other, neurons = tuned(lm), some_neurons(lm)
    theirs = trace(other, IDS).neurons

    def rule(block, m):
        mask = neurons.mask[block] & (torch.arange(len(m)) == 0).unsqueeze(1)
        return torch.where(mask, theirs[block], m)

    expected = trace(lm, IDS, neurons=rule).logits
    with Interchange(other, Parts(neurons), positions="first").on(lm):
        assert_close(logits_of(lm, IDS), expected)


# Nothing is left, and what does not fit is told


def test_neither_model_is_changed_after_an_error_too(lm):
    lm, other = copied(lm), tuned(lm)
    before = bits(lm.model), bits(other.model)
    with Interchange(other, Parts(some_neurons(lm))).on(lm):
        with pytest.raises(IndexError):
            lm.model(input_ids=torch.tensor([[10**6]]))
        logits_of(lm, IDS)  # a pass that failed does not block the next
    with pytest.raises(RuntimeError, match="mine"), Interchange(other, Parts(residuals=[0])).on(lm):
        raise RuntimeError("mine")
    assert hook_count(lm.model) == hook_count(other.model) == 0
    assert (bits(lm.model), bits(other.model)) == before


def test_a_cache_from_outside_is_refused(llama):
    other = tuned(llama)
    cache = DynamicCache(config=llama.model.config)
    llama.model(input_ids=torch.tensor([IDS]), use_cache=True, **{cache_argument(llama.model): cache})
    match = "the key-value cache began outside the interchange"
    with Interchange(other, Parts(residuals=[0])).on(llama):
        logits_of(llama, IDS)
        with pytest.raises(DposcopeError, match=match):
            llama.model(input_ids=torch.tensor([[5]]), use_cache=True, **{cache_argument(llama.model): cache})


def test_embeddings_are_refused(llama):
    embedded = llama.model.get_input_embeddings()(torch.tensor([IDS]))
    with Interchange(tuned(llama), Parts(residuals=[0])).on(llama):
        logits_of(llama, IDS)
        with pytest.raises(DposcopeError, match="needs tokens, not embeddings"):
            llama.model(inputs_embeds=embedded)


def test_what_does_not_fit_is_refused(llama, gpt2):
    with pytest.raises(DposcopeError, match="at least one neuron, head or block"):
        Parts(NeuronSet.empty(2, 4))
    with pytest.raises(DposcopeError, match=r"bool mask \[L, heads\]"):
        Parts(heads=torch.zeros(3, 4))
    other = tuned(llama)
    for parts, said in (
        (Parts(NeuronSet.all(2, 4)), r"among \[2, 4\] neurons does not fit a model with \[3, 24\]"),
        (Parts(heads=torch.ones(3, 9, dtype=torch.bool)), r"among \[3, 9\] heads does not fit a model with \[3, 4\]"),
        (Parts(mlps=[3]), "no block 3 in a model of 3 blocks"),
    ):
        with pytest.raises(DposcopeError, match=said), Interchange(other, parts).on(llama):
            pass
    with pytest.raises(DposcopeError, match="differ in architecture"), Interchange(gpt2, Parts(mlps=[0])).on(llama):
        pass


def test_parts_say_and_digest_themselves(llama):
    parts = Parts(some_neurons(llama), heads=head_mask(llama), mlps=[1], residuals=[0, 2])
    count = len(some_neurons(llama))
    assert str(parts) == f"{count} neurons, 3 heads, 1 MLP, 2 residual streams"
    same = Parts(some_neurons(llama), heads=head_mask(llama), mlps=[1], residuals=[2, 0])
    assert parts.digest == same.digest
    others = [Parts(some_neurons(llama)), Parts(mlps=[1]), Parts(attentions=[1]), Parts(residuals=[1])]
    assert len({one.digest for one in (parts, *others)}) == 5


def test_contexts_nest_with_other_interventions(lm):
    """An edit of the base under an interchange of other neurons: the edit's hooks stay the base's own."""
    other, neurons = tuned(lm), some_neurons(lm)
    edit = Edit(Gains(random_gains(lm)))
    theirs = trace(other, IDS).neurons
    gains = random_gains(lm)
    expected = trace(
        lm, IDS, neurons=lambda block, m: torch.where(neurons.mask[block], theirs[block], m * gains[block])
    ).logits
    with edit.on(lm), Interchange(other, Parts(neurons)).on(lm):
        assert_close(logits_of(lm, IDS), expected)


def test_a_held_model_is_loaded_once_and_let_go_with_its_stack(llama):
    other, events = tuned(llama), []

    class Source:
        @contextmanager
        def second_model(self, lm):
            assert lm is llama
            events.append("loaded")
            yield other
            events.append("let go")

    with ExitStack() as stack:
        held = HeldModel(Source(), stack)
        assert events == []
        for _ in range(3):
            with InterchangeWith(held, lambda _: Parts(residuals=[0])).opened(llama) as opened:
                assert opened.interchange.source is other
        assert events == ["loaded"]
    assert events == ["loaded", "let go"]


@pytest.mark.parametrize("use_cache", [True, False])
def test_two_interchanges_from_a_model_that_keeps_states_in_its_blocks_are_as_one(use_cache):
    base = MORE["recurrent_gemma"].build()
    source = tuned(base)

    def written(*parts):
        with ExitStack() as stack:
            for part in parts:
                stack.enter_context(Interchange(source, part).on(base))
            return [one.ids for one in generate(base, TEXTS, new_tokens=8, use_cache=use_cache)]

    both = written(Parts(mlps=frozenset({0, 1}), attentions=frozenset({2})))
    assert both != written(Parts(mlps=frozenset({0})))
    assert written(Parts(mlps=frozenset({0})), Parts(mlps=frozenset({1}), attentions=frozenset({2}))) == both


def test_interchanges_that_take_values_from_each_other_are_refused():
    base = tiny("llama")
    source, parts = tuned(base), Parts(mlps=frozenset({0}))
    plain = generate(base, TEXTS, new_tokens=2)
    with Interchange(source, parts).on(base):
        one_way = generate(base, TEXTS, new_tokens=2)
        with pytest.raises(DposcopeError, match="take values from each other"), Interchange(base, parts).on(source):
            generate(base, TEXTS, new_tokens=2)
        assert generate(base, TEXTS, new_tokens=2) == one_way
    assert generate(base, TEXTS, new_tokens=2) == plain
