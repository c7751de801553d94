# Load: a model, prompts, labelled texts
from .model.load import load as load
from .model.language_model import LanguageModel as LanguageModel
from .model.generate import generate as generate
from .data.prompts import load_prompts as load_prompts
from .data.comments import load_comments as load_comments

# Measure: what neurons do, and what tuning changed
from .neurons.activations import collect_means as collect_means
from .neurons.contributions import contributions as contributions
from .neurons.groups import cosines as cosines
from .jobs.explain.explanation import explain as explain
from .directions.lens import lens as lens

# Find: a direction
from .directions.means import mean_difference as mean_difference
from .directions.probe import fit_probe as fit_probe
from .directions.direction import Direction as Direction

# Edit: gains, ablation, steering
from .interventions.group_gains import group_gains as group_gains
from .interventions.ablate import ablate as ablate
from .interventions.gains import Gains as Gains
from .interventions.edit import Edit as Edit
from .interventions.steer import Steer as Steer

# Evaluate: scores before and after
from .evaluation.scorers import load_scorer as load_scorer
from .evaluation.conditions.materials import Materials as Materials
from .evaluation.conditions.measure import measure as measure
from .evaluation.statistics.comparisons import paired_difference as paired_difference

# Ship: an ordinary checkpoint
from .interventions.fold import fold as fold
from .shipping.checkpoint import fold_checkpoint as fold_checkpoint
from .shipping.gguf import fold_gguf as fold_gguf

# Everything else, by room
from .data.comments import Comments as Comments
from .data.concept import Concept as Concept
from .data.corpus import Passages as Passages, load_neutral as load_neutral, load_passages as load_passages
from .data.masking import mask_offensive as mask_offensive
from .data.prompts import split_prompts as split_prompts
from .data.seeds import load_seeds as load_seeds
from .data.text_prompts import cut_prompts as cut_prompts
from .data.trust import trusting_files as trusting_files
from .directions.exchange import (
    from_repeng as from_repeng,
    from_steering_vectors as from_steering_vectors,
    read_control_vector as read_control_vector,
    to_repeng as to_repeng,
    to_steering_vectors as to_steering_vectors,
    write_control_vector as write_control_vector,
)
from .directions.features import residual_features as residual_features
from .directions.judge import TokenJudge as TokenJudge, WordListJudge as WordListJudge, load_judge as load_judge
from .directions.lens import Lens as Lens
from .directions.tokens import token_contrast as token_contrast
from .errors import DposcopeError as DposcopeError
from .evaluation.classifier import classifier_scorer as classifier_scorer
from .evaluation.conditions.scores import Scores as Scores, summarise as summarise
from .evaluation.direction_scorer import direction_scorer as direction_scorer
from .evaluation.neural import neural_scorer as neural_scorer
from .evaluation.perplexity import window_losses as window_losses
from .evaluation.perspective.scorer import perspective_scorer as perspective_scorer
from .evaluation.sampled.continuations import continuation_losses as continuation_losses, relevance as relevance
from .evaluation.sampled.phrases import distinct_pairs as distinct_pairs, risen_phrases as risen_phrases
from .evaluation.sampled.real_toxicity import (
    RealToxicity as RealToxicity,
    distinct_per_prompt as distinct_per_prompt,
    harmless as harmless,
    sample_texts as sample_texts,
)
from .evaluation.scorer import Scorer as Scorer, mean_of as mean_of
from .evaluation.scorers import function_scorer as function_scorer
from .evaluation.statistics.comparisons import (
    bootstrap_mean as bootstrap_mean,
    paired_ratio as paired_ratio,
    paired_share as paired_share,
)
from .evaluation.statistics.intervals import (
    Difference as Difference,
    Estimate as Estimate,
    Ratio as Ratio,
    Share as Share,
)
from .evaluation.trained_scorer import TrainedScorer as TrainedScorer
from .interventions.ablate import Ablation as Ablation
from .interventions.assign import Assign as Assign
from .interventions.paired.attribution import Attribution as Attribution, attribution as attribution
from .interventions.edited import edited as edited
from .interventions.fold import fold_ as fold_, folded as folded
from .interventions.group_gains import gains_of as gains_of, group_assign as group_assign
from .interventions.paired.interchange import Interchange as Interchange, Parts as Parts
from .interventions.least_squares import LeastSquares as LeastSquares
from .interventions.paired.mediation import Mediation as Mediation, mediation as mediation
from .interventions.shipped import shipped_edit as shipped_edit, shipped_edits as shipped_edits
from .interventions.weights import OtherWeights as OtherWeights
from .jobs.explain.explanation import Explanation as Explanation
from .jobs.explain.patches import Patch as Patch, patches as patches
from .model.chat.asking import Turn as Turn
from .model.chat.prompts import with_chat as with_chat
from .model.frames import Positions as Positions, prompted as prompted
from .model.generate import Continuation as Continuation, Sampling as Sampling
from .model.hooks import Intervention as Intervention
from .model.layout.table import Layout as Layout, register_layout as register_layout
from .model.quantised.plain import dequantised as dequantised
from .neurons.activations import (
    ActivationAccumulator as ActivationAccumulator,
    NeuronMeans as NeuronMeans,
    recording as recording,
)
from .neurons.contributions import Contributions as Contributions, along as along
from .neurons.folds import collect_by_fold as collect_by_fold
from .neurons.groups import (
    Group as Group,
    group_sets as group_sets,
    projections as projections,
    select_fraction as select_fraction,
)
from .neurons.ranks import cumulative_reduction as cumulative_reduction, rank_range_shifts as rank_range_shifts
from .neurons.resampling import prompt_intervals as prompt_intervals
from .neurons.sets import NeuronSet as NeuronSet
from .neurons.shares import group_shares as group_shares, layer_sums as layer_sums
from .neurons.shifts import (
    change_summary as change_summary,
    correlations as correlations,
    edit_agreement as edit_agreement,
    shift_density as shift_density,
    top_toxic as top_toxic,
)
from .neurons.stability import NeuronStability as NeuronStability, Repetitions as Repetitions, stability as stability
from .neurons.subspace import Subspace as Subspace, alignment_signs as alignment_signs, svd_subspace as svd_subspace
from .neurons.toxic import ToxicNeurons as ToxicNeurons, toxic_neurons as toxic_neurons
from .neurons.traces import trace as trace
from .pairs.checks import check_pairs as check_pairs
from .pairs.pairs import Pair as Pair, Pairs as Pairs, load_pairs as load_pairs, write_pairs as write_pairs
from .pairs.pplm import Perturbation as Perturbation, perturbed_continuations as perturbed_continuations
from .pairs.sampled import Pairer as Pairer, sample_completions as sample_completions
from .search.divergence import Cost as Cost, NeutralText as NeutralText
from .search.family import Family as Family, Point as Point, Source as Source
from .shipping.adapters import write_adapters as write_adapters
from .shipping.result import Shipped as Shipped
from .training.collator import Material as Material
from .training.batches.examples import neutral_windows as neutral_windows, tokenise as tokenise
from .training.loss import dpo_terms as dpo_terms
from .training.objective import Objective as Objective
from .training.schedule import Schedule as Schedule
from .training.token_statistics import token_statistics as token_statistics
from .training.train import train_policy as train_policy
from .training.trainable import all_weights as all_weights, low_rank as low_rank, neuron_gains as neuron_gains
