"""How few neurons carry an edit's effect: its strongest gains alone, as they are and learned again.

    python benchmarks/sparse.py runs/tune/learned-6 --prompts F --comments F --judge-comments F \\
        --neutral wikitext_test.txt --passages F --out DIR [--strength 1] [--numbers 10,100,1000,10000]
        [--random 1000] [--penalties 0.3,0.5] [--max-windows 32] [--dtype bfloat16] [--batch-size 50]

The first argument is the folder of `dposcope dpo --train gains`, such as `dposcope tune` leaves for each λ. For every
number N the N gains that are furthest from 1 are kept and all others set to 1 ("kept"), and the same N are trained once
more from there, as the folder says that they were learned: the same pairs, neutral text, teacher and schedule ("learned
again", as by `dposcope dpo --start --neurons`). Their control (--random) is as many other neurons in each block,
drawn at random and trained once more likewise. For every penalty μ gains are learned anew, which μ holds at 1 unless
their gradients agree ("penalty", as by `dposcope dpo --sparsity`). Everything is measured at one strength as `dposcope
evaluate --spread-windows` does, on prompts that no pair is from. The share is of the whole reduction, paired over
prompts; that of random ones minus that of the strongest is paired, too. A run that is interrupted goes on, and what was
left out may be added to it. Writes DIR/sparse.md, .csv and .svg.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from matplotlib.figure import Figure
from pydantic import ValidationError

import dposcope as ds
from dposcope.artefacts import write_text
from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.outcome import Outcome
from dposcope.evaluation.conditions.scores import BASE, Scores
from dposcope.evaluation.statistics.comparisons import paired_difference, paired_share
from dposcope.evaluation.statistics.intervals import Difference, Estimate, Share
from dposcope.files import expanded
from dposcope.interventions.shipped import edit_file
from dposcope.jobs.dpo.job import run_dpo
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.evaluate.job import run_evaluate
from dposcope.jobs.evaluate.settings import EvaluateSettings
from dposcope.jobs.measuring.measure import file_name
from dposcope.jobs.run import RunPolicy
from dposcope.reading import read_object
from dposcope.report.figures import COLOURS, house_style, save_figure

WHOLE = "all gains"
KEPT, AGAIN, RANDOM, PENALTY = "kept", "learned again", "random ones learned again", "penalty"
WAYS = {KEPT: "control", AGAIN: "edit", RANDOM: "paper", PENALTY: "part"}
"""Way → role of its colour."""


@dataclass(frozen=True)
class Part:
    """Some gains, and where their edit lies."""

    way: str
    name: str
    """Of the condition; each has one of its own."""
    stem: Path
    penalty: float | None = None
    """μ, where one held gains at 1."""


@dataclass(frozen=True)
class Point:
    """One number of neurons, one way."""

    way: str
    neurons: int
    share: Share | None
    """Of the whole edit's reduction; None where that cannot be told from 0."""
    toxicity: Estimate
    logppl: Difference
    """Paired rise."""
    repetition: Estimate
    beyond: Difference | None = None
    """Toxicity of random ones minus that of as many strongest ones, paired."""
    penalty: float | None = None


def main() -> None:
    """The command."""
    options = _parser().parse_args()
    try:
        points = run(options)
    except DposcopeError as error:
        print(f"sparse: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error
    text = table(points)
    write_text(options.out / "sparse.md", f"{text}\n")
    frame(points).write_csv(options.out / "sparse.csv")
    save_figure(curve(points), options.out / "sparse.svg")
    print(text)


def run(options: argparse.Namespace) -> list[Point]:
    """Prune, learn again, measure."""
    options.out.mkdir(parents=True, exist_ok=True)
    learned = _learned(options.gains)
    stem = edit_file(options.gains)
    edit = ds.Edit.load(stem)
    if edit.gains is None:
        raise DposcopeError(f"{options.gains} has no gains of neurons; there is nothing to leave out")
    model, strength = str(learned["model"]), f",strength={options.strength:g}"
    _check(options, len(edit.gains.touched))
    parts = [
        *_strongest(options, learned, stem, edit),
        *_random(options, learned, edit),
        *_penalised(options, learned),
    ]
    parts.append(Part(WHOLE, WHOLE, stem))
    conditions = [f"{part.name}=edit:{part.stem}{strength}" for part in parts]
    print(f"measuring {len(conditions)} conditions", file=sys.stderr, flush=True)
    measured = options.out / "measured"
    scores = run_evaluate(model, measured, _measuring(options, conditions), policy=RunPolicy(adopt=True))
    named = {part.name for part in parts}
    points = [_point(measured, scores, part, named) for part in parts]
    return sorted(points, key=lambda point: ([*WAYS, WHOLE].index(point.way), point.neurons))


def _strongest(options: argparse.Namespace, learned: dict[str, Any], stem: Path, edit: ds.Edit) -> list[Part]:
    """The strongest gains alone, as they are and trained once more."""
    parts: list[Part] = []
    for number in options.numbers:
        if number >= len(edit.gains.touched):
            continue
        kept, again = (options.out / f"{name}-{number}" for name in ("kept", "again"))
        pruned = edit.gains.only(edit.gains.furthest(number))
        ds.Edit.of(pruned, about={**edit.about, "kept": number}).save(kept / "edit")
        print(f"learning {number:,} gains again", file=sys.stderr, flush=True)
        settings = training(learned, options.gains, start=str(stem), neurons=number)
        run_dpo(learned["model"], again, settings, checkpoint=False)
        parts += [Part(KEPT, f"{number} {KEPT}", kept / "edit"), Part(AGAIN, f"{number} {AGAIN}", again / "edit")]
    return parts


def _check(options: argparse.Namespace, touched: int) -> None:
    """Now, not after an hour of training."""
    wrong = [f"a penalty of {one:g}" for one in options.penalties if not 0 < one < 1]
    wrong += [f"{one:,} random gains of {touched:,}" for one in options.random if not 0 < one <= touched // 2]
    wrong += [f"{one:,} gains" for one in options.numbers if one < 1]
    if wrong:
        raise DposcopeError(
            f"{wrong[0]} cannot be had; penalties lie between 0 and 1, numbers from 1 up, random ones up to half of all"
        )


def _random(options: argparse.Namespace, learned: dict[str, Any], edit: ds.Edit) -> list[Part]:
    """Others, as many in each block as the strongest, drawn at random; from their own gains, trained once more."""
    parts: list[Part] = []
    for number in options.random:
        folder = options.out / f"random-{number}-seed-{options.seed}"
        start = folder.with_name(f"{folder.name}-start")
        strongest = edit.gains.furthest(number)
        drawn = edit.gains.only(strongest.random_like(options.seed, among=edit.gains.touched - strongest))
        ds.Edit.of(drawn, about={**edit.about, "random": number}).save(start)
        print(f"learning {number:,} random gains again", file=sys.stderr, flush=True)
        settings = training(learned, options.gains, start=str(start), neurons=number)
        run_dpo(learned["model"], folder, settings, checkpoint=False)
        parts.append(Part(RANDOM, f"{number} {RANDOM} {options.seed}", folder / "edit"))
    return parts


def _penalised(options: argparse.Namespace, learned: dict[str, Any]) -> list[Part]:
    """Gains that a penalty held at 1 but where gradients agreed enough."""
    parts: list[Part] = []
    for penalty in options.penalties:
        folder = options.out / f"penalty-{penalty:g}"
        print(f"learning gains with a penalty of {penalty:g}", file=sys.stderr, flush=True)
        run_dpo(learned["model"], folder, training(learned, options.gains, sparsity=penalty), checkpoint=False)
        parts.append(Part(PENALTY, f"{PENALTY} {penalty:g}", folder / "edit", penalty))
    return parts


def _learned(folder: Path) -> dict[str, Any]:
    """Model and settings that gains were learned with."""
    told = expanded(folder) / "run.json"
    found = read_object(told) if told.exists() else {}
    settings = found.get("settings", {})
    if found.get("command") != "dpo" or settings.get("train") != "gains":
        raise DposcopeError(f"{folder} is no run of dposcope dpo --train gains; name one, or the learned-… of a tune's")
    return dict(settings)


def training(learned: dict[str, Any], folder: Path, **changed: Any) -> DpoSettings:
    """How the gains of a folder were learned, but for what is changed."""
    settings = {name: value for name, value in learned.items() if name != "model"}
    try:
        return DpoSettings.filled(settings | changed)
    except ValidationError as error:
        named = ", ".join(str(one["loc"][0]) if one["loc"] else str(one["msg"]) for one in error.errors())
        message = f"{folder} has settings of another version ({named}); learn its gains again"
        raise DposcopeError(message) from error


def _measuring(options: argparse.Namespace, conditions: list[str]) -> EvaluateSettings:
    given = {
        "prompts": options.prompts,
        "comments": options.comments,
        "judge_comments": options.judge_comments,
        "neutral": options.neutral,
        "passages": options.passages,
    }
    return EvaluateSettings(
        **{name: value for name, value in given.items() if value is not None},
        scorer=options.scorer,
        dtype=options.dtype,
        batch_size=options.batch_size,
        max_windows=options.max_windows,
        spread_windows=True,
        condition=conditions,
        seed=options.seed,
    )


def _point(folder: Path, scores: Scores, part: Part, named: set[str]) -> Point:
    neurons = len(ds.Edit.load(part.stem).gains.touched)
    rival = f"{neurons} {AGAIN}" if part.way == RANDOM and f"{neurons} {AGAIN}" in named else None
    toxicity = {
        one: Outcome.from_json(read_object(folder / "conditions" / f"{file_name(one)}.json")).per_prompt["toxicity"]
        for one in (BASE, WHOLE, part.name, *([] if rival is None else [rival]))
    }
    measures = scores.conditions[part.name]
    try:
        share = paired_share(toxicity[BASE], toxicity[part.name], toxicity[WHOLE])
    except DposcopeError:
        share = None
    return Point(
        part.way,
        neurons,
        share,
        measures["toxicity"],
        scores.against_none[part.name].differences["logppl"],
        measures["repetition"],
        None if rival is None else paired_difference(toxicity[part.name], toxicity[rival]),
        part.penalty,
    )


def table(points: Sequence[Point]) -> str:
    """Markdown, a row a point."""
    head = ("neurons", "gains", "share of the whole edit's reduction", "toxicity", "log-PPL, paired rise", "repetition")
    head += ("toxicity, minus that of the strongest",)
    lines = ["".join(f"| {one} " for one in head) + "|", f"|{' --- |' * len(head)}"]
    for one in points:
        measured = (one.share or "–", one.toxicity, one.logppl, one.repetition, one.beyond or "–")
        gains = one.way if one.penalty is None else f"{one.way}, μ = {one.penalty:g}"
        cells = (f"{one.neurons:,}", gains, *measured)
        lines.append("".join(f"| {cell} " for cell in cells) + "|")
    return "\n".join(lines)


def frame(points: Sequence[Point]) -> pl.DataFrame:
    """The numbers of the table and the figure."""
    return pl.DataFrame(
        [
            {
                "way": one.way,
                "penalty": one.penalty,
                "neurons": one.neurons,
                **{part: one.share and getattr(one.share, part.removeprefix("share_")) for part in _SHARES},
                **{f"toxicity_{part}": getattr(one.toxicity, part) for part in ("mean", "low", "high")},
                **{f"logppl_rise_{part}": getattr(one.logppl, part) for part in ("mean", "low", "high")},
                "repetition": one.repetition.mean,
                **{f"beyond_{part}": one.beyond and getattr(one.beyond, part) for part in ("mean", "low", "high")},
            }
            for one in points
        ]
    )


_SHARES = ("share", "share_low", "share_high")


def curve(points: Sequence[Point]) -> Figure:
    """Share of the effect above, cost below, over the number of neurons; but for random ones lines end at the whole."""
    with house_style():
        figure = Figure(figsize=(6.4, 5.2), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        for way, role in WAYS.items():
            if not (own := [one for one in points if one.way == way]):
                continue
            if way != RANDOM:
                own += [one for one in points if one.way == WHOLE]
            shown = [(one.neurons, one.share) for one in own if one.share is not None]
            look = {"color": COLOURS[role], "marker": "o", "markersize": 4, "linewidth": 1.2, "elinewidth": 0.8}
            arms = [
                [100 * (share.share - share.low) for _, share in shown],
                [100 * (share.high - share.share) for _, share in shown],
            ]
            above.errorbar([n for n, _ in shown], [100 * share.share for _, share in shown], arms, label=way, **look)
            rises = [one.logppl for one in own]
            arms = [[rise.mean - rise.low for rise in rises], [rise.high - rise.mean for rise in rises]]
            below.errorbar([one.neurons for one in own], [rise.mean for rise in rises], arms, **look)
        above.axhline(90, color=COLOURS["base"], linewidth=0.9, linestyle=(0, (4, 3)))
        above.set_ylabel("share of the whole edit's\nreduction, %")
        above.legend(frameon=False, loc="lower right")
        below.axhline(0, color=COLOURS["base"], linewidth=0.9)
        below.set_ylabel("rise of log-PPL")
        below.set_xlabel("neurons whose gain is not 1")
        below.set_xscale("log")
        numbers = _apart({one.neurons for one in points if one.penalty is None})
        below.set_xticks(numbers, [f"{number:,}" for number in numbers])  # not powers of ten: they would want TeX
        below.set_xticks([], minor=True)
        for axes in (above, below):
            axes.grid()
        return figure


def _apart(numbers: set[int]) -> list[int]:
    """Those whose labels do not lie on one another, the largest among them."""
    kept: list[int] = []
    for number in sorted(numbers, reverse=True):
        if not kept or number < 0.75 * kept[-1]:
            kept.append(number)
    return kept[::-1]


def _strength(text: str) -> float:
    if not math.isfinite(strength := float(text)):
        raise ValueError(text)
    return strength


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gains", type=Path, help="folder of dposcope dpo --train gains")
    parser.add_argument("--out", type=Path, required=True)
    for name in ("prompts", "comments", "neutral", "passages"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--strength", type=_strength, default=1.0, help="s of 1 + s (g − 1), for all of them")
    parser.add_argument("--judge-comments", nargs="*")
    parser.add_argument("--scorer", default="profanity")
    parser.add_argument(
        "--numbers", type=lambda text: [int(part) for part in text.split(",")], default=[10, 100, 1000, 10_000]
    )
    parser.add_argument("--random", type=lambda text: [int(part) for part in text.split(",")], default=[])
    parser.add_argument("--penalties", type=lambda text: [float(part) for part in text.split(",")], default=[])
    parser.add_argument("--max-windows", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main()
