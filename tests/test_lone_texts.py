"""One text where a list of texts belongs: `generate` continues it, everything else says so in one line."""

import inspect
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import dposcope as ds
from dposcope.errors import DposcopeError
from dposcope.model.generate import Continuation
from helpers.families import TEXTS

TEXT = "the river is long"
LABELS = np.array([True] * len(TEXT))
ONE = Continuation([2, 40], [41, 42], TEXT)
SCORER = ds.function_scorer(lambda texts: [0.5] * len(texts), "half")
CONCEPT = {"name": "x", "adjective": "x", "comments": None, "prompts": None, "scorer": "vader"}

CALLS: dict[tuple[str, str], Callable[[ds.LanguageModel], object]] = {
    ("Comments.__init__", "texts"): lambda lm: ds.Comments(TEXT, LABELS),
    ("Concept.__init__", "judge_comments"): lambda lm: ds.Concept(**CONCEPT, judge_comments=TEXT),
    ("Concept.__init__", "seeds_with"): lambda lm: ds.Concept(**CONCEPT, seeds_with=TEXT, seeds_without=("a",)),
    ("Concept.__init__", "seeds_without"): lambda lm: ds.Concept(**CONCEPT, seeds_with=("a",), seeds_without=TEXT),
    ("Materials.__init__", "prompts"): lambda lm: ds.Materials(TEXT, ds.Passages((), ()), "a", SCORER),
    ("Pairs.__init__", "prompts"): lambda lm: ds.Pairs("a", ("b",), ("c",)),
    ("Pairs.__init__", "preferred"): lambda lm: ds.Pairs(("a",), "b", ("c",)),
    ("Pairs.__init__", "dispreferred"): lambda lm: ds.Pairs(("a",), ("b",), "c"),
    ("Passages.__init__", "prompts"): lambda lm: ds.Passages("a", ("b",)),
    ("Passages.__init__", "golds"): lambda lm: ds.Passages(("a",), "b"),
    ("Scorer.__call__", "texts"): lambda lm: SCORER(TEXT),
    ("TrainedScorer.fit", "texts"): lambda lm: ds.TrainedScorer.fit(TEXT, LABELS, seed=0),
    ("WordListJudge.__call__", "tokens"): lambda lm: ds.WordListJudge()(TEXT),
    ("attribution", "toxic"): lambda lm: ds.attribution(lm, lm, ONE, [ONE]),
    ("attribution", "harmless"): lambda lm: ds.attribution(lm, lm, [ONE], ONE),
    ("collect_by_fold", "prompts"): lambda lm: ds.collect_by_fold(lm, TEXT, 2),
    ("collect_means", "prompts"): lambda lm: ds.collect_means(lm, TEXT),
    ("continuation_losses", "written"): lambda lm: ds.continuation_losses(lm, ONE),
    ("distinct_pairs", "texts"): lambda lm: ds.distinct_pairs(TEXT),
    ("distinct_per_prompt", "texts"): lambda lm: ds.distinct_per_prompt(TEXT, 1, 2),
    ("explain", "prompts"): lambda lm: ds.explain(lm, lm, ds.token_contrast(lm, ["dumb"], ["kind"]), TEXT),
    ("fit_probe", "texts"): lambda lm: ds.fit_probe(lm, TEXT, LABELS),
    ("harmless", "written"): lambda lm: ds.harmless(ONE, np.zeros(1)),
    ("mean_difference", "texts"): lambda lm: ds.mean_difference(lm, TEXT, LABELS),
    ("mediation", "written"): lambda lm: ds.mediation(lm, lm, ONE),
    ("perturbed_continuations", "prompts"): lambda lm: ds.perturbed_continuations(
        lm, TEXT, ds.token_contrast(lm, ["dumb"], ["kind"])
    ),
    ("relevance", "written"): lambda lm: ds.relevance(lm, ONE),
    ("residual_features", "texts"): lambda lm: ds.residual_features(lm, TEXT),
    ("risen_phrases", "texts"): lambda lm: ds.risen_phrases(TEXT, [TEXT]),
    ("risen_phrases", "base_texts"): lambda lm: ds.risen_phrases([TEXT], TEXT),
    ("sample_completions", "prompts"): lambda lm: ds.sample_completions(lm, TEXT, SCORER),
    ("sample_texts", "prompts"): lambda lm: ds.sample_texts(lm, TEXT),
    ("split_prompts", "prompts"): lambda lm: ds.split_prompts(TEXT),
    ("split_prompts", "report"): lambda lm: ds.split_prompts(TEXTS, report=TEXT),
    ("token_contrast", "toxic"): lambda lm: ds.token_contrast(lm, TEXT, ["kind"]),
    ("token_contrast", "non_toxic"): lambda lm: ds.token_contrast(lm, ["dumb"], TEXT),
}
"""(Function, parameter) → a call with one text there."""

NOT_GIVEN = {
    ("LanguageModel.__init__", "notes"),
    ("Layout.__init__", "attention_out"),
    ("Layout.__init__", "mlp_out"),
    ("Lens.__init__", "top"),
    ("Lens.__init__", "bottom"),
    ("Repetitions.__init__", "names"),
    ("Scores.__init__", "further"),
    ("Pairs.__init__", "notes"),
    ("Shipped.__init__", "notes"),
    ("TokenJudge.__call__", "tokens"),
}
"""Fields that dposcope fills itself, one path in place of several, and a protocol that has no code."""


def functions() -> Iterator[tuple[str, Callable[..., object]]]:
    """Every public function, constructor and public method, by name."""
    for name in ds.__all__:
        found = getattr(ds, name)
        if inspect.isfunction(found):
            yield name, found
        elif inspect.isclass(found):
            for own, member in vars(found).items():
                function = member.__func__ if isinstance(member, classmethod) else member
                if inspect.isfunction(function) and (own in ("__init__", "__call__") or not own.startswith("_")):
                    yield f"{name}.{own}", function


def test_every_parameter_for_several_texts_is_in_the_table():
    several = ("Sequence[str]", "tuple[str, ...]", "list[str]", "Continuation]")
    found = {
        (name, parameter.name)
        for name, function in functions()
        for parameter in inspect.signature(function).parameters.values()
        if "Callable" not in str(parameter.annotation)
        if any(kind in str(parameter.annotation) for kind in several)
    }
    assert found == CALLS.keys() | NOT_GIVEN | {("generate", "prompts")}


@pytest.mark.parametrize("case", CALLS, ids=" ".join)
def test_one_text_is_refused_in_one_line(llama, case):
    what = "one continuation was given" if case[0] in WRITTEN else f"{case[1]} is one text"
    with pytest.raises(
        DposcopeError, match=f"^{what}, and a list of t[a-z]+ belongs here; write it in brackets"
    ) as told:
        CALLS[case](llama)
    assert "\n" not in str(told.value)


WRITTEN = {"attribution", "continuation_losses", "harmless", "mediation", "relevance"}
"""They take what `generate` gives."""


def test_a_trace_of_texts_asks_for_token_ids(llama):
    for texts in (TEXT, [TEXT]):
        with pytest.raises(DposcopeError, match="reads token ids"):
            ds.trace(llama, texts, [0])


def test_one_text_is_continued_as_in_a_list(lm):
    for options in ({}, {"sampling": ds.Sampling(seed=3)}, {"use_cache": False, "new_tokens": 5}):
        alone = ds.generate(lm, TEXT, **options)
        assert isinstance(alone, Continuation)
        assert [alone] == ds.generate(lm, [TEXT], **options)
    assert ds.generate(lm, (TEXT,))[0].text == ds.generate(lm, TEXT).text


def test_no_text_is_still_no_text(llama):
    assert ds.generate(llama, []) == []
    assert isinstance(ds.generate(llama, ""), Continuation)  # <bos> alone
