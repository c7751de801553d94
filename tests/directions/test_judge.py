"""Judges of tokens: the embedded list, and answers that are kept on disk."""

import json
import threading

import numpy as np
import pytest

from dposcope.data.concept import FOOD_TALK, TOXICITY, Concept
from dposcope.directions.chat import KEY_VARIABLE
from dposcope.directions.endpoint import Price
from dposcope.directions.judge import CachedJudge, ScorerJudge, WordListJudge, judge_each, load_judge
from dposcope.errors import DposcopeError
from dposcope.evaluation.scorers import load_scorer
from helpers.endpoints import completion, serving


class Recorder:
    """A judge that finds tokens with an "x" toxic and remembers what it was asked."""

    def __init__(self, name="recorder", fail_at=None):
        self.name = name
        self.asked = []
        self._fail_at = fail_at

    def __call__(self, tokens):
        if len(self.asked) == self._fail_at:
            raise KeyboardInterrupt
        self.asked.append(list(tokens))
        return ["x" in token for token in tokens]


def answers_in(path):
    return json.loads(path.read_text())["answers"]


# The embedded list


def test_the_word_list_knows_mild_words_in_any_dress():
    judge = WordListJudge()
    assert judge([" stupid", "Idiot", "▁idiots", "Ġstupid", "river", "", "stup"]) == [True] * 4 + [False] * 3
    assert judge([]) == []
    assert judge.name == "word list"


# Of another concept


class Rain:
    """A scorer with one half for the first word of its list, a little less for the second."""

    name = "rain"

    def __call__(self, texts):
        return np.array([{"rain": 0.5, "drizzle": 0.4, "damp": 0.39}.get(text, 0.0) for text in texts])


RAIN = Concept(name="rain-talk", adjective="rainy", comments="c.csv", prompts="p.txt", scorer="helpers.jobs:softness")


def test_the_scorer_of_another_concept_judges_its_tokens():
    judge = ScorerJudge(Rain())
    assert judge(["Ġrain", "▁drizzle", " damp", "stupid", ""]) == [True, True, False, False, False]
    assert judge([]) == []
    assert judge.name == "rain, 0.4 and more"
    assert load_judge("words", concept=RAIN, scorer=Rain()).name == judge.name
    with pytest.raises(DposcopeError, match="tokens of food talk are judged by its scorer; give scorer"):
        load_judge("words", concept=FOOD_TALK)
    assert load_judge("words", concept=FOOD_TALK, scorer=load_scorer(FOOD_TALK.scorer))(
        [" bread", "stupid", " road"]
    ) == [True, False, False]
    assert isinstance(load_judge("words", concept=TOXICITY, scorer=Rain()), WordListJudge)


# One question per token


def test_each_different_token_is_asked_once_in_the_order_of_first_sight():
    judge = Recorder()
    assert judge_each(judge, ["b", "x", "b", "a", "x"]) == {"b": False, "x": True, "a": False}
    assert judge.asked == [["b", "x", "a"]]


@pytest.mark.parametrize("given", [[], [True], [True, False, True]])
def test_another_number_of_answers_is_refused(given):
    class Miscounts:
        name = "m"

        def __call__(self, tokens):
            return given

    with pytest.raises(DposcopeError, match=rf"judge m gave {len(given)} answers? for 2 tokens; return one per token"):
        judge_each(Miscounts(), ["a", "b"])


# Kept answers


def test_a_second_call_asks_nothing_and_a_second_run_neither(tmp_path):
    path = tmp_path / "deep" / "answers.json"
    first = Recorder()
    judge = CachedJudge(first, path, batch_size=2)
    tokens = ["a", "x", "b", "a", "xx"]
    assert judge(tokens) == judge(tokens) == [False, True, False, False, True]
    assert first.asked == [["a", "x"], ["b", "xx"]]
    again = Recorder()
    assert CachedJudge(again, path)(["xx", "a", "new"]) == [True, False, False]
    assert again.asked == [["new"]]
    assert judge.name == "recorder"


def test_answers_survive_a_kill_in_the_middle(tmp_path):
    path = tmp_path / "answers.json"
    tokens = [f"{'x' * (i % 2)}{i}" for i in range(7)]
    killed = Recorder(fail_at=2)
    with pytest.raises(KeyboardInterrupt):
        CachedJudge(killed, path, batch_size=2)(tokens)
    assert answers_in(path) == {"recorder": {token: "x" in token for token in tokens[:4]}}
    resumed = Recorder()
    assert CachedJudge(resumed, path, batch_size=2)(tokens) == ["x" in token for token in tokens]
    assert resumed.asked == [tokens[4:6], tokens[6:]]


def test_a_batch_is_on_disk_before_the_next_is_asked(tmp_path):
    path = tmp_path / "answers.json"
    seen = []

    class Looks:
        name = "looks"

        def __call__(self, tokens):
            seen.append(sorted(answers_in(path)["looks"]) if path.exists() else [])
            return [False] * len(tokens)

    CachedJudge(Looks(), path, batch_size=2)(["a", "b", "c", "d", "e"])
    assert seen == [[], ["a", "b"], ["a", "b", "c", "d"]]


def test_judges_share_a_file_and_not_their_answers(tmp_path):
    path = tmp_path / "answers.json"
    CachedJudge(Recorder("one"), path)(["a"])
    other = Recorder("two")
    CachedJudge(other, path)(["a", "x"])
    assert other.asked == [["a", "x"]]
    assert answers_in(path) == {"one": {"a": False}, "two": {"a": False, "x": True}}


def test_a_run_that_began_earlier_does_not_undo_what_a_later_wrote(tmp_path):
    path = tmp_path / "answers.json"
    early = CachedJudge(Recorder(), path)
    CachedJudge(Recorder(), path)(["late"])
    early(["early"])
    assert answers_in(path) == {"recorder": {"late": False, "early": False}}


def test_runs_at_the_same_time_lose_nothing(tmp_path):
    path = tmp_path / "answers.json"
    batches = {name: [f"{name}{i}" for i in range(12)] for name in ("a", "b", "c")}
    threads = [
        threading.Thread(target=CachedJudge(Recorder(name), path, batch_size=1), args=(tokens,))
        for name, tokens in batches.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: sorted(kept) for name, kept in answers_in(path).items()} == {
        name: sorted(tokens) for name, tokens in batches.items()
    }


def test_any_token_can_be_kept(tmp_path):
    tokens = ["\ud83d", "\x00", "\u2028", '"', "\\", "", " ", "☃", "\ufffd"]
    path = tmp_path / "answers.json"
    CachedJudge(Recorder(), path)(tokens)
    again = Recorder()
    CachedJudge(again, path)(tokens)
    assert again.asked == []


def test_what_will_be_asked_is_announced_once_and_progress_after_each_batch(tmp_path):
    announced, done = [], []
    judge = CachedJudge(
        Recorder(),
        tmp_path / "answers.json",
        batch_size=2,
        before=lambda tokens: announced.append(list(tokens)),
        progress=lambda *counts: done.append(counts),
    )
    judge(["a", "b", "a", "c"])
    judge(["a"])
    assert announced == [["a", "b", "c"]]
    assert done == [(2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "holds a list where an object belongs; delete it, or name another file"),
        ('{"kind": "other", "answers": {}}', "does not hold a judge's answers"),
        ('{"kind": "TokenAnswers", "format_version": 1}', "does not hold a judge's answers"),
        ('{"kind": "TokenAnswers", "format_version": 1, "answers": {"j": {"a": 1}}}', "does not hold a judge's"),
        ('{"kind": "TokenAnswers", "format_version": 1, "answers": {"j": []}}', "does not hold a judge's answers"),
        (
            '{"kind": "TokenAnswers", "format_version": 2, "answers": {}}',
            "has another format version; upgrade dposcope",
        ),
        ('{"kind": "TokenAnswers", "answers": {}}', "has another format"),
    ],
)
def test_a_file_that_holds_no_answers_is_refused_and_left_alone(tmp_path, content, message):
    path = tmp_path / "answers.json"
    path.write_text(content)
    with pytest.raises(DposcopeError, match=message):
        CachedJudge(Recorder(), path)
    assert path.read_text() == content


def test_a_file_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    judge = CachedJudge(Recorder(), tmp_path / "elsewhere" / "answers.json")
    (tmp_path / "elsewhere").write_text("in the way")
    with pytest.raises(DposcopeError, match=r"cannot write .*answers\.json: .*; free the path, or name another cache"):
        judge(["a"])


def test_a_batch_below_one_is_refused(tmp_path):
    with pytest.raises(DposcopeError, match="batch_size 0 is below 1; give 1 or more"):
        CachedJudge(Recorder(), tmp_path / "answers.json", batch_size=0)


# By name


def test_words_is_the_embedded_list():
    assert isinstance(load_judge("words"), WordListJudge)


@pytest.mark.parametrize("spec", ["word", "gpt-4o", "ftp://host", ""])
def test_an_unknown_judge_is_refused(spec):
    with pytest.raises(DposcopeError, match=r"no token judge .*; choose words, or an endpoint such as https://"):
        load_judge(spec)


@pytest.mark.parametrize("spec", ["https://me:secret@host/v1", "HTTPS://secret@host/v1#m"])
def test_a_secret_in_the_address_is_not_repeated(spec):
    with pytest.raises(DposcopeError, match=KEY_VARIABLE) as caught:
        load_judge(spec)
    assert "secret" not in str(caught.value)


def test_an_endpoint_is_announced_asked_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("DPOSCOPE_CACHE", str(tmp_path))

    def rude(request):
        pairs = json.loads(request.body["messages"][1]["content"])
        return completion(json.dumps([[number, "dumb" in token] for number, token in pairs]))

    tokens = [f"t{i}" for i in range(60)] + ["dumb", "t0"]
    told, done = [], []
    with serving(rude) as server:
        for _ in range(2):
            judge = load_judge(
                f"{server.url}#some-model",
                price=Price(2.5, 10),
                requests_per_minute=1e9,
                announce=told.append,
                progress=lambda *counts: done.append(counts),
            )
            assert judge(tokens) == [False] * 60 + [True, False]
    assert [request.body["model"] for request in server.requests] == ["some-model"] * 2
    (line,) = told
    assert line.startswith(f"61 tokens for some-model at {server.url.removeprefix('http://')}, prompt ")
    assert ": 2 requests, about " in line
    assert "cost about 0.0" in line
    assert done == [(50, 61), (61, 61)]
    assert answers_in(tmp_path / "token_judge.json")[judge.name]["dumb"] is True


def test_without_a_name_the_model_is_the_papers(tmp_path):
    assert load_judge("https://host/v1", cache=tmp_path / "a.json").name.startswith("gpt-4o at host/v1, prompt ")
