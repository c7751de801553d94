"""The direction of a job: made by a method, or saved."""

from dposcope.artefacts import value_digest, value_files
from dposcope.data.comments import Comments
from dposcope.data.concept import Concept
from dposcope.directions.direction import Direction
from dposcope.directions.features import Features, check_block
from dposcope.directions.means import mean_difference
from dposcope.directions.probe import fit_probe
from dposcope.directions.tokens import contrast_matrix, token_contrast
from dposcope.errors import DposcopeError
from dposcope.jobs.settings import DirectionSpec
from dposcope.model.generate import Progress
from dposcope.model.language_model import LanguageModel

DIRECTIONS = ("mean-difference", "probe", "token-contrast")
"""Kinds of direction that can be made; any other name is a file."""


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


def check_of_model(lm: LanguageModel, spec: DirectionSpec, *, fits: bool) -> None:
    """Refuse a direction that the model cannot have, before anything is computed.

    Args:
        lm: the model; its weights are not read.
        spec: the direction.
        fits: whether one is fitted to comments, this one or another beside it.

    Raises:
        DposcopeError: it is from a block that is not there, or of another width.
    """
    if fits:
        check_block(lm, spec.block, spec.protocol)
    if spec.kind not in DIRECTIONS:
        saved_direction(spec.kind, lm)


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


def saved_digest(direction: str) -> str | None:
    """Digest of a saved direction; None where it is made."""
    return None if direction in DIRECTIONS else value_digest(direction)
