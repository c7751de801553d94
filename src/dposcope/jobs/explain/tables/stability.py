"""How stable neuron groups are, as tables, a few sentences and a summary; the paper has none of it."""

from typing import Any

from dposcope.evaluation.numbers import between, fixed
from dposcope.jobs.explain.tables.neuron import percent
from dposcope.neurons.agreement import Among, Labels
from dposcope.neurons.stability import NeuronStability, SourceStability, Spread
from dposcope.report.table import Table

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
    rows = tuple(
        (
            varied(source) if among is Among.ALL else "",
            str(among),
            _count(source, among),
            *(
                cell
                for labels in Labels
                for cell in (
                    _percent(source.kept(labels, among)),
                    _percent(source.chance(labels, among), alone=True),
                    _number(source.kappa(labels, among)),
                )
            ),
        )
        for source in found.sources
        for among in Among
    )
    return Table(
        "stability-groups",
        f"How often a neuron of {model} keeps its group when something is drawn again (not in the paper).",
        found.to_polars(),
        (
            "varied",
            "neurons",
            "how many",
            *(f"{labels}{part}" for labels in Labels for part in (": kept", ", by chance", ", κ")),
        ),
        rows,
        (
            "Means over pairs of repetitions; in brackets the lowest and the highest pair where there are several. "
            "By chance: labels independent, as frequent as they are; κ: what is kept beyond chance, 1 for all. "
            "Eight groups: TP, TN, AP or AN, and ↓ or ↑. Folds share the direction, so that T or A stays; fits and "
            "kinds of the direction share the activations, so that P or N stays. Folds hold fewer prompts each than "
            "the run, whose groups are steadier for that.",
        ),
    )


def rank_stability_table(model: str, found: NeuronStability) -> Table:
    """Rank correlation of contributions and overlap of the sets that matter, source by source, kinds pair by pair."""
    rows: list[tuple[str, ...]] = []
    for source in found.sources:
        rows.append((varied(source), str(len(source.pairs)), *_rank_cells(source)))
        if source.source == "directions":
            pairs = [SourceStability(source.source, 2, source.neurons, (pair,)) for pair in source.pairs]
            rows += [(f"{pair.first} and {pair.second}", "", *_rank_cells(one)) for one in pairs for pair in one.pairs]
    return Table(
        "stability-ranks",
        f"Ranks of contributions of {model}, and which neurons are toxic or matter most, when something is drawn "
        "again (not in the paper).",
        found.ranks(),
        (
            "varied",
            "pairs",
            "Spearman's ρ of Δ",
            "toxic neurons shared",
            "by chance",
            "top 1 % of |Δ| shared",
            "by chance",
        ),
        tuple(rows),
        (
            "Shared: neurons in both sets, of those in either. Toxic neurons are those of highest cosine, which other "
            "prompts do not change.",
        ),
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


def _rank_cells(source: SourceStability) -> tuple[str, ...]:
    return (
        _number(source.over(lambda pair: pair.rank_correlation)),
        _percent(source.over(lambda pair: pair.toxic.jaccard)),
        _percent(source.over(lambda pair: pair.toxic.chance), alone=True),
        _percent(source.over(lambda pair: pair.top.jaccard)),
        _percent(source.over(lambda pair: pair.top.chance), alone=True),
    )


def _count(source: SourceStability, among: Among) -> str:
    found = source.counted(among)
    return "–" if found is None else f"{found.mean:,.0f}"


def _percent(found: Spread | None, *, alone: bool = False) -> str:
    if found is None:
        return "–"
    if alone or found.pairs == 1:
        return percent(found.mean)
    return f"{percent(found.mean)} ({between(100 * found.low, 100 * found.high, 1)})"


def _number(found: Spread | None) -> str:
    if found is None:
        return "–"
    return fixed(found.mean) if found.pairs == 1 else f"{fixed(found.mean)} ({between(found.low, found.high)})"
