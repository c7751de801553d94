"""Tables over several explanations: main findings, the paper's claims, its short tables, settings of the runs."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from dposcope.data.concept import TOXICITY
from dposcope.evaluation.conditions.scores import BASE, Scores
from dposcope.evaluation.numbers import DIFFERENCE, MEAN, NOTHING, RATIO, SHARE, count
from dposcope.evaluation.statistics.intervals import columns_of
from dposcope.jobs.explain.conditions import TUNED
from dposcope.jobs.explain.facts import ClaimFacts
from dposcope.jobs.explain.patches import FOUR_GROUPS, RANDOM_BY_BLOCK, TOXIC_TOKENS
from dposcope.jobs.finished import About
from dposcope.jobs.reproduce.finished import FinishedRun
from dposcope.report.costs import UNSHARED, UNSHARED_NOTE, cost_columns, cost_values, meaning_of, scorer_label
from dposcope.report.glossary import sentence_case
from dposcope.report.table import Column, Table, frame_of, led_by

_OF_RUN = (Column("model", "model"), Column("study", "study"), Column("protocol", "protocol"))


def overview_tables(runs: Sequence[FinishedRun]) -> list[Table]:
    """All tables: main findings, claims, the paper's short tables, settings of the runs."""
    return [findings_table(runs), claims_over_runs(runs), *joint_tables(runs), made_of_table(runs)]


# What each run found


def findings_table(runs: Sequence[FinishedRun]) -> Table:
    """One line per run: what tuning did by every scorer, what it cost, and how much of it patching gives."""
    concepts = {run.scores.concept: None for run in runs}
    (noun,) = concepts if len(concepts) == 1 else ("concept",)
    patched = {
        TOXIC_TOKENS: ("share_toxic_tokens", "share: listed tokens"),
        FOUR_GROUPS: (f"share_{FOUR_GROUPS.removeprefix('patch-')}", "share: four groups"),
        RANDOM_BY_BLOCK: ("share_random_layers", "share: random, by block"),
    }
    others = [name for name in dict.fromkeys(name for run in runs for name in run.scores.scorers) if name != "toxicity"]
    # The phrase that rose most stands in each run's own tables only, where it is masked.
    costs = {column.name: column for run in runs for column in cost_columns(run.scores) if column.name != "phrase"}
    # A line has room for one of them. The rest are in the frame, and in the runs' own tables.
    harmless = [column for name, column in costs.items() if name == "harmless_rise"]
    sources = [name for column in costs.values() for name in column.sources]
    frame, shown, marked = [], [], False
    for run in runs:
        scores, shares = run.scores, run.facts.share_of_dpo
        base, tuned, against = scores.conditions[BASE], scores.conditions[TUNED], scores.against_none[TUNED]
        parts: dict[str, float | None] = {}
        for name, (column, _) in patched.items():
            parts |= columns_of(column, shares.get(name))
        unshared, values = scores.unshared(TUNED), cost_values(scores, TUNED)
        marked = marked or bool(unshared)
        ratios = {f"{name}_ratio": _of_means(scores, name) for name in others}
        cost = {name: values[name] for name in sources}
        run_columns = {"model": run.model, "study": run.study, "protocol": run.protocol}
        frame.append(
            run_columns
            | {"concept": scores.concept}
            | {f"{measure}_before": value.mean for measure, value in base.items()}
            | {f"{measure}_after": value.mean for measure, value in tuned.items()}
            | columns_of("toxicity_ratio", against.toxicity_ratio)
            | ratios
            | cost
            | {"reducing": run.facts.reducing}
            | parts
        )
        shown.append(
            run_columns
            | {"study": run.study if len(concepts) == 1 else f"{run.study}, {scores.concept}"}
            | columns_of("before", base["toxicity"])
            | columns_of("after", tuned["toxicity"])
            | columns_of("ratio", against.toxicity_ratio)
            | ratios
            | {f"{name}_mark": UNSHARED if name in unshared else "" for name in ("toxicity", *others)}
            | columns_of("logppl", against.differences["logppl"])
            | columns_of("f1", against.differences["f1"])
            | cost
            | {"reducing": run.facts.reducing}
            | parts
        )
    return Table(
        "findings",
        "What tuning did, and how much of it patched neurons carry.",
        pl.DataFrame(frame, infer_schema_length=None),
        (
            *_OF_RUN,
            Column.measured("before", f"{noun} before", MEAN),
            Column.measured("after", "after", MEAN),
            Column.measured("ratio", "× before", RATIO, mark="toxicity_mark"),
            *(Column(f"{name}_ratio", scorer_label(name), RATIO, mark=f"{name}_mark") for name in others),
            Column.measured("logppl", "log-PPL", DIFFERENCE),
            Column.measured("f1", "F1", DIFFERENCE),
            *harmless,
            Column("reducing", "neurons ↓", SHARE),
            *(Column.measured(column, label, SHARE) for column, label in patched.values()),
        ),
        (
            f"× before: {noun} after divided by before. log-PPL, F1: after minus before. share: the part of tuning's "
            "reduction that patching gives, for neurons that promote listed tokens, for the four groups, and for as "
            "many random neurons in each block; –: that reduction is not significantly above 0, or the patch was not "
            "measured.",
            *((f"{sentence_case(', '.join(map(scorer_label, others)))}: × before of means.",) if others else ()),
            *((UNSHARED_NOTE,) if marked else ()),
            *meaning_of(harmless),
        ),
        view=frame_of(shown),
    )


def _of_means(scores: Scores, scorer: str) -> float | None:
    """The tuned model's mean divided by that of the plain one; None if the latter is 0 or was not measured."""
    before, after = (scores.conditions[name].get(scorer) for name in (BASE, TUNED))
    return None if before is None or after is None or before.mean == 0 else after.mean / before.mean


# The paper's claims


def claims_over_runs(runs: Sequence[FinishedRun]) -> Table:
    """Each claim of the paper, with its verdict in every run."""
    by_claim: dict[tuple[str, str], dict[int, ClaimFacts]] = {}
    for number, run in enumerate(runs):
        for claim in run.facts.claims:
            by_claim.setdefault((claim.section, claim.claim), {})[number] = claim
    printed = _printed(runs)
    frame = pl.DataFrame(
        [
            {
                **dict(zip(("section", "claim"), key, strict=True)),
                **printed.get(key, _UNKNOWN),
                "model": run.model,
                "study": run.study,
                "protocol": run.protocol,
                "verdict": claim.verdict if claim else "not testable",
                **(dict.fromkeys(_MEASUREMENT) if claim is None else _measurement(claim)),
            }
            for key, of_runs in by_claim.items()
            for number, run in enumerate(runs)
            for claim in (of_runs.get(number),)
        ],
        schema={
            **dict.fromkeys(("section", "claim", "paper", "rule", "model", "study", "protocol", "verdict"), pl.String),
            **_MEASUREMENT,
        },
    )
    view = pl.DataFrame(
        [
            {
                **dict(zip(("section", "claim"), key, strict=True)),
                **printed.get(key, _UNKNOWN),
                **{f"run {number}": _verdict(of_runs.get(number)) for number in range(len(runs))},
            }
            for key, of_runs in by_claim.items()
        ],
        schema=dict.fromkeys(("section", "claim", "paper", "rule", *(f"run {n}" for n in range(len(runs)))), pl.String),
    )
    notes = ["open: the interval contains the rule's bound; not testable: the run did not measure what it needs."]
    nouns = sorted({run.scores.concept for run in runs} - {TOXICITY.noun})
    if nouns:
        notes.append(f"The paper is about toxicity. In runs of another concept, read {' or '.join(nouns)} instead.")
    return Table(
        "claims-over-runs",
        "The paper's claims, over all runs.",
        frame,
        (
            Column("section", "section"),
            Column("claim", "the paper says"),
            Column("paper", "the paper's numbers"),
            *(Column(f"run {number}", run.label) for number, run in enumerate(runs)),
            Column("rule", "counts as held if"),
        ),
        tuple(notes),
        view=view,
    )


_MEASUREMENT = {"here": pl.String, "measured": pl.String, "value": pl.Float64, "low": pl.Float64, "high": pl.Float64}
"""Columns of a claim's measurement."""


def _measurement(claim: ClaimFacts) -> dict[str, Any]:
    told = asdict(claim)
    return {name: told[name] for name in _MEASUREMENT}


_UNKNOWN = {"paper": NOTHING, "rule": NOTHING}
"""For a claim that no run has in its table of claims."""


def _printed(runs: Sequence[FinishedRun]) -> dict[tuple[str, str], dict[str, str]]:
    """(section, claim) → the paper's numbers and the rule, from the runs' tables of claims; equal in all runs."""
    tables = [table.frame for run in runs if (table := run.table("claims")) is not None]
    return {
        (section, says): {"paper": paper, "rule": rule}
        for frame in tables
        for section, says, paper, rule in frame.select("section", "claim", "paper", "rule").iter_rows()
    }


def _verdict(claim: ClaimFacts | None) -> str:
    return "not testable" if claim is None else f"{claim.verdict}: {claim.here}"


# The paper's tables that are short for each run; Tables 2, 3 and 19 are long, and stand in each run's own part

JOINT = {
    "table-05-groups": "Neuron groups and what they carry (paper, Table 5 and Figure 2a), over all runs.",
    "table-08-model": "MLPs of the model (paper, Table 8), over all runs.",
    "table-09-training": "How the tuned model was made (paper, Tables 9 and 10), over all runs.",
    "table-11-direction": "Quality of the direction on comments it was not fitted to (paper, Table 11), over all runs.",
    "table-13-negative": "Neurons with a negative mean activation before tuning (paper, Table 13), over all runs.",
    "table-17-correlations": "Pearson correlation of the activation shift, before − after, over neurons (paper, Table "
    "17), over all runs.",
    "table-18-reducing": "Neurons by the sign of Δ (paper, Table 18; its caption has the sign reversed), over all "
    "runs.",
    "change": "How much tuning changed the model (paper, section 5.1), over all runs.",
}
"""Name → title of the table over runs."""


def joint_tables(runs: Sequence[FinishedRun]) -> list[Table]:
    """Every table of `JOINT` that at least two runs have, with the rows of all runs; named `…-over-runs`."""
    by_name = ((name, [(run, table) for run in runs if (table := run.table(name)) is not None]) for name in JOINT)
    return [_joined(name, parts) for name, parts in by_name if len(parts) > 1]


def _joined(name: str, parts: Sequence[tuple[FinishedRun, Table]]) -> Table:
    def together(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
        named = [
            led_by(frame, model=run.model, study=run.study, protocol=run.protocol)
            for (run, _), frame in zip(parts, frames, strict=True)
        ]
        return pl.concat(named, how="diagonal_relaxed")

    tables = [table for _, table in parts]
    columns = {column.name: column for table in tables for column in table.columns if column.name != "model"}
    return Table(
        f"{name}-over-runs",
        JOINT[name],
        together([table.frame for table in tables]),
        (*_OF_RUN, *columns.values()),
        tuple(dict.fromkeys(note for table in tables for note in table.notes)),
        view=together([table.lines for table in tables]),
    )


# What runs were made of

_BUILT_IN = "built-in"
_DATA = ("prompts", "comments", "judge_comments", "neutral", "passages")
_SETTINGS = ("concept", "direction", "scorer", "token_judge", "dtype", "device", "batch_size", "seed")
_COUNTS = {"toxicity": "prompts measured", "logppl": "windows", "f1": "passages measured"}


def made_of_table(runs: Sequence[FinishedRun]) -> Table:
    """A column per run, a row per fact: models, data, settings, counts, versions. Paths are shown as file names."""
    facts = [_facts(run) for run in runs]
    names = list(dict.fromkeys(name for one in facts for name in one))
    frame = pl.DataFrame(
        [
            {"model": run.model, "study": run.study, "protocol": run.protocol, "fact": name, "value": one.get(name)}
            for run, one in zip(runs, facts, strict=True)
            for name in names
        ],
        schema=dict.fromkeys(("model", "study", "protocol", "fact", "value"), pl.String),
    )
    sides = {f"run {number}": [one.get(name) for name in names] for number, one in enumerate(facts)}
    return Table(
        "made-of",
        "What each run was made of.",
        frame,
        (Column("fact", "fact"), *(Column(f"run {number}", run.label) for number, run in enumerate(runs))),
        ("Files are shown by name only; their paths are in run.json of each run.",),
        view=pl.DataFrame({"fact": names, **sides}, schema=dict.fromkeys(("fact", *sides), pl.String)),
    )


def _facts(run: FinishedRun) -> dict[str, str]:
    settings = run.facts.settings
    base = run.scores.conditions[BASE]
    about = About.read(run.folder)
    versions = {} if about is None else about.versions
    return {
        "base": _short(run.facts.base),
        "tuned": _short(run.facts.tuned or NOTHING),
        **{name.replace("_", " "): _short(settings.get(name)) for name in _DATA},
        **{name.replace("_", " "): str(settings[name]) for name in _SETTINGS if settings.get(name) is not None},
        **{said: count(base[measure].n) for measure, said in _COUNTS.items() if measure in base},
        **versions,
    }


def _short(source: Any) -> str:
    """The last part of a path; `built-in` if there is none."""
    if not source:
        return _BUILT_IN
    if isinstance(source, list):
        return ", ".join(_short(one) for one in source)
    path = Path(str(source))
    # A model's folder is usually called `model`, so its parent's name is shown, too.
    return str(source) if not path.is_absolute() else "/".join(path.parts[-2:]) if path.name == "model" else path.name
