"""What a caller of the library gives wrongly ends in one line that says how to mend it, before anything is computed or
written; and what can only be meant in one way is taken."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import dposcope as ds
from helpers.chats import PLAIN, with_template
from helpers.families import CIVIL, RUDE, TEXTS, random_direction, random_gains, tiny

_LM = tiny("llama")
_VECTOR, _GAINS = random_direction(_LM), random_gains(_LM)
_SET = ds.NeuronSet(_GAINS > 1)
_MEANS = ds.NeuronMeans(_GAINS.double(), _GAINS.double().square() + 1, 100)
_SCORER = ds.function_scorer(lambda texts: [0.5] * len(texts), "half")
_LABELS = [True] * len(RUDE) + [False] * len(CIVIL)
_COMMENTS = ds.Comments((*RUDE, *CIVIL), np.array(_LABELS))
_PAIRS = ds.Pairs(("a", "b"), ("c", "d"), ("e", "f"))
_PASSAGES = ds.Passages((), ())
_CHANGE = ds.Contributions(*[_GAINS.double()] * 4, _MEANS, _MEANS)
_MATERIALS = ds.Materials(tuple(TEXTS), _PASSAGES, "a", _SCORER)
_SELECTION = ds.select_fraction(_GAINS.double(), _MEANS.mean, beta=0.5)
_ONE = ds.Continuation([2, 40], [41, 42], "a b")
_MESSAGE = {"role": "user", "content": "a"}

TEXT_CASES: dict[str, tuple[Any, str]] = {
    "a dictionary of prompts": (lambda: ds.generate(_LM, {"a": 1}), "prompts is a dict, and a list of texts"),
    "a set of prompts": (lambda: ds.collect_means(_LM, {"a", "b"}), "prompts is a set, and a list of texts"),
    "a frame": (lambda: ds.generate(_LM, pl.DataFrame({"p": ["a"]})), "prompts is a DataFrame, and a list of texts"),
    "a frame of texts": (lambda: _SCORER(pl.DataFrame({"p": ["a"]})), "texts is a DataFrame"),
    "messages as dictionaries": (
        lambda: ds.generate(_LM, [[_MESSAGE]]),
        r"number 1 of prompts is a list and no text; give texts, or conversations as tuples of dposcope.Turn",
    ),
    "an empty conversation": (lambda: ds.generate(_LM, [()]), "number 1 of prompts is a tuple and no text"),
    "tuples of texts": (lambda: ds.fit_probe(_LM, [("a",)], [True]), "number 1 of texts is a tuple and no text; give"),
    "prompts to split": (lambda: ds.split_prompts([*TEXTS, None]), "number 9 of prompts is a NoneType and no text"),
    "prompts to report on": (lambda: ds.split_prompts(TEXTS, report=5), "report is a int, and a list of texts"),
    "prompts to sample": (lambda: ds.sample_texts(_LM, {"a": 1}), "prompts is a dict"),
    "prompts of pairs": (lambda: ds.sample_completions(_LM, ["a", None], _SCORER), "number 2 of prompts is a NoneType"),
    "prompts to steer": (lambda: ds.perturbed_continuations(_LM, [None], _VECTOR), "number 1 of prompts is a NoneType"),
    "texts of phrases": (lambda: ds.risen_phrases([None], ["a"]), "number 1 of texts is a NoneType and no text"),
    "plain texts of phrases": (lambda: ds.risen_phrases(["a"], [None]), "number 1 of base_texts is a NoneType"),
    "texts of word pairs": (lambda: ds.distinct_pairs([None]), "number 1 of texts is a NoneType and no text"),
    "texts of n-grams": (lambda: ds.distinct_per_prompt([None], 1, 2), "number 1 of texts is a NoneType and no text"),
    "texts to train on": (lambda: ds.TrainedScorer.fit([None], [1], seed=0), "number 1 of texts is a NoneType"),
    "sides of pairs": (lambda: ds.Pairs(("a",), (None,), ("c",)), "number 1 of preferred is a NoneType and no text"),
    "sides of other lengths": (lambda: ds.Pairs(("a",), ("b", "c"), ("d",)), r"need one length, not \[1, 2\]; give"),
    "golds of other lengths": (lambda: ds.Passages(("a",), ()), "1 prompts and 0 golds; give one true continuation"),
    "texts of comments": (lambda: ds.Comments((None,), [True]), "number 1 of texts is a NoneType and no text"),
    "labels of other lengths": (lambda: ds.Comments(("a",), [True, False]), r"1 texts but labels of shape \[2\]"),
    "labels that are words": (lambda: ds.Comments(("a",), ["toxic"]), "a label is 'toxic', neither True nor False"),
    "no labels": (lambda: ds.Comments(("a",), None), "a label is None, neither True nor False"),
    "several texts to mask": (lambda: ds.mask_offensive(["a"]), "text is a list, and one text belongs here"),
    "no text to mask": (lambda: ds.mask_offensive(None), "text is a NoneType, and one text belongs here"),
    "texts of windows": (lambda: ds.window_losses(_LM, ["a"]), "text is a list, and one text belongs here"),
    "texts of the search": (lambda: ds.NeutralText.read(_LM, ["a"]), "text is a list, and one text belongs here"),
    "texts of a training": (lambda: ds.neutral_windows(_LM, None, count=1), "text is a NoneType, and one text"),
    "texts to cut": (lambda: ds.cut_prompts(["a"], _LM.tokenizer), "text is a list, and one text belongs here"),
    "a system prompt": (lambda: ds.with_chat(_LM, system=5), "system is a int, and one text belongs here"),
    "a wrapper": (lambda: ds.with_chat(_LM, wrap=["{prompt}"]), "wrap is a list, and one text belongs here"),
    "seed words": (
        lambda: ds.Concept(
            name="x", adjective="x", comments=None, prompts=None, scorer="vader", seeds_with=[1], seeds_without=["b"]
        ),
        "number 1 of seeds_with is a int and no text",
    ),
    "a number to continue from": (lambda: ds.continuation_losses(_LM, 5), "a int is no continuation; give what"),
    "prompts for a file": (lambda: ds.load_prompts(["a", "b"]), "a list is no path; give a text, or a pathlib.Path"),
    "comments for a file": (lambda: ds.load_comments(5), "a int is no path; give a text, or a pathlib.Path"),
    "pairs for a file": (lambda: ds.load_pairs([("a", "b", "c")]), "a list is no path; give a text"),
    "no edit's file": (lambda: ds.Edit.load(None), "a NoneType is no path; give a text"),
    "no place to save": (lambda: ds.Direction(_VECTOR, "x", 0).save(None), "a NoneType is no path; give a text"),
    "no checkpoint": (lambda: ds.fold_checkpoint(None, ds.Gains(_GAINS), "out"), "a NoneType is no path; give a text"),
    "no place for one": (lambda: ds.fold_checkpoint("a", ds.Gains(_GAINS), None), "a NoneType is no path; give a text"),
    "no place for adapters": (lambda: ds.write_adapters("a", ds.Gains(_GAINS), None), "a NoneType is no path"),
    "no GGUF file": (lambda: ds.fold_gguf(None, ds.Gains(_GAINS), "b.gguf"), "a NoneType is no path; give a text"),
    "no place for a vector": (lambda: ds.write_control_vector(_LM, _VECTOR, None), "a NoneType is no path; give"),
    "no place for pairs": (lambda: ds.write_pairs(None, _PAIRS), "a NoneType is no path; give a text"),
    "a concept's number": (lambda: ds.Concept.load(5), "a int is no path; give a text, or a pathlib.Path"),
    "no tuned model": (lambda: ds.OtherWeights(None), "a NoneType is no path; give a text, or a pathlib.Path"),
}

NUMBER_CASES: dict[str, tuple[Any, str]] = {
    "too cold": (lambda: ds.Sampling(temperature=1e-45), "temperature 1e-45 takes logits out of the range of numbers"),
    "too hot": (lambda: ds.Sampling(temperature=1e39), r"temperature 1e\+39 takes logits out of the range"),
    "infinitely hot": (lambda: ds.Sampling(temperature=math.inf), "temperature inf takes logits out of the range"),
    "a seed that is True": (lambda: ds.Sampling(seed=True), "seed True is no whole number"),
    "a temperature for sampling": (
        lambda: ds.generate(_LM, ["a"], sampling=0.7),
        r"sampling 0.7 says not how; give dposcope.Sampling\(temperature=…\), or None for greedy text",
    ),
    "a batch that is True": (lambda: ds.generate(_LM, ["a"], batch_size=True), "batch_size True is no whole number"),
    "tokens that are True": (lambda: ds.generate(_LM, ["a"], new_tokens=True), "new_tokens True is no whole number"),
    "a mask of blocks": (
        lambda: ds.ablate(_VECTOR, blocks=torch.tensor([True, False, True])),
        r"blocks: block tensor\(True\) is no whole number",
    ),
    "a mask of blocks of neurons": (
        lambda: _SET.in_blocks(np.array([True, False])),
        "block .*True.* is no whole number",
    ),
    "a weight that is True": (lambda: ds.ablate(_VECTOR, weight=True), "weight True is no number"),
    "a limit of prompts": (lambda: ds.load_prompts(None, limit=2.0), "limit 2.0 is no whole number"),
    "a limit of passages": (lambda: ds.load_passages(None, limit="2"), "limit '2' is no whole number"),
    "a number of prompts": (lambda: ds.cut_prompts("a", _LM.tokenizer, count=2.5), "count 2.5 is no whole number"),
    "a seed of prompts": (lambda: ds.cut_prompts(". ".join(TEXTS), _LM.tokenizer, seed=-1), "seed -1 is outside 0"),
    "a seed of comments": (lambda: _COMMENTS.balanced(seed=-1), "seed -1 is outside 0"),
    "the first comments": (lambda: _COMMENTS.first(2.5), "n 2.5 is no whole number"),
    "a third half": (lambda: _COMMENTS.half("third"), "which 'third' is unknown; choose from first, second"),
    "the first pairs": (lambda: _PAIRS.first("2"), "n '2' is no whole number"),
    "pairs held out": (lambda: _PAIRS.split(0.5), "validation 0.5 is no whole number"),
    "a seed of pairs": (lambda: _PAIRS.split(1, seed=-1), "seed -1 is outside 0"),
    "flags of pairs": (lambda: _PAIRS.where([True]), "1 flags for 2 pairs; give one for each"),
    "tokens of features": (lambda: ds.residual_features(_LM, ["a"], max_tokens=2.5), "max_tokens 2.5 is no whole"),
    "a block of features": (lambda: ds.residual_features(_LM, ["a"], block="last"), "block 'last' is no whole number"),
    "a block of a direction": (lambda: ds.Direction(_VECTOR, "x", 1.5), "block 1.5 is no whole number"),
    "a list for a direction": (lambda: ds.Direction([1.0], "x", 0), "the numbers of a direction are a list and no"),
    "a share of a probe": (
        lambda: ds.fit_probe(_LM, _COMMENTS.texts * 2, _LABELS * 2, test_share="10 %"),
        "test_share '10 %' is no number",
    ),
    "a seed of a probe": (lambda: ds.fit_probe(_LM, _COMMENTS.texts * 2, _LABELS * 2, seed=-1), "seed -1 is outside 0"),
    "a vector for features": (
        lambda: ds.mean_difference(_LM, _COMMENTS.texts, _LABELS, features=_VECTOR),
        "features are a Tensor; give what residual_features returns",
    ),
    "features of other texts": (
        lambda: ds.mean_difference(
            _LM, _COMMENTS.texts, _LABELS, features=ds.residual_features(_LM, _COMMENTS.texts[:3])
        ),
        "features of 3 texts do not fit 12; make them of the same texts",
    ),
    "features of other texts for a probe": (
        lambda: ds.fit_probe(_LM, _COMMENTS.texts * 2, _LABELS * 2, features=ds.residual_features(_LM, TEXTS)),
        "features of 8 texts do not fit 24; make them of the same texts",
    ),
    "folds": (lambda: ds.collect_by_fold(_LM, TEXTS, "2"), "folds '2' is no whole number"),
    "neurons to take": (lambda: _SET.top(2.5, by=_GAINS), "n 2.5 is no whole number"),
    "scores to take them by": (lambda: _SET.top(1, by=_GAINS.numpy()), "scores are a ndarray and no tensor"),
    "bins": (lambda: _SET.random_matched(0, by=_GAINS, bins="3"), "bins '3' is no whole number"),
    "scores to match": (lambda: _SET.random_matched(0, by=[1.0]), "scores are a list and no tensor"),
    "one neuron to trace": (lambda: ds.trace(_LM, [[5, 6]], 0), r"texts and neurons to trace are lists; write one in"),
    "half a neuron to trace": (lambda: ds.trace(_LM, [[5, 6]], [1.5]), "neuron 1.5 is no whole number"),
    "cosines as an array": (lambda: ds.group_sets(_GAINS.numpy(), _GAINS), "cosines are a ndarray and no tensor"),
    "means of one block": (lambda: ds.group_sets(_GAINS, _GAINS[:1]), r"cosines of \[3, 24\] neurons and means of \[1"),
    "beta": (lambda: ds.select_fraction(_GAINS, _GAINS, beta="half"), "beta 'half' is no number"),
    "a percentile": (
        lambda: ds.select_fraction(_GAINS, _GAINS, beta=0.5, trim_percentile="80"),
        "trim_percentile '80' is no number",
    ),
    "a seed of neurons": (
        lambda: ds.select_fraction(_GAINS, _GAINS, beta=0.5, ranking="random", seed=0.5),
        "seed 0.5 is no whole number",
    ),
    "alpha": (lambda: ds.group_gains(_LM, _MEANS, _VECTOR, alpha="0.1"), "alpha '0.1' is no number"),
    "alpha of constants": (lambda: ds.group_assign(_MEANS, _SELECTION, alpha="0.1"), "alpha '0.1' is no number"),
    "one group": (lambda: ds.gains_of(_SELECTION, alpha=0.1, groups="TP"), "groups 'TP' are not all among TP, TN, AP"),
    "a number of groups": (
        lambda: ds.gains_of(_SELECTION, alpha=0.1, groups=2),
        "groups 2 are not all among TP, TN, AP",
    ),
    "a number of ranges": (lambda: ds.rank_range_shifts(_CHANGE, 500), "ranges are no list of rank ranges; give some"),
    "another group": (lambda: ds.gains_of(_SELECTION, alpha=0.1, groups=["XY"]), r"groups \['XY'\] are not all among"),
    "a tensor for means": (
        lambda: ds.group_gains(_LM, _GAINS, _VECTOR, alpha=0.1),
        "means is a Tensor; give the NeuronMeans that collect_means returns",
    ),
    "folds for means": (
        lambda: ds.contributions(_LM, _LM, ds.collect_by_fold(_LM, TEXTS[:2], 0, new_tokens=1), _MEANS, _VECTOR),
        "before is a FoldedMeans; give the NeuronMeans that collect_means returns",
    ),
    "moments": (lambda: ds.LeastSquares.of(_LM, _GAINS, _VECTOR), "means is a Tensor; give the NeuronMeans"),
    "a list for least squares": (lambda: ds.LeastSquares.of(_LM, _MEANS, [1.0]), "are a list and no tensor"),
    "NaN for least squares": (
        lambda: ds.LeastSquares.of(_LM, _MEANS, torch.full((_LM.d_model,), math.nan)),
        "the direction holds NaN or infinite values",
    ),
    "a share": (lambda: ds.LeastSquares.of(_LM, _MEANS, _VECTOR).gains("0.5"), "share '0.5' is no number"),
    "a strength of gains": (lambda: ds.Gains(_GAINS).strength("1"), "strength '1' is no number"),
    "a strength of an ablation": (lambda: ds.ablate(_VECTOR).strength(None), "strength None is no number"),
    "a strength of weights": (lambda: ds.OtherWeights("a", strength=math.nan), "a strength of nan is no finite number"),
    "heads as an array": (lambda: ds.Parts(heads=np.ones((3, 2), bool)), "heads are a ndarray and no tensor"),
    "a mask of mediation": (
        lambda: ds.Mediation(_GAINS, _GAINS, _GAINS).shares(_SET.mask[:1]),
        r"a mask of \[1, 24\] neurons does not fit a mediation of \[3, 24\]",
    ),
    "axes": (lambda: ds.svd_subspace(_LM, _VECTOR, vectors=8, axes=1.5), "axes 1.5 is no whole number"),
    "vectors": (lambda: ds.svd_subspace(_LM, _VECTOR, vectors="8"), "n '8' is no whole number"),
    "axes of another model": (
        lambda: ds.alignment_signs(
            _LM, replace(ds.svd_subspace(_LM, _VECTOR, vectors=8, axes=2), axes=torch.eye(5, dtype=torch.float64))
        ),
        "axes of width 5 do not fit a model of width 16",
    ),
    "a curve": (lambda: ds.cumulative_reduction(_CHANGE, points="9"), "points '9' is no whole number"),
    "one range": (
        lambda: ds.rank_range_shifts(_CHANGE, ds.rank_range_shifts(_CHANGE).ranges[0].printed),
        "ranges are no list of rank ranges; give some, or leave ranges out for the paper's",
    ),
    "bins of a histogram": (lambda: ds.shift_density(_CHANGE, bins=2.5), "bins 2.5 is no whole number"),
    "a cut": (lambda: ds.shift_density(_CHANGE, cut="1 %"), "cut '1 %' is no number"),
    "the most toxic": (lambda: ds.top_toxic(_CHANGE, "3"), "n '3' is no whole number"),
    "shifts": (lambda: ds.edit_agreement(_CHANGE, _GAINS.numpy()), "edit_shift are a ndarray and no tensor"),
    "toxic sets": (
        lambda: ds.explain(_LM, _LM, _VECTOR, TEXTS, toxic_sets=8),
        r"toxic_sets 8 is no list; write the number in brackets: \[256\]",
    ),
    "half a toxic set": (
        lambda: ds.explain(_LM, _LM, _VECTOR, TEXTS, toxic_sets=[1.5]),
        "toxic_sets: size 1.5 is no whole number",
    ),
    "windows": (lambda: ds.window_losses(_LM, "a", window="9"), "window '9' is no whole number"),
    "windows to read": (lambda: ds.window_losses(_LM, "a", max_windows=1.5), "max_windows 1.5 is no whole number"),
    "windows of the search": (lambda: ds.NeutralText.read(_LM, "a", windows=1.5), "windows 1.5 is no whole number"),
    "windows of a training": (lambda: ds.neutral_windows(_LM, "a", count=-1), "-1 windows cannot be drawn"),
    "samples": (lambda: ds.sample_texts(_LM, TEXTS, samples=2.0), "samples 2.0 is no whole number"),
    "samples of pairs": (lambda: ds.sample_completions(_LM, TEXTS, _SCORER, samples="2"), "samples '2' is no whole"),
    "no samples": (lambda: ds.distinct_per_prompt(["a"], 0, 1), "0 samples and n-grams of 1 words count nothing"),
    "scores of other lengths": (lambda: ds.harmless([_ONE], np.zeros(2)), r"scores have shape \(2,\) for 1 samples"),
    "phrases": (lambda: ds.risen_phrases(["a"], ["b"], most="3"), "most '3' is no whole number"),
    "words for numbers": (lambda: ds.bootstrap_mean(["a", "b"]), "values are no numbers; give one number per item"),
    "ragged numbers": (lambda: ds.bootstrap_mean([[1.0], [1.0, 2.0]]), "values are no numbers; give one number per"),
    "a level": (lambda: ds.bootstrap_mean([0.5] * 12, level="95 %"), "level '95 %' is no number"),
    "a seed of intervals": (lambda: ds.bootstrap_mean([0.5] * 12, seed=-1), "seed -1 is outside 0"),
    "no seed of intervals": (lambda: ds.bootstrap_mean([0.5] * 12, seed=None), "seed None is no whole number"),
    "resamples": (lambda: ds.bootstrap_mean([0.5] * 12, resamples=1e3), "resamples 1000.0 is no whole number"),
    "a seed of a scorer": (lambda: _SCORER.shuffled(-1), "seed -1 is outside 0"),
    "a seed of a judge": (lambda: ds.TrainedScorer.fit(TEXTS, [1] * 8, seed=-1), "seed -1 is outside 0"),
    "a batch of a classifier": (lambda: ds.classifier_scorer("a", batch_size=0), "batch_size 0 is below 1"),
    "a gap": (lambda: ds.Pairer(min_gap="0.3"), "min_gap '0.3' is no number"),
    "a pairing": (lambda: ds.Pairer(pairing="best"), "pairing 'best' is unknown; choose from random, extremes"),
    "most pairs": (lambda: ds.Pairer(most=1.5), "most 1.5 is no whole number"),
    "a step": (lambda: ds.Perturbation(step_size="0.1"), "step_size '0.1' is no number"),
    "iterations": (lambda: ds.Perturbation(iterations=1.5), "iterations 1.5 is no whole number"),
    "a horizon that is True": (lambda: ds.Perturbation(horizon=True), "horizon True is no whole number"),
    "gm_scale": (lambda: ds.Perturbation(gm_scale="1"), "gm_scale '1' is no number"),
    "beta of DPO": (lambda: ds.Objective(beta="0.1"), "beta '0.1' is no number"),
    "infinite beta of DPO": (lambda: ds.Objective(beta=math.inf), "beta inf is no finite number"),
    "a loss": (lambda: ds.Objective(loss="ppo"), "loss 'ppo' is unknown; choose from dpo, likelihood"),
    "a KL": (lambda: ds.Objective(kl_on="all"), "kl_on 'all' is unknown; choose from pairs, neutral"),
    "steps": (lambda: ds.Schedule(steps=0), "steps 0 is below 1; give 1 or more"),
    "no steps": (lambda: ds.Schedule(steps=None), "steps None is no whole number"),
    "a batch of a training": (lambda: ds.Schedule(batch_size="8"), "batch_size '8' is no whole number"),
    "half a micro-batch": (lambda: ds.Schedule(micro_batch_size=0.5), "micro_batch_size 0.5 is no whole number"),
    "validations": (lambda: ds.Schedule(validate_every=0), "validate_every 0 is below 1; give 1 or more"),
    "an optimiser": (lambda: ds.Schedule(optimizer="sgd"), "optimizer 'sgd' is unknown; choose from rmsprop"),
    "a decay": (lambda: ds.Schedule(decay="cosine"), "decay 'cosine' is unknown; choose from none, linear"),
    "a learning rate": (lambda: ds.Schedule(learning_rate="1e-5"), "learning_rate '1e-5' is no number"),
    "an infinite learning rate": (lambda: ds.Schedule(learning_rate=math.inf), "learning_rate inf is no finite number"),
    "tokens of pairs": (lambda: ds.tokenise(_LM, _PAIRS, max_prompt_tokens="9"), "max_prompt_tokens '9' is no whole"),
    "sparsity": (lambda: ds.neuron_gains(_LM, ds.Objective(), sparsity="0").__enter__(), "sparsity '0' is no number"),
    "lengths": (lambda: ds.prompted(3).__enter__(), r"lengths have shape \[\]; give one for each row"),
}

VALUE_CASES: dict[str, tuple[Any, str]] = {
    "progress that is True": (
        lambda: ds.generate(_LM, ["a"], progress=True),
        "progress True is no function; give one of .done, total., such as print, or None",
    ),
    "progress of mediation": (lambda: ds.mediation(_LM, _LM, [_ONE], progress=True), "progress True is no function"),
    "progress of attribution": (
        lambda: ds.attribution(_LM, _LM, [_ONE], [_ONE], progress=True),
        "progress True is no function",
    ),
    "progress of relevance": (lambda: ds.relevance(_LM, [_ONE] * 2, progress=1), "progress 1 is no function"),
    "progress of steering": (
        lambda: ds.perturbed_continuations(_LM, ["a"], _VECTOR, progress=True),
        "progress True is no function",
    ),
    "progress of measuring": (lambda: ds.measure(_LM, None, _MATERIALS, progress=True), "progress True is no function"),
    "a scorer's name": (
        lambda: ds.Materials(TEXTS, _PASSAGES, "a", "vader"),
        r"scorer is a str; give dposcope.load_scorer\('vader'\)",
    ),
    "a further scorer's name": (
        lambda: ds.Materials(TEXTS, _PASSAGES, "a", _SCORER, further={"mood": "vader"}),
        r"mood is a str; give dposcope.load_scorer\('vader'\)",
    ),
    "passages as a list": (lambda: ds.Materials(TEXTS, [("a", "b")], "a", _SCORER), "passages is a list; give"),
    "neutral texts": (lambda: ds.Materials(TEXTS, _PASSAGES, ["a"], _SCORER), "neutral is a list, and one text"),
    "another protocol": (lambda: replace(_MATERIALS, protocol="paper"), "protocol 'paper' is unknown; choose from"),
    "a function for a scorer": (
        lambda: ds.sample_completions(_LM, TEXTS, len),
        "scorer is a builtin_function_or_method; give what dposcope.load_scorer returns",
    ),
    "names of scorers": (lambda: ds.mean_of(["vader"]), r"scorer is a str; give dposcope.load_scorer\('vader'\)"),
    "one scorer for a mean": (lambda: ds.mean_of(_SCORER), "one scorer was given, and a list of them belongs here"),
    "a number for a scorer": (lambda: ds.load_scorer(5), "a int is no scorer; give a name, a folder or a function"),
    "a scorer of pairs": (lambda: ds.check_pairs(_PAIRS, None, "vader"), "scorer is a str; give dposcope.load_scorer"),
    "pairs as a list": (
        lambda: ds.check_pairs([ds.Pair("a", "b", "c")], None),
        r"pairs is a list; give dposcope.load_pairs\(…\), or Pairs.of\(…\) of each Pair",
    ),
    "validation as a list": (lambda: ds.check_pairs(_PAIRS, None, None, []), "validation is a list; give dposcope"),
    "pairs to tokenise": (lambda: ds.tokenise(_LM, [("a", "b", "c")]), "pairs is a list; give dposcope.load_pairs"),
    "a column of pairs": (
        lambda: ds.write_pairs("nowhere", _PAIRS, extra={"score": [1.0]}),
        "the column 'score' has 1 cells for 2 pairs; give one each",
    ),
    "texts for comments": (lambda: ds.direction_scorer(_LM, _VECTOR, TEXTS), "comments is a list; give"),
    "a judge's name": (
        lambda: ds.toxic_neurons(_LM, _VECTOR, "words", n=3),
        "a str is no judge; give what dposcope.load_judge returns",
    ),
    "a judge's name for an explanation": (
        lambda: ds.explain(_LM, _LM, _VECTOR, TEXTS, judge="words"),
        "a str is no judge; give what dposcope.load_judge returns",
    ),
    "a number for a judge": (lambda: ds.load_judge(5), "spec is a int, and one text belongs here"),
    "a name for an intervention": (
        lambda: ds.measure(_LM, "edit", _MATERIALS),
        "a str is no intervention; give such as an Edit, or None for the plain model",
    ),
    "materials in the place of one": (lambda: ds.measure(_LM, _MATERIALS, None), "a Materials is no intervention"),
    "no materials": (lambda: ds.measure(_LM, None, TEXTS), "materials is a list; give dposcope.Materials"),
    "no plain model": (
        lambda: ds.summarise({}, protocol="strict", model="x"),
        "there is no condition 'none', the plain model, which all others are compared with",
    ),
    "an edit's name": (
        lambda: ds.fold(_LM, ds.Edit.of("runs/mine")),
        "'runs/mine' is the name of an edit; load it first, with dposcope.Edit.load",
    ),
    "gains as a tensor": (lambda: ds.Edit(_GAINS), "a Tensor stands where an Edit has gains; make it by Edit.of"),
    "one ablation": (
        lambda: ds.Edit(None, ds.ablate(_VECTOR)),
        "a Ablation stands where an Edit has a list of ablations",
    ),
    "gains as an ablation": (lambda: ds.Edit(None, (ds.Gains(_GAINS),)), "a Gains stands where an Edit has an abl"),
    "a mask to shuffle among": (lambda: ds.Gains(_GAINS).shuffled(0, among=_SET.mask), "a Tensor is no set of neurons"),
    "an edit to start from": (
        lambda: ds.neuron_gains(_LM, ds.Objective(), start=ds.Edit()).__enter__(),
        r"start is a Edit; give Gains, such as those of an edit \(edit.gains\)",
    ),
    "a mask to train among": (
        lambda: ds.neuron_gains(_LM, ds.Objective(), among=_SET.mask).__enter__(),
        "a Tensor is no set of neurons",
    ),
    "nothing to train": (
        lambda: ds.train_policy(_LM, _GAINS, ds.Material([], []), ds.Schedule(), folder="a"),
        "trainable is a Tensor; give what",
    ),
    "facts about a direction": (lambda: ds.Direction(_VECTOR, "x", 0, "mine"), "about is a str; give a dictionary"),
    "facts about an edit": (lambda: ds.Edit.of(about=["mine"]), "about is a list; give a dictionary of facts"),
    "facts about a set": (lambda: _SET.save("nowhere", about="mine"), "about is a str; give a dictionary of facts"),
    "a dictionary for a vector": (
        lambda: ds.from_steering_vectors(_LM, {"layer_type": "decoder_block"}),
        "a dict has no layer_activations or no layer_type; give a vector that has both",
    ),
    "a dictionary for another vector": (lambda: ds.from_repeng(_LM, {}), "a dict has no directions or no model_type"),
    "a number for directions": (
        lambda: ds.to_repeng(_LM, 5),
        r"a direction is a Direction or a tensor \[d\], not a int",
    ),
    "a layout as a dictionary": (
        lambda: ds.register_layout("mine", {"blocks": "h"}),
        r"layout is a dict; give dposcope.Layout\(blocks=…",
    ),
    "a layout without a type": (lambda: ds.register_layout(None, None), "model_type is a NoneType, and one text"),
    "a model's name for a model": (
        lambda: ds.LanguageModel("gemma-3-270m", _LM.tokenizer),
        r"model is a str; give one that transformers loaded, or call load\(name\)",
    ),
    "a tokenizer's name": (
        lambda: ds.LanguageModel(_LM.model, "gpt2"),
        "tokenizer is a str; give one that transformers",
    ),
    "a choice as an array": (
        lambda: replace(_MATERIALS, protocol=np.array(["strict"])),
        "protocol .* is unknown; choose",
    ),
    "tables as arrays": (lambda: replace(_CHANGE, cosine=_GAINS.numpy()), "cosine are a ndarray and no tensor"),
    "tables of no means": (lambda: replace(_CHANGE, before=_GAINS), "before is a Tensor; give the NeuronMeans"),
    "a list of outcomes": (lambda: ds.summarise([1], protocol="strict", model="x"), "there is no condition 'none'"),
    "folds below 0": (
        lambda: ds.ActivationAccumulator.of(_LM, folds=-1),
        "there are no sums of 3 blocks, 24 neurons and",
    ),
    "no objective": (
        lambda: ds.all_weights(_LM, 0.1).__enter__(),
        r"objective is a float; give dposcope.Objective\(…\)",
    ),
    "no objective of gains": (lambda: ds.neuron_gains(_LM, None).__enter__(), "objective is a NoneType; give dposcope"),
    "no settings": (lambda: ds.perturbed_continuations(_LM, ["a"], _VECTOR, 0.1), "settings is a float; give dposcope"),
    "a first row": (
        lambda: ds.perturbed_continuations(_LM, ["a"], _VECTOR, first_row="1"),
        "first_row '1' is no whole",
    ),
    "no losses": (lambda: ds.relevance(_LM, [_ONE] * 2, own=[1.0]), "own is a list; give what continuation_losses"),
    "texts to read after": (lambda: ds.continuation_losses(_LM, [_ONE], after=["a"]), "after: token 'a' is no whole"),
    "no lengths": (lambda: ds.prompted(None).__enter__(), "lengths are a NoneType; give one for each row of the batch"),
    "a list for a judge": (lambda: ds.explain(_LM, _LM, _VECTOR, TEXTS, judge=[]), "a list is no judge; give what"),
    "no labels to train on": (
        lambda: ds.TrainedScorer.fit(TEXTS, None, seed=0),
        "labels is a NoneType; give one label",
    ),
    "half a block": (lambda: ds.NeuronSet.empty(2.5, 3), "n_blocks 2.5 is no whole number"),
    "gains of half a neuron": (lambda: ds.Gains.ones(2, 3.5), "d_mlp 3.5 is no whole number"),
    "sources as a list": (lambda: ds.Family([1], _VECTOR, 3), "sources is a list; give a dictionary, such as"),
    "tuples for pairs": (
        lambda: ds.Pairs.of([("a", "b", "c")]),
        r"a tuple is no pair; give dposcope.Pair\(prompt, preferred, dispreferred\)",
    ),
    "scorers as a list": (
        lambda: ds.Materials(TEXTS, _PASSAGES, "a", _SCORER, further=[_SCORER]),
        "further is a list; give a dictionary, such as",
    ),
    "log-probabilities as arrays": (
        lambda: ds.dpo_terms(*[np.zeros(4)] * 4, beta=0.1),
        "log-probabilities are a ndarray and no tensor",
    ),
    "a fold that is not there": (
        lambda: _recorded().value(fold=0),
        "there is no fold 0 among 0; they are counted from",
    ),
    "neurons for parts": (lambda: ds.Interchange(_LM, _SET), r"parts is a NeuronSet; give dposcope.Parts\(neurons=…\)"),
    "no contributions of a patch": (
        lambda: ds.Patch("a", "a", "toxic", _SET).assign(_MEANS),
        "a NeuronMeans is no Contributions",
    ),
    "neurons without a label": (
        lambda: ds.patches(_CHANGE, toxic=_SET),
        r"toxic is a NeuronSet; give a dictionary, such as \{'top 256': neurons\}",
    ),
    "one source of repetitions": (
        lambda: ds.stability(ds.Repetitions("prompts", ("a", "b"), (_CHANGE, _CHANGE))),
        r"sources are no list of Repetitions; give some, one in brackets",
    ),
    "blocks of a family": (lambda: ds.Family({}, _VECTOR, "3"), "n_blocks '3' is no whole number"),
    "text read by another model": (
        lambda: ds.NeutralText(torch.ones(1, 4, dtype=torch.long), torch.zeros(1, 3, 5)).cost(_LM),
        "the text was read by a model of width 5, and tiny-llama has 16; let the plain model",
    ),
    "log-probabilities of other shapes": (
        lambda: ds.dpo_terms(*[torch.zeros(4)] * 3, torch.zeros(4, 1), beta=0.1),
        r"log-probabilities have shapes \[\[4\], \[4\], \[4\], \[4, 1\]\]; give one number per pair",
    ),
    "a model for a tokenizer": (
        lambda: ds.cut_prompts("a", _LM),
        "tokenizer is a LanguageModel; give one, such as lm.tokenizer",
    ),
    "a model for pairs' tokenizer": (lambda: ds.check_pairs(_PAIRS, _LM), "tokenizer is a LanguageModel; give one"),
    "no function": (lambda: ds.function_scorer("vader", "mine"), "a str is no function; give one that scores a list"),
    "groups for a selection": (
        lambda: ds.gains_of(ds.group_sets(_GAINS, _GAINS), alpha=0.1),
        "selection is a dict; give what dposcope.select_fraction returns",
    ),
    "means of no parts": (
        lambda: ds.prompt_intervals(_CHANGE, _MEANS, _MEANS),
        r"before is a NeuronMeans; give the folds of collect_by_fold \(its .folds\)",
    ),
    "parts of no means": (
        lambda: ds.prompt_intervals(_CHANGE, [_MEANS] * 5, [_GAINS] * 5),
        "after is a Tensor; give the NeuronMeans that collect_means returns",
    ),
    "no subspace": (lambda: ds.alignment_signs(_LM, _GAINS), "subspace is a Tensor; give what dposcope.svd_subspace"),
    "a chunk": (lambda: ds.continuation_losses(_LM, [_ONE], chunk=0), "chunk 0 is below 1; give a positive number"),
    "a role": (lambda: ds.Turn("robot", "a"), "role 'robot' is unknown; choose from system, user, assistant"),
    "a message without text": (lambda: ds.Turn("user", None), "content is a NoneType, and one text belongs here"),
    "a concept's name": (
        lambda: ds.load_judge("words", concept="toxicity"),
        r"concept is a str; give dposcope.Concept.load\('toxicity'\)",
    ),
    "no rank": (
        lambda: ds.low_rank(_LM, ds.Objective(), rank=0).__enter__(),
        "an adapter of rank 0, scaled by 32, trains",
    ),
}


def _recorded() -> ds.ActivationAccumulator:
    with ds.recording(_LM) as recorder, torch.no_grad():
        _LM.model(input_ids=torch.tensor([[5, 6]]))
    return recorder


CHANGES = {
    "along": lambda c: ds.along(c, _LM, _LM, _VECTOR),
    "change_summary": ds.change_summary,
    "correlations": ds.correlations,
    "cumulative_reduction": ds.cumulative_reduction,
    "edit_agreement": lambda c: ds.edit_agreement(c, _GAINS),
    "group_shares": ds.group_shares,
    "layer_sums": ds.layer_sums,
    "patches": lambda c: ds.patches(c, toxic={}),
    "prompt_intervals": lambda c: ds.prompt_intervals(c, [], []),
    "rank_range_shifts": ds.rank_range_shifts,
    "Repetitions": lambda c: ds.Repetitions("prompts", ("a", "b"), (c, c)),
    "shift_density": ds.shift_density,
    "top_toxic": ds.top_toxic,
}


@pytest.mark.parametrize("case", [*TEXT_CASES.items(), *NUMBER_CASES.items(), *VALUE_CASES.items()], ids=lambda c: c[0])
def test_what_is_given_wrongly_is_refused_in_one_line(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    make, told = case[1]
    with pytest.raises(ds.DposcopeError, match=f"^[^\n]*(?:{told})[^\n]*$"):
        make()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_no_contributions_is_refused_in_one_line(name):
    with pytest.raises(ds.DposcopeError, match=r"^a NeuronMeans is no Contributions; give those of dposcope.contr"):
        CHANGES[name](_MEANS)


@pytest.mark.parametrize("about", [{"when": object()}, {"loss": math.nan}, {("a", "b"): 1}, {"w": torch.ones(1)}])
def test_facts_that_are_no_json_are_refused_before_a_file_is_written(tmp_path, about):
    for value in (ds.Direction(_VECTOR, "x", 0, about), ds.Edit.of(about=about), replace(_MEANS, about=about)):
        with pytest.raises(ds.DposcopeError, match=r"^what is told of the .* is not JSON .*; give texts, numbers"):
            value.save(tmp_path / "mine")
    with pytest.raises(ds.DposcopeError, match=r"^what is told of the NeuronSet is not JSON"):
        _SET.save(tmp_path / "mine", about=about)
    assert list(tmp_path.iterdir()) == []


def test_facts_may_be_numbers_of_numpy_and_torch(tmp_path):
    about = {"seed": np.int64(3), "share": np.float32(0.5), "rows": [torch.tensor(2)]}
    ds.Direction(_VECTOR, "x", np.int64(1), about).save(tmp_path / "mine")
    assert ds.Direction.load(tmp_path / "mine").about == {"seed": 3, "share": 0.5, "rows": [2]}
    assert ds.Direction.load(tmp_path / "mine").block == 1
    ds.collect_means(_LM, TEXTS, new_tokens=np.int64(2)).save(tmp_path / "means")
    assert ds.NeuronMeans.load(tmp_path / "means").about["new_tokens"] == 2


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor, pl.Series, lambda one: np.array(one, np.int64)])
def test_labels_of_any_kind_make_the_same_comments(kind):
    made = ds.Comments([*RUDE, *CIVIL], kind(_LABELS))
    assert made.texts == _COMMENTS.texts
    assert made.labels.dtype == np.bool_
    assert made.labels.tolist() == _LABELS
    assert made.counts == _COMMENTS.counts


def test_lists_become_tuples():
    assert ds.Pairs(["a"], iter(["b"]), ["c"]) == ds.Pairs(("a",), ("b",), ("c",))
    assert ds.Passages(["a"], iter(["b"])) == ds.Passages(("a",), ("b",))


def test_what_can_be_read_once_is_read_once():
    sampled = ds.sample_completions(_LM, TEXTS, _SCORER, samples=2, new_tokens=3)
    assert len(sampled) == len(TEXTS)
    assert ds.sample_completions(_LM, iter(TEXTS), _SCORER, samples=2, new_tokens=3) == sampled
    assert ds.sample_texts(_LM, iter(TEXTS[:2]), samples=2, new_tokens=3) == ds.sample_texts(
        _LM, TEXTS[:2], samples=2, new_tokens=3
    )
    assert ds.split_prompts(iter(TEXTS), report=iter(["x", "y"])) == ds.split_prompts(TEXTS, report=["x", "y"])
    assert ds.risen_phrases(iter(["a b"]), iter(["c d"])) == ds.risen_phrases(["a b"], ["c d"])
    assert ds.distinct_pairs(iter(TEXTS)) == ds.distinct_pairs(TEXTS)
    assert ds.distinct_per_prompt(iter(TEXTS), 2, 1) == ds.distinct_per_prompt(TEXTS, 2, 1)
    written = ds.generate(_LM, TEXTS, new_tokens=3)
    assert ds.continuation_losses(_LM, iter(written)).nll.tolist() == ds.continuation_losses(_LM, written).nll.tolist()
    assert ds.mediation(_LM, _LM, iter(written)).change.tolist() == ds.mediation(_LM, _LM, written).change.tolist()
    again = ds.perturbed_continuations(_LM, iter(TEXTS[:2]), _VECTOR, new_tokens=2)
    assert again == ds.perturbed_continuations(_LM, TEXTS[:2], _VECTOR, new_tokens=2)


def test_a_conversation_may_be_a_list():
    lm = ds.with_chat(with_template(_LM, PLAIN))
    turns = [ds.Turn("user", "the river"), ds.Turn("assistant", "is long"), ds.Turn("user", "why")]
    assert ds.generate(lm, [turns], new_tokens=3) == ds.generate(lm, [tuple(turns)], new_tokens=3)


def test_the_coldest_sampling_is_greedy():
    sampled = ds.generate(_LM, TEXTS, new_tokens=5, sampling=ds.Sampling(temperature=1e-30))
    assert sampled == ds.generate(_LM, TEXTS, new_tokens=5)


def test_lengths_of_prompts_may_be_a_list():
    ids = torch.tensor([[2, 5, 6]])
    steer = ds.Steer(_VECTOR, 5.0, positions="generated")
    with steer.on(_LM), ds.prompted([2]), torch.no_grad():
        listed = _LM.model(input_ids=ids).logits
    with steer.on(_LM), ds.prompted(torch.tensor([2])), torch.no_grad():
        assert torch.equal(_LM.model(input_ids=ids).logits, listed)
