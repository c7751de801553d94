"""The first screen of an explanation: the finding in words, four numbers, and one chart of intervals."""

from collections.abc import Mapping

from dposcope.evaluation.conditions.scores import BASE
from dposcope.evaluation.numbers import fixed, percent, signed
from dposcope.evaluation.sampled.ideal import IDEAL
from dposcope.evaluation.statistics.intervals import Difference, Share
from dposcope.jobs.explain.conditions import TUNED
from dposcope.jobs.explain.patches import FOUR_GROUPS, RANDOM_BY_BLOCK, TOXIC_TOKENS
from dposcope.jobs.explain.results import Results
from dposcope.report.edit.verdict import Finding, Status
from dposcope.report.figures import MOST_SERIES, Row, figure_svg, interval_dots
from dposcope.report.glossary import sentence_case
from dposcope.report.section import SectionFigure

TOP_256 = "patch-top-256"
CARRIERS = {
    FOUR_GROUPS: "All four groups",
    TOP_256: "Nearest 256 neurons",
    TOXIC_TOKENS: "Toxic-token neurons",
    RANDOM_BY_BLOCK: "Random neurons",
}
"""Patch → its name on the first screen, in the order of the chart."""


def headline(results: Results) -> str:
    """Effect, cost, and what carries the effect, in plain words; of a model that predicts no text, only that."""
    scores = results.scores
    if scores.no_verdict is not None:
        return scores.no_verdict
    before, after = scores.conditions[BASE]["toxicity"], scores.conditions[TUNED]["toxicity"]
    against = scores.against_none[TUNED]
    change, rise = against.differences["toxicity"], against.differences["logppl"]
    if not change.shown:
        means = f"{fixed(before.mean, 2)} before, {fixed(after.mean, 2)} after"
        effect = f"Tuning is not shown to change {scores.concept}: {means}"
    else:
        verb = "lowered" if change.falls else "raised"
        effect = f"Tuning {verb} {scores.concept} from {fixed(before.mean, 2)} to {fixed(after.mean, 2)}"
    cost = (
        f"text got {'harder' if rise.rises else 'easier'} to predict by {fixed(abs(rise.mean), 2)} nats per token"
        if rise.shown
        else "text is not shown to be harder or easier to predict"
    )
    share, control = results.shares.get(FOUR_GROUPS), results.shares.get(RANDOM_BY_BLOCK)
    if share is None or not change.falls:
        return f"{effect}; {cost}."
    if share.low <= 0:
        return f"{effect}; {cost}. The four neuron groups are not shown to carry a part of the reduction: {share}."
    carried = f"The four neuron groups carry {percent(share.share, 0)} of the reduction"
    if control is not None and _beyond(share, control):
        carried += f"; as many random neurons carry {percent(control.share, 0)}"
    elif control is not None:
        carried += (
            f"; as many random neurons carry {percent(control.share, 0)}, and the groups are not shown to carry more"
        )
    return f"{effect}; {cost}. {carried}."


def _beyond(share: Share, control: Share) -> bool:
    """Whether a share is shown to exceed its control: the intervals do not meet."""
    return share.low > control.high


def remarks(results: Results) -> list[str]:
    """How many neurons changed, and what was noticed at loading."""
    shares = results.explanation.shares
    certain = len(results.explanation.contributions.certain) / shares.neurons
    lines = [
        f"{percent(shares.share_reducing, 0)} of {shares.neurons:,} neurons write less along the direction after "
        f"tuning, {shares.others}. For {percent(certain, 0)}, sampling error does not explain the sign."
    ]
    return lines + ([f"The tuned model: {'; '.join(results.notes)}."] if results.notes else [])


def four_findings(results: Results) -> list[Finding]:
    """The tiles: the score, the judge, the cost, and what carries the effect. A cost is never good."""
    scores = results.scores
    base, tuned, against = scores.conditions[BASE], scores.conditions[TUNED], scores.against_none[TUNED]
    found = [_score(scores.concept, base["toxicity"].mean, tuned["toxicity"].mean, against.differences["toxicity"])]
    if "judge" in against.differences:
        found.append(_score("Independent judge", base["judge"].mean, tuned["judge"].mean, against.differences["judge"]))
    rise = against.differences["logppl"]
    found.append(
        Finding(
            "Cost, log-perplexity",
            signed(rise.mean, 2),
            f"{fixed(base['logppl'].mean, 2)} → {fixed(tuned['logppl'].mean, 2)}",
            "a cost: text is harder to predict" if rise.rises else "no cost is shown",
            "bad" if rise.rises else "open",
        )
    )
    # Without a fall there is nothing to carry.
    return [*found, *_carrier(results.shares)] if against.differences["toxicity"].falls else found


def _score(name: str, before: float, after: float, change: Difference) -> Finding:
    status: Status = "open"
    reading = f"not shown to differ: {change.doubt}"
    if change.shown:
        status, reading = ("good", "lower") if change.falls else ("bad", "higher")
    value = f"{fixed(after / before, 2)} ×" if before > 0 else signed(change.mean, 2)
    return Finding(sentence_case(name), value, f"{fixed(before)} → {fixed(after)}", reading, status)


def _carrier(shares: Mapping[str, Share | None]) -> list[Finding]:
    share, control = shares.get(FOUR_GROUPS), shares.get(RANDOM_BY_BLOCK)
    if share is None:
        return []
    if control is None:
        return [Finding("Four groups carry", percent(share.share, 0), str(share), "no control was measured", "open")]
    beyond = _beyond(share, control)
    return [
        Finding(
            "Four groups carry",
            percent(share.share, 0),
            f"random neurons {percent(control.share, 0)}",
            "more than the control" if beyond else "not shown to exceed the control",
            "good" if beyond else "open",
        )
    ]


def interval_chart(results: Results) -> SectionFigure:
    """The score of the models, of what carries the effect, and of the controls."""
    scores = results.scores
    rows = [Row("Plain model", "base", scores.conditions[BASE]["toxicity"])]
    rows.append(Row("Tuned", "edit", scores.conditions[TUNED]["toxicity"]))
    for name, label in CARRIERS.items():
        if name in scores.conditions:
            role = "control" if name == RANDOM_BY_BLOCK else "part"
            rows.append(Row(label, role, scores.conditions[name]["toxicity"]))
    if IDEAL in scores.conditions and "toxicity" in scores.conditions[IDEAL]:
        rows.append(Row("Ideal", "limit", scores.conditions[IDEAL]["toxicity"]))
    rows = rows[:MOST_SERIES]
    spoken = "; ".join(f"{row.label} {row.estimate}" for row in rows)
    figure = interval_dots(rows, axis=f"mean {scores.concept}, 0 to 1", reference=rows[0].estimate.mean, digits=2)
    return SectionFigure(
        figure_svg(figure, name="result", description=f"Mean {scores.concept} with 95 per cent intervals. {spoken}."),
        f"Mean {scores.concept} with 95 per cent intervals. Dashed: the plain model. Green: the plain model with "
        "only these neurons set to their values after tuning.",
    )
