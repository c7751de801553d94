"""Which stages of a job read which texts, told by words that stand in no other text."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from dposcope.evaluation.scorer import Scorer
from dposcope.jobs.run import Run, nothing

NO_STAGE = ""
"""In place of a stage's name: what a job reads between its stages."""


@contextmanager
def readers(words: Sequence[str]) -> Iterator[Mapping[str, set[str]]]:
    """While this lasts: word → names of the stages in which a tokenizer or a scorer was given a text that holds it.

    All stages of all runs are watched, those of runs within a run by the name of the innermost one.
    """
    found: dict[str, set[str]] = {word: set() for word in words}
    within = [NO_STAGE]

    def read(given: Any) -> None:
        if isinstance(given, str):
            for word in words:
                if word in given:
                    found[word].add(within[-1])
        elif isinstance(given, Sequence):
            for one in given:
                read(one)

    def watched(function):
        def reading(self, *given, **named):
            read([*given, *named.values()])
            return function(self, *given, **named)

        return reading

    stage = Run.stage

    def named_stage(self, name, title, *, make, write=nothing, **others):
        def inside(step):
            def within_it(*made):
                within.append(name)
                try:
                    return step(*made)
                finally:
                    within.pop()

            return within_it

        return stage(self, name, title, make=inside(make), write=inside(write), **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "stage", named_stage)
        # Every way to token ids goes through the one or the other.
        for name in ("_encode_plus", "tokenize"):
            patch.setattr(PreTrainedTokenizerFast, name, watched(getattr(PreTrainedTokenizerFast, name)))
        patch.setattr(Scorer, "__call__", watched(Scorer.__call__))
        yield found
