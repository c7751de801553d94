"""The content of the neuron browser as one value: the change of every neuron of a model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dposcope.directions.lens import Lens
from dposcope.errors import DposcopeError, plural
from dposcope.neurons.contributions import Contributions
from dposcope.neurons.groups import Group, group_sets

GROUPS = ("none", *(group.value for group in Group))
"""What the codes 0 … 4 of `NeuronBrowser.group` mean."""
ABSENT = 7
"""What stands in the page in place of a group, for a column without a neuron."""


@dataclass(frozen=True)
class TokenisedText:
    """One text as the model read it."""

    tokens: list[str]
    """As they are within the text; see `token_texts`."""
    prompt_tokens: int
    """How many of them are the prompt; the rest continues it."""


@dataclass(frozen=True, eq=False)
class TokenActivations:
    """Activations of a few neurons on every token of the texts, in both models."""

    neurons: NDArray[np.integer[Any]]
    """`[n]`, each as block · d_mlp + index, no two alike."""
    before: NDArray[np.floating[Any]]
    """`[n, T]` over the T tokens of all texts in their order: the base model."""
    after: NDArray[np.floating[Any]]
    """`[n, T]`: the tuned model on the same tokens."""

    @classmethod
    def none(cls, tokens: int = 0) -> "TokenActivations":
        """Of no neuron."""
        empty = np.zeros((0, tokens), np.float32)
        return cls(np.zeros(0, np.int64), empty, empty)


@dataclass(frozen=True, eq=False)
class NeuronBrowser:
    """Everything on the page: all neurons of two models of L blocks and MLP width M (paper 3.2, 5)."""

    model: str
    """The base model."""
    tuned: str
    direction: str
    """Name of the direction that contributions are measured along."""
    group: NDArray[np.integer[Any]]
    """`[L, M]`, an index into `GROUPS`."""
    cosine: NDArray[np.floating[Any]]
    """`[L, M]`: of the base model's value vectors with the direction."""
    mean_before: NDArray[np.floating[Any]]
    """`[L, M]`: mean activation in the base model."""
    mean_after: NDArray[np.floating[Any]]
    """`[L, M]`: mean activation in the tuned model."""
    contribution: NDArray[np.floating[Any]]
    """`[L, M]`: Δ_i of Eq. 2, in units of the residual stream; positive ↓, negative ↑."""
    certain: NDArray[np.bool_]
    """`[L, M]`: the contribution is distinguishable from 0."""
    here: NDArray[np.bool_] | None = None
    """`[L, M]`: which columns are neurons, where blocks differ; None: all are."""
    experts: int | None = None
    """E of each block, if both models are mixtures of experts: M neurons are E times M / E."""
    lenses: Mapping[int, Lens] = field(default_factory=dict[int, Lens])
    """Neuron as block · M + index → lens of its value vector; all of one length."""
    texts: list[TokenisedText] = field(default_factory=list[TokenisedText])
    activations: TokenActivations = field(default_factory=TokenActivations.none)
    notes: list[str] = field(default_factory=list[str])
    """Warnings about how to read the numbers."""
    provenance: Mapping[str, str] = field(default_factory=dict[str, str])
    """Versions, seed, command; nothing that changes when the run is repeated."""

    def __post_init__(self) -> None:
        """Check that the parts fit together.

        Raises:
            DposcopeError: shapes that differ, values that are not finite, or a neuron, group or text out of range.
        """
        self._check_columns()
        self._check_lenses()
        self._check_texts()

    @classmethod
    def of(
        cls,
        contributions: Contributions,
        *,
        model: str,
        tuned: str,
        direction: str,
        lenses: Mapping[int, Lens] | None = None,
        texts: list[TokenisedText] | None = None,
        activations: TokenActivations | None = None,
        notes: list[str] | None = None,
        provenance: Mapping[str, str] | None = None,
    ) -> "NeuronBrowser":
        """The neurons of `contributions`; the rest is named like the fields, and empty where it is left out."""
        before = contributions.before.mean
        group = np.zeros(contributions.cosine.shape, np.uint8)
        for name, neurons in group_sets(contributions.cosine, before).items():
            group[neurons.mask.numpy()] = GROUPS.index(name.value)
        texts = texts or []
        return cls(
            model=model,
            tuned=tuned,
            direction=direction,
            group=group,
            cosine=contributions.cosine.numpy(),
            mean_before=before.numpy(),
            mean_after=contributions.after.mean.numpy(),
            contribution=contributions.total.numpy(),
            certain=contributions.certain.mask.numpy(),
            here=None if contributions.here is None else contributions.here.numpy(),
            experts=None if contributions.before.routed is None else contributions.before.routed.experts,
            lenses=lenses or {},
            texts=texts,
            activations=activations or TokenActivations.none(sum(len(text.tokens) for text in texts)),
            notes=notes or [],
            provenance=provenance or {},
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Blocks and MLP width, (L, M)."""
        blocks, width = self.group.shape
        return blocks, width

    @property
    def neurons(self) -> int:
        """How many neurons there are."""
        return self.group.size if self.here is None else int(self.here.sum())

    @property
    def without_group(self) -> bool:
        """Whether some neurons have none: their cosine or mean is 0."""
        return bool(((self.group == 0) if self.here is None else (self.group == 0) & self.here).any())

    def _check_columns(self) -> None:
        shape = self.group.shape
        if len(shape) != 2 or 0 in shape:
            raise DposcopeError(f"group has shape {list(shape)}; give one code per neuron, [blocks, MLP width]")
        for name, kinds in _COLUMNS.items():
            column: NDArray[Any] = getattr(self, name)
            if column.shape != shape:
                raise DposcopeError(
                    f"{name} has shape {list(column.shape)}, group {list(shape)}; give one value per neuron"
                )
            if column.dtype.kind not in kinds.codes:
                raise DposcopeError(f"{name} holds {column.dtype}; give it as {kinds.wanted}")
            if column.dtype.kind == "f":
                _check_finite(name, column)
        if self.experts is not None and shape[1] % self.experts:
            raise DposcopeError(f"{shape[1]:,} neurons of a block do not divide into {self.experts:,} experts")
        if not ((self.group >= 0) & (self.group < len(GROUPS))).all():
            raise DposcopeError(
                f"group holds codes {int(self.group.min())} … {int(self.group.max())}; "
                f"give 0 … {len(GROUPS) - 1}, for {', '.join(GROUPS)}"
            )
        if (np.abs(self.cosine) > 1.001).any():
            raise DposcopeError("cosine leaves −1 … 1; divide the dot product by both norms")

    def _check_lenses(self) -> None:
        _check_neurons("lenses", self.lenses, self.group.size)
        lengths = {len(side) for one in self.lenses.values() for side in (one.top, one.bottom)}
        logits = {len(side) for one in self.lenses.values() for side in (one.top_logits, one.bottom_logits)}
        if len(lengths | logits) > 1:
            raise DposcopeError("the lenses are of different lengths; take the same number of tokens for each side")
        _check_finite("lenses", np.array([one.top_logits + one.bottom_logits for one in self.lenses.values()], float))

    def _check_texts(self) -> None:
        for number, text in enumerate(self.texts, 1):
            if not 0 <= text.prompt_tokens <= len(text.tokens) or not text.tokens:
                raise DposcopeError(
                    f"text {number} has {plural(len(text.tokens), 'token')}, {text.prompt_tokens:,} of them its "
                    "prompt; give at least one, and no longer a prompt"
                )
        made, total = self.activations, sum(len(text.tokens) for text in self.texts)
        _check_neurons("activations", made.neurons.tolist(), self.group.size)
        for name, values in {"before": made.before, "after": made.after}.items():
            if values.shape != (len(made.neurons), total):
                raise DposcopeError(
                    f"activations {name} has shape {list(values.shape)}; {plural(len(made.neurons), 'neuron')} and "
                    f"{plural(total, 'token')} of all texts together need [{len(made.neurons)}, {total}]"
                )
            _check_finite(f"activations {name}", values)


@dataclass(frozen=True)
class _Kinds:
    codes: str
    """NumPy's letters for kinds of numbers."""
    wanted: str


_COLUMNS = {
    "group": _Kinds("iu", "integers"),
    "certain": _Kinds("b", "bool"),
    "cosine": _Kinds("f", "floats"),
    "mean_before": _Kinds("f", "floats"),
    "mean_after": _Kinds("f", "floats"),
    "contribution": _Kinds("f", "floats"),
}


def _check_finite(name: str, values: NDArray[Any]) -> None:
    # The page uses float32, in which the largest float64 values are infinite.
    with np.errstate(over="ignore"):
        wrong = values.size - int(np.isfinite(values.astype(np.float32)).sum())
    if wrong:
        raise DposcopeError(
            f"{plural(wrong, 'value')} of {name} {'is' if wrong == 1 else 'are'} not finite in float32; "
            "measure again, in float32 if the model overflows half precision"
        )


def _check_neurons(name: str, neurons: Iterable[int], count: int) -> None:
    listed = list(neurons)
    if len(set(listed)) != len(listed):
        raise DposcopeError(f"{name} name a neuron twice; give each once")
    for neuron in listed:
        if not 0 <= neuron < count:
            raise DposcopeError(
                f"{name} name neuron {neuron:,}, the models have {count:,}; count as block · MLP width + index, from 0"
            )
