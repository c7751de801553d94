"""Settings: checked once, frozen, described."""

import pytest
from pydantic import ValidationError

from dposcope.errors import DposcopeError
from dposcope.jobs.edit.settings import EditSettings
from dposcope.jobs.evaluate.settings import EvaluateSettings
from dposcope.jobs.explain.settings import ExplainSettings
from dposcope.jobs.pairs.settings import PairsSettings
from dposcope.jobs.settings import MachineSettings, MeasureSettings, ProbeSettings

ALL = [EditSettings, EvaluateSettings, ProbeSettings, MachineSettings]


@pytest.mark.parametrize("settings", ALL)
def test_defaults_are_valid_frozen_and_strict(settings):
    made = settings()
    with pytest.raises(ValidationError, match="frozen"):
        made.seed = 3
    with pytest.raises(ValidationError, match="betta"):
        settings(betta=0.3)
    again = settings.filled(made.model_dump(mode="json"))
    assert again == made


@pytest.mark.parametrize("settings", ALL)
def test_every_setting_is_described(settings):
    for name, field in settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith((".", ")")), name


def test_the_papers_numbers_are_the_defaults():
    """Section 6.1 and SPEC section 1."""
    made = EditSettings()
    assert made.beta == 0.55
    assert made.alpha is None
    assert made.ablate is None
    assert made.logppl_budget == 0.2
    assert made.protocol == "strict"
    assert made.direction == "mean-difference"  # SPEC section 2: of `edit`; the probe that of the rest
    assert made.direction_rows == 2000
    assert made.direction_block == -1
    assert made.controls


def test_probe_fits_a_probe():
    assert ProbeSettings().kind == "probe"


@pytest.mark.parametrize(
    "bad",
    [
        {"alpha": -0.1},
        {"alpha": float("nan")},
        {"alpha": float("inf")},
        {"ablate": -1},
        {"ablate": float("inf")},
        {"beta": -0.01},
        {"beta": 1.01},
        {"beta": float("nan")},
        {"logppl_budget": 0},
        {"logppl_budget": float("inf")},
        {"batch_size": 0},
        {"seed": -1},
        {"limit": 3},
        {"max_windows": 0},
        {"max_passages": 0},
        {"direction_rows": 3},
        {"dtype": "int8"},
        {"protocol": "loose"},
        {"ranking": "best"},
        {"parts": "half"},
    ],
)
def test_what_makes_no_sense_is_refused(bad):
    with pytest.raises(ValidationError):
        EditSettings(**bad)


@pytest.mark.parametrize(
    "good",
    [
        {"alpha": 0},
        {"ablate": 0},
        {"ablate": 2.5},
        {"beta": 0},
        {"beta": 1},
        {"limit": 4},
        {"limit": None},
        {"max_passages": None},
        {"alpha": 0.1, "ablate": 0.5},
        {"parts": "gains"},
    ],
)
def test_the_edges_are_allowed(good):
    made = EditSettings(**good)
    for name, value in good.items():
        assert getattr(made, name) == value


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_all_gpus_and_one_device_are_refused_together(device):
    told = f"--device-map auto takes all GPUs, and --device {device} is one device; leave one of the two out"
    with pytest.raises(ValidationError, match=told):
        EditSettings(device_map="auto", device=device)
    for free in ("auto", "cuda"):
        assert EditSettings(device_map="auto", device=free).device_map == "auto"


def test_settings_survive_json():
    """A run's folder holds them as JSON, and compares them with those of the next start."""
    import json

    made = EditSettings(alpha=0.1, judge_comments=["a.csv", "b.csv"], limit=40)
    stored = json.loads(json.dumps(made.model_dump(mode="json")))
    assert EditSettings.filled(stored) == made
    assert set(stored) == set(EditSettings.model_fields)


def test_measuring_commands_share_what_they_measure():
    for settings in (EditSettings, EvaluateSettings):
        assert issubclass(settings, MeasureSettings)
        assert set(MeasureSettings.model_fields) < set(settings.model_fields)


# Concepts


@pytest.fixture
def concept(tmp_path):
    """A concept file, and what it puts into the options."""
    file = tmp_path / "rain.toml"
    lines = {
        "comments": "texts.csv",
        "text-column": "body",
        "label-column": "wet",
        "positive-label": "yes",
        "prompts": "prompts.csv",
        "prompt-column": "start",
        "scorer": "mine:score",
    }
    file.write_text("".join(f'{name} = "{value}"\n' for name, value in lines.items()), "utf-8")
    filled = {name.replace("-", "_"): value for name, value in lines.items()}
    return file, filled | {name: str(tmp_path / filled[name]) for name in ("comments", "prompts")}


def said(settings, names) -> dict:
    return {name: value for name, value in settings.model_dump().items() if name in names}


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("settings", [EditSettings, EvaluateSettings, ExplainSettings, ProbeSettings])
def test_a_concept_fills_what_is_not_given(settings, concept):
    file, filled = concept
    made = settings(concept=str(file))
    assert said(made, filled) == {name: value for name, value in filled.items() if name in settings.model_fields}
    assert made.meant.noun == "rain"
    assert settings.filled(made.model_dump(mode="json")) == made


@pytest.mark.usefixtures("trusting")
def test_what_is_given_wins(concept):
    file, filled = concept
    made = EditSettings(concept=str(file), scorer="profanity", label_column="toxic")
    assert said(made, filled) == {**filled, "scorer": "profanity", "label_column": "toxic"}


@pytest.mark.usefixtures("trusting")
def test_columns_go_with_their_table(concept):
    """Those of a concept's comments say nothing about other comments."""
    file, filled = concept
    plain = EditSettings()
    made = EditSettings(concept=str(file), comments="mine.csv")
    mine = {name: getattr(plain, name) for name in ("text_column", "label_column", "positive_label")}
    assert said(made, filled) == {**filled, **mine, "comments": "mine.csv"}
    made = EditSettings(concept=str(file), prompts="mine.csv")
    assert said(made, filled) == {**filled, "prompt_column": "prompt", "prompts": "mine.csv"}


@pytest.mark.usefixtures("trusting")
def test_pairs_take_what_their_method_reads(concept):
    file, filled = concept
    plain = PairsSettings()
    sampled = PairsSettings(concept=str(file), method="sample")
    assert (sampled.prompts, sampled.prompt_column, sampled.scorer) == (filled["prompts"], "start", "mine:score")
    assert (sampled.comments, sampled.label_column) == (plain.comments, plain.label_column)
    steered = PairsSettings(concept=str(file), method="pplm")
    assert steered.prompts is None
    assert (steered.comments, steered.label_column, steered.scorer) == (filled["comments"], "wet", "mine:score")


def test_without_a_concept_it_is_toxicity():
    assert EditSettings().concept is None
    assert EditSettings().meant.name == "toxicity"
    named = EditSettings(concept="toxicity")
    assert named.model_dump(exclude={"concept"}) == EditSettings().model_dump(exclude={"concept"})


def test_an_unknown_concept_is_told():
    with pytest.raises(DposcopeError, match="no concept 'rain'"):
        EditSettings(concept="rain")
