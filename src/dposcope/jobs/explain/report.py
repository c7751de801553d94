"""The report of `dposcope explain`: the finding, texts, the browser of neurons, the paper's claims, and the method."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from dposcope.evaluation.numbers import fixed
from dposcope.jobs.explain.beside_paper import BESIDE_PAPER
from dposcope.jobs.explain.claims.claim import TURNS
from dposcope.jobs.explain.claims.over_directions import OVER
from dposcope.jobs.explain.conditions import TUNED
from dposcope.jobs.explain.interchange.tables import MEDIATION, NAME
from dposcope.jobs.explain.page.claims import claim_views, claims_note, directions_of
from dposcope.jobs.explain.page.result import four_findings, headline, interval_chart, remarks
from dposcope.jobs.explain.page.seen import seen
from dposcope.jobs.explain.page.texts import fell_most, text_lists, text_pairs
from dposcope.jobs.explain.patches import FOUR_GROUPS, RANDOM_BY_BLOCK, TOXIC_TOKENS
from dposcope.jobs.explain.results import Results
from dposcope.jobs.explain.tables.stability import stability_sentences
from dposcope.model.chat.prompts import asked_notes
from dposcope.report.browser.explained import Explained
from dposcope.report.browser.neurons import NeuronBrowser
from dposcope.report.browser.page import write_browser
from dposcope.report.figures import Picture, figure_svg
from dposcope.report.section import Section, SectionFigure
from dposcope.report.table import Table

FIRST_TEXTS = 3
"""How many texts the first screen has."""


def write_explain_report(
    path: Path,
    results: Results,
    browser: NeuronBrowser,
    prompts: Sequence[str],
    *,
    tables: Sequence[Table],
    pictures: Sequence[Picture],
) -> None:
    """Write the page, whole or not at all.

    Args:
        path: of the file.
        results: what was found.
        browser: the neurons.
        prompts: that both models continued, in the order of the outcomes.
        tables: all tables of the run.
        pictures: all figures of the run.

    Raises:
        DposcopeError: the file cannot be written, or would be too large.
    """
    sections = explain_sections(results, tables, pictures)
    write_browser(browser, path, sections=sections, explained=explained_of(results, prompts))


def explained_of(results: Results, prompts: Sequence[str]) -> Explained:
    """What the page says beside its neurons and its tables."""
    concept, pairs = results.scores.concept, text_pairs(results, prompts)
    return Explained(
        headline=headline(results),
        before_label="Plain model",
        after_label="Tuned",
        concept=concept,
        findings=four_findings(results),
        chart=interval_chart(results),
        changed=fell_most(pairs, FIRST_TEXTS),
        texts=text_lists(pairs, concept),
        claims=claim_views(results),
        claims_note=claims_note(results),
        directions=directions_of(results),
        remarks=remarks(results),
    )


def explain_sections(results: Results, tables: Sequence[Table], pictures: Sequence[Picture]) -> list[Section]:
    """Tables and figures of the method, section by section. The claims have a tab of their own."""
    by_name = {table.name: table for table in tables}
    drawn = {picture.name: picture for picture in pictures}
    words = seen(results)
    measured = ["table-02-interventions", "table-03-toxic-neurons", "table-19-interventions", "table-12-steering"]
    tokens = [
        "table-01-direction",
        "table-14-toxic-vectors",
        "table-15-anti-toxic-vectors",
        "table-16-subspace",
        "subspace-conflicts",
        "subspace-stability",
    ]
    effects, stable, live = ["toxicity", "shares-of-reduction"], ["stability"], ["interchange", "carriers"]
    repeated = ["stability-groups", "stability-ranks"]
    first = {"claims", OVER, NAME, MEDIATION, *measured, *tokens, *repeated, *BESIDE_PAPER}
    rest = [name for name in by_name if name not in first]
    sections = [
        Section("Interventions", asked_notes(results.lm), _figures(drawn, effects, words), _tables(by_name, measured)),
        Section(
            "Where the reduction comes from",
            (),
            _figures(drawn, [name for name in drawn if name not in effects + stable + live], words),
            _tables(by_name, rest),
        ),
        Section("What the direction and its neurons promote", (), (), _tables(by_name, tokens)),
        Section("Comparison with the paper's numbers", (), (), _tables(by_name, BESIDE_PAPER)),
    ]
    if results.interchanged.sets:
        section = Section("Which parts carry it", (), _figures(drawn, live, words), _tables(by_name, [NAME, MEDIATION]))
        sections.insert(1, section)
    if results.stability.sources:
        text = stability_sentences(results.stability)
        section = Section("How stable the groups are", text, _figures(drawn, stable, words), _tables(by_name, repeated))
        sections.insert(-1, section)
    return sections


def summary(results: Results) -> list[str]:
    """The main findings in words, beside effect and cost, which say it of a model that nothing can be judged of."""
    explanation, scores = results.explanation, results.scores
    shares = explanation.shares
    certain = len(explanation.contributions.certain) / shares.neurons
    lines = [
        f"{fixed(100 * shares.share_reducing, 1)} per cent of {shares.neurons:,} neurons write less along the "
        f"direction after tuning, {shares.others}. For {fixed(100 * certain, 1)} per cent, sampling error does "
        "not explain the sign.",
    ]
    named = {
        TOXIC_TOKENS: "the neurons that promote toxic tokens",
        "patch-top-256": "the 256 neurons nearest to the direction",
        FOUR_GROUPS: "all four groups",
        RANDOM_BY_BLOCK: "as many random neurons in each block",
    }
    parts = [f"{words} {share}" for name, words in named.items() if (share := results.shares.get(name)) is not None]
    if parts and scores.against_none[TUNED].differences["toxicity"].falls:
        lines.append("Patching gives this share of tuning's reduction: " + "; ".join(parts) + ".")
    lines += asked_notes(results.lm)
    if results.notes:
        lines.append("The tuned model: " + "; ".join(results.notes) + ".")
    if scores.no_verdict is not None:
        return lines
    verdicts = [claim.verdict for claim in results.claims]
    turning = verdicts.count(TURNS)
    lines.append(
        f"Of the paper's {len(verdicts)} claims about DPO, held: {verdicts.count('held')}; not held: "
        f"{verdicts.count('not held')}; open, as an interval contains the bound: {verdicts.count('open')}"
        + (f"; depending on the direction: {turning}." if turning else ".")
    )
    return lines


def _figures(drawn: dict[str, Picture], names: Sequence[str], words: Mapping[str, str]) -> list[SectionFigure]:
    return [
        SectionFigure(figure_svg(drawn[name].figure, name=name, description=words[name]), f"{drawn[name].title}.")
        for name in names
        if name in drawn
    ]


def _tables(by_name: dict[str, Table], names: Sequence[str]) -> list[Table]:
    return [by_name[name] for name in names if name in by_name]
