"""The plan of a reproduction: commands, settings, and what each step rests on."""

from pathlib import Path

import pytest

from dposcope.errors import DposcopeError
from dposcope.jobs.explain.conditions import GRID
from dposcope.jobs.reproduce.plan import needed, plan
from dposcope.jobs.reproduce.preset import load_preset
from dposcope.jobs.reproduce.settings import ReproduceSettings


@pytest.fixture
def files(tmp_path):
    """Data files that differ."""
    names = ("prompts", "report_prompts", "comments", "learn_text", "neutral", "passages")
    for name in names:
        (tmp_path / f"{name}.txt").write_text(name)
    return {name: str(tmp_path / f"{name}.txt") for name in names}


def steps_of(tmp_path, preset="cpu-gemma-3-270m", **given):
    steps = plan("gemma-3-270m", tmp_path / "out", load_preset(preset), ReproduceSettings(**given))
    return {step.name: step for step in steps}


def test_the_steps_in_their_order(tmp_path):
    assert list(steps_of(tmp_path)) == [
        "pairs-sampled",
        "dpo-sampled",
        "explain-sampled-strict",
        "explain-sampled-reference",
        "pairs-pplm",
        "dpo-pplm",
        "explain-pplm-strict",
    ]


def test_every_file_goes_where_it_belongs(tmp_path, files):
    steps = steps_of(tmp_path, **files)
    sampled, pplm = steps["pairs-sampled"].settings, steps["pairs-pplm"].settings
    assert (sampled.prompts, sampled.learn_text, sampled.comments) == (files["prompts"], None, None)
    assert (pplm.prompts, pplm.learn_text, pplm.comments) == (None, files["learn_text"], files["comments"])
    # What is measured on is named to whatever reads prompts, which leaves it out.
    assert (sampled.report_prompts, pplm.report_prompts) == (files["report_prompts"], None)
    for study in ("sampled", "pplm"):
        dpo = steps[f"dpo-{study}"].settings
        assert dpo.pairs == str(tmp_path / f"out/{study}/pairs/pairs.jsonl")
        # The KL is on the text to learn from, never on the one that log-perplexity is measured on.
        assert dpo.learn_text == files["learn_text"]
        explained = steps[f"explain-{study}-strict"].settings
        for name in ("neutral", "prompts", "report_prompts", "passages"):
            assert getattr(explained, name) == files[name]


def test_studies_of_the_same_pairs_make_them_once(tmp_path):
    preset = load_preset("cpu-gemma-3-270m")
    gains = preset.study[0].model_copy(update={"name": "gains", "dpo": {"train": "gains"}})
    own = preset.model_copy(update={"study": [*preset.study, gains]})
    steps = {step.name: step for step in plan("m", tmp_path, own, ReproduceSettings())}
    assert "pairs-gains" not in steps
    assert steps["dpo-gains"].after == steps["dpo-sampled"].after == (steps["pairs-sampled"],)
    assert steps["dpo-gains"].settings.pairs == str(steps["pairs-sampled"].pairs)


def test_sections_of_the_preset_go_from_general_to_particular(tmp_path):
    steps = steps_of(tmp_path)
    strict, reference, pplm = (
        steps[f"explain-{name}"].settings for name in ("sampled-strict", "sampled-reference", "pplm-strict")
    )
    assert (strict.protocol, strict.max_windows, strict.controls) == ("strict", 32, True)
    assert strict.edits_of("assign") == list(GRID)
    assert (0.3, 0.55) in strict.edits_of("scale")
    assert (reference.protocol, reference.edits_of("scale"), reference.controls) == ("reference", [], False)
    # Measured as the main study is, so that it shares that one's rows.
    assert (pplm.edits, pplm.max_windows, pplm.limit) == (True, 32, 400)
    assert steps["dpo-pplm"].settings.preset == "paper"
    preset = load_preset("cpu-gemma-3-270m")
    *others, last = preset.study
    own = preset.model_copy(update={"study": [*others, last.model_copy(update={"explain": {"max_windows": 5}})]})
    found = {step.name: step.settings for step in plan("m", tmp_path, own, ReproduceSettings())}
    assert (found["explain-pplm-strict"].max_windows, found["explain-sampled-strict"].max_windows) == (5, 32)


def test_what_the_user_gives_wins(tmp_path):
    steps = steps_of(tmp_path, limit=40, batch_size=7, seed=3, dtype="float32")
    for name, step in steps.items():
        assert (step.settings.seed, step.settings.dtype) == (3, "float32")
        if step.command == "explain":
            assert (step.settings.limit, step.settings.batch_size) == (40, 7), name
    # Of DPO it would be pairs per step.
    assert steps["dpo-sampled"].settings.batch_size is None


PAPER = {"prompts": "p.jsonl", "comments": "c.csv", "passages": "w.jsonl"}


def test_another_concept_brings_its_own_scorer():
    def scorers(**given):
        steps = plan("m", Path("out"), load_preset("paper-gemma-2-2b"), ReproduceSettings(**PAPER | given))
        return {step.settings.scorer for step in steps if step.command != "dpo"}

    assert scorers() == scorers(concept="toxicity") == {"unitary/toxic-bert"}
    assert scorers(concept="negative-sentiment") == {"vader"}
    assert scorers(concept="negative-sentiment", scorer="profanity") == {"profanity"}


def test_what_a_preset_needs_a_concept_may_bring():
    preset = load_preset("paper-gemma-2-2b")
    assert needed(preset, ReproduceSettings()) == ["comments", "passages"]
    assert needed(preset, ReproduceSettings(**PAPER)) == []
    assert needed(preset, ReproduceSettings(concept="food-talk")) == ["passages"]

    def prompts(**given):
        steps = plan("m", Path("out"), preset, ReproduceSettings(**given))
        return {step.settings.prompts for step in steps if step.command == "explain"}

    assert prompts() == {"hub:allenai/real-toxicity-prompts?challenging=true"}
    assert prompts(prompts="p.jsonl") == {"p.jsonl"}
    assert prompts(concept="food-talk") == {"builtin:food-talk/prompts.jsonl"}


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("pairs = { surprise = 1 }", r"preset own, \[pairs\]: there is no option surprise; mend it there"),
        ('dpo = { neutral = "x" }', r"\[dpo\]: there is no option neutral; its name is --learn-text"),
        (
            'pairs = {}\n[shared]\ntext = "x"',
            r"preset own, \[shared\]: there is no option text; its name is --learn-text",
        ),
        ("pairs = {}\n[shared]\nsed = 1", r"preset own, \[shared\]: there is no option sed; mend it there"),
        ("dpo = { epochs = -1 }", r"preset own, \[dpo\]: epochs: Input should be greater than 0"),
        ('pairs = { method = "sample", learn_text = "x" }', r"\[pairs\]: options: --learn-text is for --method pplm"),
    ],
)
def test_options_that_a_command_does_not_have_are_told(tmp_path, section, said):
    path = tmp_path / "own.toml"
    path.write_text(f'title = "t"\nmodels = ["m"]\n[[study]]\nname = "a"\n{section}\n')
    with pytest.raises(DposcopeError, match=said):
        plan("m", tmp_path, load_preset(str(path)), ReproduceSettings())
