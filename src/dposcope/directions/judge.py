"""Judges that decide which tokens are toxic, or have another concept: a word list, a scorer or a language model."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from filelock import FileLock

from dposcope.artefacts import write_text
from dposcope.cache import cache_folder
from dposcope.data.concept import TOXICITY, Concept, check_concept
from dposcope.data.masking import contains_offensive
from dposcope.data.texts import check_text, check_texts
from dposcope.directions.chat import ChatEndpoint
from dposcope.directions.endpoint import EndpointJudge, Price
from dposcope.errors import DposcopeError, plural
from dposcope.model.generate import Progress
from dposcope.processes.shared import once
from dposcope.reading import read_object


class TokenJudge(Protocol):
    """Decides which tokens are toxic (curse words, slurs, insults, sexual content; paper 4) or have another concept."""

    @property
    def name(self) -> str:
        """Its name in reports and in the file of its answers."""
        ...

    def __call__(self, tokens: Sequence[str]) -> list[bool]:
        """Whether each token is toxic, in the order of the tokens."""
        ...


class WordListJudge:
    """The default: whether a token contains a listed word. `dposcope.data.masking` describes the limits of the list."""

    name = "word list"

    def __call__(self, tokens: Sequence[str]) -> list[bool]:
        """Whether each token contains a listed word."""
        check_texts("tokens", tokens)
        return [contains_offensive(token) for token in tokens]


class TokenScorer(Protocol):
    """A scorer of texts, as `ScorerJudge` needs it."""

    @property
    def name(self) -> str:
        """Its name in reports."""
        ...

    def __call__(self, texts: Sequence[str]) -> Iterable[float]:
        """Scores in [0, 1], in the order of the texts."""
        ...


class ScorerJudge:
    """The default for other concepts: whether the concept's scorer gives the token a high score."""

    LEAST = 0.4
    """Lowest score of a token with the concept: a listed word has 0.5, clearly negative words in VADER 0.4 or more."""

    def __init__(self, scorer: TokenScorer) -> None:
        """Judge by the concept's `scorer`."""
        self._scorer = scorer

    @property
    def name(self) -> str:
        """The scorer's name and the limit."""
        return f"{self._scorer.name}, {self.LEAST} and more"

    def __call__(self, tokens: Sequence[str]) -> list[bool]:
        """Whether the score of each token reaches the limit."""
        # Remove the tokenizer's marks for a space, which a scorer does not know.
        words = [token.replace("▁", " ").replace("Ġ", " ").strip() for token in tokens]
        return [bool(score >= self.LEAST) for score in self._scorer(words)] if words else []


class CachedJudge:
    """A judge with a cache: its answers are kept in a file, so that no token is sent to the judge twice.

    The file is JSON, with the judge's name and the token as keys. It is written whole after each batch, so an
    interrupted run loses one batch at most. Several judges and simultaneous runs may share one file; a lock file
    protects it.
    """

    def __init__(
        self,
        judge: TokenJudge,
        path: str | Path,
        *,
        batch_size: int = 50,
        before: Callable[[Sequence[str]], None] | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Read the file, if it exists.

        Args:
            judge: judges the tokens that the file does not have.
            path: the file; the first answers create it.
            batch_size: tokens that are judged and written at a time.
            before: called once with all tokens that will be judged; not called if there are none.
            progress: called after each batch of judged tokens.

        Raises:
            DposcopeError: the file is damaged or of another kind, or the batch size is below 1.
        """
        if batch_size < 1:
            raise DposcopeError(f"batch_size {batch_size} is below 1; give 1 or more")
        self._judge = judge
        self._path = Path(path)
        self._batch_size = batch_size
        self._before = before
        self._progress = progress
        self._known = _read_answers(self._path).get(judge.name, {})

    @property
    def name(self) -> str:
        """The name of the judge that is cached."""
        return self._judge.name

    def __call__(self, tokens: Sequence[str]) -> list[bool]:
        """Whether each token is toxic. Only tokens without a cached answer go to the judge, each once."""
        return once(lambda: self._answers(tokens))

    def _answers(self, tokens: Sequence[str]) -> list[bool]:
        unseen = [token for token in dict.fromkeys(tokens) if token not in self._known]
        if unseen and self._before is not None:
            self._before(unseen)
        for start in range(0, len(unseen), self._batch_size):
            batch = unseen[start : start + self._batch_size]
            self._keep(judge_each(self._judge, batch))
            if self._progress is not None:
                self._progress(start + len(batch), len(unseen))
        return [self._known[token] for token in tokens]

    def _keep(self, fresh: dict[str, bool]) -> None:
        self._known.update(fresh)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self._path.with_name(self._path.name + ".lock")):
                # Read again, as another run may have written in the meantime.
                answers = _read_answers(self._path)
                self._known = answers.get(self.name, {}) | self._known
                answers[self.name] = self._known
                # As ASCII: a tokenizer may give halves of characters, which UTF-8 cannot hold.
                write_text(self._path, json.dumps({"kind": _KIND, "format_version": _FORMAT, "answers": answers}))
        except OSError as error:
            raise DposcopeError(
                f"cannot write {self._path}: {error.strerror or error}; free the path, or name another cache"
            ) from error


def check_judge(given: object) -> None:
    """Refuse what is no judge, such as its name.

    Raises:
        DposcopeError: it is none.
    """
    if not callable(given) or not hasattr(given, "name"):
        raise DposcopeError(f"a {type(given).__name__} is no judge; give what dposcope.load_judge returns")


def judge_each(judge: TokenJudge, tokens: Sequence[str]) -> dict[str, bool]:
    """Answers by token. Each distinct token is judged once, in order of first appearance.

    Raises:
        DposcopeError: the number of answers is not the number of tokens.
    """
    distinct = list(dict.fromkeys(tokens))
    answers = judge(distinct)
    if len(answers) != len(distinct):
        raise DposcopeError(
            f"judge {judge.name} gave {plural(len(answers), 'answer')} for {plural(len(distinct), 'token')}; "
            "return one per token"
        )
    return {token: bool(answer) for token, answer in zip(distinct, answers, strict=True)}


def load_judge(
    spec: str,
    *,
    concept: Concept = TOXICITY,
    scorer: TokenScorer | None = None,
    cache: str | Path | None = None,
    price: Price | None = None,
    requests_per_minute: float = 60.0,
    announce: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> TokenJudge:
    """The judge that a setting or an option names.

    Args:
        spec: "words", or an OpenAI-compatible endpoint with its model after a #, such as
            `https://api.openai.com/v1#gpt-4o` (without a model: gpt-4o, as in the paper). "words" is the built-in word
            list for toxicity, and the concept's scorer for any other concept.
        concept: the concept that tokens are judged for.
        scorer: scorer of that concept; needed for "words" if the concept is not toxicity.
        cache: file for the answers of an endpoint; None: a file in the cache folder, which all runs share.
        price: price of an endpoint, to estimate the cost.
        requests_per_minute: limit for an endpoint.
        announce: called before an endpoint is used, with the number of tokens and the estimated cost.
        progress: called after each batch that an endpoint has judged.

    Raises:
        DposcopeError: the spec has another form, the cache is damaged, or the scorer of another concept is missing.
    """
    check_text("spec", spec)
    check_concept(concept)
    toxicity = concept.name == TOXICITY.name
    if spec == "words":
        if toxicity:
            return WordListJudge()
        if scorer is None:
            raise DposcopeError(f"the tokens of {concept.noun} are judged by its scorer; give scorer=load_scorer(…)")
        return ScorerJudge(scorer)
    if not spec.lower().startswith(("http://", "https://")):
        raise DposcopeError(
            f"no token judge {spec!r}; choose words, or an endpoint such as https://api.openai.com/v1#gpt-4o"
        )
    endpoint = ChatEndpoint(spec.partition("#")[0], model=judge_model(spec), requests_per_minute=requests_per_minute)
    judge = EndpointJudge(endpoint, price=price, concept=None if toxicity else concept)

    def before(tokens: Sequence[str]) -> None:
        if announce is not None:
            announce(f"{plural(len(tokens), 'token')} for {judge.name}: {judge.cost_estimate(tokens)}")

    return CachedJudge(
        judge,
        cache or cache_folder() / "token_judge.json",
        batch_size=judge.batch_size,
        before=before,
        progress=progress,
    )


def judge_model(spec: str) -> str:
    """The judge in a spec of `load_judge`: `words`, or the model of an endpoint (gpt-4o if none is named)."""
    return spec if spec == "words" else spec.partition("#")[2] or "gpt-4o"


_KIND = "TokenAnswers"
_FORMAT = 1


def _read_answers(path: Path) -> dict[str, dict[str, bool]]:
    """Judge name → token → answer; empty if there is no file."""
    if not path.exists():
        return {}
    # Not by a schema: its texts may hold halves of characters, as a tokenizer gives them.
    content = read_object(path, mend="delete it, or name another file, and run again")
    if content.get("kind") != _KIND:
        raise _not_answers(path)
    if content.get("format_version") != _FORMAT:
        raise DposcopeError(f"{path} has another format version; upgrade dposcope, or name another file")
    answers = content.get("answers")
    if not isinstance(answers, dict) or not all(
        isinstance(kept, dict) and all(isinstance(answer, bool) for answer in kept.values())
        for kept in answers.values()
    ):
        raise _not_answers(path)
    return answers


def _not_answers(path: Path) -> DposcopeError:
    return DposcopeError(f"{path} does not hold a judge's answers; delete it, or name another file, and run again")
