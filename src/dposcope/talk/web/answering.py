"""From a question of the page to all that the page shows: both answers, their scores, and the neurons."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from dposcope.data.masking import mask_offensive
from dposcope.data.token_ids import token_texts
from dposcope.errors import DposcopeError
from dposcope.foreign_text import visible
from dposcope.talk.fired import EditedNeuron, Fired, edited_neurons, fired
from dposcope.talk.scores import OfflineScorers
from dposcope.talk.session import PLAIN, Answer, Session
from dposcope.talk.shown import shown

MOST_LETTERS: Final = 8_000
"""Of a prompt: some 2,000 tokens."""
MOST_TOKENS: Final = 256
"""Of an answer: on two cores that is a minute."""
MOST_STRENGTH: Final = 2.0
"""Where the dial ends."""

Side = Literal["plain", "edited"]
Tell = Callable[[Mapping[str, Any]], None]
"""Sends one event to the page. What it raises ends the answer."""


@dataclass(frozen=True)
class Question:
    """What the page sends."""

    prompt: Annotated[str, Field(max_length=MOST_LETTERS)]
    strength: Annotated[float, Field(ge=0, le=MOST_STRENGTH)]
    new_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)]


@dataclass(eq=False)
class Answering:
    """Answers questions, one at a time."""

    session: Session
    scorers: OfflineScorers
    neurons: Sequence[EditedNeuron]
    """Those that are shown."""
    _last: tuple[Question, Answer] | None = field(init=False, default=None)
    """The plain model's last answer: while only the dial moves, it stays."""

    @classmethod
    def of(cls, session: Session, *, scorer: str | None = None) -> "Answering":
        """For a session.

        Args:
            session: with an edit.
            scorer: that its run was made with.
        """
        return cls(session, OfflineScorers.find(scorer), edited_neurons(session))

    def answer(self, question: Question, tell: Tell) -> None:
        """Answer a question.

        Events: `text` with the words of a side so far; then `done` with everything.

        Args:
            question: see `Question`.
            tell: told each event.

        Raises:
            DposcopeError: the prompt is blank or too long for the model.
        """
        if not question.prompt.strip():
            raise DposcopeError("the prompt is blank; type some text")
        plain = self._plain(question, tell)
        edited = self._write(question, "edited", question.strength, tell)
        text = plain.prompt_ids + plain.ids
        rows = fired(self.session, self.neurons, text, question.strength)
        tell(
            {
                "event": "done",
                "answers": {"plain": self._told(plain), "edited": self._told(edited)},
                "tokens": self._tokens(text),
                "prompt_tokens": len(plain.prompt_ids),
                "neurons": [_neuron(row, question.strength) for row in rows],
            }
        )

    def _plain(self, question: Question, tell: Tell) -> Answer:
        last = self._last
        if last is not None and (last[0].prompt, last[0].new_tokens) == (question.prompt, question.new_tokens):
            tell({"event": "text", "side": "plain", **_forms(last[1].text)})
            return last[1]
        answer = self._write(question, "plain", PLAIN, tell)
        self._last = (question, answer)
        return answer

    def _write(self, question: Question, side: Side, strength: float, tell: Tell) -> Answer:
        def heard(text: str) -> None:
            tell({"event": "text", "side": side, **_forms(text, growing=True)})

        return self.session.answer(question.prompt, strength, new_tokens=question.new_tokens, heard=heard)

    def _told(self, answer: Answer) -> dict[str, Any]:
        scores = {name: round(score, 4) for name, score in self.scorers.of(answer.text).items()}
        return {**_forms(answer.text), "tokens": len(answer.ids), "scores": scores}

    def _tokens(self, ids: Sequence[int]) -> list[dict[str, str]]:
        """Tokens in both forms. Words are masked in the whole text, as a word may have several tokens."""
        tokens = token_texts(self.session.lm.tokenizer, ids)
        masked, place = mask_offensive("".join(tokens)), 0
        forms: list[dict[str, str]] = []
        for token in tokens:
            forms.append({"masked": visible(masked[place : place + len(token)]), "raw": visible(token)})
            place += len(token)
        return forms


def _forms(text: str, *, growing: bool = False) -> dict[str, str]:
    return {"masked": shown(text, growing=growing), "raw": shown(text, raw=True, growing=growing)}


def _word(token: str) -> dict[str, str]:
    """One token that stands alone, without the space before it."""
    word = token.strip(" ") or "␣"
    return {"masked": visible(mask_offensive(word)), "raw": visible(word)}


def _neuron(row: Fired, strength: float) -> dict[str, Any]:
    return {
        "name": row.neuron.name,
        "gain": round(1 + strength * (row.neuron.gain - 1), 3),
        "before": [round(value, 4) for value in row.before],
        "after": [round(value, 4) for value in row.after],
        "peak": row.peak,
        "promotes": [_word(token) for token in row.neuron.promotes],
    }
