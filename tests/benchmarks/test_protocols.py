"""The benchmark of text against code: its rows against the suite under both protocols, and against plain loops."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import spearmanr

import dposcope as ds
from dposcope.evaluation.scorers import function_scorer
from dposcope.model.batches import encode
from dposcope.model.generate import Continuation
from helpers.families import assert_close, copied, tiny, trace
from helpers.jobs import make_job, softness
from helpers.preferences import pairs_file

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import protocols
from versus.bench import Bench, Data, overlap
from versus.measuring import what_the_code_scores
from versus.reading import feature_sets
from versus.rows import STATEMENTS

WINDOWS, PAIRS = 2, 5


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run on a tiny model that begins texts with <bos>, beside a tuned one: what it wrote, and from what."""
    folder = tmp_path_factory.mktemp("versus")
    job = make_job(folder)
    tuned, stream = copied(tiny("llama")), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in tuned.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=stream))
    tuned.save_pretrained(folder / "tuned")
    pairs = pairs_file(folder / "pairs.jsonl")
    options = [
        "--scorer",
        "helpers.jobs:softness",
        "--dtype",
        "float32",
        "--device",
        "cpu",
        "--max-windows",
        str(WINDOWS),
    ]
    files = [
        part for name in ("prompts", "comments", "neutral", "passages") for part in (f"--{name}", getattr(job, name))
    ]
    tuning = ["--tuned", folder / "tuned", "--pairs", pairs, "--max-pairs", str(PAIRS)]
    protocols.main([str(part) for part in (job.model, *files, *options, *tuning, "--out", folder / "out")])
    return folder, job


@pytest.fixture(scope="module")
def table(run):
    return pl.read_parquet(run[0] / "out" / "protocols.parquet")


@pytest.fixture(scope="module")
def bench(run):
    """The same bench again, for what rows are made of."""
    options = protocols._parser().parse_args(["m", "--out", "o"])
    job = run[1]
    options.prompts, options.comments, options.neutral, options.passages = (
        job.prompts,
        job.comments,
        job.neutral,
        job.passages,
    )
    data = protocols._read(options)
    return Bench(
        ds.load(job.model, dtype="float32", device="cpu"), data, function_scorer(softness, "soft"), WINDOWS, 32, _quiet
    )


def _quiet(_what):
    pass


def row(table, key, measure):
    found = table.filter((pl.col("difference") == key) & (pl.col("measure") == measure))
    assert len(found) == 1, (key, measure, table.filter(pl.col("difference") == key)["measure"].to_list())
    return found.row(0, named=True)


def test_every_difference_is_in_both_files_and_in_order(run, table):
    assert list(dict.fromkeys(table["difference"])) == list(STATEMENTS)
    text = (run[0] / "out" / "protocols.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + len(table)
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:] if not line.startswith("|  |")] == list(STATEMENTS)
    # A difference is what it says, and its interval is around it.
    for found in table.filter(pl.col("paired_as") == "difference").iter_rows(named=True):
        assert found["paired"] == pytest.approx(found["reference"] - found["strict"], abs=1e-9)
        if found["paired_low"] is not None:  # of ten items or more
            assert found["paired_low"] <= found["paired"] <= found["paired_high"]


def materials(bench, protocol):
    return ds.Materials(
        bench.data.report, bench.data.passages, bench.data.neutral, bench.scorer, None, protocol, max_windows=WINDOWS
    )


def test_rows_are_what_the_suite_measures_under_each_protocol(bench, table):
    edit = bench.assign()
    strict, published = (ds.measure(bench.lm, None, materials(bench, name)) for name in ("strict", "reference"))
    edited, edited_published = (ds.measure(bench.lm, edit, materials(bench, name)) for name in ("strict", "reference"))
    scaled = ds.measure(bench.lm, bench.scale, materials(bench, "strict"))

    def check(key, measure, one, other):
        found = row(table, key, measure)
        assert (found["strict"], found["reference"]) == pytest.approx((one, other), rel=1e-9, abs=1e-12), measure

    def mean(outcome, name):
        return float(outcome.per_prompt[name].mean())

    plain = strict.losses.mean
    at_first = replace(edit, positions="first")
    with at_first.on(bench.lm):
        first = ds.window_losses(bench.lm, bench.data.neutral, max_windows=WINDOWS).mean
    check("a", "log-PPL of the assigned edit", edited.losses.mean, first)
    check("a", "its rise over the plain model", edited.losses.mean - plain, first - plain)
    assert abs(first - edited.losses.mean) > 1e-3
    rise = edited_published.losses.mean - published.losses.mean
    check("a", "the same with the code's windows (g), too", edited.losses.mean - plain, rise)
    for measure, name in (("toxicity", "toxicity"), ("repetition", "repetition"), ("share of empty texts", "empty")):
        check("b", measure, mean(scaled, name), mean(edited, name))
    check("b", "F1", scaled.f1.mean(), edited.f1.mean())
    check("e", "toxicity of the plain model", mean(strict, "toxicity"), mean(published, "toxicity"))
    check("f", "plain model, all but BOS", strict.f1.mean(), published.f1.mean())
    check("f", "assigned edit, all but BOS", edited.f1.mean(), edited_published.f1.mean())
    check(
        "f",
        "what the assigned edit changes",
        edited.f1.mean() - strict.f1.mean(),
        edited_published.f1.mean() - published.f1.mean(),
    )
    check("g", "BOS once and divided by all tokens", plain, published.losses.mean)
    check("k", "plain model after the assigned edit: toxicity", mean(strict, "toxicity"), mean(edited, "toxicity"))


def test_bos_is_a_right_token_where_it_counts(bench, table):
    lm, scores = bench.lm, []
    written = ds.generate(lm, bench.data.passages.prompts, max_prompt_tokens=64)
    for one, text in zip(written, bench.data.passages.golds, strict=True):
        predicted, gold = [*one.prompt_ids, *one.ids], encode(lm, [text])[0][:52]
        assert predicted[0] == gold[0] == lm.tokenizer.bos_token_id
        hits = sum(min(predicted.count(token), gold.count(token)) for token in set(gold))
        scores.append(2 * hits / (len(predicted) + len(gold)))
    found = row(table, "f", "plain model, the same with BOS counted")["reference"]
    assert found == pytest.approx(np.mean(scores))
    assert found > row(table, "f", "plain model, prompt counted and gold cut at 52")["reference"]


def test_the_last_window_weighs_as_its_tokens_do(bench, table):
    # All windows of the tiny text, the whole ones standing for themselves.
    every = ds.window_losses(bench.lm, bench.data.neutral, protocol="reference")
    some = ds.window_losses(bench.lm, bench.data.neutral, protocol="reference", max_windows=WINDOWS)
    found = row(table, "g", f"BOS once, the last of {len(every.nll)} windows kept ({every.tokens[-1] - 1} tokens)")
    before = some.nll.sum() / sum(tokens - 1 for tokens in some.tokens)
    places = [tokens - 1 for tokens in every.tokens]
    whole = sum(before * count for count in places[:-1]) + every.nll[-1]
    assert (found["strict"], found["reference"]) == pytest.approx((before, whole / sum(places)))
    assert found["strict"] != found["reference"]


def chosen_by_hand(cosine, mean, score, limit=math.inf):
    """Neurons of the edit, group by group, in plain Python."""
    chosen = set()
    places = [(block, index) for block in range(cosine.shape[0]) for index in range(cosine.shape[1])]
    for toxic in (True, False):
        for positive in (True, False):
            group = [
                p for p in places if (cosine[p] > 0) == toxic and (mean[p] > 0) == positive and float(mean[p]) <= limit
            ]
            ranked = sorted(group, key=lambda p: -score(float(cosine[p]), float(mean[p])))
            chosen |= set(ranked[: math.floor(0.55 * len(group) + 1e-9)])
    return chosen


def test_shares_of_the_same_neurons(bench, table):
    cosine, mean = bench.cosine, bench.means.mean
    strict = chosen_by_hand(cosine, mean, lambda c, _m: abs(c))
    scores = {
        "the code's order": lambda c, m: abs(c) if c * m > 0 else -abs(c),  # TP and AN: both of one sign
        "signed cosine, descending": lambda c, _m: c,
        "|mean activation|, ascending": lambda _c, m: -abs(m),
    }
    for title, score in scores.items():
        other = chosen_by_hand(cosine, mean, score)
        found = row(table, "c", f"{title}: share of the same neurons")
        assert found["reference"] == pytest.approx(len(strict & other) / len(strict)), title
        assert found["reference"] < 1
    limit = np.percentile(mean.numpy(), 80)
    trimmed = chosen_by_hand(cosine, mean, lambda c, _m: abs(c), limit)
    assert row(table, "d", "share of the same neurons")["reference"] == pytest.approx(
        len(strict & trimmed) / len(strict)
    )
    positive = (cosine > 0) & (mean > 0)
    sizes = row(table, "d", "neurons to choose from in TP")
    assert (sizes["strict"], sizes["reference"]) == (int(positive.sum()), int((positive & (mean <= limit)).sum()))


def test_overlap_is_of_the_first():
    one = torch.tensor([[True, True, True, False]])
    other = torch.tensor([[True, False, False, True]])
    assert overlap([one], [other]) == pytest.approx(1 / 3)


def test_means_are_compared_neuron_by_neuron(bench, table):
    one, other = (
        ds.collect_means(bench.lm, bench.data.learn, protocol=name).mean.flatten().tolist()
        for name in ("strict", "reference")
    )
    found = row(table, "i", "correlation over neurons")["reference"]
    assert found == pytest.approx(np.corrcoef(one, other)[0, 1], abs=1e-6)
    found = row(table, "i", "rank correlation over neurons")["reference"]
    assert found == pytest.approx(spearmanr(one, other).statistic, abs=1e-6)
    equal = sum((a > 0) == (b > 0) for a, b in zip(one, other, strict=True)) / len(one)
    assert row(table, "i", "share of equal signs")["reference"] == pytest.approx(equal)
    assert 0.5 < equal < 1
    assert row(table, "o", "neurons whose sum over 1,199 prompts is beyond half precision")["reference"] == sum(
        abs(b) * 23_980 > 65_504 for b in other
    )


def test_a_prompt_that_is_not_found_is_scored_with_its_continuation(bench):
    lm = bench.lm
    prompts = ["the river is long and quiet", "the cat"]
    ids = encode(lm, prompts)
    cut = ids[0][:3]
    written = [Continuation(cut, ids[1][1:], "the cat"), Continuation(ids[1], ids[0][1:], prompts[0])]
    scored = what_the_code_scores(bench, written, prompts)
    assert scored == [lm.decode([cut])[0] + "the cat", prompts[0]]


def test_features_change_one_thing_at_a_time(bench):
    lm, texts = bench.lm, [*bench.data.fit.texts[:5], "a", bench.data.passages.golds[0]]
    found = feature_sets(bench, texts)
    norm = lm.model.model.norm
    for place, ids in enumerate(encode(lm, texts)):
        stream = trace(lm, ids).stream[-1]
        with torch.no_grad():
            after = norm(stream)
        assert_close(found.strict[place], stream[1:].double().mean(0))
        assert_close(found.normed[place], after[1:].double().mean(0))
        padded, normed = padded_by_hand(lm, ids)
        assert_close(found.padded[place], padded)
        assert_close(found.reference[place], normed)


@torch.no_grad()
def padded_by_hand(lm, ids):
    """Means over 128 places, before and after the final norm, of one text alone, padded by the end-of-text token."""
    caught = []
    handle = lm.model.model.norm.register_forward_pre_hook(lambda _module, args: caught.append(args[0][0]))
    missing = 128 - len(ids)
    row = torch.tensor([[lm.tokenizer.eos_token_id] * missing + ids])
    mask = torch.tensor([[0] * missing + [1] * len(ids)])
    after = lm.model.model(input_ids=row, attention_mask=mask, use_cache=False).last_hidden_state[0]
    handle.remove()
    return caught[0].double().mean(0), after.double().mean(0)


@torch.no_grad()
def test_the_kl_term_from_whole_logits(run, bench, table):
    base, tuned = bench.lm, ds.load(run[0] / "tuned", base=bench.lm)
    strict, reference = [], []
    for example in ds.tokenise(base, ds.load_pairs(run[0] / "pairs.jsonl").first(PAIRS)):
        width = max(len(completion) for completion in example.completions)
        on_completions, everything = 0.0, 0.0
        for completion in example.completions:
            ids = torch.tensor([[*example.prompt, *completion, *[base.pad_id] * (width - len(completion))]])
            ours, theirs = (lm.model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1) for lm in (tuned, base))
            kl = (theirs.exp() * (theirs - ours)).sum(-1)
            start = len(example.prompt) - 1
            on_completions += float(kl[start : start + len(completion)].mean())
            everything += float(kl.mean())
        strict.append(on_completions)
        reference.append(everything)
    found = row(table, "j", "KL term, one pair at a time")
    means = (np.mean(strict), np.mean(reference))
    assert (found["strict"], found["reference"]) == pytest.approx(means, rel=1e-4)
    assert found["paired"] == pytest.approx(means[1] / means[0], rel=1e-4)
    assert found["paired_as"] == "ratio"


def test_equation_2_and_the_shift_of_activations(run, bench, table):
    tuned = ds.load(run[0] / "tuned", base=bench.lm)
    before, after = (ds.collect_means(lm, bench.data.learn).mean for lm in (bench.lm, tuned))
    unit = bench.direction.unit
    by_projection, by_shift = [], []
    for block in range(bench.lm.n_blocks):
        old, new = (lm.value_vectors(block).double() @ unit for lm in (bench.lm, tuned))
        by_projection += (before[block] * old - after[block] * new > 0).tolist()
        by_shift += ((before[block] - after[block]) * old > 0).tolist()
    both = np.mean(np.array(by_projection) == np.array(by_shift))
    assert row(table, "n", "share of neurons on which both agree")["reference"] == pytest.approx(both)
    found = row(table, "n", "share of neurons that reduce")
    assert (found["strict"], found["reference"]) == pytest.approx((np.mean(by_projection), np.mean(by_shift)))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--only", "j"], "difference j needs a tuned model: give --tuned and --pairs"),
        (["--only", "a,z"], "--only names no difference 'z'; choose from a, b"),
        (["--pairs", "p.jsonl"], "name it with --tuned"),
        (["--limit", "2"], "2 prompts cannot be split"),
    ],
)
def test_what_cannot_be_measured_is_told_in_one_line(run, capsys, flags, told):
    with pytest.raises(SystemExit) as stopped:
        protocols.main([str(run[1].model), *flags, "--out", str(run[0] / "none")])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert told in message


def test_data_keep_apart_what_is_fitted_and_what_is_tested(bench):
    data: Data = bench.data
    assert not set(data.report) & set(data.learn)
    assert (len(data.fit), len(data.test)) == (48, 72)
    assert data.fit.counts.toxic * 2 == len(data.fit)
