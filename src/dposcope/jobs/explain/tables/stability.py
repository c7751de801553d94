"""How stable neuron groups are, as tables, a few sentences and a summary; the paper has none of it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dposcope.evaluation.numbers import COUNT, MEAN, PRINTED, SHARE, percent
from dposcope.neurons.agreement import Among, Labels
from dposcope.neurons.stability import NeuronStability, SourceStability, Spread
from dposcope.report.table import Column, Table, frame_of

_VARIED = {
    "prompts": "prompts, {} folds",
    "comments": "comments, {} resamples",
    "seeds": "seed of the probe, {} seeds",
    "directions": "kind of direction, {} kinds",
}
_SAID = {
    "prompts": "Measured on other prompts ({} disjoint folds)",
    "comments": "With a direction from resampled comments ({} draws)",
    "seeds": "With a probe of another seed ({} seeds)",
    "directions": "Along another kind of direction ({} kinds)",
}


def varied(source: SourceStability) -> str:
    """What a source varies, and how often: `prompts, 2 folds`."""
    return _VARIED.get(source.source, f"{source.source}, {{}} repetitions").format(source.repetitions)


def group_stability_table(model: str, found: NeuronStability) -> Table:
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
        for source in found.sources
        for among in Among
    ]
    return Table(
        "stability-groups",
        f"How often a neuron of {model} keeps its group when something is drawn again (not in the paper).",
        found.to_polars(),
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
            "Means over pairs of repetitions; in brackets the lowest and the highest pair where there are several. "
            "By chance: labels independent, as frequent as they are; κ: what is kept beyond chance, 1 for all. "
            "Eight groups: TP, TN, AP or AN, and ↓ or ↑. Folds share the direction, so that T or A stays; fits and "
            "kinds of the direction share the activations, so that P or N stays. Folds hold fewer prompts each than "
            "the run, whose groups are steadier for that.",
        ),
        view=frame_of(lines),
    )


def rank_stability_table(model: str, found: NeuronStability) -> Table:
    """Rank correlation of contributions and overlap of the sets that matter, source by source, kinds pair by pair."""
    lines: list[Mapping[str, Any]] = []
    for source in found.sources:
        lines.append({"varied": varied(source), "pairs": str(len(source.pairs)), **_ranks(source)})
        if source.source == "directions":
            lines += [
                {"varied": f"{pair.first} and {pair.second}", "pairs": "", **_ranks(replace(source, pairs=(pair,)))}
                for pair in source.pairs
            ]
    return Table(
        "stability-ranks",
        f"Ranks of contributions of {model}, and which neurons are toxic or matter most, when something is drawn "
        "again (not in the paper).",
        found.ranks(),
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
            "Shared: neurons in both sets, of those in either. Toxic neurons are those of highest cosine, which other "
            "prompts do not change.",
        ),
        view=frame_of(lines),
    )


def stability_sentences(found: NeuronStability) -> list[str]:
    """What it means, in words: a sentence for each source, then how to read them."""
    lines: list[str] = []
    for source in found.sources:
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
            f"{what}, {percent(everyone.mean)} of neurons keep their group and the way they moved "
            f"({percent(chance.mean)} by chance){of_half}."
        )
    return [" ".join(lines), "A group that is kept no more often than by chance says nothing of tuning."]


def stability_summary(found: NeuronStability) -> dict[str, Any]:
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
        for source in found.sources
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


def _alone(found: Spread | None) -> Spread | None:
    """The mean without its range."""
    return None if found is None else replace(found, pairs=1)


def _spread(name: str, found: Spread | None) -> dict[str, float | None]:
    """Mean, lowest and highest pair as a table holds them; one pair has no range."""
    if found is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    low, high = (None, None) if found.pairs == 1 else (found.low, found.high)
    return {name: found.mean, f"{name}_low": low, f"{name}_high": high}
