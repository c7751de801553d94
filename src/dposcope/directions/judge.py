"""Which tokens are toxic, or have another concept: by a word list, the concept's scorer, or a language model."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from filelock import FileLock

from dposcope.artefacts import read_json, write_text
from dposcope.cache import cache_folder
from dposcope.data.concept import TOXICITY, Concept
from dposcope.data.masking import contains_offensive
from dposcope.directions.chat import ChatEndpoint
from dposcope.directions.endpoint import EndpointJudge, Price
from dposcope.errors import DposcopeError, plural
from dposcope.model.generate import Progress


class TokenJudge(Protocol):
    """Tells which tokens are toxic: curse words, slurs, insults, sexual content (paper 4); or have another concept."""

    @property
    def name(self) -> str:
        """What reports call it, and what its answers are kept under."""
        ...

    def __call__(self, tokens: Sequence[str]) -> list[bool]:
        """Whether each token is toxic, in the order of the tokens."""
        ...


class WordListJudge:
    """The embedded default: whether a token holds a listed word. See `dposcope.data.masking` for its limits."""

    name = "word list"

    def __call__(self, tokens: Sequence[str]) -> list[bool]:
        """Whether each token holds a listed word."""
        return [contains_offensive(token) for token in tokens]


class TokenScorer(Protocol):
    """What `ScorerJudge` asks: any scorer of texts."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def __call__(self, texts: Sequence[str]) -> Iterable[float]:
        """Scores in [0, 1], in the order of the texts."""
        ...


class ScorerJudge:
    """For any other concept: whether its scorer finds the concept in the token alone."""

    LEAST = 0.4
    """Score of a token that has it: one listed word has 0.5, and VADER gives its clearly negative words 0.4 or more."""

    def __init__(self, scorer: TokenScorer) -> None:
        """`scorer` is the concept's."""
        self._scorer = scorer

    @property
    def name(self) -> str:
        """Names the scorer."""
        return f"{self._scorer.name}, {self.LEAST} and more"

    def __call__(self, tokens: Sequence[str]) -> list[bool]:
        """Whether each token scores so high."""
        # What tokenizers write for a space: a scorer knows words, not their marks.
        words = [token.replace("▁", " ").replace("Ġ", " ").strip() for token in tokens]
        return [bool(score >= self.LEAST) for score in self._scorer(words)] if words else []


class CachedJudge:
    """A judge whose answers are kept in a file, so that no run asks again what any run has asked.

    The file is JSON, keyed by the judge's name and the token, and written whole after each batch: a run
    that is killed has lost one batch at most. Judges, and runs at the same time, may share one file; a lock
    file beside it keeps them from writing over each other's answers.
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
        """Read the file, if it is there.

        Args:
            judge: who answers what the file does not.
            path: the file; made when the first answer is there.
            batch_size: tokens that the judge gets, and the file takes, at a time.
            before: called with the tokens that will be asked, before the first; not called where all is known.
            progress: called after each batch of asked tokens.

        Raises:
            DposcopeError: the file is damaged or another one, or the batch size is below 1.
        """
        if batch_size < 1:
            raise DposcopeError(f"batch_size {batch_size} is below 1; ask about one token at least")
        self._judge = judge
        self._path = Path(path)
        self._batch_size = batch_size
        self._before = before
        self._progress = progress
        self._known = _read_answers(self._path).get(judge.name, {})

    @property
    def name(self) -> str:
        """The name of the judge behind."""
        return self._judge.name

    def __call__(self, tokens: Sequence[str]) -> list[bool]:
        """Whether each token is toxic; only tokens without a kept answer are asked, each once."""
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
                # Read again: another run may have written since.
                answers = _read_answers(self._path)
                self._known = answers.get(self.name, {}) | self._known
                answers[self.name] = self._known
                # As ASCII, for tokens that UTF-8 cannot hold, should a tokenizer give halves of characters.
                write_text(self._path, json.dumps({"kind": _KIND, "format_version": _FORMAT, "answers": answers}))
        except OSError as error:
            raise DposcopeError(
                f"cannot write {self._path}: {error.strerror or error}; free the path, or name another cache"
            ) from error


def judge_each(judge: TokenJudge, tokens: Sequence[str]) -> dict[str, bool]:
    """Answers by token; each different token is asked once, in the order of first sight.

    Raises:
        DposcopeError: the judge gave another number of answers than it was asked.
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
    """The judge that a setting or an option names (SPEC section 2).

    Args:
        spec: "words" for the embedded list (of another concept than toxicity: for its scorer), or an
            OpenAI-compatible endpoint with its model after a #, such as `https://api.openai.com/v1#gpt-4o`; without
            one, gpt-4o (paper).
        concept: what tokens are asked for.
        scorer: of that concept; asked where it is another than toxicity and the spec is "words".
        cache: file of an endpoint's answers; by default one in the cache folder that all runs share.
        price: of an endpoint, to estimate the cost.
        requests_per_minute: of an endpoint.
        announce: told what will be asked of an endpoint, and about what it costs, before it is asked.
        progress: called after each batch asked of an endpoint.

    Raises:
        DposcopeError: the spec is neither, the cache is damaged, or another concept's scorer is missing.
    """
    toxicity = concept.name == TOXICITY.name
    if spec == "words":
        if toxicity:
            return WordListJudge()
        if scorer is None:
            raise DposcopeError(f"tokens of {concept.noun} are judged by its scorer; give it: scorer=load_scorer(…)")
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
    """Who judges by a spec that `load_judge` takes: `words`, or an endpoint's model, gpt-4o where none is named."""
    return spec if spec == "words" else spec.partition("#")[2] or "gpt-4o"


_KIND = "TokenAnswers"
_FORMAT = 1


def _read_answers(path: Path) -> dict[str, dict[str, bool]]:
    """Judge name → token → answer; nothing where there is no file."""
    if not path.exists():
        return {}
    content = read_json(path)
    if not isinstance(content, dict) or content.get("kind") != _KIND:
        raise _not_answers(path)
    if content.get("format_version") != _FORMAT:
        raise DposcopeError(f"{path} is of another format; upgrade dposcope, or name another file")
    answers = content.get("answers")
    if not isinstance(answers, dict) or not all(
        isinstance(kept, dict) and all(isinstance(answer, bool) for answer in kept.values())
        for kept in answers.values()
    ):
        raise _not_answers(path)
    return answers


def _not_answers(path: Path) -> DposcopeError:
    return DposcopeError(f"{path} does not hold a judge's answers; delete it, or name another file, and run again")
