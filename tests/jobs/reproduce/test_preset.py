"""Presets: that each of them can be made into commands, and that faults are told."""

import pytest

from dposcope.errors import DposcopeError
from dposcope.jobs.reproduce.preset import Preset, load_preset, preset_names
from dposcope.paper.models import MODELS
from dposcope.paper.numbers import paper_values

PAPER = {
    "paper-gpt2-medium": 0.02,
    "paper-llama-3.1-8b": 0.1,
    "paper-gemma-2-2b": 0.05,
    "paper-mistral-7b": 0.05,
}
"""λ of Table 10."""


def test_the_presets_that_ship():
    assert set(preset_names()) == {*PAPER, "cpu-gemma-3-270m", "cpu-smollm2-135m", "short", "smoke"}


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_whole(name):
    preset = load_preset(name)
    assert preset.name == name
    assert preset.title
    assert preset.study
    assert all(study.about for study in preset.study)


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_settings(name):
    preset = load_preset(name)
    (study,) = preset.study
    assert study.pairs == {"method": "pplm", "count": 24_576, "new_tokens": 64}
    assert study.dpo == {"preset": "paper", "kl_weight": PAPER[name], "max_examples": 5 * 24_576}
    assert study.protocols == ["strict", "reference"]
    assert preset.shared["direction"] == "probe"
    assert preset.shared["scorer"] == "unitary/toxic-bert"
    assert (preset.explain["limit"], preset.explain["max_passages"], preset.explain["split"]) == (1199, 2000, "same")
    assert set(preset.needs) == {"comments", "passages"}
    assert preset.shared["direction_rows"] == 561_808
    assert preset.explain["toxic_neurons"] == [128, 256]


@pytest.mark.parametrize("name", PAPER)
def test_steering_has_the_strengths_of_table_12_where_they_hold(name):
    """For the published probe alone."""
    preset = load_preset(name)
    model = next(model for model in MODELS if model.name.split("-")[0].lower() in name.replace("gpt2", "gpt"))
    printed = {value.alpha for value in paper_values(table="12", model=model.name, row="steering")}
    assert set(preset.reference["steer_w"]) == printed
    assert "steer_w" not in preset.explain | preset.strict
    (chosen,) = (value.value for value in paper_values(table="11", model=model.name, row="steering"))
    assert preset.reference["steer_w"][0] == chosen


@pytest.mark.parametrize("name", ["cpu-gemma-3-270m", "cpu-smollm2-135m"])
def test_what_two_cores_can_do(name):
    preset = load_preset(name)
    assert [study.name for study in preset.study] == ["sampled", "pplm"]
    assert all(study.dpo["max_examples"] <= 1600 for study in preset.study)
    assert preset.study[-1].pairs["count"] <= 1200
    assert (preset.explain["limit"], preset.explain["max_windows"]) == (400, 32)


def write(tmp_path, text: str) -> str:
    (tmp_path / "own.toml").write_text(text)
    return str(tmp_path / "own.toml")


WHOLE = 'title = "t"\nmodels = ["m"]\n[[study]]\nname = "a"\n'


def test_a_preset_of_ones_own(tmp_path):
    preset = load_preset(write(tmp_path, WHOLE + "dpo = { epochs = 1 }\n"))
    assert isinstance(preset, Preset)
    assert (preset.name, preset.study[0].dpo, preset.study[0].protocols) == ("own", {"epochs": 1}, ["strict"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title = ", "is not TOML"),
        ('title = "t"\nmodels = []\n', "models: List should have at least 1 item"),
        (WHOLE + WHOLE.partition("\n[")[2].replace("[study]]", "[[study]]"), "two studies have one name"),
        (WHOLE + 'protocols = ["strict", "strict"]\n', "a protocol is named twice"),
        (WHOLE + "surprise = 1\n", r"study\.0\.surprise: Extra inputs"),
        (WHOLE.replace('"a"', '"../a"'), r"study\.0\.name: String should match"),
        ('name = "x"\n' + WHOLE, "leave `name` out"),
    ],
)
def test_faults_of_a_preset_are_told(tmp_path, text, said):
    with pytest.raises(DposcopeError, match=said):
        load_preset(write(tmp_path, text))


@pytest.mark.parametrize(("name", "said"), [("nothing", "choose one of: cpu-"), ("no/such.toml", "no preset file")])
def test_a_preset_that_is_not_there(name, said):
    with pytest.raises(DposcopeError, match=said):
        load_preset(name)
