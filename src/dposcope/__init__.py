"""See what preference tuning did to a language model, neuron by neuron, and get the same effect without training.

import dposcope as ds

lm = ds.load("gemma-3-270m")
comments = ds.load_comments(None).balanced()
toxic = ds.mean_difference(lm, comments.texts, comments.labels)
prompts = ds.load_prompts(None)
means = ds.collect_means(lm, prompts)
edit = ds.Edit.of(ds.group_gains(lm, means, toxic.vector, alpha=0.1), ds.ablate(toxic.vector))
with edit.on(lm):
    print(ds.generate(lm, prompts[:1])[0].text)
ds.fold(lm, edit).save_pretrained("gemma-3-270m-edited")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dposcope.data.comments import Comments, load_comments
    from dposcope.data.concept import Concept
    from dposcope.data.corpus import Passages, load_neutral, load_passages
    from dposcope.data.masking import mask_offensive
    from dposcope.data.prompts import load_prompts, split_prompts
    from dposcope.data.seeds import load_seeds
    from dposcope.data.text_prompts import cut_prompts
    from dposcope.directions.direction import Direction
    from dposcope.directions.features import residual_features
    from dposcope.directions.judge import TokenJudge, WordListJudge, load_judge
    from dposcope.directions.lens import Lens, lens
    from dposcope.directions.means import mean_difference
    from dposcope.directions.probe import fit_probe
    from dposcope.directions.tokens import token_contrast
    from dposcope.errors import DposcopeError
    from dposcope.evaluation.classifier import classifier_scorer
    from dposcope.evaluation.direction_scorer import direction_scorer
    from dposcope.evaluation.perplexity import window_losses
    from dposcope.evaluation.scorer import Scorer, mean_of
    from dposcope.evaluation.scorers import function_scorer, load_scorer
    from dposcope.evaluation.statistics import (
        Difference,
        Estimate,
        Ratio,
        Share,
        bootstrap_mean,
        paired_difference,
        paired_ratio,
        paired_share,
    )
    from dposcope.evaluation.suite import Materials, Scores, measure, summarise
    from dposcope.evaluation.trained_scorer import TrainedScorer
    from dposcope.interventions.ablate import Ablation, ablate
    from dposcope.interventions.assign import Assign
    from dposcope.interventions.edit import Edit
    from dposcope.interventions.edited import edited
    from dposcope.interventions.fold import fold, fold_, folded
    from dposcope.interventions.gains import Gains
    from dposcope.interventions.group_gains import gains_of, group_assign, group_gains
    from dposcope.interventions.least_squares import LeastSquares
    from dposcope.interventions.shipped import shipped_edit, shipped_edits
    from dposcope.interventions.steer import Steer
    from dposcope.interventions.weights import OtherWeights
    from dposcope.jobs.explain.explanation import Explanation, explain
    from dposcope.jobs.explain.patches import Patch, patches
    from dposcope.model.frames import Positions, prompted
    from dposcope.model.generate import Continuation, Sampling, generate
    from dposcope.model.hooks import Intervention
    from dposcope.model.language_model import LanguageModel
    from dposcope.model.layout import Layout, register_layout
    from dposcope.model.load import load
    from dposcope.neurons.activations import ActivationAccumulator, NeuronMeans, collect_means, recording
    from dposcope.neurons.contributions import Contributions, along, contributions
    from dposcope.neurons.folds import collect_by_fold
    from dposcope.neurons.groups import Group, cosines, group_sets, projections, select_fraction
    from dposcope.neurons.ranks import cumulative_reduction, rank_range_shifts
    from dposcope.neurons.resampling import prompt_intervals
    from dposcope.neurons.sets import NeuronSet
    from dposcope.neurons.shares import group_shares, layer_sums
    from dposcope.neurons.shifts import change_summary, correlations, edit_agreement, shift_density, top_toxic
    from dposcope.neurons.stability import NeuronStability, Repetitions, stability
    from dposcope.neurons.subspace import Subspace, alignment_signs, svd_subspace
    from dposcope.neurons.toxic import ToxicNeurons, toxic_neurons
    from dposcope.neurons.traces import trace
    from dposcope.pairs.checks import check_pairs
    from dposcope.pairs.pairs import Pair, Pairs, load_pairs, write_pairs
    from dposcope.pairs.pplm import Perturbation, perturbed_continuations
    from dposcope.pairs.sampled import sample_pairs
    from dposcope.search.divergence import Cost, NeutralText
    from dposcope.search.family import Family, Point, Source
    from dposcope.shipping.adapters import write_adapters
    from dposcope.shipping.checkpoint import fold_checkpoint
    from dposcope.shipping.gguf import fold_gguf
    from dposcope.shipping.result import Shipped
    from dposcope.training.collator import Material
    from dposcope.training.examples import neutral_windows, tokenise
    from dposcope.training.loss import dpo_terms
    from dposcope.training.objective import Objective
    from dposcope.training.schedule import Schedule
    from dposcope.training.token_statistics import token_statistics
    from dposcope.training.train import train_policy
    from dposcope.training.trainable import all_weights, low_rank, neuron_gains

# Names are imported when first asked for: `dposcope --help` need not wait for torch.
_HOMES: dict[str, tuple[str, ...]] = {
    "dposcope.data.comments": ("Comments", "load_comments"),
    "dposcope.data.concept": ("Concept",),
    "dposcope.data.corpus": ("Passages", "load_neutral", "load_passages"),
    "dposcope.data.masking": ("mask_offensive",),
    "dposcope.data.prompts": ("load_prompts", "split_prompts"),
    "dposcope.data.seeds": ("load_seeds",),
    "dposcope.directions.direction": ("Direction",),
    "dposcope.directions.features": ("residual_features",),
    "dposcope.directions.lens": ("Lens", "lens"),
    "dposcope.directions.means": ("mean_difference",),
    "dposcope.directions.probe": ("fit_probe",),
    "dposcope.directions.tokens": ("token_contrast",),
    "dposcope.errors": ("DposcopeError",),
    "dposcope.evaluation.perplexity": ("window_losses",),
    "dposcope.evaluation.classifier": ("classifier_scorer",),
    "dposcope.evaluation.scorer": ("Scorer", "mean_of"),
    "dposcope.evaluation.scorers": ("function_scorer", "load_scorer"),
    "dposcope.evaluation.statistics": (
        "Difference",
        "Estimate",
        "Ratio",
        "Share",
        "bootstrap_mean",
        "paired_difference",
        "paired_ratio",
        "paired_share",
    ),
    "dposcope.evaluation.suite": ("Materials", "Scores", "measure", "summarise"),
    "dposcope.evaluation.direction_scorer": ("direction_scorer",),
    "dposcope.evaluation.trained_scorer": ("TrainedScorer",),
    "dposcope.interventions.ablate": ("Ablation", "ablate"),
    "dposcope.interventions.assign": ("Assign",),
    "dposcope.interventions.edit": ("Edit",),
    "dposcope.interventions.edited": ("edited",),
    "dposcope.interventions.fold": ("fold", "fold_", "folded"),
    "dposcope.interventions.gains": ("Gains",),
    "dposcope.interventions.group_gains": ("gains_of", "group_assign", "group_gains"),
    "dposcope.interventions.least_squares": ("LeastSquares",),
    "dposcope.interventions.shipped": ("shipped_edit", "shipped_edits"),
    "dposcope.interventions.steer": ("Steer",),
    "dposcope.model.frames": ("Positions", "prompted"),
    "dposcope.model.generate": ("Continuation", "Sampling", "generate"),
    "dposcope.model.hooks": ("Intervention",),
    "dposcope.model.language_model": ("LanguageModel",),
    "dposcope.model.layout": ("Layout", "register_layout"),
    "dposcope.model.load": ("load",),
    "dposcope.neurons.activations": ("ActivationAccumulator", "NeuronMeans", "collect_means", "recording"),
    "dposcope.neurons.groups": ("Group", "cosines", "group_sets", "projections", "select_fraction"),
    "dposcope.neurons.sets": ("NeuronSet",),
    "dposcope.data.text_prompts": ("cut_prompts",),
    "dposcope.interventions.weights": ("OtherWeights",),
    "dposcope.training.examples": ("neutral_windows", "tokenise"),
    "dposcope.training.loss": ("dpo_terms",),
    "dposcope.training.objective": ("Objective",),
    "dposcope.pairs.checks": ("check_pairs",),
    "dposcope.pairs.pairs": ("Pair", "Pairs", "load_pairs", "write_pairs"),
    "dposcope.pairs.pplm": ("Perturbation", "perturbed_continuations"),
    "dposcope.pairs.sampled": ("sample_pairs",),
    "dposcope.training.schedule": ("Schedule",),
    "dposcope.training.token_statistics": ("token_statistics",),
    "dposcope.training.trainable": ("all_weights", "low_rank", "neuron_gains"),
    "dposcope.neurons.contributions": (
        "Contributions",
        "along",
        "contributions",
    ),
    "dposcope.neurons.folds": ("collect_by_fold",),
    "dposcope.neurons.resampling": ("prompt_intervals",),
    "dposcope.neurons.stability": ("NeuronStability", "Repetitions", "stability"),
    "dposcope.directions.judge": (
        "TokenJudge",
        "WordListJudge",
        "load_judge",
    ),
    "dposcope.neurons.subspace": (
        "Subspace",
        "alignment_signs",
        "svd_subspace",
    ),
    "dposcope.neurons.toxic": (
        "ToxicNeurons",
        "toxic_neurons",
    ),
    "dposcope.neurons.shares": (
        "group_shares",
        "layer_sums",
    ),
    "dposcope.neurons.ranks": (
        "cumulative_reduction",
        "rank_range_shifts",
    ),
    "dposcope.neurons.shifts": (
        "change_summary",
        "correlations",
        "edit_agreement",
        "shift_density",
        "top_toxic",
    ),
    "dposcope.neurons.traces": ("trace",),
    "dposcope.search.divergence": ("Cost", "NeutralText"),
    "dposcope.search.family": ("Family", "Point", "Source"),
    "dposcope.shipping.adapters": ("write_adapters",),
    "dposcope.shipping.checkpoint": ("fold_checkpoint",),
    "dposcope.shipping.gguf": ("fold_gguf",),
    "dposcope.shipping.result": ("Shipped",),
    "dposcope.jobs.explain.explanation": (
        "Explanation",
        "explain",
    ),
    "dposcope.jobs.explain.patches": (
        "Patch",
        "patches",
    ),
    "dposcope.training.collator": ("Material",),
    "dposcope.training.train": ("train_policy",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'dposcope' has no attribute {name!r}")


__all__ = [
    "Ablation",
    "ActivationAccumulator",
    "Assign",
    "Comments",
    "Concept",
    "Continuation",
    "Contributions",
    "Cost",
    "Difference",
    "Direction",
    "DposcopeError",
    "Edit",
    "Estimate",
    "Explanation",
    "Family",
    "Gains",
    "Group",
    "Intervention",
    "LanguageModel",
    "Layout",
    "LeastSquares",
    "Lens",
    "Material",
    "Materials",
    "NeuronMeans",
    "NeuronSet",
    "NeuronStability",
    "NeutralText",
    "Objective",
    "OtherWeights",
    "Pair",
    "Pairs",
    "Passages",
    "Patch",
    "Perturbation",
    "Point",
    "Positions",
    "Ratio",
    "Repetitions",
    "Sampling",
    "Schedule",
    "Scorer",
    "Scores",
    "Share",
    "Shipped",
    "Source",
    "Steer",
    "Subspace",
    "TokenJudge",
    "ToxicNeurons",
    "TrainedScorer",
    "WordListJudge",
    "ablate",
    "alignment_signs",
    "all_weights",
    "along",
    "bootstrap_mean",
    "change_summary",
    "check_pairs",
    "classifier_scorer",
    "collect_by_fold",
    "collect_means",
    "contributions",
    "correlations",
    "cosines",
    "cumulative_reduction",
    "cut_prompts",
    "direction_scorer",
    "dpo_terms",
    "edit_agreement",
    "edited",
    "explain",
    "fit_probe",
    "fold",
    "fold_",
    "fold_checkpoint",
    "fold_gguf",
    "folded",
    "function_scorer",
    "gains_of",
    "generate",
    "group_assign",
    "group_gains",
    "group_sets",
    "group_shares",
    "layer_sums",
    "lens",
    "load",
    "load_comments",
    "load_judge",
    "load_neutral",
    "load_pairs",
    "load_passages",
    "load_prompts",
    "load_scorer",
    "load_seeds",
    "low_rank",
    "mask_offensive",
    "mean_difference",
    "mean_of",
    "measure",
    "neuron_gains",
    "neutral_windows",
    "paired_difference",
    "paired_ratio",
    "paired_share",
    "patches",
    "perturbed_continuations",
    "projections",
    "prompt_intervals",
    "prompted",
    "rank_range_shifts",
    "recording",
    "register_layout",
    "residual_features",
    "sample_pairs",
    "select_fraction",
    "shift_density",
    "shipped_edit",
    "shipped_edits",
    "split_prompts",
    "stability",
    "summarise",
    "svd_subspace",
    "token_contrast",
    "token_statistics",
    "tokenise",
    "top_toxic",
    "toxic_neurons",
    "trace",
    "train_policy",
    "window_losses",
    "write_adapters",
    "write_pairs",
]
