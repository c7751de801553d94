"""A conversation with the plain model beside one with the edited model: each remembers its own answers."""

from dataclasses import dataclass, field

from dposcope.model.chat.asking import Turn
from dposcope.talk.session import PLAIN, Answer, Heard, Session


@dataclass(eq=False)
class Conversation:
    """Two conversations with the same questions. Without a chat template nothing is remembered."""

    session: Session
    strength: float = 1.0
    """Of the edit on the edited side; the other side is the plain model."""
    _said: dict[bool, list[Turn]] = field(init=False, default_factory=lambda: {False: [], True: []})

    def ask(self, line: str, *, edited: bool, heard: Heard | None = None) -> Answer:
        """The answer of one side. It is remembered only when it is complete.

        Args:
            line: what the user says.
            edited: which side answers.
            heard: told the text so far after each token.

        Raises:
            DposcopeError: the conversation has grown too long for the model.
        """
        turns = (*self._said[edited], Turn("user", line))
        answer = self.session.answer(turns, self.strength if edited else PLAIN, heard=heard)
        asking = self.session.lm.asking
        if asking is not None:
            # As the model read it: a template is given the last turn in its wrapper, and those before it as they are.
            asked = Turn("user", asking.wrapped(line))
            begun = asking.begun(turns)
            # A message begins without the space that some tokenizers put between it and what is before it.
            said = begun + answer.text if begun else self._alone(answer)
            self._said[edited] = [*self._said[edited], asked, Turn("assistant", said)]
        return answer

    def _alone(self, answer: Answer) -> str:
        lm = self.session.lm
        return str((lm.writer or lm.tokenizer).decode(answer.ids, skip_special_tokens=True))

    def withdraw(self, *, edited: bool) -> None:
        """Forget the last question and answer of one side, where the other could not answer."""
        del self._said[edited][-2:]

    def reset(self) -> None:
        """Forget what was said."""
        for said in self._said.values():
            said.clear()
