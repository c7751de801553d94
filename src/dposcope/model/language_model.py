"""A model and its tokenizer. Neither is wrapped or changed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dposcope.artefacts import tensor_fingerprint
from dposcope.data.token_ids import continued_texts
from dposcope.errors import DposcopeError, first_line, is_memory, plural
from dposcope.files import expanded
from dposcope.foreign_text import visible
from dposcope.model.chat.asking import Asking
from dposcope.model.checks.layout import Found, find_parts
from dposcope.model.head.logits import final_norm, unembed, unembedding
from dposcope.model.layout.blocks import attention_paths, block_modules, is_gated, mlp_path, submodule
from dposcope.model.layout.config import context_length, has_linear_attention
from dposcope.model.layout.names import OF_GROUPS
from dposcope.model.layout.projections import device_of_module, projection_width
from dposcope.model.layout.table import Layout, layout_mark
from dposcope.model.mixtures.experts import Experts, ExpertSizes
from dposcope.model.mixtures.parts import Columns
from dposcope.model.quantised.weights import is_quantised, scales
from dposcope.model.quiet import without_progress_bars
from dposcope.model.residual.streams import residual_streams
from dposcope.protocols import Quantise


def short_name(source: str | Path) -> str:
    """What a model is called that is loaded from `source`: a folder's name, a GGUF file's without suffix, or itself.

    A name is text: bytes of a path that are not UTF-8, and what is not seen, stand in it as marks.
    """
    path = expanded(source)
    if path.is_dir():
        return visible(path.resolve().name)  # "." and ".." are no names
    return visible(path.stem if path.suffix == ".gguf" else str(source))


class _Digested:
    """The last digest of a model, and the state that it is of. A copy knows none: copies of a weak reference to a
    storage would free it several times."""

    def __init__(self) -> None:
        self._state: tuple[object, ...] | None = None
        self._digest = ""

    def of(self, state: tuple[object, ...], digest: Callable[[], str]) -> str:
        """The digest of a state, computed where it is another one."""
        if state != self._state:
            self._state, self._digest = state, digest()
        return self._digest

    def __reduce__(self) -> tuple[type["_Digested"], tuple[()]]:
        """For copies and pickles."""
        return _Digested, ()


class _Converted(Mapping[str, Tensor]):
    """Tensors of which some are converted when they are asked for, so that one copy is in memory at a time."""

    def __init__(self, converted: Mapping[str, Tensor], others: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        self._converted, self._others, self._dtype = converted, others, dtype

    def __getitem__(self, name: str) -> Tensor:
        if name in self._others:
            return self._others[name]
        tensor = self._converted[name]
        return tensor.to(self._dtype) if tensor.is_floating_point() else tensor

    def __iter__(self) -> Iterator[str]:
        return iter([*self._converted, *self._others])

    def __len__(self) -> int:
        return len(self._converted) + len(self._others)


def stored_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Name → each buffer that a checkpoint holds, such as the bias of a router; of quantised layers none (`scales`)."""
    return {
        f"{place}.{name}" if place else name: buffer
        for place, module in model.named_modules()
        if not is_quantised(module)
        for name, buffer in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set  # pyright: ignore[reportPrivateUsage] — no public way
    }


_LOOKED_AT = 4096
"""Numbers of a weight, about, that tell whether it was written to."""


def _looked_at(weight: Tensor) -> Tensor:
    """Some numbers of a weight, evenly spaced; none of one that lies in a file, where each costs a page."""
    if weight.device.type == "meta" or weight.untyped_storage().filename is not None:
        return torch.empty(0)
    flat = weight.detach().reshape(-1)
    return flat[:: max(1, len(flat) // _LOOKED_AT)].contiguous()


def _writes(weight: Tensor) -> object:
    """How often a weight was written to, as torch counts; of one made in inference mode, whose writes are not counted,
    what equals nothing else."""
    return object() if weight.is_inference() else weight._version


def coarse(buffer: Tensor) -> Tensor:
    """A buffer as a fingerprint takes it: some stay in float32 where the parameters are rounded, others do not."""
    return buffer.to(torch.bfloat16) if buffer.is_floating_point() else buffer


def _check_pair(model: object, tokenizer: object) -> None:
    if not isinstance(model, nn.Module):
        raise DposcopeError(f"model is a {type(model).__name__}; give one that transformers loaded, or call load(name)")
    if tokenizer is not None and not callable(tokenizer):  # that of a checkpoint that is read by its config alone
        raise DposcopeError(f"tokenizer is a {type(tokenizer).__name__}; give one that transformers loaded")


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A plain Hugging Face causal language model with its tokenizer.

    Make one from existing objects, or with `dposcope.load`. L is the number of blocks, d the
    width of the residual stream, d_mlp the number of neurons per block, of the widest where blocks differ.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str = "model"
    """A hub id, a bundled name, or the last part of a path: what results call it, wherever it lies."""
    writer: PreTrainedTokenizerBase | None = None
    """A tuned model's own tokenizer, if the base's (`tokenizer`) lacks some of its tokens: it decodes the output."""
    notes: tuple[str, ...] = ()
    """What loading changed, in sentences for reports."""
    variant: str = ""
    """Digest of an edit of the activations, which no weight shows; set by `edited` only. A part of `fingerprint`."""
    asking: Asking | None = None
    """How prompts are put to it; None: as text that it continues. Set by `with_chat`. No part of `fingerprint`."""
    quantise: Quantise | None = None
    """What loading quantised it to; None: its weights are as stored."""

    def __post_init__(self) -> None:
        """Refuse what is no model, such as its name, and what is no tokenizer."""
        _check_pair(self.model, self.tokenizer)

    def __repr__(self) -> str:
        """Name, kind and size; torch would print every module."""
        config, dtype = self.model.config, str(self.dtype).removeprefix("torch.")
        blocks = plural(config.get_text_config().num_hidden_layers, "block")
        places = ", ".join(dict.fromkeys(str(one.device) for one in self.model.parameters()))
        return f"LanguageModel({self.name[:60]!r}, {config.model_type}, {blocks}, {dtype} on {places})"

    @cached_property
    def layout(self) -> Layout:
        """Where the blocks and projections are.

        Raises:
            DposcopeError: the architecture is unknown.
        """
        return self._found.layout

    @cached_property
    def _found(self) -> Found:
        return find_parts(self.model)

    @cached_property
    def blocks(self) -> list[nn.Module]:
        """The L transformer blocks."""
        return block_modules(self.model, self.layout)

    @cached_property
    def mlp_outs(self) -> list[nn.Module | None]:
        """Each block's MLP output projection, whose input is the neuron activation m; or its routed experts; None where
        a block has no MLP, as most of Nemotron-H."""
        paths = [mlp_path(block, self.layout) for block in self.blocks]
        return [
            None if path is None else submodule(block, path) for block, path in zip(self.blocks, paths, strict=True)
        ]

    @cached_property
    def attention_outs(self) -> list[nn.Module | None]:
        """Each block's attention output projection, or that of what it has in place of attention; None where a block
        has neither."""
        return [next(iter(outs), None) for outs in self.mixer_outs]

    @cached_property
    def mixer_outs(self) -> list[list[nn.Module]]:
        """Each block's output projections of what mixes tokens: one of `attention_outs`, and behind it that of a state
        space beside attention, as in Falcon-H1."""
        return [
            [submodule(block, path) for path in paths]
            for block, paths in zip(self.blocks, self._mixer_paths, strict=True)
        ]

    @cached_property
    def _mixer_paths(self) -> list[tuple[str, ...]]:
        return [tuple(attention_paths(block, self.layout)) for block in self.blocks]

    @cached_property
    def final_norm(self) -> nn.Module:
        """The norm after the last block; what changes nothing where a model has none (GPT-1)."""
        return final_norm(self.model, self.layout) or nn.Identity()

    @property
    def norm_repeats(self) -> bool:
        """Whether a pass runs the final norm elsewhere, too, as nanochat does behind the embedding."""
        return self._found.norm_repeats

    @property
    def reads_padding(self) -> bool:
        """Whether blocks read what stands before a text in its row, masked or not, as a recurrence does
        (RecurrentGemma). Texts that are continued together then have one length."""
        return self._found.reads_padding

    @property
    def n_blocks(self) -> int:
        """L."""
        return len(self.blocks)

    @property
    def d_model(self) -> int:
        """d."""
        return self.columns.outputs

    @cached_property
    def columns(self) -> Columns:
        """Where the neurons of each block stand in tables `[L, d_mlp]`."""
        return Columns.of(self.blocks, self.mlp_outs, self.layout)

    @property
    def d_mlp(self) -> int:
        """Neurons per block: columns of tables `[L, d_mlp]`. Where blocks differ, those of the widest; see `here`."""
        return self.columns.d_mlp

    @property
    def here(self) -> Tensor | None:
        """Which columns of each block are neurons, `[L, d_mlp]`, bool; None where all are, as in most models."""
        return self.columns.here

    @property
    def experts(self) -> ExpertSizes | None:
        """Sizes of each block's experts; None for a model that is no mixture."""
        return self.columns.experts

    def neuron_name(self, block: int, place: int) -> str:
        """Such as `3.17`, block and index; or `3.7.120`, block, expert and index in a mixture."""
        experts = self.experts
        return f"{block}.{place}" if experts is None else experts.name(block, place)

    @property
    def n_neurons(self) -> int:
        """Of all blocks: L · d_mlp, unless blocks differ."""
        return sum(self.columns.widths)

    @property
    def d_attention(self) -> int:
        """Channels of all heads of a block: the input width of its attention output projection.

        Raises:
            DposcopeError: blocks differ in width, or some have no heads.
        """
        self.check_heads()
        widths = {projection_width(one).inputs for one in self.attention_outs if one is not None}
        if len(widths) != 1:
            raise DposcopeError(f"blocks have attentions of different widths {sorted(widths)}: not supported")
        return widths.pop()

    @property
    def n_heads(self) -> int:
        """Attention heads per block, by the config.

        Raises:
            DposcopeError: some blocks have none.
        """
        self.check_heads()
        return int(self.model.config.get_text_config().num_attention_heads)

    def check_heads(self) -> None:
        """Refuse what is done by head where attention is not all that mixes tokens.

        Raises:
            DposcopeError: some blocks have something else in place of attention, or beside it.
        """
        paths = set(self._mixer_paths)
        if any(Experts.of_attention(one) for outs in self.mixer_outs for one in outs):
            raise DposcopeError(
                f"attention of {self.name} is a mixture of experts itself: leave out what is done by head"
            )
        if len(paths) > 1 or has_linear_attention(self.model):
            raise DposcopeError(
                f"some blocks of {self.name} have no attention heads, but linear attention, a state space or a "
                "convolution: leave out what is done by head"
            )
        if any(len(of_block) > 1 for of_block in paths):
            raise DposcopeError(
                f"blocks of {self.name} have a state space beside their attention heads: leave out what is done by head"
            )
        if any(path.endswith(OF_GROUPS) for of_block in paths for path in of_block):
            raise DposcopeError(
                f"a projection mixes the attention heads of {self.name} in groups before they are written: leave out "
                "what is done by head"
            )

    @property
    def gated(self) -> bool:
        """Whether m_i is `act(gate_i) · up_i` (Llama, Gemma …) rather than `act(pre_i)` (GPT-2)."""
        return any(is_gated(block, self.layout) for block in self.blocks)

    @property
    def device(self) -> torch.device:
        """The device of the inputs, which is that of the embedding. Blocks may be on others, see `device_of_block`."""
        return self.model.get_input_embeddings().weight.device  # pyright: ignore[reportReturnType, reportAttributeAccessIssue]

    def device_of_block(self, block: int) -> torch.device:
        """The device of a block. Its activations are there, and so is the residual stream at its end.

        It is `device`, unless the model is spread over several devices (`load` with `device_map`).
        """
        writers = [one for one in (self.mlp_outs[block], *self.mixer_outs[block]) if one is not None]
        return device_of_module(writers[0]) or self.device

    @property
    def device_of_norm(self) -> torch.device:
        """The device of the final norm, where its outputs are."""
        return device_of_module(self.final_norm) or self.device_of_block(self.n_blocks - 1)

    @property
    def device_of_logits(self) -> torch.device:
        """The device of the unembedding, where `unembed` gives logits."""
        return device_of_module(unembedding(self.model)) or self.device_of_norm

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """All devices that parts of the model are on, in the order in which a pass comes to them, each once."""
        blocks = (self.device_of_block(block) for block in range(self.n_blocks))
        return tuple(dict.fromkeys((self.device, *blocks, self.device_of_norm, self.device_of_logits)))

    @property
    def dtype(self) -> torch.dtype:
        """The model's floating-point type."""
        return self.model.dtype

    @cached_property
    def quantised(self) -> bool:
        """Whether some of its layers are quantised: their weights are codes, which an edit does not fold into."""
        return any(is_quantised(module) for module in self.model.modules())

    def value_vectors(self, block: int) -> Tensor:
        """Value vectors of one block, `[d_mlp, d]`: a view on its output projection, but a copy of most mixtures and of
        quantised layers, whose weights are dequantised for it."""
        return self.columns.value_vectors(block)

    def normed(self, stream: Tensor) -> Tensor:
        """The final norm's outputs of a residual stream `[…, d]`. Where the norm mixes several, all of them are it."""
        streams = residual_streams(self.model)
        return self.final_norm(stream if streams is None else streams.alike(stream))

    def unembed(self, normed: Tensor) -> Tensor:
        """Logits `[…, vocabulary]` of final-norm outputs `[…, d]` of any device; see `device_of_logits`."""
        return unembed(self.model, normed)

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of special tokens (beginning and end of text, padding …)."""
        own = () if self.writer is None else self.writer.all_special_ids
        return frozenset([*self.tokenizer.all_special_ids, *own])

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids that end a text, from the generation config, or from the tokenizer if the config has none."""
        configured: int | list[int] | None = self.model.generation_config.eos_token_id
        if configured is None:
            own = (self.writer or self.tokenizer).eos_token_id
            return frozenset([own]) if isinstance(own, int) else frozenset()
        return frozenset([configured]) if isinstance(configured, int) else frozenset(configured)

    @property
    def pad_id(self) -> int:
        """An id for padding. Padding is masked, so any id would do; the tokenizer's own is used if it has one."""
        table: Tensor = self.model.get_input_embeddings().weight  # pyright: ignore[reportAssignmentType]
        known = table.shape[0]
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if isinstance(token, int) and token < known:  # an added padding token may have no embedding
                return token
        return 0

    @property
    def context_length(self) -> int:
        """Most positions, from the config; a very large number for a model without a limit."""
        return context_length(self.model)

    @property
    def fingerprint(self) -> str:
        """A digest of every parameter, of stored buffers rounded to bfloat16, the scales of quantised layers, the
        architecture, a layout that was registered for it, and `variant`. It changes when any parameter changes. It says
        nothing of numbers that stand in the config alone, such as the base of rotary positions.

        It is computed again only after a weight was replaced or written to, or where weights were made in
        torch.inference_mode. A write through `.data` or numpy, which torch does not count, is noticed where it changes
        one of some thousand numbers that are looked at.
        """
        named, buffers = dict(self.model.named_parameters()), stored_buffers(self.model)
        seen = {name: _looked_at(one) for name, one in (named | buffers).items()}
        state = (
            tensor_fingerprint(seen),
            # An address alone is no sign: when a tensor is gone, the next one may lie there. A weak reference to the
            # storage, which holds no memory, keeps its own.
            *(
                (name, StorageWeakRef(one.untyped_storage()), one.storage_offset(), one.shape, one.dtype, _writes(one))
                for name, one in (named | buffers).items()
            ),
        )

        def digest() -> str:
            return tensor_fingerprint(
                {**named, **scales(self.model), **{name: coarse(one) for name, one in buffers.items()}}
            )

        return self._identified(self._digested.of(state, digest))

    def fingerprint_in(self, dtype: torch.dtype) -> str:
        """The `fingerprint` that these weights have when they are converted to `dtype`. It reads them all."""
        beside = {**scales(self.model), **{name: coarse(one) for name, one in stored_buffers(self.model).items()}}
        return self._identified(tensor_fingerprint(_Converted(dict(self.model.named_parameters()), beside, dtype)))

    def _identified(self, digest: str) -> str:
        model_type = self.model.config.model_type
        parts = (model_type, digest, layout_mark(model_type), self.variant)
        return "-".join(part for part in parts if part)

    @cached_property
    def _digested(self) -> "_Digested":
        return _Digested()

    def decode(self, written: Sequence[Sequence[int]]) -> list[str]:
        """The texts of ids that the model wrote, as they stand behind their prompts, without special tokens."""
        return continued_texts(self.writer or self.tokenizer, written, special=False)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write an ordinary checkpoint with tokenizer and generation config into `folder`.

        Raises:
            DposcopeError: an edit of the model is not in its weights.
            OSError: a file cannot be written, as on a full disk.
        """
        if self.variant:
            raise DposcopeError(f"the gains of {self.name} are not in its weights; save fold(base, edit) instead")
        try:
            with without_progress_bars():
                self.model.save_pretrained(folder)
                (self.writer or self.tokenizer).save_pretrained(folder)
        except OSError:
            raise
        except Exception as error:  # safetensors has its own error for a full disk, and tokenizers the most general
            if is_memory(error):
                raise
            raise OSError(f"cannot write {folder}: {first_line(error)}") from error
