"""Numbers that no command can mean: every option that takes one refuses what is beyond its bounds."""

import importlib
import json
import math
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pytest

import dposcope.jobs
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.edit.settings import EditSettings
from dposcope.jobs.evaluate.settings import EvaluateSettings
from dposcope.jobs.explain.settings import ExplainSettings
from dposcope.jobs.pairs.settings import PairsSettings
from dposcope.jobs.reproduce.settings import ReproduceSettings
from dposcope.jobs.settings import ProbeSettings, Settings
from dposcope.jobs.tune.settings import TuneSettings
from dposcope.talk.settings import GenerateSettings, TalkSettings
from helpers.hostile import refused

COMMANDS: dict[str, tuple[type[Settings], list[str]]] = {
    "edit": (EditSettings, ["m"]),
    "tune": (TuneSettings, ["m"]),
    "evaluate": (EvaluateSettings, ["m"]),
    "explain": (ExplainSettings, ["m", "m"]),
    "pairs": (PairsSettings, ["m"]),
    "dpo": (DpoSettings, ["m", "--pairs", "p.jsonl"]),
    "probe": (ProbeSettings, ["m"]),
    "reproduce": (ReproduceSettings, []),
    "generate": (GenerateSettings, ["m", "--sample"]),
    "chat": (TalkSettings, ["m", "--sample"]),
    "serve": (TalkSettings, ["m", "--sample"]),
}
"""Command → its settings, and what it needs beside `--out`."""
WITHOUT_OUT = ("generate", "chat", "serve")
"""Commands that leave nothing."""


@dataclass(frozen=True)
class Bounds:
    """Of a number that a setting takes."""

    whole: bool
    least: float | None
    most: float | None
    several: int
    """How many of them the option takes at once."""


def numbers(settings: type[Settings]) -> Iterator[tuple[str, Bounds]]:
    """Every number that some settings take, in lists and pairs, too."""

    def found(schema: dict[str, Any], several: int = 1) -> Iterator[Bounds]:
        if schema.get("type") in ("integer", "number"):
            least = schema.get("minimum", schema.get("exclusiveMinimum"))
            most = schema.get("maximum", schema.get("exclusiveMaximum"))
            yield Bounds(schema["type"] == "integer", least, most, several)
        parts = [*schema.get("anyOf", ()), *([schema["items"]] if isinstance(schema.get("items"), dict) else [])]
        for part in parts:
            yield from found(part, several)
        items = schema.get("prefixItems", ())
        for part in items:
            yield from found(part, len(items))

    for name, schema in settings.model_json_schema()["properties"].items():
        for bounds in found(schema):
            yield name, bounds


def all_settings() -> set[type[Settings]]:
    """Every class of settings that there is."""
    for module in pkgutil.walk_packages(dposcope.jobs.__path__, "dposcope.jobs."):
        if module.name.endswith(("settings", "preset")):
            importlib.import_module(module.name)
    found, left = set(), [Settings]
    while left:
        found.add(one := left.pop())
        left += [below for below in one.__subclasses__() if below.__module__.startswith("dposcope.")]
    return found


@pytest.mark.parametrize("settings", sorted(all_settings(), key=lambda one: one.__name__))
def test_every_number_has_a_smallest_and_a_largest(settings):
    for name, bounds in numbers(settings):
        for bound in (bounds.least, bounds.most):
            assert bound is not None, f"{settings.__name__}.{name} has no bound on one side"
            assert math.isfinite(bound)


def test_the_walk_finds_numbers_where_they_stand():
    class Some(Settings):
        bare: int = 0
        listed: tuple[float, ...] = ()
        paired: tuple[float, float] | None = None
        word: str = ""

    assert [(name, one.whole, one.least, one.several) for name, one in numbers(Some)] == [
        ("bare", True, None, 1),
        ("listed", False, None, 1),
        *[("paired", False, None, 2)] * 2,
    ]


def test_the_commands_are_all_that_take_settings():
    shared = {
        "Settings",
        "LoadSettings",
        "MachineSettings",
        "CommentSettings",
        "FitSettings",
        "DirectionSettings",
        "MeasureSettings",
        "ChatSettings",
        "EngineSettings",
    }
    presets = {"Preset", "SizePreset", "StudyPreset"}
    others = {one.__name__ for one in all_settings() - {one for one, _ in COMMANDS.values()}}
    assert others == shared | presets | {"CheckSettings"}, "of `pairs check`, which takes no number"


def cases() -> Iterator[tuple[str, str, str]]:
    """Command, option, and what it may not take."""
    for command, (settings, _) in COMMANDS.items():
        for name, bounds in dict(numbers(settings)).items():
            assert bounds.least is not None
            assert bounds.most is not None
            # Seeds reach beyond a thousand million; NumPy takes them up to 2³² − 1.
            above = 10**9 if bounds.most < 10**9 else 2**32 if bounds.whole else 10**13
            wrong = [str(above), "1e308", "nan", str(int(bounds.least) - 1)]
            for text in dict.fromkeys(wrong):
                option = f"--{name.replace('_', '-')}"
                yield command, option, " ".join([text] * bounds.several)


BEYOND = {
    option: [text for *_, text in of_one]
    for option, of_one in groupby(sorted(set(cases())), key=lambda case: (case[0], case[1]))
}
"""Command and option → what it may not take."""


@pytest.mark.parametrize(("command", "option"), BEYOND)
def test_no_option_takes_what_is_beyond_its_bounds(tmp_path, command, option):
    _, needed = COMMANDS[command]
    for text in BEYOND[command, option]:
        out = [] if command in WITHOUT_OUT else ["--out", tmp_path / "out"]
        line = refused([command, *needed, *out, option, *text.split(" ")])
        assert option in line, f"{text!r}: {line}"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"batch_size": 10**9}, "--batch-size: input should be less than or equal to 65536"),
        ({"seed": -1}, "--seed: input should be greater than or equal to 0, not -1"),
        ({"seed": 2**32}, "--seed: input should be less than or equal to"),
        ({"alpha": 1e308}, "--alpha: input should be less than or equal to 1000"),
        ({"steer": [0.1, 1e308]}, "--steer: input should be less than or equal to 1000"),
        ({"toxic_neurons": [128, 0]}, "--toxic-neurons: input should be greater than or equal to 1"),
    ],
)
def test_a_settings_file_has_the_same_bounds(tmp_path, settings, told):
    (tmp_path / "s.json").write_text(json.dumps(settings))
    explains = settings.keys() & {"steer", "toxic_neurons"}
    command = ["explain", "m", "m"] if explains else ["edit", "m"]
    assert refused([*command, "--out", tmp_path / "out", "--config", tmp_path / "s.json"]).startswith(told)


@pytest.mark.parametrize("text", ["9" * 5000, "-" + "9" * 5000, "1e" + "9" * 5000, "0." + "0" * 5000 + "1", "x" * 5000])
@pytest.mark.parametrize("option", ["--batch-size", "--seed", "--beta", "--logppl-budget", "--direction-block"])
def test_numbers_of_thousands_of_digits(tmp_path, option, text):
    """What is told of them is cut in the middle."""
    if option == "--beta" and text.startswith("0."):
        pytest.skip("it is a share, however small")
    line = refused(["edit", "m", "--out", tmp_path / "out", f"{option}={text}"])
    assert line.startswith(f"{option}: ")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999", "-Infinity"])
def test_a_settings_file_may_hold_no_other_numbers(tmp_path, text):
    (tmp_path / "s.json").write_text(f'{{"alpha": {text}}}')
    line = refused(["edit", "m", "--out", tmp_path / "out", "--config", tmp_path / "s.json"])
    assert "finite" in line


@pytest.mark.parametrize(
    "arguments",
    [
        ["lens", "m", "--neuron", "0.0", "--tokens", "0"],
        ["lens", "m", "--neuron", "0.0", "--tokens", "-1"],
        ["lens", "m", "--neuron", "0.0", "--tokens", str(10**9)],
        ["lens", "m", "--neuron", "0.0", "--tokens", "nan"],
        ["fold", "m", "--edit", "e", "--out", "o", "--strength", "1e308"],
        ["fold", "m", "--edit", "e", "--out", "o", "--strength", "-1e308"],
        ["fold", "m", "--edit", "e", "--out", "o", "--strength", "nan"],
        ["fold", "m", "--edit", "e", "--out", "o", "--strength", "inf"],
        ["generate", "m", "--strength", "1e308"],
        ["generate", "m", "--batch-size", "0"],
        ["generate", "m", "--limit", "0"],
        ["chat", "m", "--strength", "nan"],
        ["serve", "m", "--port", str(10**9)],
        ["serve", "m", "--port", "-1"],
    ],
    ids=lambda arguments: " ".join(arguments[-2:]),
)
def test_options_that_are_in_no_settings(arguments):
    assert arguments[-2] in refused(arguments)


@pytest.mark.parametrize(
    "name",
    [
        "²",
        "².3",
        "3.²",
        "٣.٣",
        "½.1",
        "1.2.3.4",
        "1",
        "",
        ".",
        "-1.0",
        "1.-0",
        "1e3.0",
        "0x1.0",
        "1" * 30 + ".0",
        "1_0.1",
    ],
)
def test_what_is_no_neuron(name):
    """Some of these are digits, or numbers in Python's eyes."""
    line = refused(["lens", "m", f"--neuron={name}"])
    assert f"there is no neuron {name!r}; give BLOCK.INDEX" in line


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ("scale:alpha=1e308", "alpha 1e308 is beyond ±1,000"),
        ("scale:alpha=nan", "alpha needs a finite number"),
        ("scale:alpha=-1", "alpha -1.0 is negative"),
        ("scale:beta=1e308", "beta 1e308 is"),
        ("scale:trim=1e308", "trim 1e308 is"),
        ("assign:alpha=1e9", "alpha 1e9 is beyond"),
        ("steer:alpha=1e308", "alpha 1e308 is beyond"),
        ("steer:relative=-1e308", "relative -1e308 is beyond"),
        ("steer:block=1000000000", "block 1000000000 is beyond"),
        ("steer:block=-1000000000", "block -1000000000 is beyond"),
        ("ablate:weight=1e308", "weight 1e308 is beyond"),
        ("ablate:weight=inf", "weight needs a finite number"),
        ("ablate:blocks=0-1000000000000", "blocks are a range such as 9-17"),
        ("ablate:blocks=²-3", "blocks are a range such as 9-17"),
        ("scale:blocks=5-1", "blocks are a range such as 9-17"),
        ("edit:gemma-3-270m,strength=1e308", "strength 1e308 is beyond"),
        ("edit:gemma-3-270m,strength=nan", "strength needs a finite number"),
    ],
)
def test_numbers_of_conditions(tmp_path, condition, told):
    line = refused(["evaluate", "gemma-3-270m", "--out", tmp_path / "out", "--condition", condition])
    assert told in line


@pytest.mark.parametrize(
    "cell", ["1e308:0.5", "nan:0.5", "0.1:nan", "0.1:2", "-1:0.5", "0.1", "0.1:0.5:0.5", ":", "²:0.5"]
)
def test_cells_of_the_grid_of_edits(tmp_path, cell):
    line = refused(["explain", "m", "m", "--out", tmp_path / "out", f"--edit-grid={cell}"])
    assert f"{cell!r} is not an edit; give α:β, with α from 0 to 1,000 and β from 0 to 1" in line


@pytest.mark.parametrize("name", ["parameters", "vocabulary", "width", "blocks", "mlp", "key_width"])
@pytest.mark.parametrize("size", ["0", "-1", str(10**18), "nan", "1.5"])
def test_sizes_that_a_preset_tells(tmp_path, name, size):
    sizes = dict.fromkeys(("parameters", "vocabulary", "width", "blocks", "mlp", "key_width"), "8") | {name: size}
    told = "\n".join(f"{one} = {value}" for one, value in sizes.items())
    (tmp_path / "p.toml").write_text(
        f'title = "T"\nmodels = ["m"]\n[size]\n{told}\n[[study]]\nname = "s"\npairs = {{ method = "sample" }}\n'
    )
    line = refused(["reproduce", "--preset", tmp_path / "p.toml", "--out", tmp_path / "out"])
    assert f"size.{name}" in line


def test_the_bounds_leave_room_for_the_seeds_that_follow():
    most = dict(numbers(ExplainSettings))["seed"].most
    assert most is not None
    settings = ExplainSettings(seed=int(most), seeds=1000)
    assert max(settings.repeats.seeds) == 2**32 - 1
