"""What `run.json` says of a run's prompts: how many it learned from, chose on and reported on, and what read them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dposcope.jobs.record import Record


@dataclass(frozen=True)
class PromptSet:
    """Prompts of one purpose: `learn`, `choose` or `report`."""

    count: int
    digest: str
    """`text_digest` of all of them; a stage that depends on them names it among its inputs."""


def prompts_among(inputs: Mapping[str, Any], sets: Mapping[str, PromptSet]) -> tuple[str, ...]:
    """Digests of the sets of prompts that a stage depends on.

    Args:
        inputs: of the stage.
        sets: of the run.
    """
    told = json.dumps(inputs, default=str)
    return tuple(sorted({one.digest for one in sets.values() if json.dumps(one.digest) in told}))


def prompts_told(sets: Mapping[str, PromptSet], records: Mapping[str, Record]) -> dict[str, Any]:
    """Purpose → `count`, `digest`, and `read_by`: the stages that depend on these prompts.

    Args:
        sets: of the run.
        records: of all stages in its folder, those of earlier starts among them.
    """
    return {
        purpose: {
            **asdict(one),
            "read_by": [name for name, record in sorted(records.items()) if one.digest in record.prompts],
        }
        for purpose, one in sets.items()
    }
