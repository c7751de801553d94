"""Which rivals take part, made from a run's ingredients and what was trained before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rivals.abliteration import abliterations
from benchmarks.rivals.features import BlockFeatures, block_features
from benchmarks.rivals.lines import Rival
from benchmarks.rivals.own import default_line, least_squares_line
from benchmarks.rivals.paper_edit import assigned_line, group_line
from benchmarks.rivals.price import peak_gigabytes
from benchmarks.rivals.profs import projections
from benchmarks.rivals.steering import all_blocks, one_block
from benchmarks.rivals.trained import edit_line, minutes_of, tuned_digest, tuned_line

from dposcope.artefacts import text_digest, value_digest, value_files
from dposcope.data.comments import Comments
from dposcope.directions.direction import Direction
from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.jobs.ingredients.job import Job
from dposcope.jobs.ingredients.prepared import Ingredients
from dposcope.neurons.activations import NeuronMeans

TRAINED = ("edit", "shuffled", "tuned")
OF_NEURONS = ("paper", "code", "default", "mlp-ablation", "least-squares")
OF_FEATURES = ("steer", "steer-all", "ablation", "profs")
METHODS = (*TRAINED, *OF_NEURONS, *OF_FEATURES)
"""What --methods may name; `edit` and `tuned` take part where --edit and --tuned name any."""


@dataclass(frozen=True)
class Trained:
    """One --edit or --tuned."""

    name: str
    path: str


@dataclass(frozen=True, eq=False)
class Fitted:
    """Features that directions and subspaces are fitted on."""

    stage: str
    """Its name, and that of its files."""
    features: BlockFeatures
    suffix: str = ""
    """Of the names of the rivals that are made of it."""


def features_stage(job: Job, comments: Comments, batch_size: int, name: str = "features") -> BlockFeatures:
    """A stage: sentences of both classes at the end of every block."""
    stem = job.run.folder / name

    def make() -> None:
        found = block_features(
            job.lm, comments.texts, comments.labels, batch_size=batch_size, progress=job.run.reporter.progress
        )
        found.save(stem, peak_gigabytes())

    return job.run.stage(
        name,
        "Sentence features in every block",
        inputs={
            **job.model,
            "texts": text_digest(*comments.texts, *(str(bool(label)) for label in comments.labels)),
            "batch_size": batch_size,
        },
        files=value_files(stem).both,
        make=make,
        load=lambda: BlockFeatures.load(stem),
    )


def of_neurons(
    methods: Sequence[str],
    folder: Path,
    ingredients: Ingredients,
    disturbed: NeuronMeans | None,
    evaluations: int,
) -> list[Rival]:
    """The rivals that learn nothing and are made of the direction and the neurons' means.

    Args:
        methods: of `METHODS`.
        folder: of the run.
        ingredients: of the edits.
        disturbed: moments on neutral text, for least squares.
        evaluations: most of one rival.
    """
    rivals: list[Rival] = []
    beyond = ("direction", "means")
    made = {name: value_digest(folder / name) for name in beyond}
    if "paper" in methods:
        what = "Gains 1 ± α on 55 % of each neuron group (Yang et al. 2025, 6.1), as the text says"
        rivals.append(Rival("paper's edit, gains", what, group_line(ingredients), beyond, made))
    if "code" in methods:
        what = "Neurons of each group set to shifted means at the last position, as the published code does"
        lines = assigned_line(ingredients, evaluations)
        rivals.append(Rival("paper's edit, assigned", what, lines, beyond, made, folds=False, position_zero=True))
    if "default" in methods:
        what = "What dposcope edit makes: α = 0.03 s on the groups of the earlier blocks, w = s out of the later MLPs"
        rivals.append(Rival("dposcope edit", what, default_line(ingredients, "both"), beyond, made))
    if "mlp-ablation" in methods:
        what = "The MLPs of the later half of the blocks lose w of the last block's direction, that of the edits"
        rivals.append(
            Rival("ablation of later MLPs", what, default_line(ingredients, "ablation"), ("direction",), made)
        )
    if disturbed is not None and "least-squares" in methods:
        what = "Gains of 0 to 2 that disturb neutral text least for a shift along the direction"
        made = {**made, "neutral-means": value_digest(folder / "neutral-means")}
        lines = least_squares_line(ingredients, disturbed)
        rivals.append(Rival("least squares", what, lines, (*beyond, "neutral-means"), made))
    return rivals


def of_features(
    methods: Sequence[str], folder: Path, fitted: Fitted, direction: Direction | None, evaluations: int
) -> list[Rival]:
    """The rivals that learn nothing and are made of features in every block.

    Args:
        methods: of `METHODS`.
        folder: of the run.
        fitted: what they are made of.
        direction: a further one for abliteration, of the last block.
        evaluations: most of one rival.
    """
    rivals: list[Rival] = []
    features, suffix, stages = fitted.features, fitted.suffix, (fitted.stage,)
    made = {"features": value_digest(folder / fitted.stage)}
    if "steer" in methods:
        what = "The stream loses α of the block's difference of means at the end of one block, the best of four"
        rivals.append(Rival(f"steering, one block{suffix}", what, one_block(features), stages, made, folds=False))
    if "steer-all" in methods:
        what = "The stream loses α of every block's difference of means, at the end of each"
        rivals.append(Rival(f"steering, all blocks{suffix}", what, all_blocks(features), stages, made, folds=False))
    if "ablation" in methods:
        what = "Output projections lose a direction (Arditi et al. 2024; kernel over blocks as heretic's)"
        with_it, and_it = stages, made
        if direction is not None:
            what += "; the last block's, that of the edits, is tried, too"
            with_it, and_it = (*stages, "direction"), {**made, "direction": value_digest(folder / "direction")}
        rivals.append(Rival(f"abliteration{suffix}", what, abliterations(features, direction), with_it, and_it))
    if "profs" in methods:
        what = "Value vectors lose a subspace of rank k (Uppal et al. 2024)"
        rivals.append(Rival(f"ProFS{suffix}", what, projections(features, evaluations), stages, made))
    return rivals


def trained(
    edits: Sequence[Trained],
    tuned: Sequence[Trained],
    told: Mapping[str, tuple[float | None, float | None]],
    *,
    shuffled: bool,
    seed: int,
) -> list[Rival]:
    """Edits and tuned models, a name given again being a further line of its rival; and the first edit's control."""
    rivals: list[Rival] = []
    kinds = {name: kind for kind, given in (("edit", edits), ("tuned", tuned)) for name in [one.name for one in given]}
    if {one.name for one in edits} & {one.name for one in tuned}:
        raise DposcopeError("an --edit and a --tuned have one name; give each its own, as in NAME=PATH")
    for name, kind in kinds.items():
        own = [one for one in (edits if kind == "edit" else tuned) if one.name == name]
        labels = [one.path if len(own) > 1 else "" for one in own]
        if kind == "edit":
            lines = [edit_line(label, Edit.load(one.path)) for label, one in zip(labels, own, strict=True)]
            digests = {one.path: value_digest(one.path) for one in own}
            what = "A saved edit, its strength s from 0 on"
        else:
            lines = [tuned_line(label, one.path) for label, one in zip(labels, own, strict=True)]
            digests = {one.path: tuned_digest(one.path) for one in own}
            what = "A tuned model, its weights on the line from the base's: W₀ + s (W₁ − W₀)"
        found = [minutes for one in own if (minutes := minutes_of(one.path)) is not None]
        obtained = told.get(name, (sum(found) if found else None, None))
        rivals.append(Rival(name, what, tuple(lines), (), digests, trained=True, obtained=obtained))
    if shuffled and edits:
        first = edits[0]
        what = f"The gains of {first.name} given to other neurons of their blocks"
        line = edit_line("", Edit.load(first.path).control(seed))
        made = {first.path: value_digest(first.path), "seed": seed}
        rivals.append(Rival(f"{first.name}, shuffled", what, (line,), (), made, trained=True))
    return rivals
