"""Stability of neuron groups, as tables, sentences and a summary. The paper does not report it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dposcope.evaluation.numbers import COUNT, MEAN, PRINTED, SHARE, percent
from dposcope.neurons.agreement import Among, Labels
from dposcope.neurons.stability import NeuronStability, SourceStability, Spread
from dposcope.report.table import Column, Table, frame_of

_VARIED = {
    "prompts": "prompts, {} parts",
    "comments": "comments, {} resamples",
    "seeds": "seed of the probe, {} seeds",
    "directions": "kind of direction, {} kinds",
}
_SAID = {
    "prompts": "Measured on other prompts ({} disjoint parts)",
    "comments": "With a direction from resampled comments ({} draws)",
    "seeds": "With a probe of another seed ({} seeds)",
    "directions": "Along another kind of direction ({} kinds)",
}


def varied(source: SourceStability) -> str:
    """What was varied, and the number of repetitions: `prompts, 2 parts`."""
    return _VARIED.get(source.source, f"{source.source}, {{}} repetitions").format(source.repetitions)


def group_stability_table(model: str, stability: NeuronStability) -> Table:
    """How often a neuron keeps its group, by what was varied and by which neurons count."""
    parts = {"kept": (": kept", SHARE), "chance": (", by chance", SHARE), "kappa": (", κ", MEAN)}
    lines = [
        {
            "varied": varied(source) if among is Among.ALL else "",
            "neurons": str(among),
            "counted": None if (counted := source.counted(among)) is None else counted.mean,
            **{
                column: value
                for labels in Labels
                for part, spread in (
                    ("kept", source.kept(labels, among)),
                    ("chance", _alone(source.chance(labels, among))),
                    ("kappa", source.kappa(labels, among)),
                )
                for column, value in _spread(f"{labels} {part}", spread).items()
            },
        }
        for source in stability.sources
        for among in Among
    ]
    return Table(
        "stability-groups",
        f"How often a neuron of {model} keeps its group when something is varied (not in the paper).",
        stability.to_polars(),
        (
            Column("varied", "varied"),
            Column("neurons", "neurons"),
            Column("counted", "how many", COUNT),
            *(
                Column.ranged(f"{labels} {part}", f"{labels}{behind}", form)
                for labels in Labels
                for part, (behind, form) in parts.items()
            ),
        ),
        (
            "Means over pairs of repetitions; in brackets the lowest and the highest pair. By chance: expected if the "
            "labels of both repetitions were independent. κ: agreement beyond chance; 1 is full agreement. Eight "
            "groups: TP, TN, AP or AN, and ↓ or ↑. All parts of the prompts have the same direction, so T or A cannot "
            "change. Refits and kinds of direction have the same activations, so P or N cannot change. Each part has "
            "fewer prompts than the run, so the run's own groups are more stable than this.",
        ),
        view=frame_of(lines),
    )


def rank_stability_table(model: str, stability: NeuronStability) -> Table:
    """Rank correlation of contributions, and overlap of toxic and top neurons, by source; directions pair by pair."""
    lines: list[Mapping[str, Any]] = []
    for source in stability.sources:
        lines.append({"varied": varied(source), "pairs": str(len(source.pairs)), **_ranks(source)})
        if source.source == "directions":
            lines += [
                {"varied": f"{pair.first} and {pair.second}", "pairs": "", **_ranks(replace(source, pairs=(pair,)))}
                for pair in source.pairs
            ]
    return Table(
        "stability-ranks",
        f"Ranks of contributions of {model}, and overlap of toxic and top neurons, when something is varied (not in "
        "the paper).",
        stability.ranks(),
        (
            Column("varied", "varied"),
            Column("pairs", "pairs", PRINTED),
            Column.ranged("rank_correlation", "Spearman's ρ of Δ", MEAN),
            Column.ranged("toxic", "toxic neurons shared", SHARE),
            Column.ranged("toxic_chance", "by chance", SHARE),
            Column.ranged("top", "top 1 % of |Δ| shared", SHARE),
            Column.ranged("top_chance", "by chance", SHARE),
        ),
        (
            "Shared: neurons in both sets, divided by neurons in at least one. Toxic neurons are those of highest "
            "cosine; they do not depend on prompts.",
        ),
        view=frame_of(lines),
    )


def stability_sentences(stability: NeuronStability) -> list[str]:
    """The same in words: a sentence for each source, then how to read them."""
    lines: list[str] = []
    for source in stability.sources:
        everyone, chance = source.kept(Labels.MOVED, Among.ALL), source.chance(Labels.MOVED, Among.ALL)
        half, its = source.kept(Labels.MOVED, Among.HALF), source.chance(Labels.MOVED, Among.HALF)
        if everyone is None or chance is None:
            continue
        what = _SAID.get(source.source, f"With other {source.source} ({{}} repetitions)").format(source.repetitions)
        of_half = (
            ""
            if half is None or its is None
            else f"; of those that carry half of the change, {percent(half.mean)} ({percent(its.mean)})"
        )
        lines.append(
            f"{what}, {percent(everyone.mean)} of neurons keep their group and the sign of Δ "
            f"({percent(chance.mean)} by chance){of_half}."
        )
    return [" ".join(lines), "If groups are kept no more often than by chance, they say nothing about tuning."]


def stability_summary(stability: NeuronStability) -> dict[str, Any]:
    """The main numbers, for scripts: by source, means over pairs."""

    def mean(spread: Spread | None) -> float | None:
        return None if spread is None else spread.mean

    return {
        source.source: {
            "repetitions": source.repetitions,
            "pairs": len(source.pairs),
            **{
                name: {
                    str(among): {
                        "kept": mean(source.kept(labels, among)),
                        "chance": mean(source.chance(labels, among)),
                        "kappa": mean(source.kappa(labels, among)),
                    }
                    for among in Among
                }
                for name, labels in (("groups", Labels.MOVED), ("effect", Labels.EFFECT))
            },
            "rank_correlation": mean(source.over(lambda pair: pair.rank_correlation)),
            "toxic_overlap": mean(source.over(lambda pair: pair.toxic.jaccard)),
            "top_overlap": mean(source.over(lambda pair: pair.top.jaccard)),
        }
        for source in stability.sources
    }


def _ranks(source: SourceStability) -> dict[str, float | None]:
    spreads = {
        "rank_correlation": source.over(lambda pair: pair.rank_correlation),
        "toxic": source.over(lambda pair: pair.toxic.jaccard),
        "toxic_chance": _alone(source.over(lambda pair: pair.toxic.chance)),
        "top": source.over(lambda pair: pair.top.jaccard),
        "top_chance": _alone(source.over(lambda pair: pair.top.chance)),
    }
    return {column: value for name, spread in spreads.items() for column, value in _spread(name, spread).items()}


def _alone(spread: Spread | None) -> Spread | None:
    """The mean without its range."""
    return None if spread is None else replace(spread, pairs=1)


def _spread(name: str, spread: Spread | None) -> dict[str, float | None]:
    """Mean, lowest and highest pair as a table holds them; one pair has no range."""
    if spread is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    low, high = (None, None) if spread.pairs == 1 else (spread.low, spread.high)
    return {name: spread.mean, f"{name}_low": low, f"{name}_high": high}
