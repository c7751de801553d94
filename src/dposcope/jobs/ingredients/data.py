"""What settings name, read and split before any model runs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from dposcope.artefacts import text_digest
from dposcope.data.comments import Comments, direction_and_judge, load_comments
from dposcope.data.corpus import load_neutral, load_passages
from dposcope.data.prompts import load_split
from dposcope.errors import DposcopeError, plural
from dposcope.evaluation.conditions.materials import Materials
from dposcope.evaluation.scorers import load_scorer
from dposcope.evaluation.trained_scorer import SMALLEST_CLASS
from dposcope.jobs.ingredients.direction import check_direction
from dposcope.jobs.ingredients.scorers import read_further
from dposcope.jobs.prompts_read import PromptSet
from dposcope.jobs.reporter import Reporter
from dposcope.jobs.settings import CommentSettings, MeasureSettings


@dataclass(frozen=True, eq=False)
class Data:
    """Everything read from files, before any model runs, so that bad input is told at once."""

    learn: tuple[str, ...]
    """Prompts to sample pairs on and to average over."""
    choose: tuple[str, ...]
    """Prompts to search and to choose on; the same as `learn` where the settings ask for no others."""
    direction_comments: Comments
    judge_texts: tuple[str, ...]
    judge_labels: tuple[bool, ...]
    report: Materials
    """What every reported number is measured on, prompts among it, and how; the judge is trained later, and the ideal
    drawn. Only the last step of a job reads these prompts, its measuring."""
    left_out: int = 0
    """Prompts of `--prompts` that are in neither of the above, because they are among `--report-prompts`."""
    notes: tuple[str, ...] = ()
    """What else a person should know of it."""

    def reporting_on(self, neutral: str) -> "Data":
        """The same with other neutral text for the report."""
        return replace(self, report=replace(self.report, neutral=neutral))

    @cached_property
    def digests(self) -> dict[str, str]:
        """What stages depend on."""
        return {
            "learn_prompts": text_digest(*self.learn),
            "choose_prompts": text_digest(*self.choose),
            "direction_comments": _comments_digest(self.direction_comments),
            "judge_comments": text_digest(*self.judge_texts, *map(str, self.judge_labels)),
        }

    def read_prompts(self, *, chooses: bool) -> dict[str, PromptSet]:
        """Purpose → prompts, for `run.json`.

        Args:
            chooses: whether the job chooses anything on prompts.
        """
        sets = {"learn": PromptSet(len(self.learn), self.digests["learn_prompts"])}
        if chooses:
            sets["choose"] = PromptSet(len(self.choose), self.digests["choose_prompts"])
        return sets | {"report": PromptSet(len(self.report.prompts), self.report.digests["prompts"])}

    def tell(self, reporter: Reporter) -> None:
        """Say how many prompts are left out, if any are, and the notes."""
        if self.left_out:
            reporter.note(
                f"{plural(self.left_out, 'prompt')} of --prompts left out: --report-prompts has the same text, and "
                "nothing is learned from it or chosen on it"
            )
        for note in self.notes:
            reporter.note(note)


def _comments_digest(comments: Comments) -> str:
    return text_digest(*comments.texts, *(str(bool(label)) for label in comments.labels))


def read_comments(settings: CommentSettings) -> Comments:
    """The labelled comments that settings name."""
    return load_comments(
        settings.comments,
        text_column=settings.text_column,
        label_column=settings.label_column,
        positive=settings.positive_label,
        adjective=settings.meant.adjective,
    )


def read_data(settings: MeasureSettings) -> Data:
    """Read all files that settings name, and find the scorer.

    Raises:
        DposcopeError: a file is missing, damaged or lacks a column.
    """
    concept = settings.meant
    check_direction(settings.direction, concept)
    parts = direction_and_judge(read_comments(settings), direction_rows=settings.direction_rows)
    further_comments = (load_comments(one, adjective=concept.adjective) for one in settings.judge_comments or [])
    judges = [parts.judge, *further_comments]
    for has, name in ((True, concept.adjective), (False, f"non-{concept.adjective}")):
        count = len(
            {text for part in judges for text, label in zip(part.texts, part.labels, strict=True) if label == has}
        )
        if count < SMALLEST_CLASS:
            raise DposcopeError(
                f"the judge is left {plural(count, f'{name} comment')} and needs at least {SMALLEST_CLASS} of each "
                "class: add comments, or further files with --judge-comments"
            )
    split = load_split(
        settings.prompts,
        settings.split,
        report=settings.report_prompts,
        column=settings.prompt_column,
        limit=settings.limit,
    )
    further = read_further(settings.also_score, scorer=settings.scorer, concept=concept)
    report = Materials(
        prompts=split.report,
        passages=load_passages(
            settings.passages,
            prompt_column=settings.passage_prompt_column,
            gold_column=settings.passage_gold_column,
            limit=settings.max_passages,
        ),
        neutral=load_neutral(settings.neutral, column=settings.neutral_column),
        scorer=load_scorer(settings.scorer),
        further=further.scorers,
        protocol=settings.definitions,
        max_windows=settings.max_windows,
        batch_size=settings.batch_size,
        concept=concept.noun,
    )
    return Data(
        learn=split.learn,
        choose=split.choose,
        direction_comments=parts.direction,
        judge_texts=tuple(text for part in judges for text in part.texts),
        judge_labels=tuple(bool(label) for part in judges for label in part.labels),
        report=report,
        left_out=split.left_out,
        notes=(*further.notes, *_shared_note(parts.direction, judges), *_repeated_note(split.report)),
    )


def _shared_note(direction: Comments, judges: Sequence[Comments]) -> tuple[str, ...]:
    of_direction = frozenset(direction.texts)
    shared = sum(text in of_direction for part in judges for text in part.texts)
    text = f"The judge also reads {plural(shared, 'comment')} that the direction is made from: it is not independent."
    return (text,) if shared else ()


def _repeated_note(prompts: Sequence[str]) -> tuple[str, ...]:
    """Greedy texts to one prompt are one text: repeating it adds items to an interval, and nothing to what it knows."""
    repeated = len(prompts) - len(set(prompts))
    text = (
        f"{plural(repeated, 'prompt')} of the {len(prompts):,} to report on repeat{'s' if repeated == 1 else ''} an "
        "earlier one: intervals are narrower and marks more than the texts warrant. Give each prompt once."
    )
    return (text,) if repeated else ()
