"""The servers of `--engine openai`: one for the plain model, and one for each condition."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.outcome import Outcome
from dposcope.evaluation.conditions.scores import BASE
from dposcope.jobs.ingredients.job import Job
from dposcope.jobs.reporter import Reporter
from dposcope.model.engine.endpoint import EXAMPLE, CompletionsEndpoint
from dposcope.model.engine.served import Served
from dposcope.model.language_model import LanguageModel


@dataclass(frozen=True)
class Servers:
    """Where texts are written."""

    endpoints: Mapping[str, CompletionsEndpoint]
    """Condition → its server; the plain model's is `none`."""
    at_once: int
    """Requests at a time, to each."""

    @classmethod
    def read(cls, addresses: Sequence[str], conditions: Sequence[str], *, at_once: int) -> "Servers":
        """What `--base-url` says: `URL` or `URL#MODEL` for the plain model, `CONDITION=URL#MODEL` for a condition.

        Args:
            addresses: as given.
            conditions: names of all conditions, without that of the plain model.
            at_once: requests at a time.

        Raises:
            DposcopeError: an address is none; or a condition has no server, two, or that of another one.
        """
        found: dict[str, CompletionsEndpoint] = {}
        asked: dict[tuple[str, str], str] = {}
        for given in addresses:
            named = re.fullmatch(r"(.*?)=(https?://.*)", given, flags=re.IGNORECASE | re.DOTALL)
            name, address = (named[1], named[2]) if named else (BASE, given)
            if name not in (BASE, *conditions):
                known = ", ".join(conditions) or "none is given"
                raise DposcopeError(f"--base-url {name}=… names no condition ({known}); name one of them before the =")
            if name in found:
                raise DposcopeError(f"two servers are named for {name}; give --base-url once for each condition")
            url, _, model = address.partition("#")
            found[name] = CompletionsEndpoint(url, model=model or None)
            other = asked.setdefault((found[name].url, model), name)
            if other != name:
                raise DposcopeError(
                    f"{name} and {other} have one server and one model, which cannot be both; fold the edit and serve "
                    "it under a name or an address of its own"
                )
        for name in (BASE, *conditions):
            if name not in found:
                own = EXAMPLE if name == BASE else f"{name}={EXAMPLE}"
                raise DposcopeError(
                    f"--engine openai has no server for {name}; give --base-url {own!r}, or with the name of its model "
                    f"{own + '#NAME'!r}"
                )
        return cls(found, at_once)

    def connect(self, reporter: Reporter, lm: LanguageModel, prompts: Sequence[str]) -> dict[str, Served]:
        """Condition → its server, asked for its model and tried.

        Raises:
            DposcopeError: see `Served.connect`; or two conditions turn out to have one model.
        """
        served: dict[str, Served] = {}
        for name, endpoint in self.endpoints.items():
            reporter.stage(f"Asking the server of {name}: {endpoint.url}")
            served[name] = Served.connect(endpoint, lm, prompts, at_once=self.at_once)
            twin = next(
                (other for other, one in served.items() if other != name and one.name == served[name].name), None
            )
            if twin is not None:
                raise DposcopeError(f"{name} and {twin} are the same model of one server; name another after a #")
        return served


def connected(job: Job, servers: Servers | None) -> dict[str, Served]:
    """The servers of a job, tried with its report prompts; none where the model itself writes."""
    return {} if servers is None else servers.connect(job.run.reporter, job.lm, job.data.report.prompts)


def told(served: Served, outcome: Outcome) -> dict[str, Any]:
    """What `scores.json` says of the server that wrote a condition's texts."""
    agreed = outcome.agreement
    return {
        "address": served.endpoint.url,
        **served.identity,
        "agreement": None if agreed is None else agreed.to_json(),
    }
