"""`dposcope generate`: texts side by side, for people and for programs."""

import json

import pytest

from dposcope import terminal
from dposcope.interventions.edit import Edit
from dposcope.model.generate import generate
from dposcope.model.load import load
from dposcope.talk.session import Answer, Answered, Session
from helpers.edits import gains_of
from helpers.families import TEXTS
from helpers.jobs import Job, command, make_job
from helpers.pages import STARRED, STRONG


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    return make_job(tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module")
def lm(job):
    return load(str(job.model), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def edit(lm, tmp_path_factory):
    stem = tmp_path_factory.mktemp("edit") / "edit"
    Edit.of(gains_of(lm)).save(stem)
    return stem


def told(capsys, job, *options):
    plain = ["--dtype", "float32", "--device", "cpu", "--quiet"]
    plain += [] if "--new-tokens" in options else ["--new-tokens", "6"]
    return command(capsys, "generate", job.model, *plain, *options)


def test_texts_are_those_of_the_library(capsys, job, lm, edit, tmp_path):
    (tmp_path / "more.txt").write_text("".join(f"{text}\n" for text in TEXTS[1:4]))
    given = ["--prompt", TEXTS[0], "--prompts", tmp_path / "more.txt", "--limit", "2", "--edit", edit]
    found = json.loads(told(capsys, job, *given, "--strength", "0", "1", "-1", "--raw", "--json").out)
    prompts = TEXTS[:3]
    assert [one["prompt"] for one in found["texts"]] == prompts
    for place, strength in enumerate((0, 1, -1)):
        with Edit.load(edit).strength(strength).on(lm):
            wanted = [one.text for one in generate(lm, prompts, new_tokens=6)]
        answers = [one["answers"][place] for one in found["texts"]]
        assert [answer["text"] for answer in answers] == wanted
        assert {answer["strength"] for answer in answers} == {strength}
    assert found | {"texts": None} == {
        "model": lm.name,
        "edit": Edit.load(edit).told(lm),
        "notes": [],
        "chat": False,
        "new_tokens": 6,
        "sampling": None,
        "texts": None,
    }


@pytest.mark.parametrize(("width", "beside"), [(120, True), (40, False)])
def test_strengths_stand_side_by_side_where_there_is_room(capsys, job, edit, monkeypatch, width, beside):
    monkeypatch.setattr(terminal.out, "width", width)
    shown = told(capsys, job, "--prompt", "the cat", "--edit", edit, "--strength", "0", "0.5", "1").out
    assert "> the cat" in shown
    heads = [line for line in shown.splitlines() if "plain" in line]
    assert ("strength 0.5" in heads[0]) is beside
    assert shown.index("plain") < shown.index("strength 0.5") < shown.index("strength 1")
    assert max(map(len, shown.splitlines()[1:])) <= width


def test_without_an_edit_the_plain_model_writes_alone(capsys, job):
    shown = told(capsys, job, "--prompt", "the cat").out
    assert "edit: none" in shown
    assert "strength" not in shown


def test_an_answer_without_a_word_is_told(capsys, job, monkeypatch):
    def blank(_: Session, prompts: list[str], *__: object, **___: object) -> list[Answered]:
        return [Answered(prompt, (Answer(0.0, " \n", [1], [2]),)) for prompt in prompts]

    monkeypatch.setattr(Session, "answers", blank)
    assert "(nothing)" in told(capsys, job, "--prompt", "the cat").out
    assert json.loads(told(capsys, job, "--prompt", "the cat", "--json").out)["texts"][0]["answers"][0]["text"] == " \n"


def test_without_a_prompt_it_has_its_own(capsys, job):
    found = json.loads(told(capsys, job, "--json").out)
    assert len(found["texts"]) == 3


def test_words_are_starred_in_both_forms(capsys, job, monkeypatch):
    for form in ([], ["--json"]):
        shown = told(capsys, job, "--prompt", f"{STRONG} the cat", *form).out
        assert STARRED in shown
        assert STRONG not in shown
        assert STRONG in told(capsys, job, "--prompt", f"{STRONG} the cat", *form, "--raw").out


def test_all_strengths_draw_with_the_same_numbers(capsys, job, edit):
    drawn = ["--sample", "--temperature", "0.7", "--top-p", "0.9", "--seed", "3", "--json"]
    found = json.loads(told(capsys, job, *drawn, "--prompt", "the cat", "--edit", edit, "--strength", "0").out)
    again = json.loads(told(capsys, job, *drawn, "--prompt", "the cat").out)
    assert found["texts"] == again["texts"]
    assert found["sampling"] == {"temperature": 0.7, "top_p": 0.9, "seed": 3}
    other = [*drawn[:-3], "--seed", "4", "--json"]
    assert json.loads(told(capsys, job, *other, "--prompt", "the cat").out)["texts"] != again["texts"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--strength", "0.5"], "a strength of 0.5 needs an edit; give one with --edit, or strength 0"),
        (["--strength", "1001"], "less than or equal to 1000"),
        (["--strength", "nan"], "input should be a finite number, not nan"),
        (["--top-p", "1.5", "--sample"], "--top-p: input should be less than or equal to 1, not 1.5"),
        (["--new-tokens", "0"], "--new-tokens: input should be greater than or equal to 1, not 0"),
        (["--chat", "on"], "has no chat template; leave --chat on out"),
        (["--system", "be kind"], "has no chat template, so a system prompt has no place; leave --system out"),
        (["--edit", "none/here"], "edit:none/here names no edit; give its edit.safetensors"),
        (["--new-tokens", "128"], "do not fit into the 128 that"),
        (["--prompts", "none.txt"], "none.txt"),
    ],
)
def test_bad_input_gets_one_line(capsys, job, options, line):
    refused = told(capsys, job, *options)
    assert refused.code == 2
    assert line in refused.err
    assert refused.err.count("\n") == 1
    assert refused.out == ""
