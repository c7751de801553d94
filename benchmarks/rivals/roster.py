"""Which rivals take part, made from a run's ingredients and what was trained before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rivals.abliteration import abliterations
from benchmarks.rivals.features import BlockFeatures, block_features
from benchmarks.rivals.lines import Rival
from benchmarks.rivals.paper_edit import assigned_line, group_line
from benchmarks.rivals.price import peak_gigabytes
from benchmarks.rivals.profs import projections
from benchmarks.rivals.steering import all_blocks, one_block
from benchmarks.rivals.trained import edit_line, minutes_of, tuned_digest, tuned_line

from dposcope.artefacts import text_digest, value_digest, value_files
from dposcope.data.comments import Comments
from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.study.ingredients import Ingredients, Job

METHODS = ("edit", "shuffled", "tuned", "paper", "code", "steer", "steer-all", "ablation", "profs")
"""What --methods may name; `edit` and `tuned` take part where --edit and --tuned name any."""
NEEDS_FEATURES = ("steer", "steer-all", "ablation", "profs")
NEEDS_MEANS = ("paper", "code")
_BEYOND = ("direction", "means")


@dataclass(frozen=True)
class Trained:
    """One --edit or --tuned."""

    name: str
    path: str


def features_stage(job: Job, comments: Comments, batch_size: int) -> BlockFeatures:
    """The stage `features`: sentences of both classes at the end of every block."""
    stem = job.run.folder / "features"

    def make() -> None:
        found = block_features(
            job.lm, comments.texts, comments.labels, batch_size=batch_size, progress=job.run.reporter.progress
        )
        found.save(stem, peak_gigabytes())

    return job.run.stage(
        "features",
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


def training_free(
    methods: Sequence[str],
    folder: Path,
    ingredients: Ingredients | None,
    features: BlockFeatures | None,
    evaluations: int,
) -> list[Rival]:
    """The rivals that learn nothing.

    Args:
        methods: of `METHODS`.
        folder: of the run.
        ingredients: for the paper's edit.
        features: for all others.
        evaluations: most of one rival.
    """
    rivals: list[Rival] = []
    if ingredients is not None:
        made = {name: value_digest(folder / name) for name in _BEYOND}
        if "paper" in methods:
            what = "Gains 1 ± α on 55 % of each neuron group (Yang et al. 2025, 6.1), as the text says"
            rivals.append(Rival("paper's edit, gains", what, group_line(ingredients), _BEYOND, made))
        if "code" in methods:
            what = "Neurons of each group set to shifted means at the last position, as the published code does"
            lines = assigned_line(ingredients, evaluations)
            rivals.append(Rival("paper's edit, assigned", what, lines, _BEYOND, made, folds=False, position_zero=True))
    if features is not None:
        made = {"features": value_digest(folder / "features")}
        stages = ("features",)
        if "steer" in methods:
            what = "The stream loses α of the block's difference of means at the end of one block, the best of four"
            rivals.append(Rival("steering, one block", what, one_block(features), stages, made, folds=False))
        if "steer-all" in methods:
            what = "The stream loses α of every block's difference of means, at the end of each"
            rivals.append(Rival("steering, all blocks", what, all_blocks(features), stages, made, folds=False))
        if "ablation" in methods:
            what = "Output projections lose a direction (Arditi et al. 2024; kernel over blocks as heretic's)"
            rivals.append(Rival("abliteration", what, abliterations(features), stages, made))
        if "profs" in methods:
            what = "Value vectors lose a subspace of rank k (Uppal et al. 2024)"
            rivals.append(Rival("ProFS", what, projections(features, evaluations), stages, made))
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
