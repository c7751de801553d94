"""Everything that is measured, against a second, plain way of measuring it."""

from collections import Counter
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from dposcope.data.corpus import Passages
from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.materials import Materials
from dposcope.evaluation.conditions.measure import measure
from dposcope.evaluation.conditions.outcome import Outcome
from dposcope.evaluation.conditions.scores import BASE, Scores, summarise
from dposcope.evaluation.perplexity import window_losses
from dposcope.evaluation.sampled.ideal import Ideal, IdealOutcome, draw_ideal, measure_ideal
from dposcope.evaluation.sampled.real_toxicity import sample_texts
from dposcope.interventions.ablate import ablate
from dposcope.interventions.assign import Assign
from dposcope.interventions.edit import Edit
from dposcope.interventions.edited import EditedModel
from dposcope.interventions.fold import fold
from dposcope.interventions.gains import Gains
from dposcope.interventions.steer import Steer
from dposcope.interventions.weights import OtherWeights
from dposcope.model.generate import generate
from dposcope.neurons.sets import NeuronSet
from helpers.families import CIVIL, TEXTS, greedy, naive_vectors, random_direction, random_gains, trace, without_end
from helpers.jobs import softness
from helpers.outcomes import outcome


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


def capitals(texts) -> list[float]:
    return [0.25 * (text[:1] > "f") + 0.5 * (text[-1:] > "f") for text in texts]


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
        further={"ends": Named(capitals, "ends of texts")},
        max_windows=2,
        batch_size=3,
    )


def test_a_prompt_that_leaves_no_room_is_told_with_what_a_person_can_shorten(family_lm, materials):
    lm = family_lm("llama")
    with pytest.raises(DposcopeError, match="; shorten the prompts, or what a system prompt, a wrapper and a prefill"):
        measure(lm, None, replace(materials, prompts=("the food " * 90,)))


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


def written(lm, kind: str, rules, texts, *, most: int, keep: str) -> list[tuple[list[int], list[int]]]:
    """Prompt and greedy continuation of 20 tokens of each text, by plain passes."""
    intervention, found = interventions(lm)[kind][0], []
    with nullcontext() if intervention is None else intervention.on(lm):
        guesses = [one.ids for one in generate(lm, texts, max_prompt_tokens=most, keep=keep)]
    for text, guess in zip(texts, guesses, strict=True):
        ids, own = prompt_ids(lm, text, most=most, keep=keep), rules
        if kind == "assign":  # acts at the positions that predict
            own = {"neurons": only_from(len(ids) - 1, rules["neurons"])}
        found.append((ids, without_end(lm, greedy(lm, ids, 20, guess=guess, **own))))
    return found


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
    greedily = written(lm, kind, generating, materials.prompts, most=256 if strict else 32, keep=keep)
    texts = [lm.tokenizer.decode(new, skip_special_tokens=True) for _, new in greedily]
    special = set(lm.tokenizer.all_special_ids)
    f1 = []
    passages = written(lm, kind, generating, materials.passages.prompts, most=64 if strict else 32, keep=keep)
    for (ids, new), gold in zip(passages, materials.passages.golds, strict=True):
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
    return {
        "texts": texts,
        "f1": f1,
        "nll": nll,
        "tokens": [count for _, count in windows],
        "relevance": naive_relevance(lm, greedily),
        "harmless": [naive_loss(lm, one.prompt_ids, one.ids, kind, generating) for one in materials.ideal.written]
        if materials.ideal is not None
        else None,
    }


def naive_loss(lm, head: list[int], body: list[int], kind: str = "none", rules=None) -> float:
    """−log p(body | head), from one plain pass over both."""
    rules = dict(rules or {})
    if kind == "assign":
        rules = {"neurons": only_from(len(head) - 1, rules["neurons"])}
    logs = trace(lm, [*head, *body], **rules).logits.double().log_softmax(-1)
    return -sum(float(logs[len(head) - 1 + place, token]) for place, token in enumerate(body))


def naive_relevance(lm, greedily: list[tuple[list[int], list[int]]]) -> list[float]:
    """Of each text, under the plain model: its loss after the prompt half the list away, less that after its own."""
    half, count = len(greedily) // 2, len(greedily)
    others = [greedily[(row + half) % count][0] for row in range(count)]
    return [
        naive_loss(lm, other, new) - naive_loss(lm, own, new)
        for (own, new), other in zip(greedily, others, strict=True)
    ]


@pytest.fixture(scope="module")
def ideals() -> dict[str, Ideal]:
    """Family → the ideal that all its conditions read, drawn by the first that asks."""
    return {}


KINDS = ["none", "gains", "assign", "steer", "ablate", "edit"]


@pytest.mark.parametrize("protocol", ["strict", "reference"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_every_measure_of_every_intervention(family_lm, ideals, materials, family, kind, protocol):
    lm = family_lm(family)
    if family not in ideals:
        ideals[family] = draw_ideal(lm, materials.prompts[:3], Named(softness, "soft"), seed=5)
    ideal = ideals[family]
    materials = replace(materials, protocol=protocol, ideal=ideal)
    found = measure(lm, interventions(lm)[kind][0], materials)
    expected = naive(lm, kind, materials)
    assert found.continuations == expected["texts"]
    assert found.f1.tolist() == pytest.approx(expected["f1"], abs=1e-12)
    assert found.losses.tokens.tolist() == expected["tokens"]
    assert found.losses.nll.tolist() == pytest.approx(expected["nll"], rel=1e-4)
    assert found.per_prompt["toxicity"].tolist() == softness(found.continuations).tolist()
    assert found.per_prompt["judge"].tolist() == lengths(found.continuations)
    assert found.per_prompt["ends"].tolist() == capitals(found.continuations)
    assert set(found.per_prompt) == {"toxicity", "judge", "ends", "repetition", "empty"}
    assert found.further == ("ends",)
    assert found.harmless.nll.tolist() == pytest.approx(expected["harmless"], rel=1e-4)
    assert found.harmless.tokens.tolist() == [len(one.ids) for one in ideal.written]
    assert found.relevance.nats.tolist() == pytest.approx(expected["relevance"], abs=2e-3)


def test_a_second_model_is_read_for_relevance_by_the_plain_one(llama, materials, tmp_path):
    """By either kind, an edit is read as by hooks, and what a condition makes of the ideal is its own."""
    edit = interventions(llama)["edit"][0]
    materials = replace(materials, ideal=draw_ideal(llama, materials.prompts, materials.scorer))
    hooked = measure(llama, edit, materials)
    fold(llama, edit).save_pretrained(tmp_path / "folded")
    plain = measure(llama, None, materials)
    assert (plain.harmless.nll != hooked.harmless.nll).all()
    assert plain.relevance.nats.tolist() != hooked.relevance.nats.tolist()
    for second in (EditedModel(edit), OtherWeights(tmp_path / "folded")):
        found = measure(llama, second, materials)
        assert found.continuations == hooked.continuations
        assert found.relevance.nats.tolist() == pytest.approx(hooked.relevance.nats.tolist(), abs=1e-3)
        assert found.harmless.nll.tolist() == pytest.approx(hooked.harmless.nll.tolist(), rel=1e-4)


def test_tokens_that_the_plain_model_lacks_are_read_as_it_spells_them(llama, materials, tmp_path):
    wide = replace(llama, model=deepcopy(llama.model), tokenizer=deepcopy(llama.tokenizer))
    wide.tokenizer.add_tokens(["river"])
    wide.model.resize_token_embeddings(97, mean_resizing=False)
    with torch.no_grad():
        wide.model.lm_head.weight[96] = 3 * wide.model.lm_head.weight[7]
    wide.save_pretrained(tmp_path / "wide")
    found = measure(llama, OtherWeights(tmp_path / "wide"), materials)
    assert any("river" in text for text in found.continuations)
    prompts = [llama.tokenizer(prompt)["input_ids"] for prompt in materials.prompts]
    spelt = [llama.tokenizer(text, add_special_tokens=False)["input_ids"] for text in found.continuations]
    assert found.relevance.tokens.tolist() == [len(ids) for ids in spelt]
    expected = naive_relevance(llama, list(zip(prompts, spelt, strict=True)))
    assert found.relevance.nats.tolist() == pytest.approx(expected, abs=2e-3)


def test_without_an_ideal_or_a_second_prompt_nothing_of_them_is_measured(llama, materials):
    found = measure(llama, None, materials)
    assert found.harmless is None
    single = measure(llama, None, replace(materials, prompts=materials.prompts[:1]))
    assert single.relevance is None
    scores = summarise({BASE: single, "same": single}, protocol="strict", model="m")
    assert {"relevance", "harmless_logppl"}.isdisjoint(scores.conditions[BASE])
    assert scores.against_none["same"].relevance_kept is None
    assert Scores.from_json(scores.to_json()) == scores


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
    found = measure(llama, None, replace(materials, judge=None, further={}))
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
    assert [scorer.calls for scorer in materials.scorers.values()] == [1, 1, 1]


@pytest.mark.parametrize("windows", [None, 2])
def test_progress_counts_up_to_its_total(llama, materials, windows):
    seen: list[tuple[int, int]] = []
    ideal = draw_ideal(llama, materials.prompts[:3], materials.scorer)
    materials = replace(materials, ideal=ideal)
    measure(llama, None, replace(materials, max_windows=windows), progress=lambda *step: seen.append(step))
    done = [step[0] for step in seen]
    assert done == sorted(done)
    assert seen[-1][0] == seen[-1][1]
    assert all(step[0] <= step[1] for step in seen)
    measured = measure(llama, None, replace(materials, max_windows=windows))
    written, read = len(materials.prompts) + len(PASSAGES), 2 * len(materials.prompts) + len(ideal.written)
    assert seen[-1][1] == written + read + len(measured.losses.nll)


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
    assert read.harmless.nll.tolist() == made.harmless.nll.tolist()
    assert read.harmless.tokens.tolist() == made.harmless.tokens.tolist()
    assert read.relevance.nats.tolist() == made.relevance.nats.tolist()
    assert read.relevance.tokens.tolist() == made.relevance.tokens.tolist()


def test_the_ideal_is_a_row_of_what_was_measured_of_it(llama, materials):
    asked = [*materials.prompts, *TEXTS[:4]]
    ideal = draw_ideal(llama, asked, materials.scorer, most=9, seed=3)
    rows = [place * len(asked) // 9 for place in range(9)]
    assert len(set(rows)) == 9 < len(asked)
    drawn = sample_texts(llama, [asked[row] for row in rows], samples=1, seed=3)
    kept = [row for row, one in enumerate(drawn) if softness([one.text])[0] < 0.5 and one.ids]
    assert 0 < len(kept) < len(drawn) == ideal.drawn
    assert ideal.texts == [drawn[row].text for row in kept]
    assert list(ideal.rows) == [rows[place] for place in kept]
    assert Ideal.from_json(ideal.to_json()).digest == ideal.digest
    measured = measure_ideal(llama, ideal, materials.scorers)
    measured = IdealOutcome.from_json(measured.to_json())
    base = measure(llama, None, replace(materials, ideal=ideal))
    scores = summarise({BASE: base, "same": base}, protocol="strict", model="m", ideal=measured)
    assert list(scores.conditions) == [BASE, "same", "ideal"]
    row = scores.conditions["ideal"]
    assert set(row) == {"toxicity", "judge", "ends", "relevance"}
    for name, scorer in (("toxicity", softness), ("judge", lengths), ("ends", capitals)):
        assert row[name].mean == pytest.approx(np.mean(scorer(ideal.texts)))
        assert row[name].n == len(kept)
    nats = naive_relevance(llama, [(one.prompt_ids, one.ids) for one in ideal.written])
    assert row["relevance"].mean == pytest.approx(sum(nats) / sum(len(one.ids) for one in ideal.written), abs=1e-3)
    assert list(scores.against_none) == ["same"]
    assert Scores.from_json(scores.to_json()) == scores


@pytest.mark.parametrize("second", [False, True])
def test_samples_are_the_conditions_own_by_the_seed_and_the_plain_model_reads_them(llama, materials, second):
    """Whether the condition is on the model or a second one, its fluency is what the plain model makes of its texts."""
    edit = interventions(llama)["edit"][0]
    materials = replace(materials, prompts=TEXTS[:3], samples=2, sample_seed=7)
    found = measure(llama, EditedModel(edit) if second else edit, materials).samples
    with edit.on(llama):
        own = sample_texts(llama, TEXTS[:3], samples=2, seed=7)
        other = sample_texts(llama, TEXTS[:3], samples=2)
    plain = sample_texts(llama, TEXTS[:3], samples=2, seed=7)
    texts = [one.text for one in own]
    assert found.texts == texts
    assert texts not in ([one.text for one in other], [one.text for one in plain])
    assert found.scores["toxicity"].ravel().tolist() == softness(texts).tolist()
    assert found.fluency.tokens.tolist() == [len(one.ids) for one in own]
    expected = [naive_loss(llama, one.prompt_ids, one.ids) for one in own]
    assert found.fluency.nll.tolist() == pytest.approx(expected, rel=1e-4)


def test_of_many_prompts_some_are_read_for_relevance(llama, materials):
    prompts = materials.prompts * 10
    found = measure(llama, None, replace(materials, prompts=prompts))
    assert (len(found.continuations), len(found.relevance.nats)) == (90, 45)
    rows = [place * 2 for place in range(45)]
    greedily = written(llama, "none", {}, [prompts[row] for row in rows], most=256, keep="end")
    assert found.relevance.nats[:5].tolist() == pytest.approx(naive_relevance(llama, greedily)[:5], abs=2e-3)


def test_there_is_no_ideal_where_nothing_is_harmless(llama, materials):
    assert draw_ideal(llama, materials.prompts, Named(lambda texts: [0.5] * len(texts), "all")) is None


def test_value_vectors_are_what_the_rules_assume(gpt2):
    """`ablated` above works on what the projection writes: the bias counts."""
    assert naive_vectors(gpt2, 0).shape == (gpt2.d_mlp, gpt2.d_model)
