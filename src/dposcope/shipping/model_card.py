"""Writing a model: a folded edit or a tuned model, with tokenizer, generation config and model card."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError

from dposcope.data.masking import mask_offensive
from dposcope.durable import place
from dposcope.errors import DposcopeError, first_line
from dposcope.evaluation.conditions.materials import CONCEPT
from dposcope.evaluation.conditions.scores import BASE, Scores
from dposcope.evaluation.numbers import NOTHING
from dposcope.evaluation.sampled.ideal import IDEAL
from dposcope.foreign_text import code, markdown
from dposcope.interventions.edit import Edit
from dposcope.interventions.fold import folded
from dposcope.interventions.origin import warning
from dposcope.model.language_model import LanguageModel
from dposcope.report.costs import UNSHARED, cost_columns, cost_notes, cost_values, scorer_label
from dposcope.shipping.metadata import card_head
from dposcope.shipping.place import make_readable

EDIT = "dposcope_edit"
"""Name of the files of an edit, next to the weights that it is folded into."""

_LONGEST_FACT: Final = 800
"""Characters of one fact in a card."""


def write_checkpoint(
    lm: LanguageModel, edit: Edit, folder: Path, *, scores: Scores | None = None, figure: Path | None = None
) -> None:
    """Write the folded model into `folder`, whole or not at all. `from_pretrained` loads it.

    Args:
        lm: the model; not changed.
        edit: the edit to fold.
        folder: the new folder; an existing one is replaced.
        scores: of the edit and its conditions, for the card; None: the card has none.
        figure: a PNG of the search, shown in the card and copied into the folder.

    Raises:
        DposcopeError: the disk is full or the folder cannot be written.
    """
    with folded(lm, edit):
        card = model_card(lm, edit, scores, figure=None if figure is None else figure.name)
        write_model(lm, folder, card=card, edit=edit, figure=figure)


def write_model(
    lm: LanguageModel, folder: Path, *, card: str, edit: Edit | None = None, figure: Path | None = None
) -> None:
    """Write a model into `folder`, whole or not at all. `from_pretrained` loads it.

    Args:
        lm: the model.
        folder: the new folder; an existing one is replaced.
        card: the text of its README.
        edit: the edit that was folded into it, to be copied into the folder.
        figure: the figure of the card, to be copied into the folder.

    Raises:
        DposcopeError: the disk is full or the folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        lm.save_pretrained(scratch)
        (scratch / "README.md").write_text(card, encoding="utf-8")
        if edit is not None:
            edit.save(scratch / EDIT)
        if figure is not None:
            shutil.copyfile(figure, scratch / figure.name)
        make_readable(scratch)  # safetensors writes files that only the owner can read
        if folder.exists():
            shutil.rmtree(folder)
        place(scratch, folder)
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = first_line(error)
        raise DposcopeError(f"cannot write {folder}: {reason}; free some space and run again") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def model_card(lm: LanguageModel, edit: Edit, scores: Scores | None, *, figure: str | None = None) -> str:
    """The README of a checkpoint: what was done, the scores, and what was not tested."""
    facts = edit.about
    control = facts.get("negative_control")
    alert = [] if control is None else [f"> **{markdown(warning(control))}**", ""]
    lines = [
        *card_head(lm.name, tags=["activation-editing"], scores=scores),
        "",
        "# Edited checkpoint" if control is None else "# A negative control: not for use",
        "",
        *alert,
        f"{code(lm.name)} with a dposcope edit folded into its weights: {edit.told(lm)}.",
        edit.origin,
        "It is an ordinary checkpoint; no other software is needed to run it.",
        "",
        "## What was done",
        "",
        *_what_was_done(edit),
        "",
        *_told(facts),
    ]
    if scores is not None and "edit" in scores.conditions:
        lines += _score_table(scores)
    if figure is not None:
        lines += [
            "## The search",
            "",
            f"![Every edit of the search, with its effect and its cost]({figure})",
            "",
        ]
    lines += [
        "## What was not tested",
        "",
        "Behaviour outside the measured prompts, other languages, long texts, instruction following, knowledge of",
        "facts, bias, and attacks on the edit. A lower mean score does not guarantee anything for a single text.",
        "The base model's licence and terms of use apply to this checkpoint.",
        "",
    ]
    return "\n".join(lines)


def _told(facts: Mapping[str, Any]) -> list[str]:
    """What the edit's file says: a stranger may have written it."""
    if not facts:
        return []
    return [
        "The edit's file says of its making (told by whoever made it, not measured here):",
        "",
        *(
            f"- {markdown(name, most=80)}: {markdown(_listed(value), most=_LONGEST_FACT)}"
            for name, value in facts.items()
        ),
        "",
    ]


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _what_was_done(edit: Edit) -> list[str]:
    lines: list[str] = []
    if edit.gains is not None:
        lines.append("- Gains: a factor for the activation of each MLP neuron, folded into its value vector.")
        if _by_groups(edit):
            lines.append(
                "  Neurons were chosen by the four groups of Yang et al. (EMNLP 2025, arXiv:2411.06424), section 6.1."
            )
    if edit.head_gains is not None:
        lines.append(
            "- Gains of heads: a factor for each channel of the attention heads, folded into the output projection."
        )
    for ablation in edit.ablations:
        sites = " and ".join(name for name, on in (("attention", ablation.attention), ("MLP", ablation.mlp)) if on)
        blocks = "all blocks" if ablation.blocks is None else f"blocks {', '.join(map(str, ablation.blocks))}"
        lines += [
            f"- Ablation: output projections of {sites} in {blocks} lose {ablation.weight:.4g} times their component",
            "  along one direction in the residual stream.",
        ]
    return lines


def _by_groups(edit: Edit) -> bool:
    """Whether `dposcope edit`, which tells the ranking, or a search by the source `groups` chose the neurons. The β of
    learned gains is DPO's."""
    return edit.trained == "nothing" and ("ranking" in edit.about or edit.about.get("source") == "groups")


def _score_table(scores: Scores) -> list[str]:
    base, edited, ideal = (scores.conditions.get(name, {}) for name in (BASE, "edit", IDEAL))
    beside = [(name, f" {ideal.get(name, NOTHING)} |" if ideal else "") for name in edited]
    rows = [
        f"| {_row(scores, name)} | {base[name]} | {edited[name]} | {_items(base[name].n, edited[name].n)} |{last}"
        for name, last in beside
    ]
    return [
        f"## Measured ({markdown(scores.protocol)} protocol; mean and 95 % bootstrap interval)",
        "",
        f"| measure | before | after | n |{' ideal |' if ideal else ''}",
        f"| --- | --- | --- | --- |{' --- |' if ideal else ''}",
        *rows,
        "",
        *_cost_lines(scores),
    ]


def _items(before: int, after: int) -> str:
    """How many items a measure is over; a text without a token counts in none."""
    return str(before) if before == after else f"{before}, after {after}"


def _row(scores: Scores, name: str) -> str:
    sign = f" {UNSHARED}" if name in scores.unshared("edit") else ""
    label = scores.concept if name == CONCEPT else scorer_label(name) if name in scores.further else name
    return f"{markdown(label)}{sign}"


def _cost_lines(scores: Scores) -> list[str]:
    values = cost_values(scores, "edit")
    lines = [
        f"- {markdown(column.label)}: {markdown(mask_offensive(str(column.cell(values))))}"
        for column in cost_columns(scores)
    ]
    if not lines:
        return []
    notes = mask_offensive(" ".join(cost_notes(scores)))
    limit = ["", "Ideal: the plain model's own samples that score below 0.5."] if IDEAL in scores.conditions else []
    return ["What the edit costs beyond neutral text:", "", *lines, "", notes, *limit, ""]
