"""A file that a stranger sent runs no code."""

import pytest

from dposcope.data.concept import Concept
from dposcope.data.trust import check_settings, trusting_files
from dposcope.errors import DposcopeError
from dposcope.jobs.reproduce.preset import load_preset
from helpers.jobs import command

CODE = "subprocess:getoutput"
REFUSED = "names code to run as its scorer \\('subprocess:getoutput'\\); if you trust it, give --trust-code"


def concept(folder, scorer=CODE):
    path = folder / "rain.toml"
    path.write_text(f'comments = "c.csv"\nprompts = "p.jsonl"\nscorer = "{scorer}"\n')
    return path


def test_a_concept_spec_names_no_code_unless_trusted(tmp_path):
    path = concept(tmp_path)
    with pytest.raises(DposcopeError, match=REFUSED):
        Concept.load(path)
    with trusting_files():
        assert Concept.load(path).scorer == CODE
    with pytest.raises(DposcopeError, match=REFUSED):
        Concept.load(path)
    for scorer in ("profanity", "words:rain.txt", "unitary/toxic-bert", "./judge"):
        Concept.load(concept(tmp_path, scorer))


@pytest.mark.parametrize(
    "values",
    [
        {"scorer": CODE},
        {"also-score": ["neural", CODE]},
        {"explain": {"scorer": CODE}},
        {"study": [{"pairs": {"scorer": CODE}}]},
    ],
)
def test_code_is_found_at_any_depth(values):
    with pytest.raises(DposcopeError, match=REFUSED):
        check_settings(values, "a.toml")
    with trusting_files():
        check_settings(values, "a.toml")


SERVER = "https://judge.example/v1#m"


@pytest.mark.parametrize(
    "values", [{"token_judge": SERVER}, {"token-judge": "HTTP://x"}, {"study": [{"explain": {"token_judge": SERVER}}]}]
)
def test_a_server_is_sent_no_key_because_a_file_names_it(values):
    with pytest.raises(DposcopeError, match=r"server as its token judge .*, which would be sent your key; if you"):
        check_settings(values, "a.toml")
    with trusting_files():
        check_settings(values, "a.toml")
    check_settings({"token_judge": "words"}, "a.toml")


def test_what_is_no_scorer_is_no_code():
    check_settings(
        {"condition": ["gains:x", "scale:alpha=0.1"], "edit_grid": ["scale:0.3:0.55"], "name": "a:b"}, "a.toml"
    )


def test_a_preset_names_no_code(tmp_path):
    text = 'title = "x"\nmodels = ["m"]\n[explain]\nscorer = "subprocess:getoutput"\n[[study]]\nname = "s"\n'
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(DposcopeError, match=REFUSED):
        load_preset(str(tmp_path / "own.toml"))
    with trusting_files():
        assert load_preset(str(tmp_path / "own.toml")).explain["scorer"] == CODE


@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_the_commands_call_nothing_that_a_file_names(tmp_path, capsys, suffix):
    """The settings file would run `subprocess.getoutput` on the model's texts."""
    settings = tmp_path / f"s.{suffix}"
    settings.write_text('scorer = "subprocess:getoutput"' if suffix == "toml" else '{"scorer": "subprocess:getoutput"}')
    for more in (["--config", str(settings)], ["--concept", str(concept(tmp_path))]):
        told = command(capsys, "edit", str(tmp_path / "no-model"), "--out", str(tmp_path / "out"), *more)
        assert told.code == 2
        assert "names code to run as its scorer" in told.err
        assert not (tmp_path / "out").exists()
        told = command(
            capsys, "edit", str(tmp_path / "no-model"), "--out", str(tmp_path / "out"), "--trust-code", *more
        )
        assert told.code == 2
        assert "names code" not in told.err
