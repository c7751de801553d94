"""Everything that is measured, against a second, plain way of measuring it."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from dposcope.data.corpus import Passages
from dposcope.evaluation.perplexity import WindowLosses, window_losses
from dposcope.evaluation.statistics import Difference, Estimate
from dposcope.evaluation.suite import BASE, Comparison, Materials, Outcome, Scores, measure, summarise
from dposcope.interventions.ablate import ablate
from dposcope.interventions.assign import Assign
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.interventions.steer import Steer
from dposcope.neurons.sets import NeuronSet
from helpers.families import CIVIL, TEXTS, greedy, naive_vectors, random_direction, random_gains, trace, without_end
from helpers.jobs import softness


class Named:
    """A scorer made of a function."""

    def __init__(self, function, name: str) -> None:
        self._function, self.name = function, name
        self.calls = 0

    def __call__(self, texts):
        self.calls += 1
        return np.asarray(self._function(texts), dtype=np.float64)


def lengths(texts) -> list[float]:
    return [min(len(text), 50) / 50 for text in texts]


LONG = " ".join(TEXTS)
"""Longer than the reference protocol's 32 tokens, and than F1's 64."""

PASSAGES = Passages(
    (*CIVIL, LONG[:100]),
    ("was seen by the sea", "cost nothing", LONG, "and many days", "sat on the mat", "on the hills", LONG[100:]),
)


@pytest.fixture
def materials() -> Materials:
    return Materials(
        prompts=(*TEXTS, LONG[:90]),
        passages=PASSAGES,
        neutral="\n\n".join([LONG] * 9),
        scorer=Named(softness, "soft"),
        judge=Named(lengths, "long"),
        max_windows=2,
        batch_size=3,
    )


def interventions(lm):
    """One of each kind, with the rules that `families.trace` understands: in generation, in reading, at position 0."""
    gains = random_gains(lm, 3)
    w = random_direction(lm, 4)
    u = (w / w.norm()).float()
    mask = torch.rand(gains.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    constants = torch.randn(gains.shape, generator=torch.Generator().manual_seed(2))
    last = lm.n_blocks - 1

    def scaled(block, m):
        return (m * gains[block]).to(m.dtype)

    def assigned(block, m):
        return torch.where(mask[block], constants[block], m)

    def ablated(_block, y):
        return y - 0.8 * torch.outer(y @ u, u)

    def steered(block, x):
        return (x - (0.7 * w).float()) if block == last else x

    return {
        "none": (None, {}, {}),
        "gains": (Gains(gains), {"neurons": scaled}, {"neurons": scaled}),
        "assign": (Assign(constants, NeuronSet(mask)), {"neurons": assigned}, {"neurons": assigned}),
        "steer": (Steer(w, 0.7), {"stream": steered}, {"stream": steered}),
        "ablate": (
            ablate(w, weight=0.8),
            {"mlp": ablated, "attention": ablated},
            {"mlp": ablated, "attention": ablated},
        ),
        "edit": (
            Edit.of(Gains(gains), ablate(w, weight=0.8)),
            {"neurons": scaled, "mlp": ablated, "attention": ablated},
            {"neurons": scaled, "mlp": ablated, "attention": ablated},
        ),
    }


def only_from(start: int, rule):
    """A rule at positions `start` and later."""
    return lambda block, m: torch.cat([m[:start], rule(block, m)[start:]])


def only_first(rule):
    return lambda block, m: torch.cat([rule(block, m)[:1], m[1:]])


def prompt_ids(lm, text: str, *, most: int, keep: str) -> list[int]:
    ids = lm.tokenizer(text)["input_ids"]
    if len(ids) <= most:
        return ids
    if keep == "start":
        return ids[:most]
    bos = lm.tokenizer.bos_token_id
    return [bos, *ids[-(most - 1) :]] if ids[0] == bos and lm.tokenizer("a")["input_ids"][0] == bos else ids[-most:]


def written(lm, kind: str, rules, text: str, *, most: int, keep: str) -> tuple[list[int], list[int]]:
    """Prompt and greedy continuation of 20 tokens, every step a plain pass."""
    ids = prompt_ids(lm, text, most=most, keep=keep)
    if kind == "assign":  # acts at the positions that predict
        rules = {"neurons": only_from(len(ids) - 1, rules["neurons"])}
    return ids, without_end(lm, greedy(lm, ids, 20, **rules))


def overlap(predicted: list[int], gold: list[int], special: set[int]) -> float:
    ours, theirs = (Counter(token for token in ids if token not in special) for ids in (predicted, gold))
    shared = sum((ours & theirs).values())
    if not shared:
        return 0.0
    precision, recall = shared / sum(ours.values()), shared / sum(theirs.values())
    return 2 * precision * recall / (precision + recall)


def naive_windows(lm, text: str, protocol: str) -> list[tuple[list[int], int]]:
    """Ids of each window and what its sum is divided by."""
    ids = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
    bos = lm.tokenizer.bos_token_id
    context = lm.model.config.max_position_embeddings
    if protocol == "strict":
        room = context - 1
        return [([bos, *ids[s : s + room]], room) for s in range(0, len(ids) - room + 1, room)]
    ids = [bos, *ids]
    parts = [ids[s : s + context] for s in range(0, len(ids), context)]
    return [(part, len(part)) for part in parts]


def naive(lm, kind: str, materials: Materials) -> dict:
    """The whole suite for one condition."""
    _, generating, reading = interventions(lm)[kind]
    strict = materials.protocol == "strict"
    keep = "end" if strict else "start"
    texts = [
        lm.tokenizer.decode(
            written(lm, kind, generating, prompt, most=256 if strict else 32, keep=keep)[1], skip_special_tokens=True
        )
        for prompt in materials.prompts
    ]
    special = set(lm.tokenizer.all_special_ids)
    f1 = []
    for prompt, gold in zip(materials.passages.prompts, materials.passages.golds, strict=True):
        ids, new = written(lm, kind, generating, prompt, most=64 if strict else 32, keep=keep)
        gold_ids = lm.tokenizer(gold, add_special_tokens=False)["input_ids"]
        f1.append(overlap(new[:20], gold_ids[:20], special) if strict else overlap(ids + new, gold_ids[:52], special))
    rules = dict(reading)
    if not strict and kind in ("gains", "assign"):
        rules = {"neurons": only_first(reading["neurons"])}
    nll = []
    windows = naive_windows(lm, materials.neutral, materials.protocol)
    windows = windows[materials.skip_windows :][: materials.max_windows]
    for ids, _ in windows:
        logs = trace(lm, ids, **rules).logits.double().log_softmax(-1)
        nll.append(-sum(float(logs[place, token]) for place, token in enumerate(ids[1:])))
    return {"texts": texts, "f1": f1, "nll": nll, "tokens": [count for _, count in windows]}


KINDS = ["none", "gains", "assign", "steer", "ablate", "edit"]


@pytest.mark.parametrize("protocol", ["strict", "reference"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_every_measure_of_every_intervention(family_lm, materials, family, kind, protocol):
    lm = family_lm(family)
    materials = replace(materials, protocol=protocol)
    found = measure(lm, interventions(lm)[kind][0], materials)
    expected = naive(lm, kind, materials)
    assert found.continuations == expected["texts"]
    assert found.f1.tolist() == pytest.approx(expected["f1"], abs=1e-12)
    assert found.losses.tokens.tolist() == expected["tokens"]
    assert found.losses.nll.tolist() == pytest.approx(expected["nll"], rel=1e-4)
    assert found.per_prompt["toxicity"].tolist() == softness(found.continuations).tolist()
    assert found.per_prompt["judge"].tolist() == lengths(found.continuations)
    assert set(found.per_prompt) == {"toxicity", "judge", "repetition", "empty"}


def test_interventions_do_something_in_these_tests(llama, materials):
    """Else the test above would prove nothing."""
    base = measure(llama, None, materials)
    for kind in KINDS[1:]:
        changed = measure(llama, interventions(llama)[kind][0], materials)
        assert changed.continuations != base.continuations
        assert (changed.losses.nll != base.losses.nll).all()


@pytest.mark.parametrize("kind", ["gains", "assign"])
def test_reference_perplexity_hardly_feels_an_edit(llama, materials, kind):
    """SPEC section 4: the published hook acts at position 0 of each window, which others feel by attention alone."""
    intervention = interventions(llama)[kind][0]
    rises = {}
    for protocol in ("strict", "reference"):
        one = replace(materials, protocol=protocol)
        base, changed = measure(llama, None, one), measure(llama, intervention, one)
        rises[protocol] = abs(changed.losses.mean - base.losses.mean)
    assert 0 < rises["reference"] < rises["strict"] / 3


def test_repetition_and_empties_are_per_continuation(llama, materials):
    found = measure(llama, None, materials)
    import re

    for text, value, empty in zip(
        found.continuations, found.per_prompt["repetition"], found.per_prompt["empty"], strict=True
    ):
        words = re.findall(r"\w+", text.lower())
        grams = [tuple(words[place : place + 2]) for place in range(len(words) - 1)]
        assert value == pytest.approx(1 - len(set(grams)) / len(grams) if grams else 0.0)
        assert empty == (not words)


def test_without_a_judge_there_is_no_judges_score(llama, materials):
    found = measure(llama, None, replace(materials, judge=None))
    assert set(found.per_prompt) == {"toxicity", "repetition", "empty"}
    scores = summarise({BASE: found, "same": found}, protocol="strict", model="m")
    assert "judge" not in scores.conditions[BASE]
    assert "judge" not in scores.against_none["same"].differences


def test_windows_are_skipped(llama, materials):
    first = measure(llama, None, replace(materials, max_windows=3))
    later = measure(llama, None, replace(materials, skip_windows=1, max_windows=2))
    assert later.losses.nll.tolist() == first.losses.nll.tolist()[1:]


def test_windows_are_spread(llama, materials):
    spread = measure(llama, None, replace(materials, skip_windows=1, max_windows=2, spread_windows=True))
    expected = window_losses(llama, materials.neutral, skip_windows=1, max_windows=2, spread=True)
    first = measure(llama, None, replace(materials, skip_windows=1, max_windows=2))
    assert spread.losses.nll.tolist() == expected.nll.tolist() != first.losses.nll.tolist()


def test_the_batch_size_does_not_matter(llama, materials):
    one, many = (measure(llama, None, replace(materials, batch_size=size)) for size in (1, 64))
    assert one.continuations == many.continuations
    assert one.f1.tolist() == many.f1.tolist()


def test_scorers_are_asked_once_for_all_texts(llama, materials):
    measure(llama, None, materials)
    assert (materials.scorer.calls, materials.judge.calls) == (1, 1)


@pytest.mark.parametrize("windows", [None, 2])
def test_progress_counts_up_to_its_total(llama, materials, windows):
    seen: list[tuple[int, int]] = []
    measure(llama, None, replace(materials, max_windows=windows), progress=lambda *step: seen.append(step))
    done = [step[0] for step in seen]
    assert done == sorted(done)
    assert seen[-1][0] == seen[-1][1]
    assert all(step[0] <= step[1] for step in seen)
    measured = measure(llama, None, replace(materials, max_windows=windows))
    assert seen[-1][1] == len(materials.prompts) + len(PASSAGES) + len(measured.losses.nll)


# Outcomes and scores


def outcome(toxicity, *, seed: int = 0, judge: bool = True, texts=None) -> Outcome:
    """An outcome of chosen toxicities, all else random."""
    draw, n = np.random.default_rng(seed), len(toxicity)
    per_prompt = {
        "toxicity": np.asarray(toxicity, dtype=np.float64),
        "repetition": draw.random(n),
        "empty": np.zeros(n),
    }
    if judge:
        per_prompt["judge"] = draw.random(n)
    tokens = draw.integers(50, 128, 4)
    return Outcome(
        texts or [f"text {place}" for place in range(n)],
        per_prompt,
        draw.random(5),
        WindowLosses(draw.random(4) * 300, tokens),
    )


def test_an_outcome_reads_back_to_the_bit():
    import json

    made = outcome(np.random.default_rng(9).random(7), texts=['"ü"', "", "\n", "a", "b", "💥", "c"])
    read = Outcome.from_json(json.loads(json.dumps(made.to_json())))
    assert read.continuations == made.continuations
    assert list(read.per_prompt) == list(made.per_prompt)
    for name, values in made.per_prompt.items():
        assert read.per_prompt[name].tolist() == values.tolist()
        assert read.per_prompt[name].dtype == np.float64
    assert read.f1.tolist() == made.f1.tolist()
    assert read.losses.nll.tolist() == made.losses.nll.tolist()
    assert read.losses.tokens.tolist() == made.losses.tokens.tolist()


@pytest.fixture
def scores() -> Scores:
    draw = np.random.default_rng(1)
    base = outcome(draw.random(40), seed=1)
    return summarise(
        {BASE: base, "edit": outcome(draw.random(40) / 2, seed=2)}, protocol="strict", model="m", about={"x": [1, None]}
    )


def test_scores_read_back_whole(scores):
    import json

    stored = json.loads(json.dumps(scores.to_json()))
    assert Scores.from_json(stored) == scores
    assert list(stored) == ["protocol", "model", "fingerprint", "conditions", "against_none", "distinct_2", "about"]


def test_scores_of_another_concept_say_so_and_read_back(scores):
    """The key of the measure stays; those of toxicity read as they always did."""
    other = replace(scores, concept="rain talk")
    stored = other.to_json()
    assert stored["concept"] == "rain talk"
    assert Scores.from_json(stored) == other
    assert {name: value for name, value in stored.items() if name != "concept"} == scores.to_json()
    assert scores.concept == "toxicity"


def test_scores_without_a_ratio_read_back(scores):
    bare = replace(scores, against_none={"edit": Comparison(scores.against_none["edit"].differences, None)})
    assert Scores.from_json(bare.to_json()) == bare


def naive_interval(numbers: np.ndarray, below: np.ndarray | None = None) -> tuple[float, float]:
    """Resample items, not tokens; percentiles of mean or of ratio of sums."""
    draw = np.random.default_rng(0).integers(0, len(numbers), size=(10_000, len(numbers)))
    values = numbers[draw].mean(1) if below is None else numbers[draw].sum(1) / below[draw].sum(1)
    return float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975))


def test_means_and_intervals():
    draw = np.random.default_rng(3)
    one = outcome(draw.random(30), seed=3)
    found = summarise({BASE: one}, protocol="strict", model="m").conditions[BASE]
    assert set(found) == {"toxicity", "judge", "repetition", "empty", "f1", "logppl"}
    for name, values in (*one.per_prompt.items(), ("f1", one.f1)):
        low, high = naive_interval(values)
        assert found[name].mean == pytest.approx(values.mean())
        assert (found[name].low, found[name].high) == pytest.approx((low, high), abs=0.01)
        assert found[name].n == len(values)
    losses = one.losses
    assert found["logppl"].mean == pytest.approx(losses.nll.sum() / losses.tokens.sum())
    assert (found["logppl"].low, found["logppl"].high) == pytest.approx(
        naive_interval(losses.nll, losses.tokens), abs=0.05
    )
    assert isinstance(found["f1"], Estimate)


def test_comparisons_are_paired_prompt_by_prompt():
    """An edit that lowers every prompt by the same share is certain, however much prompts differ."""
    toxicity = np.random.default_rng(4).random(40)
    base, edit = outcome(toxicity, seed=4), outcome(toxicity - 0.1 * toxicity, seed=4)
    found = summarise({BASE: base, "edit": edit}, protocol="strict", model="m").against_none["edit"]
    assert found.differences["toxicity"].excludes_zero
    assert found.differences["toxicity"].mean == pytest.approx(-0.1 * toxicity.mean())
    assert (found.toxicity_ratio.low, found.toxicity_ratio.high) == pytest.approx((0.9, 0.9))
    unpaired = outcome((toxicity - 0.1 * toxicity)[::-1], seed=4)
    loose = summarise({BASE: base, "edit": unpaired}, protocol="strict", model="m").against_none["edit"]
    assert not loose.differences["toxicity"].excludes_zero
    assert isinstance(found.differences["logppl"], Difference)
    assert found.differences["logppl"].mean == 0


def test_none_is_compared_with_nothing(scores):
    assert list(scores.conditions) == [BASE, "edit"]
    assert list(scores.against_none) == ["edit"]


@pytest.mark.parametrize(
    ("toxicity", "has_ratio"), [([0.0] * 40, False), ([0.9] * 2 + [0.0] * 38, False), ([0.9] * 6 + [0.01] * 34, True)]
)
def test_a_ratio_needs_a_base_with_something_in_every_resample(toxicity, has_ratio):
    base = outcome(toxicity, seed=5)
    found = summarise({BASE: base, "edit": outcome([0.0] * 40, seed=6)}, protocol="strict", model="m")
    assert (found.against_none["edit"].toxicity_ratio is not None) == has_ratio


@pytest.mark.parametrize(("hits", "prompts"), [(6, 12), (6, 40), (6, 200), (8, 80), (20, 40)])
def test_a_scorer_that_answers_yes_or_no_does_not_end_the_run(hits, prompts):
    """Exact zeros are common: an empty continuation is one. With six hits among 200, one resample in 400 has none."""
    base = outcome([1.0] * hits + [0.0] * (prompts - hits), seed=7)
    edit = outcome([1.0] * (hits // 2) + [0.0] * (prompts - hits // 2), seed=8)
    found = summarise({BASE: base, "edit": edit}, protocol="strict", model="m").against_none["edit"]
    assert found.differences["toxicity"].mean == pytest.approx(-(hits - hits // 2) / prompts)


def test_distinct_grams_are_counted_over_all_texts():
    texts = ["the cat sat", "the cat ran", "the cat sat"]
    found = summarise({BASE: outcome([0.1] * 3, texts=texts)}, protocol="strict", model="m")
    assert found.distinct_2 == {BASE: 3 / 6}


def test_value_vectors_are_what_the_rules_assume(gpt2):
    """`ablated` above works on what the projection writes: the bias counts."""
    assert naive_vectors(gpt2, 0).shape == (gpt2.d_mlp, gpt2.d_model)
