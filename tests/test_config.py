"""Settings: checked once, frozen, described."""

import pytest
from pydantic import ValidationError

from dposcope.study.config import (
    EditSettings,
    EvaluateSettings,
    MachineSettings,
    MeasureSettings,
    ProbeSettings,
)

ALL = [EditSettings, EvaluateSettings, ProbeSettings, MachineSettings]


@pytest.mark.parametrize("settings", ALL)
def test_defaults_are_valid_frozen_and_strict(settings):
    made = settings()
    with pytest.raises(ValidationError, match="frozen"):
        made.seed = 3
    with pytest.raises(ValidationError, match="betta"):
        settings(betta=0.3)
    again = settings(**made.model_dump(mode="json"))
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
    assert made.max_logppl_increase == 0.2
    assert made.protocol == "strict"
    assert made.direction == "mean-difference"  # SPEC section 2: of `edit`; the probe that of the rest
    assert made.direction_rows == 2000
    assert made.direction_block == -1
    assert made.controls


def test_probe_fits_a_probe():
    assert ProbeSettings().direction == "probe"


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
        {"max_logppl_increase": 0},
        {"max_logppl_increase": float("inf")},
        {"batch_size": 0},
        {"seed": -1},
        {"limit": 3},
        {"max_windows": 0},
        {"max_passages": 0},
        {"direction_rows": 3},
        {"dtype": "int8"},
        {"protocol": "loose"},
        {"ranking": "best"},
        {"mix": "half"},
        {"alpha": 0.1, "mix": "gains"},
        {"ablate": 0.1, "mix": "ablation"},
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
        {"alpha": 0.1, "mix": "both"},
        {"mix": "gains"},
    ],
)
def test_the_edges_are_allowed(good):
    made = EditSettings(**good)
    for name, value in good.items():
        assert getattr(made, name) == value


def test_settings_survive_json():
    """A run's folder holds them as JSON, and compares them with those of the next start."""
    import json

    made = EditSettings(alpha=0.1, judge_comments=["a.csv", "b.csv"], limit=40)
    stored = json.loads(json.dumps(made.model_dump(mode="json")))
    assert EditSettings(**stored) == made
    assert set(stored) == set(EditSettings.model_fields)


def test_measuring_commands_share_what_they_measure():
    for settings in (EditSettings, EvaluateSettings):
        assert issubclass(settings, MeasureSettings)
        assert set(MeasureSettings.model_fields) < set(settings.model_fields)
