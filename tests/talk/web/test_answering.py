import pytest

from dposcope.errors import DposcopeError
from dposcope.foreign_text import visible
from dposcope.talk.fired import fired
from dposcope.talk.session import Session
from dposcope.talk.web.answering import Question
from helpers.jobs import softness
from helpers.pages import STARRED, STRONG
from helpers.served import answering_of


def events_of(answering, **changes) -> list[dict]:
    told = []
    fields = {"prompt": "the cat sat", "strength": 1.0, "new_tokens": 6}
    answering.answer(Question(**(fields | changes)), told.append)
    return told


def test_both_sides_are_told_as_they_are_written_and_then_whole(llama):
    answering = answering_of(llama)
    told = events_of(answering)
    plain, edited = (answering.session.answer("the cat sat", strength, new_tokens=6) for strength in (0, 1))
    sides = [event["side"] for event in told[:-1]]
    assert sides == ["plain"] * len(plain.ids) + ["edited"] * len(edited.ids)
    for side, answer in (("plain", plain), ("edited", edited)):
        texts = [event["raw"] for event in told[:-1] if event["side"] == side]
        assert all(answer.text.startswith(text) for text in texts)
        found = told[-1]["answers"][side]
        assert found["raw"] == answer.text
        assert found["tokens"] == len(answer.ids)
        assert found["scores"] == {"softness": round(float(softness([answer.text])[0]), 4)}
    done = told[-1]
    text = plain.prompt_ids + plain.ids
    assert len(done["tokens"]) == len(text)
    assert done["prompt_tokens"] == len(plain.prompt_ids)
    rows = fired(answering.session, answering.neurons, text, 1)
    assert [one["name"] for one in done["neurons"]] == [row.neuron.name for row in rows]
    for one, row in zip(done["neurons"], rows, strict=True):
        assert one["before"] == pytest.approx(row.before, abs=1e-4)
        assert one["after"] == pytest.approx(row.after, abs=1e-4)
        assert one["peak"] == row.peak
        tokens = [visible(token.strip(" ") or "␣") for token in row.neuron.promotes]
        assert [token["raw"] for token in one["promotes"]] == tokens


def test_at_strength_0_both_sides_are_one(llama):
    done = events_of(answering_of(llama), strength=0.0)[-1]
    assert done["answers"]["plain"] == done["answers"]["edited"]
    for one in done["neurons"]:
        assert one["gain"] == 1
        assert one["before"] == one["after"]


def test_while_the_dial_moves_the_plain_answer_stays(llama, monkeypatch):
    answering, strengths = answering_of(llama), []
    answer = Session.answer

    def counted(self, prompt, strength, **options):
        strengths.append(strength)
        return answer(self, prompt, strength, **options)

    monkeypatch.setattr(Session, "answer", counted)
    first, second = events_of(answering), events_of(answering, strength=0.5)
    assert strengths == [0, 1, 0.5]
    assert first[-1]["answers"]["plain"] == second[-1]["answers"]["plain"]
    assert second[0]["side"] == "plain"
    events_of(answering, new_tokens=3)
    events_of(answering, prompt="who")
    assert strengths == [0, 1, 0.5, 0, 1, 0, 1]


def test_words_are_starred_across_tokens(llama):
    done = events_of(answering_of(llama), prompt=f"oh {STRONG} said")[-1]
    assert STRONG in "".join(token["raw"] for token in done["tokens"])
    masked = "".join(token["masked"] for token in done["tokens"])
    assert STRONG not in masked
    assert STARRED in masked


def test_last_words_wait_as_they_may_begin_an_entry(llama, monkeypatch):
    answer = Session.answer

    def heard_first(self, prompt, strength, *, heard, **options):
        heard(f"then he said {STRONG} to")
        return answer(self, prompt, strength, **options)

    monkeypatch.setattr(Session, "answer", heard_first)
    told = events_of(answering_of(llama))
    assert told[0] == {"event": "text", "side": "plain", "masked": "then he", "raw": "then he"}


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_a_blank_prompt_is_refused(llama, prompt):
    with pytest.raises(DposcopeError, match="the prompt is blank; type some text"):
        events_of(answering_of(llama), prompt=prompt)
