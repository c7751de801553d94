"""What a model hub reads at the head of a card: licence, base model, task, library, and the measured numbers."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from dposcope.evaluation.conditions.scores import BASE, HELD_OUT, Scores
from dposcope.foreign_text import front_matter, one_line
from dposcope.model.bundled import BUNDLED
from dposcope.report.costs import scorer_label

_HEAD: Final = re.compile(r"\A---\n(.*?)^---$", re.DOTALL | re.MULTILINE)
_LICENCE: Final = re.compile(r"^license:[ \t]*[\"']?([\w.-]+)[\"']?[ \t]*$", re.MULTILINE)
_MEASURED: Final = {"logppl": "log-perplexity, nats per token", "f1": "F1", "repetition": "repetition"}


def card_head(
    base: str, *, library: str = "transformers", tags: Sequence[str], scores: Scores | None = None
) -> list[str]:
    """The YAML lines of a card.

    Args:
        base: name of the model that was edited or tuned.
        library: which library loads the folder.
        tags: for a search on the hub.
        scores: of the edit, for the numbers; None: none were measured.
    """
    bundled = BUNDLED.get(base)
    fields: dict[str, Any] = {
        "library_name": library,
        "base_model": base if bundled is None else bundled.hub_id,
        "pipeline_tag": "text-generation",
        "tags": ["dposcope", *tags],
    }
    if bundled is not None:
        fields["license"] = bundled.licence_id
    if scores is not None and "edit" in scores.conditions:
        fields["model-index"] = [_index(base, scores)]
    return front_matter(fields)


def _index(base: str, scores: Scores) -> dict[str, Any]:
    before, after = scores.conditions[BASE], scores.conditions["edit"]
    named = {"toxicity": scores.concept, **{name: scorer_label(name) for name in scores.scorers[1:]}, **_MEASURED}
    metrics = [
        {
            "type": one_line(scores.concept if measure == "toxicity" else measure),
            "name": one_line(f"{label}, mean and 95 % interval {after[measure]}; before {before[measure]}"),
            "value": round(after[measure].mean, 6),
        }
        for measure, label in named.items()
        if measure in after and measure in before
    ]
    return {
        "name": one_line(f"{base}, edited"),
        "results": [
            {
                "task": {"type": "text-generation"},
                "dataset": {"type": "prompts", "name": f"{after['toxicity'].n} {_prompts(scores)}"},
                "metrics": metrics,
            }
        ],
    }


def _prompts(scores: Scores) -> str:
    told = "held-out prompts of the run"
    return told if scores.about.get(HELD_OUT, True) else "prompts of the run, which the edit was made from, too"


def licence_in(card: str) -> str | None:
    """The licence that the head of a card names; None where it names none."""
    head = _HEAD.match(card)
    found = None if head is None else _LICENCE.search(head[1])
    return None if found is None else found[1]


def with_fields(card: str, fields: Mapping[str, str]) -> str:
    """A card whose head has further fields; those that it has already stay as they are."""
    head = _HEAD.match(card)
    if head is None:
        return "\n".join([*front_matter(fields), "", card])
    new = {name: value for name, value in fields.items() if not re.search(rf"^{name}:", head[1], re.MULTILINE)}
    lines = front_matter(new)[1:-1]
    return card[: head.end(1)] + "".join(f"{line}\n" for line in lines) + card[head.end(1) :]
