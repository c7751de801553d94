"""Our numbers beside the paper's: what is comparable and what is not, and why."""

from dataclasses import replace

import polars as pl
import pytest

from dposcope.paper.comparison import (
    MODEL_NAMES,
    OwnValue,
    Setting,
    Training,
    compare,
    comparison_frame,
)
from dposcope.paper.models import recognise
from dposcope.paper.numbers import paper_values

GPT2, LLAMA, GEMMA, MISTRAL = MODEL_NAMES

PAPERS = Setting(
    model="gpt2-medium",
    recognised=recognise("gpt2-medium"),
    protocol="reference",
    scorer="unitary/toxic-bert",
    prompts=1199,
    learn_prompts=1199,
    passages=2000,
    neutral="whole",
    direction="probe",
    token_judge="gpt-4o",
    training=Training(pairs=24_576, trained="full", kl_on="pairs", kl_weight=0.02),
)
"""As in the paper, in all that it says."""

BASE = OwnValue("2", "none", "toxicity", 0.5, 0.48, 0.52)
DPO = OwnValue("2", "dpo", "toxicity", 0.25, 0.2, 0.3)
PATCH = OwnValue("2", "patch TP↓", "toxicity", 0.4, 0.38, 0.42, direction="probe")
EDIT = OwnValue("2", "edit", "logppl", 3.1, 3.0, 3.2, direction="probe", alpha=0.01, beta=0.55, ranking="cosine")
F1 = OwnValue("2", "none", "f1", 0.2, 0.19, 0.21)
GROUP = OwnValue("5", "AN↓", "of_reducing", 0.5, direction="probe")
COSINE = OwnValue("text", "value vectors before and after", "vector_cosine", 0.9999)
NEGATIVE = OwnValue("13", "neurons", "negative", 0.87)
TOXIC = OwnValue("3", "patch toxic neurons", "neurons", 60, direction="probe")
ALL = [BASE, DPO, PATCH, EDIT, F1, GROUP, COSINE, NEGATIVE, TOXIC]


def own(found, model=GPT2):
    (one,) = [one for one in found if one.paper.model in (model, "all")]
    return one


@pytest.mark.parametrize(
    ("value", "printed", "difference"),
    [
        (BASE, "0.545", -0.045),
        (DPO, "0.210", 0.04),
        (PATCH, "0.407", -0.007),
        (EDIT, "3.08", 0.02),
        (F1, "0.193", 0.007),
        (GROUP, "50.9%", -0.009),
        (COSINE, "0.99", 0.0099),
        (NEGATIVE, "87.28%", -0.0028),
        (TOXIC, "59", 1),
    ],
    ids=lambda value: value.row if isinstance(value, OwnValue) else "",
)
def test_where_all_is_as_in_the_paper_there_is_a_difference(value, printed, difference):
    one = own(compare([value], PAPERS))
    assert one.paper.printed == printed
    assert one.difference == pytest.approx(difference)
    assert (one.reasons, one.remarks, one.note) == ((), (), "")


def test_other_models_of_the_paper_stand_beside_without_a_difference():
    found = compare([BASE], PAPERS)
    assert [one.paper.model for one in found] == list(MODEL_NAMES)
    assert [one.difference is None for one in found] == [False, True, True, True]
    assert found[1].note == "not comparable: printed of Llama-3.1-8B, measured of GPT-2-355M"


@pytest.mark.parametrize("value", ALL, ids=lambda value: f"{value.row} {value.measure}")
def test_a_model_that_the_paper_has_not_is_said(value):
    found = compare([value], replace(PAPERS, model="gemma-3-270m", recognised=None))
    printed = paper_values(table=value.table, row=value.row, measure=value.measure)
    assert {one.paper for one in found} <= set(printed)
    assert len(found) == (1 if value is COSINE else 4)
    for one in found:
        assert one.difference is None
        assert one.note == "not comparable: the paper has no gemma-3-270m"


OTHER = {
    "protocol": ({"protocol": "strict"}, "strict protocol; the paper's numbers come from its published code, so "
                 "compare with reference", {BASE, DPO, PATCH, EDIT, F1, GROUP, NEGATIVE, TOXIC}),
    "scorer": ({"scorer": "profanity"}, "scored by profanity, the paper by unitary/toxic-bert", {BASE, DPO, PATCH}),
    "prompts": ({"prompts": 600}, "600 prompts, the paper 1,199", {BASE, DPO, PATCH}),
    "learn": ({"learn_prompts": None}, "an unknown number of prompts for neuron means, the paper 1,199",
              {PATCH, EDIT, GROUP, NEGATIVE}),
    "passages": ({"passages": 500}, "500 passages, the paper 2,000", {F1}),
    "windows": ({"neutral": "cut"}, "log-perplexity on the first windows of the text, the paper on all of "
                "WikiText-2's test part", {EDIT}),
    "prose": ({"neutral": "built-in"}, "log-perplexity on built-in prose, the paper on WikiText-2", {EDIT}),
    "direction": ({"direction": "mean_difference"}, "direction by mean_difference, the paper's by a probe",
                  {PATCH, EDIT, GROUP, TOXIC}),
    "text": ({"neutral": "other"}, "log-perplexity on a text that is not known to be WikiText-2's test part, by hub id "
             "or by digest", {EDIT}),
    "model": ({"token_judge": "tiny-qwen"}, "toxic tokens judged by tiny-qwen, in the paper by GPT-4o", {TOXIC}),
    "unknown": ({"training": None}, "how the tuned model was made is not known", {DPO, PATCH, GROUP, COSINE}),
    "judge": ({"token_judge": "words"}, "toxic tokens judged by words, in the paper by GPT-4o", {TOXIC}),
    "pairs": ({"training": Training(282, "full", "pairs", 0.02)}, "282 pairs for DPO, the paper 24,576",
              {DPO, PATCH, GROUP, COSINE}),
    "trained": ({"training": Training(24_576, "gains", "pairs", 0.02)}, "DPO of gains, the paper of all weights",
                {DPO, PATCH, GROUP, COSINE}),
    "KL": ({"training": Training(24_576, "full", "neutral", 0.02)}, "KL on neutral, the paper's on pairs",
           {DPO, PATCH, GROUP, COSINE}),
    "λ": ({"training": Training(24_576, "full", "pairs", 1.0)}, "λ = 1, the paper's 0.02", {DPO, PATCH, GROUP, COSINE}),
}  # fmt: skip


@pytest.mark.parametrize("name", list(OTHER))
def test_another_setting_is_said_where_it_plays_a_part_and_only_there(name):
    change, reason, touched = OTHER[name]
    setting = replace(PAPERS, **change)
    for value in ALL:
        one = own(compare([value], setting))
        if value in touched:
            assert (one.difference, one.note) == (None, f"not comparable: {reason}"), value
        else:
            assert one.difference is not None, value


def test_all_reasons_are_told():
    setting = replace(PAPERS, scorer="profanity", prompts=80, protocol="strict", recognised=None, model="mine")
    reasons = own(compare([BASE], setting)).reasons
    assert [reason.split(" ")[0] for reason in reasons] == ["the", "strict", "scored", "80"]


def test_a_folder_with_the_papers_classifier_is_the_papers_scorer():
    assert own(compare([BASE], replace(PAPERS, scorer="/models/toxic-bert"))).difference is not None
    assert own(compare([BASE], replace(PAPERS, scorer="/models/toxic-bert-mine"))).difference is None


@pytest.mark.parametrize(
    ("judge", "papers"),
    [
        *((name, True) for name in ("gpt-4o", "GPT-4o", "openai/gpt-4o", "gpt-4o-2024-08-06")),
        *((name, False) for name in ("gpt-4o-mini", "gpt-4", "not-gpt-4o", "other/gpt-4o", "")),
    ],
)
def test_only_the_papers_judge_judges_like_it(judge, papers):
    one = own(compare([TOXIC], replace(PAPERS, token_judge=judge)))
    assert (one.difference is not None) == papers


def test_probe_free_edits_need_no_probe():
    free = replace(EDIT, direction="token_contrast")
    assert own(compare([free], replace(PAPERS, direction="token_contrast"))).paper.printed == "3.08"
    assert own(compare([free], replace(PAPERS, direction="token_contrast"))).difference == pytest.approx(0.02)


def test_reasons_of_a_values_own_are_told_too():
    one = own(compare([replace(BASE, unlike=("measured on Mars",))], PAPERS))
    assert (one.difference, one.note) == (None, "not comparable: measured on Mars")


def test_what_to_know_stands_beside_a_difference():
    mistral = replace(PAPERS, recognised=recognise("mistralai/Mistral-7B-v0.1"),
                      training=replace(PAPERS.training, kl_weight=0.05))  # fmt: skip
    one = own(compare([DPO], mistral), MISTRAL)
    assert one.difference == pytest.approx(0.25 - 0.191)
    assert (one.contradictions, one.remarks, one.note) == (("Table 19 prints 0.221",), (), "Table 19 prints 0.221")
    assert own(compare([BASE], mistral), MISTRAL).contradictions == ()
    config = {"model_type": "gpt2", "n_layer": 24, "n_embd": 1024}
    local = replace(PAPERS, recognised=recognise("mine", config))
    one = own(compare([BASE], local))
    assert one.difference is not None
    assert one.note == "mine is taken for GPT-2-355M by its config alone, which says nothing of its weights"


def test_what_is_printed_in_words_has_no_difference():
    one = own(compare([OwnValue("17", "shift and activation before", "p", 1e-9)], PAPERS))
    assert (one.difference, one.note) == (None, "not comparable: the paper prints <0.0001, which is no number")


def test_what_the_paper_does_not_print_gives_no_row():
    assert compare([replace(EDIT, beta=0.3), OwnValue("2", "ablation", "toxicity", 0.1)], PAPERS) == []


def test_the_frame_holds_every_comparison():
    found = compare(ALL, PAPERS)
    frame = comparison_frame(found)
    assert len(frame) == len(found) == 8 * 4 + 1
    row = frame.row(0, named=True)
    assert (row["place"], row["paper_model"], row["printed"], row["paper"]) == ("Table 2", GPT2, "0.545", 0.545)
    assert (row["ours"], row["low"], row["high"], row["comparable"]) == (0.5, 0.48, 0.52, True)
    assert row["difference"] == pytest.approx(-0.045)
    assert frame["comparable"].to_list() == [one.difference is not None for one in found]
    assert pl.Null not in frame.dtypes
    assert comparison_frame([]).schema == frame.schema
