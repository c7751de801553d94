"""PPLM against a loop over layers that runs one prompt at a time, in float64, and keeps the whole memory itself."""

from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import StaticLayer

from dposcope.directions.direction import Direction
from dposcope.errors import DposcopeError
from dposcope.model.batches import batches, encode
from dposcope.model.cache import cache_argument, cached_tensors
from dposcope.model.chat.prompts import encode_prompts, with_chat
from dposcope.model.generate import generate
from dposcope.model.hooks import hooked, residual_site
from dposcope.pairs.pplm import Perturbation, _Draw, _Newest, _Steps, perturbed_continuations
from helpers.chats import BEGINS, with_template
from helpers.families import (
    FAMILIES,
    TEXTS,
    WINDOW,
    assert_close,
    bits,
    copied,
    logits_of,
    random_direction,
    tiny,
    trace,
)
from helpers.more_families import MORE

NEW = 5
STRONG = Perturbation(step_size=0.1, iterations=2, gm_scale=0.9)


def direction_for(lm, block=-1, length=3.0):
    vector = random_direction(lm, seed=1)
    return Direction(vector / vector.norm() * length, "random", block)


def ids_of(continuations):
    return [continuation.ids for continuation in continuations]


def steered(lm, settings=STRONG, prompts=TEXTS, block=-1, **options):
    return perturbed_continuations(lm, prompts, direction_for(lm, block), settings, **{"new_tokens": NEW, **options})


@pytest.fixture(scope="module")
def doubles():
    """Models in float64, where two ways of the same sum agree to many digits.

    But for Gemma 2: its eager attention masks by the smallest float64 and takes softmax in float32, NaN for padding.
    """
    return {f: tiny(f, dtype=torch.float32 if f == "gemma2" else torch.float64) for f in FAMILIES}


@pytest.fixture(params=FAMILIES)
def double(request, doubles):
    """A tiny model of every family in turn, as precise as it can be."""
    return doubles[request.param]


# The naive way: one text, every layer's keys and values in full, whatever the model's window.


def memory_of(lm, ids):
    cache = DynamicCache()  # without a config: no layer forgets
    with torch.no_grad():
        lm.model(input_ids=torch.tensor([ids]), use_cache=True, **{cache_argument(lm.model): cache})
    return [(layer.keys, layer.values) for layer in cache.layers]


def one_more(lm, memory, embedding, block):
    """Logits `[V]`, the stream at the end of `block` `[d]`, and the memory after one more token's embedding `[d]`."""
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(memory):
        cache.update(keys, values, layer)
    seen = []
    blocks = lm.model.transformer.h if lm.model.config.model_type == "gpt2" else lm.model.model.layers

    def look(_module, _args, output):
        seen.append(output if isinstance(output, torch.Tensor) else output[0])

    handle = blocks[block].register_forward_hook(look)
    try:
        out = lm.model(inputs_embeds=embedding[None, None], use_cache=True, **{cache_argument(lm.model): cache})
    finally:
        handle.remove()
    return out.logits[0, -1], seen[0].reshape(-1), [(layer.keys, layer.values) for layer in cache.layers]


def forgets(lm, layer):
    kinds = lm.model.config.to_dict().get("layer_types")
    if kinds is None:
        return lm.model.config.model_type == "mistral"
    return kinds[layer] == "sliding_attention"


def naive_scores(lm, ids, vector, block, settings):
    """Log-probabilities after `ids`, by the definition."""
    table = lm.model.get_input_embeddings()(torch.arange(96)).detach()
    last = table[ids[-1]]
    if len(ids) == 1:
        return torch.log_softmax(trace(lm, ids).logits[-1], -1)
    memory = memory_of(lm, ids[:-1])
    with torch.no_grad():
        plain = torch.log_softmax(one_more(lm, memory, last, block)[0], -1)
    flat = [tensor for pair in memory for tensor in pair]
    moves = [torch.zeros_like(tensor) for tensor in flat]

    def moved(by):
        new = [tensor + move for tensor, move in zip(flat, by, strict=True)]
        return list(zip(new[::2], new[1::2], strict=True))

    for _ in range(settings.iterations):
        moves = [move.clone().requires_grad_() for move in moves]
        logits, stream, after = one_more(lm, moved(moves), last, block)
        own = torch.softmax(logits, -1)
        total, expected = stream.double() @ vector / (vector @ vector), own
        for _ in range(settings.horizon):
            embedding = expected @ table
            further, stream, after = one_more(lm, after, embedding, block)
            total = total + stream.double() @ vector / (vector @ vector)
            expected = torch.softmax(further, -1)
        gain = total / (1 + settings.horizon) - settings.kl_scale * (own * (own.log() - plain)).sum()
        slopes = torch.autograd.grad(gain, moves, allow_unused=True)
        stepped = []
        for number, (tensor, move, slope) in enumerate(zip(flat, moves, slopes, strict=True)):
            counted = list(range(tensor.shape[2]))
            if forgets(lm, number // 2):
                counted = counted[-(WINDOW - 1) :]
            if settings.window:
                counted = [place for place in counted if place >= tensor.shape[2] - settings.window]
            new = move.detach().clone()
            if slope is not None and float(slope.norm()) > 0:
                size = tensor[:, :, counted].norm()
                relative = size * slope[:, :, counted]
                new[:, :, counted] += settings.step_size * size * relative / relative.norm() ** settings.gamma
            stepped.append(new)
        moves = stepped
    with torch.no_grad():
        perturbed = torch.softmax(one_more(lm, moved(moves), last, block)[0], -1)
    fused = perturbed**settings.gm_scale * plain.exp() ** (1 - settings.gm_scale)
    return (fused / fused.sum()).log()


VARIANTS = {
    "defaults": (Perturbation(), -1),
    "strong": (STRONG, -1),
    "steep": (replace(STRONG, gamma=1.5, step_size=0.05), 0),
    "shallow": (replace(STRONG, gamma=0.5, step_size=0.05, gm_scale=1.0), -1),
    "near": (replace(STRONG, horizon=0, kl_scale=0.0), 0),
    "far": (replace(STRONG, horizon=3), 1),
    "window": (replace(STRONG, window=3), -1),
    "held back": (replace(STRONG, kl_scale=5.0, iterations=3), -1),
}


def steps_of(lm, settings, block, prompts, change=None):
    """Two given tokens after each prompt, batched: per step the texts so far and the scores."""
    newest = _Newest()
    (batch,) = batches(lm, encode(lm, prompts), batch_size=len(prompts), side="left")
    texts = [lm.tokenizer(prompts[row])["input_ids"] for row in batch.rows]
    running = torch.ones(len(prompts), dtype=torch.bool)
    seen = []
    with torch.no_grad(), hooked(lm, [(residual_site(lm, block % lm.n_blocks), newest)]):
        steps = _Steps(lm, direction_for(lm, block), settings, batch, newest)
        for step in range(2):
            if change is not None:
                change(steps)
            seen.append(([list(text) for text in texts], steps.scores(running)))
            token = torch.tensor([(7 * step + 11 * row + 5) % 96 for row in range(len(prompts))])
            steps.append(token)
            texts = [[*text, int(new)] for text, new in zip(texts, token, strict=True)]
    return seen


@pytest.mark.parametrize(
    ("family", "variant"),
    [
        *((family, "strong") for family in FAMILIES),
        *((f, v) for f in ("gpt2", "gemma3") for v in VARIANTS if v != "strong"),
    ],
)
def test_scores_are_the_naive_ones(doubles, family, variant):
    """A text of a token or two and one longer than a sliding window, in one batch: every family, every variant."""
    double, (settings, block) = doubles[family], VARIANTS[variant]
    tolerance = 1e-7 if double.dtype == torch.float64 else 2e-4
    vector = direction_for(double).vector
    differs = 0.0
    for texts, scores in steps_of(double, settings, block, TEXTS[2:4]):
        for ids, row in zip(texts, scores, strict=True):
            expected = naive_scores(double, ids, vector, block, settings)
            assert_close(torch.log_softmax(row, -1), expected, tolerance)
            differs = max(differs, float((expected - torch.log_softmax(trace(double, ids).logits[-1], -1)).abs().max()))
    assert differs > 1e-3, "the perturbation does nothing here, so this compares plain models"


def test_scores_are_the_naive_ones_where_the_final_norm_also_runs_behind_the_embedding():
    lm = MORE["nanochat"].build()
    lm.model.double()
    vector = direction_for(lm).vector
    ((ids, *_), scores), *_ = steps_of(lm, STRONG, -1, TEXTS[:1])
    expected = naive_scores(lm, ids, vector, -1, STRONG)
    assert_close(torch.log_softmax(scores[0], -1), expected, 1e-7)
    assert (expected - logits_of(lm, ids)[-1].log_softmax(-1)).abs().max() > 1e-3


@pytest.mark.parametrize("family", [name for name, one in MORE.items() if len(one.attention) > 1])
def test_a_cache_of_more_than_keys_and_values_is_refused(family):
    """Where some blocks have something else in place of attention, and where each block has both."""
    lm = MORE[family].build()
    with pytest.raises(DposcopeError, match=r"PPLM shifts keys and values; sample the pairs \(--method sample\)"):
        perturbed_continuations(lm, TEXTS[:1], random_direction(lm), new_tokens=2)


def test_tokens_are_the_naive_ones(double):
    vector = direction_for(double).vector
    for text, continuation in zip(TEXTS[:3], steered(double, prompts=TEXTS[:3]), strict=True):
        ids, ended = double.tokenizer(text)["input_ids"], False
        assert continuation.prompt_ids == ids
        for step in range(NEW):
            scores = naive_scores(double, ids, vector, -1, STRONG)
            if step == len(continuation.ids):
                ended = int(scores.argmax()) in double.end_ids
                break
            token = continuation.ids[step]
            assert scores[token] > scores.max() - 1e-5, "another token is likelier"
            ids = [*ids, token]
        assert ended or len(continuation.ids) == NEW
        assert continuation.text == double.tokenizer.decode(continuation.ids, skip_special_tokens=True)


# The plain model


@pytest.mark.parametrize(
    "settings",
    [
        Perturbation(iterations=0, gm_scale=1.0),
        Perturbation(step_size=0.0, gm_scale=0.7),
        replace(STRONG, gm_scale=0.0),
    ],
    ids=["no iterations", "no step", "no share"],
)
def test_without_a_perturbation_it_is_greedy_text(lm, settings):
    assert steered(lm, settings, new_tokens=4) == generate(lm, TEXTS, new_tokens=4)


def test_the_perturbation_changes_texts(lm):
    assert ids_of(steered(lm)) != ids_of(generate(lm, TEXTS, new_tokens=NEW))


def test_rows_end_at_their_end_of_text(lm):
    written = ids_of(steered(lm, Perturbation(step_size=0.02, iterations=1), new_tokens=12))
    assert len({len(row) for row in written}) > 1, "all rows end alike: this tests too little"
    assert not any(token in lm.end_ids for row in written for token in row)


def test_plain_memory_is_what_the_plain_model_remembers(double):
    """After perturbed steps the kept memory is that of a plain pass, and no step wrote into it."""
    before = []

    tolerance = 1e-9 if double.dtype == torch.float64 else 1e-5

    def remember(steps):
        for tensor, copy in before:
            assert torch.equal(tensor, copy), "a step wrote into the plain memory"
        before[:] = [(tensor, tensor.clone()) for tensor in cached_tensors(steps.cache)]
        plain.append(steps.cache)

    plain = []
    texts = [texts for texts, _ in steps_of(double, STRONG, -1, TEXTS[:1], remember)]
    for (ids,), cache in zip(texts, plain, strict=True):
        whole = [tensor for pair in memory_of(double, ids[:-1]) for tensor in pair]
        for kept, expected in zip(cached_tensors(cache), whole, strict=True):
            assert_close(kept, expected[:, :, -kept.shape[2] :], tolerance)


# Independence of rows


@pytest.mark.parametrize(("batch_size", "sample"), [(1, False), (3, True)])
def test_a_batch_is_its_members_one_by_one(lm, batch_size, sample):
    settings, prompts = replace(STRONG, sample=sample, seed=3), TEXTS[:4]
    together = steered(lm, settings, prompts, new_tokens=4)
    assert steered(lm, settings, prompts, new_tokens=4, batch_size=batch_size) == together


def test_a_chunk_draws_what_the_whole_draws(llama):
    settings = replace(STRONG, sample=True, top_k=0)
    whole = steered(llama, settings)
    assert steered(llama, settings, TEXTS[3:], first_row=3) == whole[3:]
    assert steered(llama, settings, TEXTS[3:]) != whole[3:]
    assert steered(llama, replace(settings, seed=1)) != whole


def test_draws_follow_the_likeliest_tokens():
    scores = torch.log_softmax(torch.randn(50, generator=torch.Generator().manual_seed(0)), -1)
    rows = 4000
    for top_k, kept in ((3, 3), (0, 50), (80, 50)):
        drawn = _Draw(Perturbation(top_k=top_k), list(range(rows)))(scores.expand(rows, -1)).bincount(minlength=50)
        best = sorted(range(50), key=lambda token: -float(scores[token]))[:kept]
        mass = sum(float(scores[token].exp()) for token in best)
        for token in range(50):
            share = float(scores[token].exp()) / mass if token in best else 0.0
            assert abs(int(drawn[token]) / rows - share) < 0.03
            assert share > 0 or drawn[token] == 0


def test_drawing_the_single_likeliest_token_is_greedy(llama):
    assert steered(llama, replace(STRONG, sample=True, top_k=1)) == steered(llama)


# What it is for


def test_texts_move_along_the_direction(family_lm):
    """Tokens of perturbed texts project further than those of greedy ones, pooled over models and directions."""
    prompts, pooled = TEXTS[:5], []
    for family in FAMILIES:
        lm, rise = family_lm(family), []
        plain = generate(lm, prompts, new_tokens=3)
        for seed in range(4):
            direction = replace(direction_for(lm), vector=random_direction(lm, seed))
            settings = Perturbation(step_size=0.1, gm_scale=1.0, kl_scale=0.0)
            ours = perturbed_continuations(lm, prompts, direction, settings, new_tokens=3)
            rise += [along(lm, o, direction) - along(lm, p, direction) for o, p in zip(ours, plain, strict=True)]
        pooled.append(torch.tensor(rise) / torch.tensor(rise).std())
    rises = torch.cat(pooled)
    assert rises.mean() > 2.5 * rises.std() / len(rises) ** 0.5


def along(lm, continuation, direction):
    """Mean projection, in lengths of the direction, from the last prompt token on."""
    stream = trace(lm, continuation.prompt_ids + continuation.ids).stream[-1]
    return float((stream[len(continuation.prompt_ids) - 1 :].double() @ direction.unit).mean())


def test_one_step_raises_what_it_climbs(double):
    """A small step at γ = 1 moves every cached tensor by its share, and the projection of the newest position rises."""
    direction = direction_for(double)
    ids = double.tokenizer(TEXTS[0])["input_ids"]
    table = double.model.get_input_embeddings()
    memory = memory_of(double, ids[:-1])
    rises = {}
    newest = _Newest()
    (batch,) = batches(double, [ids], batch_size=1, side="left")
    with torch.no_grad(), hooked(double, [(residual_site(double, double.n_blocks - 1), newest)]):
        plain = one_more(double, memory, table(torch.tensor(ids[-1])), -1)[1].double() @ direction.vector
        for size in (1e-3, 2e-3):
            settings = Perturbation(step_size=size, iterations=1, horizon=0)
            _Steps(double, direction, settings, batch, newest).scores(torch.ones(1, dtype=torch.bool))
            rises[size] = float(newest.stream[0].double() @ direction.vector - plain)
    assert rises[1e-3] > 0
    assert 1.7 < rises[2e-3] / rises[1e-3] < 2.3


# The caller's model


def test_the_model_is_left_as_it_was(gpt2):
    lm = copied(gpt2)
    parameters = list(lm.model.parameters())
    for number, parameter in enumerate(parameters):
        parameter.requires_grad_(number % 2 == 0)
        parameter.grad = torch.full_like(parameter, 0.5) if number % 4 == 0 else None
    flags, before = [p.requires_grad for p in parameters], bits(lm.model)
    grads = [None if p.grad is None else p.grad.clone() for p in parameters]

    def check():
        assert [p.requires_grad for p in parameters] == flags
        assert not any(module.training for module in lm.model.modules())
        for parameter, grad in zip(parameters, grads, strict=True):
            assert (parameter.grad is None) == (grad is None)
            assert grad is None or torch.equal(parameter.grad, grad)
        assert bits(lm.model) == before

    expected = steered(gpt2)
    assert steered(lm) == expected
    check()

    def stop(_done, _total):
        check()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        steered(lm, progress=stop)
    check()
    assert torch.is_grad_enabled()
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert steered(lm) == expected


def test_bfloat16_runs_and_steers():
    for family in ("gpt2", "gemma3"):
        lm = tiny(family, dtype=torch.bfloat16)
        written = steered(lm)
        assert written != generate(lm, TEXTS, new_tokens=NEW)
        assert steered(lm) == written


def test_progress_counts_prompts(llama):
    seen = []
    steered(llama, new_tokens=1, batch_size=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 8), (6, 8), (8, 8)]
    assert steered(llama, prompts=[]) == []


def test_prompts_are_cut(llama):
    kept = llama.tokenizer(TEXTS[3])["input_ids"]
    assert steered(llama, prompts=TEXTS[3:4], max_prompt_tokens=4)[0].prompt_ids == [kept[0], *kept[-3:]]
    assert steered(llama, prompts=TEXTS[3:4], max_prompt_tokens=4, keep="start")[0].prompt_ids == kept[:4]


def test_a_chat_model_is_steered_behind_its_template(llama):
    lm = with_chat(with_template(llama, BEGINS))
    settings = Perturbation(iterations=0, gm_scale=1.0)
    assert steered(lm, settings, new_tokens=4) == generate(lm, TEXTS, new_tokens=4)
    assert [one.prompt_ids for one in steered(lm, new_tokens=2)] == encode_prompts(lm, TEXTS)


# Refusals


@pytest.mark.parametrize(
    "wrong",
    [
        {"step_size": -0.1},
        {"step_size": float("nan")},
        {"gamma": -1.0},
        {"gamma": float("inf")},
        {"kl_scale": -0.01},
        {"iterations": -1},
        {"horizon": -1},
        {"window": -1},
        {"top_k": -1},
        {"gm_scale": 1.1},
        {"gm_scale": float("nan")},
    ],
    ids=str,
)
def test_settings_without_meaning_are_refused(wrong):
    with pytest.raises(DposcopeError, match=next(iter(wrong))):
        Perturbation(**wrong)


def test_calls_without_meaning_are_refused(llama):
    narrow = Direction(torch.ones(5), "random", -1)
    with pytest.raises(DposcopeError, match=r"shape \[5\], the model"):
        perturbed_continuations(llama, TEXTS, narrow)
    with pytest.raises(DposcopeError, match="block 3,"):
        steered(llama, block=3)
    with pytest.raises(DposcopeError, match="new_tokens"):
        steered(llama, new_tokens=0)
    with pytest.raises(DposcopeError, match="context"):
        steered(llama, new_tokens=126)
    with pytest.raises(DposcopeError, match="context"):
        steered(llama, replace(STRONG, horizon=126))
    training = copied(llama)
    training.model.train()
    with pytest.raises(DposcopeError, match="training mode"):
        steered(training)
    assert training.model.training


def test_the_last_position_of_the_context_is_reached(gpt2):
    """Absolute positions end at the context's length: the longest allowed text, looking ahead, stays within it."""
    length = len(gpt2.tokenizer(TEXTS[3])["input_ids"])
    settings = replace(STRONG, horizon=128 - length - 1, iterations=1)
    assert len(steered(gpt2, settings, TEXTS[3:4], new_tokens=2)) == 1
    with pytest.raises(DposcopeError, match="horizon"):
        steered(gpt2, replace(settings, horizon=settings.horizon + 1), TEXTS[3:4], new_tokens=2)


def test_another_kind_of_memory_is_refused():
    cache = DynamicCache()
    cache.layers = [StaticLayer(max_cache_len=4)]
    with pytest.raises(DposcopeError, match="sample the pairs"):
        cached_tensors(cache)


def test_inputs_that_are_no_scaled_embedding_need_no_horizon(llama):
    lm = copied(llama)
    lm.model.get_input_embeddings().register_forward_hook(lambda _module, _args, output: output.tanh())
    with pytest.raises(DposcopeError, match="horizon=0"):
        steered(lm)
    assert len(steered(lm, replace(STRONG, horizon=0), TEXTS[:1])) == 1


def test_a_steered_text_keeps_its_space(mistral_of_llama2):
    lm = mistral_of_llama2
    settings = replace(STRONG, sample=True)
    found = steered(lm, settings, TEXTS * 4)
    for one in found:
        together = lm.tokenizer.decode([*one.prompt_ids, *one.ids], skip_special_tokens=True)
        assert lm.tokenizer.decode(one.prompt_ids, skip_special_tokens=True) + one.text == together
    assert any(one.text.startswith(" ") for one in found)
