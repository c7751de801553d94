"""What `dposcope dpo` does."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Final

import torch

from dposcope.errors import DposcopeError, sentence
from dposcope.interventions.edit import Edit
from dposcope.interventions.shipped import edit_file
from dposcope.interventions.tuned import check_tuned
from dposcope.jobs.dpo.job import read_asked
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.dpo.setup import differing, material_of
from dposcope.jobs.estimate.machine import GIB
from dposcope.jobs.estimate.measuring import checkpoint, loading
from dposcope.jobs.estimate.start import start
from dposcope.jobs.estimate.work import READING, TRAINING, Less, Memory, Passes, Running, Stage, Texts, Work
from dposcope.jobs.opening import check_folder
from dposcope.jobs.origin import check_architecture
from dposcope.model.load import device_of, native_bfloat16
from dposcope.training.batches.examples import Example
from dposcope.training.batches.packing import pack
from dposcope.training.batches.reading import fits_one_row, row_tokens
from dposcope.training.collator import Material
from dposcope.training.kept import Kept
from dposcope.training.optimizers import KINDS, Kind, check_optimizer
from dposcope.training.schedule import Schedule, examples_seen
from dposcope.training.token_statistics import LOGITS_AT_ONCE
from dposcope.training.trainable import check_adaptable

_KEPT = {2: 60.0, 4: 100.0}
"""Bytes of a number → bytes that the backward pass keeps of a token and block, for each number of the stream, as of
decoders with a gated MLP; where it cannot be counted."""
_TRAINER: Final = 0.25 * GIB
"""Bytes of what Transformers' Trainer imports, beside what every command does."""
_TRIED: Final = 64
"""Batches that are packed, to know how large they get."""
_MORE: Final = 1.25
"""How much more the passes take than what is kept, for what lives shorter."""


@dataclass(frozen=True)
class Trained:
    """The texts of a training in tokens."""

    train: Texts
    """Tokens that are read of each pair: its prompt, and both completions but for their last tokens."""
    validation: Texts
    predicted: float
    """Tokens of both completions, a mean over pairs."""
    windows: Texts = field(default_factory=Texts)
    """Tokens that are read, and predicted, of each text for the KL; none: the KL is on the pairs."""
    places: int = 0
    """Places of a large batch, with its padding; 0: not known."""

    @classmethod
    def of(cls, material: Material, schedule: Schedule, *, shared: bool, row_tokens: int) -> "Trained":
        """Count.

        Args:
            material: of the training.
            schedule: of the training.
            shared: whether a prompt is read once for both completions.
            row_tokens: about how long a row of several texts may be.
        """
        predicted = [len(ids) for one in material.train for ids in one.completions]
        micro = schedule.micro_batch_size or schedule.batch_size
        windows = material.windows[: schedule.windows_per_batch]
        batches = (material.train[start : start + micro] for start in range(0, len(material.train), micro))
        packed = (
            pack([*batch, *windows], pad_id=0, shared=shared, row_tokens=row_tokens)
            for batch in islice(batches, _TRIED)
        )
        return cls(
            _of_pairs(material.train, shared=shared),
            _of_pairs(material.validation, shared=shared),
            sum(predicted) / len(material.train),
            Texts(tuple(len(one.prompt) - 1 for one in material.windows)),
            max(batch.ids.numel() for batch in packed),
        )


def _of_pairs(examples: Sequence[Example], *, shared: bool) -> Texts:
    copies = 1 if shared else 2
    return Texts(tuple(copies * len(one.prompt) + sum(len(ids) - 1 for ids in one.completions) for one in examples))


def dpo_work(model: str, out: Path, settings: DpoSettings) -> Work:
    """Check everything that can be checked without weights, and count.

    Args:
        model: its name.
        out: the run's folder.
        settings: of the command.

    Raises:
        DposcopeError: bad input, as of the command itself.
    """
    check_folder(out, "dpo")
    if settings.train == "lora" and find_spec("peft") is None:
        raise DposcopeError("LoRA needs the peft package; install it with: pip install 'dposcope[train]'")
    device = device_of(settings.device)
    if settings.optimizer is not None:
        check_optimizer(settings.optimizer, device)
    asked = read_asked(settings)
    started = start(model, settings, settings)
    lm = started.lm
    if settings.train == "lora":
        check_adaptable(lm)
    if settings.teacher is not None:
        check_tuned(settings.teacher, lm)
    if settings.start is not None:
        check_architecture(Edit.load(edit_file(settings.start)), lm)
    told = differing(lm, asked.split, settings.cut)
    objective = settings.objective(lm.model.config.get_text_config().model_type.removesuffix("_text"))
    whole = settings.train == "full"
    native = native_bfloat16(device)
    autocast = whole and (settings.dtype == "bfloat16" or (settings.dtype == "auto" and native))
    schedule = settings.schedule(len(told.split.train), autocast=autocast)
    material = material_of(lm, told, asked.texts, objective, settings.cut, settings.neutral_windows)
    every = [*material.train, *material.validation, *material.windows]
    shared = objective.protocol != "reference" and fits_one_row(lm.model, every)
    kept = Kept(lm)

    def staged(asked: DpoSettings, schedule: Schedule) -> list[Stage]:
        texts = Trained.of(material, schedule, shared=shared, row_tokens=row_tokens(lm.model))
        stored, beside, on_cpu = started.stored, started.outline.beside, device.type == "cpu"
        return dpo_stages(
            started.running, asked, texts, schedule, stored=stored, beside=beside, kept=kept, on_cpu=on_cpu
        )

    stages = staged(settings, schedule)
    notes = tuple(map(sentence, asked.pairs.notes))
    if settings.patience is not None:
        notes += ("With --patience the training may stop before its last step.",)
    products = started.precision if not whole else torch.bfloat16 if autocast else torch.float32
    trained = _as_trained(started.running, settings)
    made = Work("dpo", model, trained, tuple(stages), products, whole, notes)
    less = less_memory(settings, schedule)
    if less is None:
        return made
    leaner, options = less
    stages = staged(leaner, leaner.schedule(len(told.split.train), autocast=autocast))
    return replace(made, less=Less(options, replace(made, stages=tuple(stages)).peak.total))


def less_memory(settings: DpoSettings, schedule: Schedule) -> tuple[DpoSettings, str] | None:
    """The same training of all weights in less memory, and the options for that; None: there are none.

    Args:
        settings: of the command.
        schedule: that follows from them.
    """
    if settings.train != "full" or settings.protocol == "reference":
        return None
    given: dict[str, Any] = {"optimizer": f"{schedule.optimizer.removesuffix('-8bit')}-8bit"}
    given |= {"precompute_reference": True, "reference_dtype": "same", "recompute": True, "micro_batch_size": None}
    if all(given[name] == getattr(settings, name) for name in given):
        return None
    options = f"--optimizer {given['optimizer']} --precompute-reference --recompute"
    own = {"--reference-dtype": settings.reference_dtype != "same", "--micro-batch-size": settings.micro_batch_size}
    left_out = " and ".join(name for name, is_given in own.items() if is_given)
    if left_out:
        options += f", leave {left_out} out"
    return settings.model_copy(update=given), options


def _as_trained(running: Running, settings: DpoSettings) -> Running:
    """All weights are trained in float32."""
    return replace(running, itemsize=4) if settings.train == "full" else running


def dpo_stages(
    running: Running,
    settings: DpoSettings,
    texts: Trained,
    schedule: Schedule,
    *,
    stored: int,
    beside: int,
    kept: Kept | None = None,
    on_cpu: bool = False,
) -> list[Stage]:
    """All stages.

    Args:
        running: the model as it runs when it only reads.
        settings: of the command.
        texts: pairs and windows.
        schedule: of the training.
        stored: bytes of a stored weight.
        beside: bytes of the files beside the weights.
        kept: what training keeps of the model's activations; None: as of most.
        on_cpu: whether the optimiser runs there; one of 8 bits then takes more for a moment.
    """
    trained = _as_trained(running, settings)
    teacher = 0 if settings.teacher is None else 1
    stages = [loading(trained, stored, models=1 + teacher)]
    scratch = 0.0
    if settings.precompute_reference:
        before = _base_reads(trained, texts)
        scratch = before.scratch
        stages.append(before)
    stages += [
        _training(trained, settings, texts, schedule, kept=kept, teacher=teacher, scratch=scratch, on_cpu=on_cpu),
        checkpoint(running, beside, itemsize=stored if settings.train == "full" else None),
    ]
    return stages


def _base_reads(running: Running, texts: Trained) -> Stage:
    """The base reads all pairs and windows once, and its states of the predicting places are kept on disk."""
    every = Texts((*texts.train.lengths, *texts.validation.lengths, *texts.windows.lengths))
    pairs = len(texts.train) + len(texts.validation)
    states = (pairs * texts.predicted + texts.windows.tokens) * running.size.width * running.itemsize
    return Stage("the base reads all texts", (running.reads(every, batch=8),), scratch=states)


def _training(
    running: Running,
    settings: DpoSettings,
    texts: Trained,
    schedule: Schedule,
    *,
    kept: Kept | None,
    teacher: int,
    scratch: float,
    on_cpu: bool,
) -> Stage:
    size, steps = running.size, schedule.steps
    micro = schedule.micro_batch_size or schedule.batch_size
    count = min(schedule.windows_per_batch, len(texts.windows))
    window = texts.windows.tokens / len(texts.windows) if count else 0.0
    # Each micro-batch has windows of its own; the last ones of a pass over the pairs may be fewer.
    pairs = len(texts.train)
    passes, more = divmod(steps, math.ceil(pairs / schedule.batch_size))
    batches = passes * math.ceil(pairs / micro) + more * math.ceil(schedule.batch_size / micro)
    seen = examples_seen(steps, pairs=pairs, batch_size=schedule.batch_size)
    windows = batches * count * window
    tokens = seen * texts.train.tokens / pairs + windows
    predicted = seen * texts.predicted + windows
    checks = math.ceil(steps / schedule.validate_every)  # the last step is always followed by one
    its_batches = checks * math.ceil(len(texts.validation) / schedule.validated_at_once)
    checked = checks * texts.validation.tokens + its_batches * count * window
    its_predicted = checks * len(texts.validation) * texts.predicted + its_batches * count * window
    # Models that read along: the reference, unless its states are on disk, and a teacher.
    beside = teacher + (0 if settings.precompute_reference else 1)
    # Of the policy: forward, backward (without the weights' own gradients where they are frozen), its logits again.
    own = (4.0 if settings.train == "full" else 3.0) + (1.0 if settings.recompute else 0.0)
    weights = float(size.parameters * running.itemsize)
    parts = _parameters(running, settings)
    kind = KINDS[schedule.optimizer]
    state = kind.state_bytes(parts, embedding=size.unembedding if settings.train == "full" else 0.0)
    at_once = texts.places or micro * texts.train.longest + count * max(texts.windows.lengths, default=0)
    learning = Passes(
        read=round(tokens * (1 + beside)),
        operations=(own + beside) * 2.0 * (size.body * tokens + size.unembedding * predicted) / TRAINING,
        bytes=batches * (own + beside) * weights + steps * (12.0 * parts + 2 * state),
        blocks=batches * (own + beside) * size.blocks,
        held=Memory(
            0.0,
            activations=_activations(running, settings, texts, at_once, kept=kept, autocast=schedule.autocast)
            + _beside_gradients(running, settings, schedule),
            logits=16.0 * min(LOGITS_AT_ONCE, size.vocabulary * micro * texts.predicted),
        ),
    )
    validating = Passes(
        read=round(checked * (1 + beside)),
        operations=(1 + beside) * 2.0 * (size.body * checked + size.unembedding * its_predicted) / READING,
        bytes=its_batches * (1 + beside) * weights,
        blocks=float(its_batches * (1 + beside) * size.blocks),
        held=Memory(
            0.0,
            activations=schedule.validated_at_once * texts.train.longest * size.activation_bytes(running.itemsize),
            logits=16.0 * min(LOGITS_AT_ONCE, size.vocabulary * schedule.validated_at_once * texts.predicted),
        ),
    )
    stepping = Passes(held=Memory(0.0, training=_while_stepping(running, settings, kind, on_cpu=on_cpu)))
    copies = 3 if schedule.patience is not None else 2
    return Stage(
        "training",
        (learning, validating, stepping),
        steps=steps,
        models=1.0 + teacher,
        held=Memory(_TRAINER, training=4.0 * parts + state + _reference(running, settings, schedule)),
        scratch=scratch + copies * (4.0 * parts + state),
        moved=checks * (4.0 * parts + state),
    )


def _while_stepping(running: Running, settings: DpoSettings, kind: Kind, *, on_cpu: bool) -> float:
    """Bytes of copies of the largest tensor, the embedding, while the optimiser moves it."""
    if settings.train != "full":
        return 0.0
    copies = 1
    if kind.class_8bit is not None:
        copies = 4 if on_cpu else 0  # the gradient, its root, that with ε, and the step; kernels of a GPU need none
    return 4.0 * copies * running.size.unembedding


def _beside_gradients(running: Running, settings: DpoSettings, schedule: Schedule) -> float:
    """Bytes that the backward pass of all weights begins with, where micro-batches before left gradients of everything.

    The head's gradient is made whole before it is added. Under autocast the pass also needs the weights in bfloat16,
    and the reference's head. In the first micro-batch gradients take the places of all these one after another.
    """
    micro = schedule.micro_batch_size or schedule.batch_size
    if settings.train != "full" or micro == schedule.batch_size:
        return 0.0
    size = running.size
    head = 4.0 * size.unembedding
    if not schedule.autocast:
        return head
    heads = 2 if settings.precompute_reference else 1
    return head + 2.0 * (heads * size.unembedding + size.body / (size.blocks if settings.recompute else 1))


def _parameters(running: Running, settings: DpoSettings) -> float:
    """How many numbers are trained."""
    size = running.size
    match settings.train:
        case "full":
            return float(size.parameters)
        case "lora":
            # Both sides of the seven projections of a block.
            return float(settings.lora_rank * size.blocks * (8 * size.width + 3 * (size.width + size.mlp)))
        case "gains":
            return float(size.neurons)


def _reference(running: Running, settings: DpoSettings, schedule: Schedule) -> float:
    """Bytes of what the policy is compared with, where it is not the model itself."""
    size = running.size
    if settings.train != "full":
        return 4.0 * _parameters(running, settings)  # the trained numbers themselves, beside the model
    if settings.precompute_reference:
        return 4.0 * size.unembedding
    # Projections and the head, and of the embedding only the rows that are read.
    lower = schedule.autocast or settings.reference_dtype == "bfloat16"
    return (2.0 if lower else 4.0) * (size.body + size.unembedding)


def _activations(
    running: Running, settings: DpoSettings, texts: Trained, tokens: float, *, kept: Kept | None, autocast: bool
) -> float:
    """Bytes of what the forward pass of a batch leaves to the backward pass, and of what both need for a moment.

    Args:
        running: the model as it is trained.
        settings: of the command.
        texts: pairs and windows; the longest is about as long as a row.
        tokens: of the batch.
        kept: what training keeps of the model's activations; None: as of most.
        autocast: whether products run in bfloat16.
    """
    size, wide = running.size, running.itemsize > 2
    found = None
    if kept is not None:
        row = max(texts.train.longest, texts.windows.longest)
        dtype = {4: torch.float32, 8: torch.float64}.get(running.itemsize, torch.bfloat16)
        found = kept.per_token(settings.train, row, dtype=dtype, autocast=autocast, rank=settings.lora_rank)
    each = found or size.width * size.blocks * _KEPT[4 if wide and not autocast else 2]
    if settings.recompute:
        each = size.width * size.blocks * running.itemsize + each / size.blocks
    return _MORE * tokens * each
