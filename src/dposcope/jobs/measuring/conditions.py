"""Conditions by name: the syntax of `--condition`.

    scale:alpha=0.3,beta=0.55        the paper's edit as gains, live
    assign:alpha=0.01,beta=0.55,ranking=reference
                                     the authors' code: neurons set to their shifted means
    steer:alpha=1                    subtract αW at the end of the block that the direction is from (the last)
    ablate:weight=1                  take the direction out of output projections
    edit:path/to/edit.safetensors    a saved edit; gains-of:… and ablation-of:… its parts, control:… its control
    edit:path,strength=0.8           the same at another strength: gains 1 + s(g − 1), ablation weights s·w
    edit:gemma-3-270m                the edit that was learned for a bundled model
    model:path/to/checkpoint         a tuned model of the same architecture, or an adapter, measured beside its base
    model:path,strength=0.5          the same half way along its tuning: W₀ + s (W₁ − W₀)
    interchange:with=path/to/checkpoint,neurons=path/to/set.safetensors
                                     neurons take the values that they have in the tuned model on the same tokens
    interchange:with=edit:gemma-3-270m,part=mlp,blocks=6-11
                                     the same with an edit; part is neurons, heads, mlp, attention, block or residual
    scale:alpha=0.1+ablate:weight=1  gains and ablation together
    mild=scale:alpha=0.1             the same under a name of one's own
`scale`, `ablate`, `interchange` take `blocks=9-17`; `ablate` takes `site=mlp`; `interchange` takes `reverse=yes`, for
the tuned model with the values of its base. Controls: `shuffled=yes` for `scale`, `random=yes` for
`ablate`, `steer` and the neurons of `interchange` (as many random ones in each block).
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch

from dposcope.artefacts import file_digest, text_digest, value_digest
from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.scores import BASE
from dposcope.evaluation.sampled.ideal import IDEAL
from dposcope.interventions.ablate import Ablation, ablate
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.interventions.group_gains import gains_of, group_assign
from dposcope.interventions.paired.interchange import InterchangeWith, Parts
from dposcope.interventions.shipped import edit_file
from dposcope.interventions.steer import Steer
from dposcope.interventions.tuned import check_tuned, edit_stem, tuned_model
from dposcope.interventions.weights import OtherWeights
from dposcope.jobs.ingredients.prepared import Ingredients
from dposcope.jobs.numbers import MOST_BLOCKS, MOST_STRENGTH
from dposcope.jobs.origin import check_architecture
from dposcope.model.adapter import check_adapter, is_adapter
from dposcope.model.hooks import Intervention
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.groups import Ranking, Selection, select_fraction
from dposcope.neurons.sets import NeuronSet


@dataclass(frozen=True)
class ConditionSpec:
    """One parsed condition."""

    name: str
    """Its name in tables."""
    parts: tuple["PartSpec", ...]

    def build(
        self, ingredients: Callable[[], Ingredients], seed: int, *, among: NeuronSet | None = None
    ) -> Intervention:
        """Make the intervention.

        Args:
            ingredients: called only if a part needs a direction or means.
            seed: of controls.
            among: every neuron of the model, for the control of a saved edit; None: its blocks do not differ.

        Raises:
            DposcopeError: a part does not fit the model.
        """
        built = [part.build(ingredients, seed, among) for part in self.parts]
        if len(built) == 1:
            return built[0]
        return Edit.of(*built)

    @property
    def edits(self) -> list[Path]:
        """Paths of the saved edits that its parts take, without suffix."""
        return [stem for part in self.parts if (stem := part.edit) is not None]

    @property
    def learned(self) -> bool:
        """Whether a part is made from a direction and neuron means, and not from files alone."""
        return any(part.kind not in (*_SAVED, "interchange") for part in self.parts)

    def depends_on(self, folder: Path, seed: int) -> dict[str, Any]:
        """Everything that the intervention depends on, except the model; an input of the stage that measures it.

        Args:
            folder: of the run, with its direction and means.
            seed: of controls.
        """
        names = ("direction", "means") if self.learned else ()
        return {
            "parts": [[part.kind, dict(part.values)] for part in self.parts],
            "made_from": [value_digest(folder / name) for name in names],
            "files": [_source_digest(part.kind, part.values["path"]) for part in self.parts if part.kind in _SAVED]
            + [digest for part in self.parts if part.kind == "interchange" for digest in _interchanged(part.values)],
            "seed": seed,
        }


@dataclass(frozen=True)
class PartSpec:
    """`kind:key=value,…`."""

    kind: str
    values: Mapping[str, Any]

    @property
    def edit(self) -> Path | None:
        """Path of the saved edit that it takes, without suffix; None for others."""
        if self.kind == "interchange":
            return edit_stem(self.values["with"])
        return Path(self.values["path"]) if self.kind in _SAVED and self.kind != "model" else None

    def check(self, lm: LanguageModel, seen: set[str]) -> None:
        """See `check_conditions`.

        Args:
            lm: its weights are not read.
            seen: tuned models and edits that were looked at; others are added.
        """
        values = self.values
        if self.kind == "model" and values.get("strength", 1) != 1 and lm.quantised:
            raise DposcopeError(
                f"the weights of {lm.name} are quantised, and there is nothing between two codes; leave strength out, "
                "or load the model unquantised"
            )
        if self.kind == "model":
            _check_once(values["path"], lm, seen)
        elif self.kind in _SAVED:
            edit = Edit.load(values["path"])
            check_architecture(edit, lm)
            edit.changes(lm)
        elif self.kind == "interchange":
            _check_once(values["with"], lm, seen)
            _parts(values, 0, lm).sites(lm)
        else:
            _check_blocks(values.get("blocks", ()), lm)
            if not -lm.n_blocks <= values.get("block", 0) < lm.n_blocks:
                raise DposcopeError(
                    f"block {values['block']} is outside a model of {lm.n_blocks} blocks; give 0 to {lm.n_blocks - 1}"
                )

    def build(self, ingredients: Callable[[], Ingredients], seed: int, among: NeuronSet | None) -> Any:
        """Make this part."""
        if self.kind == "control":
            return _saved(self.values).control(seed, among=among)
        return _BUILDERS[self.kind](self.values, ingredients, seed)


def check_conditions(specs: Iterable[ConditionSpec], lm: LanguageModel) -> None:
    """Refuse, before anything is measured, what does not fit the model.

    Args:
        specs: conditions. A tuned model that several of them name is looked at once.
        lm: its weights are not read.

    Raises:
        DposcopeError: a block is not there; an edit, a set of neurons or a tuned model is of another architecture; or
            one is a model at a strength, and the weights of `lm` are quantised.
    """
    seen: set[str] = set()
    for spec in specs:
        for part in spec.parts:
            try:
                part.check(lm, seen)
            except DposcopeError as error:
                raise DposcopeError(f"condition {spec.name!r}: {error}") from error


def _check_once(source: str, lm: LanguageModel, seen: set[str]) -> None:
    if source not in seen:
        stem = edit_stem(source)
        if stem is not None:
            check_architecture(Edit.load(stem), lm)
        check_tuned(source, lm)
        seen.add(source)


_NUMBERS = {"alpha", "beta", "weight", "relative", "trim", "strength"}
_SAVED = ("edit", "gains-of", "ablation-of", "control", "model")
_KEYS: dict[str, frozenset[str]] = {
    "scale": frozenset({"alpha", "beta", "ranking", "shuffled", "trim", "blocks"}),
    "assign": frozenset({"alpha", "beta", "ranking", "trim"}),
    "steer": frozenset({"alpha", "relative", "block", "site", "random"}),
    "ablate": frozenset({"weight", "random", "blocks", "site"}),
    "interchange": frozenset({"with", "part", "neurons", "blocks", "random", "reverse"}),
    **dict.fromkeys(_SAVED, frozenset({"path"})),
}
_RANKINGS = get_args(Ranking)
_PARTS = ("neurons", "heads", "mlp", "attention", "block", "residual")
"""What an interchange may take from the other model."""
_LOADED = frozenset({".safetensors", ".json", ".jinja", ".model", ".txt"})
"""Suffixes of the files that a checkpoint is loaded from."""
_YES = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


def parse_condition(text: str) -> ConditionSpec:
    """Read one condition.

    Raises:
        DposcopeError: a kind, key or value is unknown; the message lists the known ones.
    """
    named = re.fullmatch(rf"([\w .αβ·-]+)=((?:{'|'.join(_KEYS)})(?::.*)?)", text)
    name, body = (named.group(1), named.group(2)) if named else (text, text)
    if name in (BASE, IDEAL):
        raise DposcopeError(f"the condition {name!r} is always measured; give yours another name")
    if name.startswith("_"):
        raise DposcopeError(f"the name {name!r} begins with _, and figures leave such names out; give another name")
    parts = tuple(_parse_part(part, text) for part in re.split(r"\+(?=[a-z-]+(?::|$))", body))
    if len(parts) > 1 and any(part.kind in {"assign", "steer", "model", "interchange"} for part in parts):
        raise DposcopeError(f"condition {text!r}: only scale, ablate and saved edits can be joined with +")
    return ConditionSpec(name, parts)


def _parse_part(part: str, whole: str) -> PartSpec:
    kind, _, rest = part.partition(":")
    if kind not in _KEYS:
        raise DposcopeError(f"condition {whole!r}: no kind {kind!r}; choose from {', '.join(_KEYS)}")
    if kind in _SAVED:
        if not rest:
            example = "runs/mine/model" if kind == "model" else "runs/mine/edit.safetensors"
            raise DposcopeError(f"condition {whole!r}: name the file, as in {kind}:{example}")
        path = rest.removeprefix("path=")
        path, given, strength = path.partition(",strength=")
        # Load it now, so that an error shows before the plain model is measured.
        if kind == "model":
            _check_model(path, whole)
        else:
            path = str(edit_file(path))
            Edit.load(path)
        return PartSpec(kind, {"path": path, **({"strength": _value("strength", strength, whole)} if given else {})})
    values: dict[str, Any] = {}
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        if not equals or key not in _KEYS[kind]:
            raise DposcopeError(f"condition {whole!r}: {kind} takes {', '.join(sorted(_KEYS[kind]))}, not {pair!r}")
        if key in values:
            raise DposcopeError(f"condition {whole!r}: {key} is given twice")
        values[key] = _value(key, value, whole)
    if kind == "steer" and {"alpha", "relative"} <= set(values):
        raise DposcopeError(f"condition {whole!r}: give alpha (times W) or relative (in mean norms), not both")
    sites = {"steer": ("residual", "mlp"), "ablate": ("mlp", "attention", "both")}
    if "site" in values and values["site"] not in sites[kind]:
        raise DposcopeError(f"condition {whole!r}: {kind} acts at site {' or '.join(sites[kind])}")
    if kind == "interchange":
        _check_interchange(values, whole)
    if kind in {"scale", "assign"} and values.get("alpha", 0) < 0:
        raise DposcopeError(f"condition {whole!r}: alpha {values['alpha']} is negative; it is a relative shift")
    return PartSpec(kind, values)


def _check_model(path: str, whole: str) -> None:
    if is_adapter(Path(path)):
        check_adapter(Path(path))
    elif not (Path(path) / "config.json").is_file():
        raise DposcopeError(
            f"condition {whole!r}: {path} holds no config.json; name the folder of a checkpoint or an adapter"
        )


def _check_interchange(values: dict[str, Any], whole: str) -> None:
    """Load what is small now, so that an error shows before the plain model is measured."""
    if "with" not in values:
        raise DposcopeError(f"condition {whole!r}: name the tuned model, as in interchange:with=runs/dpo/model")
    if edit_stem(values["with"]) is None:
        _check_model(values["with"], whole)
    part = values.get("part", "neurons")
    if part not in _PARTS:
        raise DposcopeError(f"condition {whole!r}: part is one of {', '.join(_PARTS)}, not {part!r}")
    if part != "neurons" and ("neurons" in values or values.get("random")):
        raise DposcopeError(f"condition {whole!r}: neurons and random belong to part=neurons, not to part={part}")
    if "neurons" in values:
        NeuronSet.load(values["neurons"])
    elif values.get("random"):
        raise DposcopeError(f"condition {whole!r}: random=yes needs neurons=FILE, whose number it takes")


def _value(key: str, value: str, whole: str) -> Any:
    if key in _NUMBERS or key == "block":
        try:
            number = int(value) if key == "block" else float(value)
        except ValueError as error:
            raise DposcopeError(f"condition {whole!r}: {key} needs a number, not {value!r}") from error
        if not math.isfinite(number):
            raise DposcopeError(f"condition {whole!r}: {key} needs a finite number, not {value!r}")
        most = MOST_BLOCKS if key == "block" else MOST_STRENGTH
        if abs(number) > most:
            raise DposcopeError(f"condition {whole!r}: {key} {value} is beyond ±{most:,.0f}")
        if key == "beta" and not 0 <= number <= 1:
            raise DposcopeError(f"condition {whole!r}: beta {value} is outside [0, 1]")
        if key == "trim" and not 0 <= number <= 100:
            raise DposcopeError(f"condition {whole!r}: trim {value} is no percentile, 0 … 100")
        return number
    if key in {"shuffled", "random", "reverse"}:
        if value not in _YES:
            raise DposcopeError(f"condition {whole!r}: {key} is yes or no, not {value!r}")
        return _YES[value]
    if key == "ranking" and value not in _RANKINGS:
        raise DposcopeError(f"condition {whole!r}: ranking is one of {', '.join(_RANKINGS)}, not {value!r}")
    if key == "blocks":
        span = re.fullmatch(r"(\d{1,4})-(\d{1,4})", value)
        if span is None or int(span[1]) > int(span[2]):
            raise DposcopeError(f"condition {whole!r}: blocks are a range such as 9-17, not {value!r}")
        return tuple(range(int(span[1]), int(span[2]) + 1))
    return value


def _select(values: Mapping[str, Any], made: Ingredients, seed: int) -> Selection:
    return select_fraction(
        made.cosine,
        made.means.mean,
        beta=values.get("beta", 0.55),
        ranking=values.get("ranking", "cosine"),
        trim_percentile=values.get("trim"),
        seed=seed,
        here=made.means.here,
    )


def _scale(values: Mapping[str, Any], ingredients: Callable[[], Ingredients], seed: int) -> Gains:
    made = ingredients()
    selection = _select(values, made, seed)
    gains = gains_of(selection, alpha=values.get("alpha", 0.1))
    if "blocks" in values:
        _check_blocks(values["blocks"], made.lm)
        gains = gains.in_blocks(values["blocks"])
    return gains.shuffled(seed, among=NeuronSet.of(made.lm)) if values.get("shuffled") else gains


def _assign(values: Mapping[str, Any], ingredients: Callable[[], Ingredients], seed: int) -> Intervention:
    made = ingredients()
    selection = _select(values, made, seed)
    return group_assign(made.means, selection, alpha=values.get("alpha", 0.01))


def _steer(values: Mapping[str, Any], ingredients: Callable[[], Ingredients], seed: int) -> Steer:
    direction = ingredients().direction
    vector, alpha = direction.vector, values.get("alpha", 1.0)
    if "relative" in values:
        if "residual_norm" not in direction.about:
            raise DposcopeError("steer:relative needs a direction made from comments; use steer:alpha")
        vector, alpha = direction.unit * float(direction.about["residual_norm"]), values["relative"]
    if values.get("random"):
        vector = direction.random_like(seed).unit * vector.norm()
    return Steer(vector, alpha, values.get("block", direction.block), values.get("site", "residual"))


def _ablate(values: Mapping[str, Any], ingredients: Callable[[], Ingredients], seed: int) -> Ablation:
    direction = ingredients().direction
    chosen = direction.random_like(seed) if values.get("random") else direction
    site = values.get("site", "both")
    return ablate(
        chosen.vector,
        weight=values.get("weight", 1.0),
        blocks=values.get("blocks"),
        mlp=site != "attention",
        attention=site != "mlp",
    )


def _interchange(values: Mapping[str, Any], _ingredients: Callable[[], Ingredients], seed: int) -> InterchangeWith:
    return InterchangeWith(tuned_model(values["with"]), partial(_parts, values, seed), values.get("reverse", False))


def _parts(values: Mapping[str, Any], seed: int, lm: LanguageModel) -> Parts:
    blocks = values.get("blocks", tuple(range(lm.n_blocks)))
    _check_blocks(blocks, lm)
    match values.get("part", "neurons"):
        case "heads":
            heads = torch.zeros(lm.n_blocks, lm.n_heads, dtype=torch.bool)
            heads[list(blocks)] = True
            return Parts(heads=heads)
        case "mlp":
            return Parts(mlps=frozenset(blocks))
        case "attention":
            return Parts(attentions=frozenset(blocks))
        case "block":
            return Parts.blocks(blocks)
        case "residual":
            return Parts(residuals=frozenset(blocks))
        case _:
            named = values.get("neurons")
            everything = NeuronSet.of(lm)
            neurons = everything if named is None else NeuronSet.load(named).for_model(lm)
            neurons = neurons.random_like(seed, among=everything) if values.get("random") else neurons
            return Parts(neurons.in_blocks(blocks))


def _check_blocks(blocks: Sequence[int], lm: LanguageModel) -> None:
    """Refuse a range of blocks that ends after the model's last."""
    if blocks and blocks[-1] >= lm.n_blocks:
        raise DposcopeError(f"no block {blocks[-1]} in a model of {lm.n_blocks} blocks; give 0 to {lm.n_blocks - 1}")


def _edit(values: Mapping[str, Any], _ingredients: Callable[[], Ingredients], _seed: int) -> Edit:
    return _saved(values)


def _gains_of(values: Mapping[str, Any], _ingredients: Callable[[], Ingredients], _seed: int) -> Edit:
    edit = _saved(values)
    return Edit(gains=edit.gains, head_gains=edit.head_gains)


def _ablation_of(values: Mapping[str, Any], _ingredients: Callable[[], Ingredients], _seed: int) -> Edit:
    return Edit(ablations=_saved(values).ablations)


def _saved(values: Mapping[str, Any]) -> Edit:
    edit = Edit.load(values["path"])
    return edit.strength(values["strength"]) if "strength" in values else edit


def _model(values: Mapping[str, Any], _ingredients: Callable[[], Ingredients], _seed: int) -> OtherWeights:
    return OtherWeights(values["path"], strength=values.get("strength", 1.0))


def _source_digest(kind: str, path: str) -> str:
    """Of a saved edit, or of all that a model is loaded from: weights, configs, tokenizer."""
    if kind != "model":
        return value_digest(path)
    files = sorted(file for file in Path(path).iterdir() if file.suffix in _LOADED and file.is_file())
    return text_digest(*(f"{file.name} {file_digest(file)}" for file in files))


def _interchanged(values: Mapping[str, Any]) -> list[str]:
    """Of the tuned side, and of the set of neurons."""
    stem = edit_stem(values["with"])
    side = _source_digest("model", values["with"]) if stem is None else value_digest(stem)
    return [side, *([value_digest(values["neurons"])] if "neurons" in values else [])]


_BUILDERS: dict[str, Callable[[Mapping[str, Any], Callable[[], Ingredients], int], Any]] = {
    "scale": _scale,
    "assign": _assign,
    "steer": _steer,
    "ablate": _ablate,
    "interchange": _interchange,
    "edit": _edit,
    "gains-of": _gains_of,
    "ablation-of": _ablation_of,
    "model": _model,
}
