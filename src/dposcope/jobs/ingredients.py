"""What every job starts from: data read and split, a direction, neuron means, a judge."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from dposcope.artefacts import text_digest, value_digest, value_files
from dposcope.data.comments import Comments, direction_and_judge, load_comments
from dposcope.data.concept import TOXICITY, Concept
from dposcope.data.corpus import load_neutral, load_passages
from dposcope.data.prompts import load_split
from dposcope.directions.direction import Direction
from dposcope.directions.features import Features, check_block
from dposcope.directions.means import mean_difference
from dposcope.directions.probe import fit_probe
from dposcope.directions.tokens import contrast_matrix, token_contrast
from dposcope.errors import DposcopeError, plural
from dposcope.evaluation.conditions.measure import NO_SCORER, PROMPT_TOKENS, REFERENCE_PROMPT, Materials
from dposcope.evaluation.neural import neural_folder
from dposcope.evaluation.overlap import GENERATED_TOKENS
from dposcope.evaluation.perplexity import check_window, longest_window
from dposcope.evaluation.scorer import Scorer
from dposcope.evaluation.scorers import load_scorer
from dposcope.evaluation.trained_scorer import SMALLEST_CLASS, TrainedScorer
from dposcope.jobs.prompts_read import PromptSet
from dposcope.jobs.run import Reporter, Run
from dposcope.jobs.settings import CommentSettings, DirectionSpec, MeasureSettings
from dposcope.model.batches import encode
from dposcope.model.chat.prompts import asked_by, asked_how
from dposcope.model.checks.identity import identity
from dposcope.model.generate import Progress, check_room
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import load_native
from dposcope.neurons.activations import NeuronMeans, collect_means
from dposcope.neurons.folds import FoldedMeans, collect_by_fold, folded_files
from dposcope.neurons.groups import cosines
from dposcope.protocols import LEAST_ITEMS

DIRECTIONS = ("mean-difference", "probe", "token-contrast")
"""Kinds of direction that can be made; any other name is a file."""


@dataclass(frozen=True, eq=False)
class Job:
    """A run at work: its folder, its model, its data."""

    run: Run
    lm: LanguageModel
    data: "Data"

    @classmethod
    def begin(
        cls, run: Run, model: str, data: "Data", settings: MeasureSettings, *, searched: str | None = None
    ) -> "Job":
        """Load the model, and check what only its tokenizer can tell.

        Args:
            run: open.
            model: its name.
            data: read.
            settings: say how the model is loaded and asked.
            searched: neutral text that a strength is searched on, if there is a search.

        Raises:
            DposcopeError: the model cannot be loaded or asked so, or see `check_fits`.
        """
        run.reporter.stage(f"Loading {model}")
        lm = load_native(model, **settings.loading)
        job = cls(run, asked_by(lm, settings.chat_options), data)
        check_fits(job.lm, data, settings.direction_spec, searched)
        data.tell(run.reporter)  # now: a model that cannot be loaded is told in one line
        return job

    @cached_property
    def model(self) -> dict[str, Any]:
        """What identifies the loaded model, for the stages' inputs. The model must not change meanwhile."""
        known = {"fingerprint": self.lm.fingerprint, "identity": identity(self.lm)}
        return {**known, "device": self.lm.device.type, **asked_how(self.lm)}


def check_fits(lm: LanguageModel, data: "Data", spec: DirectionSpec, searched: str | None = None) -> None:
    """Refuse data that the model cannot read, and a direction that it cannot have, before anything is computed.

    Args:
        lm: the model; its weights are not read.
        data: all of it.
        spec: the direction.
        searched: text that a strength is searched on, if there is a search.

    Raises:
        DposcopeError: `window_losses` would find no window, or a search too few for an interval; a prompt leaves no
            room for a continuation; a direction is from a block that is not there, or of another width.
    """
    report = data.report
    if searched is not None:
        longest_window(lm, searched, least=LEAST_ITEMS)
    check_window(lm, report.neutral, protocol=report.protocol, skip_windows=report.skip_windows)
    reads = {"max_tokens": PROMPT_TOKENS, "keep": "end"}
    if report.protocol == "reference":
        reads = {"max_tokens": REFERENCE_PROMPT, "keep": "start"}
    check_room(lm, encode(lm, [*data.learn, *data.choose, *report.prompts], **reads), GENERATED_TOKENS)
    if spec.kind in ("probe", "mean-difference"):
        check_block(lm, spec.block, spec.protocol)
    elif spec.kind not in DIRECTIONS:
        saved_direction(spec.kind, lm)


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
    )


def read_data(settings: MeasureSettings) -> Data:
    """Read all files that settings name, and find the scorer.

    Raises:
        DposcopeError: a file is missing, damaged or lacks a column.
    """
    concept = settings.meant
    check_direction(settings.direction, concept)
    parts = direction_and_judge(read_comments(settings), direction_rows=settings.direction_rows)
    judges = [parts.judge, *(load_comments(source) for source in settings.judge_comments or [])]
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
        notes=(*further.notes, *_shared_note(parts.direction, judges)),
    )


def _shared_note(direction: Comments, judges: Sequence[Comments]) -> tuple[str, ...]:
    of_direction = frozenset(direction.texts)
    shared = sum(text in of_direction for part in judges for text in part.texts)
    text = f"The judge also reads {plural(shared, 'comment')} that the direction is made from: it is not independent."
    return (text,) if shared else ()


@dataclass(frozen=True)
class FurtherScorers:
    """Scorers beside the first one and the judge."""

    scorers: Mapping[str, Scorer]
    """By the names that settings give them."""
    notes: tuple[str, ...] = ()


_NEURAL = "neural"
_MEASURES = ("toxicity", "judge", *NO_SCORER, "f1", "logppl", "harmless_logppl", "relevance")
_COLUMNS = ("protocol", "model", "fingerprint", "condition", "measure", "row", "prompt", "continuation")


def read_further(names: list[str] | None, *, scorer: str, concept: Concept) -> FurtherScorers:
    """The scorers of `--also-score`.

    Args:
        names: of them; None: the neural one, where it is in the cache and the concept is toxicity.
        scorer: name of the first one.
        concept: that is measured.

    Raises:
        DposcopeError: a name is given twice, scores already, is that of another measure, or names no scorer.
    """
    if names is None:
        if concept != TOXICITY or scorer == _NEURAL:
            return FurtherScorers({})
        if not neural_folder().is_dir():
            note = "No further scorer: the neural one is not in the cache; dposcope models get neural adds it."
            return FurtherScorers({}, (note,))
        names = [_NEURAL]
    if names == ["none"]:
        return FurtherScorers({})
    for name in names:
        if name == "none" or names.count(name) > 1:
            raise DposcopeError(f"--also-score {name} stands beside other scorers; give each name once, or none alone")
        if name == scorer:
            raise DposcopeError(f"--also-score {name} is the scorer already; name another one")
        if name in _MEASURES or name in _COLUMNS:
            raise DposcopeError(f"--also-score {name} has the name of another column; give the scorer another name")
    return FurtherScorers({name: load_scorer(name) for name in names})


def make_direction(
    lm: LanguageModel,
    comments: Comments,
    spec: DirectionSpec,
    *,
    progress: Progress | None = None,
    features: Features | None = None,
) -> Direction:
    """The direction of a kind.

    Args:
        lm: the model.
        comments: what it is fitted on; a difference of means takes the balanced ones.
        spec: its kind, and how comments are read.
        progress: called after each batch.
        features: of the comments that this kind takes, where they were read before.

    Raises:
        DposcopeError: the name is unknown, or a saved direction does not fit the model.
    """
    balanced = comments.balanced()
    match spec.kind:
        case "mean-difference":
            return mean_difference(
                lm,
                balanced.texts,
                balanced.labels,
                block=spec.block,
                protocol=spec.protocol,
                batch_size=spec.batch_size,
                progress=progress,
                features=features,
            )
        case "probe":
            # The probe keeps the classes' real shares: its accuracy is read against the majority's.
            return fit_probe(
                lm,
                comments.texts,
                comments.labels,
                block=spec.block,
                protocol=spec.protocol,
                seed=spec.seed,
                batch_size=spec.batch_size,
                progress=progress,
                features=features,
            )
        case "token-contrast":
            seeds = spec.concept.seeds()
            return token_contrast(lm, seeds.toxic, seeds.non_toxic, matrix=contrast_matrix(spec.protocol))
        case path:
            return saved_direction(path, lm)


def saved_direction(path: str, lm: LanguageModel) -> Direction:
    """A saved direction that is for this model.

    Raises:
        DposcopeError: it is damaged, or of another width.
    """
    direction = Direction.load(path)
    if direction.vector.shape != (lm.d_model,):
        raise DposcopeError(
            f"the direction in {path} has width {len(direction.vector)}, the model {lm.d_model}; give one that was "
            "made with this model"
        )
    return direction


@dataclass(frozen=True, eq=False)
class Ingredients:
    """A model with its direction and means: what interventions are made of."""

    lm: LanguageModel
    direction: Direction
    means: NeuronMeans
    folds: tuple[NeuronMeans, ...] = ()
    """The same over each fold of the prompts, where they were asked for."""

    @cached_property
    def cosine(self) -> Tensor:
        """cos_i of every neuron, `[L, d_mlp]`."""
        return cosines(self.lm, self.direction.vector)


def prepare(job: Job, spec: DirectionSpec, *, folds: int = 0, features: Features | None = None) -> Ingredients:
    """The stages `direction` and `means` of a run.

    Args:
        job: run, model and data.
        spec: which direction.
        folds: of the prompts, for means of each.
        features: of the comments that the direction takes, where they were read before.
    """
    run, lm, data = job.run, job.lm, job.data
    direction = run.value(
        "direction",
        "Direction from comments",
        Direction,
        inputs={
            "model": job.model,
            "comments": data.digests["direction_comments"],
            "direction": spec.kind,
            "saved": _saved_digest(spec.kind),
            "block": spec.block,
            "seed": spec.seed,
            "protocol": spec.protocol,
            "batch_size": spec.batch_size,
            "seeds": asdict(spec.concept.seeds()) if spec.kind == "token-contrast" else None,
            **({"matrix": "output"} if spec.kind == "token-contrast" and spec.protocol == "reference" else {}),
        },
        make=lambda: make_direction(
            lm, data.direction_comments, spec, progress=run.reporter.progress, features=features
        ),
    )
    means = means_stage(
        job,
        lm,
        "means",
        "Neuron means while the model writes",
        inputs={"model": job.model},
        protocol=spec.protocol,
        batch_size=spec.batch_size,
        folds=folds,
    )
    return Ingredients(lm, direction, means.whole, means.folds)


def means_stage(
    job: Job,
    lm: LanguageModel,
    name: str,
    title: str,
    *,
    inputs: Mapping[str, Any],
    protocol: str,
    batch_size: int | None,
    folds: int,
) -> FoldedMeans:
    """The stage that collects means of one model on the prompts to learn from.

    Args:
        job: run and data.
        lm: the model that writes.
        name: of the stage and its files.
        title: for people.
        inputs: what identifies the model.
        protocol: see `collect_means`.
        batch_size: prompts at a time.
        folds: 0 for none.
    """
    run, prompts, stem = job.run, job.data.learn, job.run.folder / name

    def make() -> FoldedMeans | NeuronMeans:
        progress = run.reporter.progress
        if folds:
            return collect_by_fold(lm, prompts, folds, protocol=protocol, batch_size=batch_size, progress=progress)
        return collect_means(lm, prompts, protocol=protocol, batch_size=batch_size, progress=progress)

    return run.stage(
        name,
        title,
        inputs={
            **inputs,
            "prompts": job.data.digests["learn_prompts"],
            "protocol": protocol,
            "batch_size": batch_size,
            "folds": folds,
        },
        files=folded_files(stem, folds),
        make=make,
        write=lambda means: means.save(stem),
        load=lambda: FoldedMeans.load(stem, folds),
    )


def prepare_judge(job: Job, seed: int) -> TrainedScorer:
    """The stage `judge` of a run: a scorer trained on comments that the direction never saw."""
    data = job.data
    return job.run.value(
        "judge",
        "Independent judge from other comments",
        TrainedScorer,
        inputs={"comments": data.digests["judge_comments"], "seed": seed},
        make=lambda: TrainedScorer.fit(data.judge_texts, [int(label) for label in data.judge_labels], seed=seed),
    )


def _saved_digest(direction: str) -> str | None:
    return None if direction in DIRECTIONS else value_digest(direction)


def check_direction(kind: str, concept: Concept) -> None:
    """Refuse a name that is neither a kind nor a saved direction, before any model runs.

    Raises:
        DposcopeError: it is neither, or a token contrast of a concept without seed words.
    """
    if kind == "token-contrast":
        concept.seeds()
    if kind not in DIRECTIONS:
        if not value_files(kind).about.exists():
            raise DposcopeError(f"--direction {kind!r} is neither {', '.join(DIRECTIONS)} nor a saved direction")
        Direction.load(kind)
