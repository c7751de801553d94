"""An edit folded into a checkpoint folder, file by file. The model is never loaded, so it may be larger than memory.

Files are copied, and the changed tensors are rewritten in place, one at a time. Names, shapes, types, shards and the
index stay the same. The result is that of `fold`, computed in float64 and rounded once.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from dposcope.artefacts import check_path, tensor_fingerprint
from dposcope.errors import DposcopeError
from dposcope.interventions.ablate import Ablation
from dposcope.interventions.edit import Edit
from dposcope.interventions.fold import ProjectionEdit, projection_edits
from dposcope.interventions.gains import Gains
from dposcope.model.checks.own_files import own_files
from dposcope.model.language_model import coarse, stored_buffers
from dposcope.model.layout.table import layout_mark
from dposcope.model.mixtures.experts import Experts
from dposcope.shipping.compressed import compressed_changes, compressed_notes
from dposcope.shipping.model_card import EDIT, model_card
from dposcope.shipping.origin import checkpoint_origin
from dposcope.shipping.place import fresh
from dposcope.shipping.result import Shipped
from dposcope.shipping.skeleton import Skeleton, StoredNames
from dposcope.shipping.stored import FLOATS, Parts, Rewriting, Stored, Weights, find

ROWS = 4096
"""Value vectors computed at a time, as float64 copies of a whole tensor would need much memory."""


def fold_checkpoint(source: str | Path, edit: Edit | Gains | Ablation, out: str | Path) -> Shipped:
    """Write a checkpoint with the edit in its weights, without loading the model.

    A checkpoint quantised by compressed-tensors, with scales per row or group, takes gains of neurons: they go into the
    scales of its up projections, and no weight is quantised again.

    Args:
        source: a folder with `config.json` and safetensors weights, in one file or several, or a bundled name.
        edit: gains, ablations, or both.
        out: the new folder.

    Raises:
        DposcopeError: there is no such checkpoint; the edit does not fit it, or its format cannot hold the edit; `out`
            exists; the disk is full.
    """
    check_path(out)
    out = Path(out)
    edit = edit if isinstance(edit, Edit) else Edit.of(edit)
    skeleton = Skeleton.of(source)
    weights = Weights(skeleton.folder)
    names = skeleton.stored_names(weights)
    # All checks come before anything is copied.
    files = own_files(skeleton.folder)
    changes = _changes(skeleton, weights, names, edit)
    quantised = skeleton.quantisation is not None
    # The fingerprint of an edit is that of unquantised weights, which a quantised checkpoint does not have.
    notes = checkpoint_origin(
        edit, skeleton.model_type, () if quantised else checkpoint_fingerprints(skeleton, weights, names)
    )
    if quantised:
        notes += compressed_notes(skeleton, names.one)
    rounding = 0.0
    with fresh(out) as part:
        _copy(skeleton.folder, part, [*files.side, *weights.files])
        for change in changes:
            written = change()
            rounding = max(rounding, written.rounding)
            written.stored.write(part / written.stored.file.name, written.tensor)
        (part / "README.md").write_text(model_card(skeleton.lm, edit, None), encoding="utf-8")
        edit.save(part / EDIT)
    if (skeleton.folder / f"{EDIT}.json").exists():
        notes += (f"an edit was folded into the source before; {EDIT} in the new folder holds the new edit only",)
    former = [path for path in files.weights if path not in weights.files and path.stem != EDIT]
    strangers = [path for path in files.others if path.name != "README.md" and path.stem != EDIT]
    for left_out, why in ((former, "they hold the weights without the edit"), (strangers, "no checkpoint has them")):
        if left_out:
            notes += (f"not copied, as {why}: {_listed(left_out, skeleton.folder)}",)
    return Shipped("quantised checkpoint" if quantised else "checkpoint", out, len(changes), rounding, notes)


def _changes(skeleton: Skeleton, weights: Weights, names: StoredNames, edit: Edit) -> list[Rewriting]:
    if skeleton.quantisation is not None:
        return compressed_changes(skeleton, weights, names.one, edit)
    changes: list[Rewriting] = []
    for one in projection_edits(skeleton.lm, edit):
        stem = skeleton.module_names[one.projection]
        experts = Experts.within(one.projection)
        if experts is not None:
            changes += _of_experts(experts, one, stem, weights, names)
            continue
        for name, parameter in one.projection.named_parameters(recurse=False):
            if name == "bias" and not one.ablations:
                continue
            stored = _unquantised(find(weights, names.one, f"{stem}.{name}", tuple(parameter.shape)))
            changes.append(_Folding(one, stored, name == "bias", isinstance(one.projection, Conv1D)).rewriting())
    return changes


def _of_experts(
    experts: Experts, edit: ProjectionEdit, stem: str, weights: Weights, names: StoredNames
) -> Iterator[Rewriting]:
    """Of experts that are stored one by one, or as one tensor."""
    count, shape = experts.sizes.count, tuple(experts.weight.shape)
    own = f"{stem}.{experts.weight_name}"
    parts = [edit.of_expert(experts, expert) for expert in range(count)]
    alone = names.by_expert.get(own)
    if alone is None:
        stored = _unquantised(find(weights, names.one, own, shape))
        foldings = [_Folding(one, stored, False, experts.transposed) for one in parts]
        yield Rewriting(stored, lambda old: _each(foldings, experts.stacked(old)))
    else:
        (keys,) = alone  # down projections are joined with nothing else
        if len(keys) != count:
            raise DposcopeError(f"{stem} has {count} experts, but the checkpoint holds {len(keys)}; download it again")
        for one, key in zip(parts, keys, strict=True):
            stored = _unquantised(find(weights, {key: key}, key, shape[1:]))
            yield _Folding(one, stored, False, experts.transposed).rewriting()
    if experts.bias is not None and edit.ablations:
        stored = _unquantised(find(weights, names.one, f"{stem}.{experts.bias_name}", tuple(experts.bias.shape)))
        width = experts.outputs
        yield Rewriting(stored, lambda old: iter([(old, edit.through(old.double().view(-1, width)).view(old.shape))]))


def _each(foldings: Sequence["_Folding"], old: Tensor) -> Parts:
    for folding, own in zip(foldings, old, strict=True):
        yield from folding.new(own)


def _unquantised(stored: Stored) -> Stored:
    if stored.dtype not in FLOATS:
        raise DposcopeError(
            f"{stored.name} is stored as {str(stored.dtype).removeprefix('torch.')}, which is quantised; "
            "fold the unquantised checkpoint and quantise the result"
        )
    return stored


@dataclass(frozen=True)
class _Folding:
    edit: ProjectionEdit
    stored: Stored
    bias: bool
    by_rows: bool
    """Whether value vectors are rows, as in Conv1D, and not columns."""

    def rewriting(self) -> Rewriting:
        return Rewriting(self.stored, self.new)

    def new(self, old: Tensor) -> Parts:
        if self.bias:
            yield old, self.edit.through(old.double().unsqueeze(0)).squeeze(0)
            return
        vectors = old if self.by_rows else old.T
        for start in range(0, len(vectors), ROWS):
            rows = slice(start, start + ROWS)
            factors = None if self.edit.factors is None else self.edit.factors[rows]
            part = ProjectionEdit(self.edit.projection, factors, self.edit.ablations)
            yield vectors[rows], part.rows(vectors[rows].double())


def _copy(source: Path, target: Path, files: Iterable[Path]) -> None:
    target.mkdir()
    for path in files:
        place = target / path.relative_to(source)
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, place)


def _listed(paths: Sequence[Path], folder: Path, most: int = 8) -> str:
    names = [str(path.relative_to(folder)) for path in paths]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class _Parameters(Mapping[str, Tensor]):
    """A model's parameters and stored buffers as a fingerprint takes them, read from files on access."""

    def __init__(
        self, skeleton: Skeleton, weights: Weights, names: StoredNames, dtype: torch.dtype | None = None
    ) -> None:
        self._buffers = stored_buffers(skeleton.lm.model).keys()
        own = [*(name for name, _ in skeleton.lm.model.named_parameters()), *self._buffers]
        self._names = names
        self._own = [one for one in own if one in names.one or one in names.by_expert or one in names.joined]
        self._weights = weights
        self._dtype = dtype

    def __getitem__(self, name: str) -> Tensor:
        stored = self._stored(name)
        if name in self._buffers:
            return coarse(stored)
        return stored if self._dtype is None else stored.to(self._dtype)

    def _stored(self, name: str) -> Tensor:
        if name in self._names.one:
            return self._weights[self._names.one[name]].read()
        if name in self._names.joined:
            parts = self._names.joined[name]
            return torch.cat([self._weights[key].read() for key in parts.keys], dim=parts.dim)
        experts = self._names.by_expert[name]
        return torch.cat([torch.stack([self._weights[key].read() for key in keys]) for keys in experts], dim=1)

    def __iter__(self) -> Iterator[str]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)


def checkpoint_fingerprints(skeleton: Skeleton, weights: Weights, names: StoredNames) -> Iterator[str]:
    """The `LanguageModel.fingerprint` of the checkpoint as stored; for float32, also that in bfloat16.

    `dposcope` loads a float32 checkpoint in bfloat16 if the hardware supports it. Each fingerprint reads all weights.
    """
    mark = layout_mark(skeleton.model_type)

    def fingerprint(dtype: torch.dtype | None = None) -> str:
        digest = tensor_fingerprint(_Parameters(skeleton, weights, names, dtype))
        return "-".join([skeleton.model_type, digest, *([mark] if mark else [])])

    yield fingerprint()
    if any(stored.dtype == torch.float32 for stored in weights.values()):
        yield fingerprint(torch.bfloat16)
