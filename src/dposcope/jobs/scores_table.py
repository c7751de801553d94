"""Tables for people, in Markdown."""

from dposcope.evaluation.suite import BASE, Scores

_COLUMNS = {
    "toxicity": "toxicity",
    "judge": "by the judge",
    "logppl": "log-PPL",
    "f1": "F1",
    "repetition": "repetition",
    "empty": "empty",
}


def scores_markdown(scores: Scores) -> str:
    """One row per condition: means with 95 % intervals, and the paired comparison with `none`.

    A star marks a difference from `none` whose paired interval excludes 0.
    """
    base = scores.conditions[BASE]
    columns = _COLUMNS | {"toxicity": scores.concept.replace("|", "\\|")}
    measures = [name for name in columns if name in base]
    share = f"{columns['toxicity']}, share of none"
    head = ["condition", *(columns[name] for name in measures), share, "log-PPL, paired rise"]
    rows = [head, ["---"] * len(head)]
    for name, values in scores.conditions.items():
        cells = [name.replace("|", "\\|")]
        comparison = scores.against_none.get(name)
        for measure in measures:
            star = "*" if comparison is not None and comparison.differences[measure].excludes_zero else ""
            cells.append(f"{values[measure]}{star}")
        cells.append("–" if comparison is None or comparison.toxicity_ratio is None else str(comparison.toxicity_ratio))
        cells.append("–" if comparison is None else str(comparison.differences["logppl"]))
        rows.append(cells)
    counts = ", ".join(f"{columns[name]} {base[name].n}" for name in measures)
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return (
        f"{table}\n\nModel `{scores.model}`, {scores.protocol} protocol; mean (95 % bootstrap interval); "
        f"items: {counts}. `*`: differs from `none`, paired, with an interval that excludes 0.\n"
    )
