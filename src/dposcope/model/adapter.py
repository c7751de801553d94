"""A PEFT adapter merged into its base: a tuned model that is stored as a small difference.

The base is the model at hand, never the one that the adapter's config names, which may be a hub id.
"""

import copy
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from dposcope.errors import DposcopeError, first_line, is_memory, plural
from dposcope.model.checks.config import check_files
from dposcope.model.checks.own_files import own_files
from dposcope.model.devices.copies import copied_model
from dposcope.model.language_model import LanguageModel, short_name
from dposcope.model.mixtures.routing import is_listened
from dposcope.model.quantised.plain import plain_
from dposcope.model.quiet import without_progress_bars
from dposcope.reading import read_object

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

KINDS = ("LORA", "IA3", "ADALORA", "LOHA", "LOKR", "OFT")
"""Kinds of adapter that merge into weights exactly."""

_RANKED = ("LORA", "ADALORA", "LOHA")
"""Kinds whose matrices have the rank of the config."""

_WITHOUT_WEIGHTS = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "ADAPTION_PROMPT")
"""Kinds that learn inputs and change no weight."""

_UNMERGEABLE = {
    "layer_replication": "repeats blocks, so neurons are no longer those of the base",
    "alora_invocation_tokens": "makes it act after certain tokens only, which a weight cannot",
    "arrow_config": "chooses an adapter for every token, which a weight cannot",
    "megatron_config": "imports code that the config names",
    "ensure_weight_tying": "adapts tied embeddings twice, and a merge would add up both",
}
"""Settings of a config that a merge cannot represent, with the reason."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter instead of a whole model.

    Raises:
        DposcopeError: it holds both.
    """
    if not (folder / CONFIG).exists():
        return False
    if any((folder / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json")):
        raise DposcopeError(f"{folder} holds a whole model and an adapter; move the adapter_* files to another folder")
    return True


def check_adapter(folder: Path) -> dict[str, Any]:
    """The adapter's config, if dposcope can merge the adapter.

    Raises:
        DposcopeError: it is damaged, of a kind that does not merge, stored as a pickle, or has a link that leads out;
            or `peft` is missing.
    """
    own_files(folder)
    check_files(folder)
    config = read_object(folder / CONFIG, mend="save the adapter again with peft's save_pretrained")
    kind = str(config.get("peft_type"))
    if kind in _WITHOUT_WEIGHTS:
        raise DposcopeError(
            f"{folder} holds an adapter of kind {kind}, which changes no weights, so no neuron differs from the "
            f"base's; give one of {', '.join(KINDS)}"
        )
    if kind not in KINDS:
        raise DposcopeError(
            f"{folder} holds an adapter of kind {_quoted(kind)}, which dposcope cannot merge; give one of "
            f"{', '.join(KINDS)}, or merge it with peft and name the folder of the result"
        )
    for setting, reason in _UNMERGEABLE.items():
        if config.get(setting):
            raise DposcopeError(f"{folder} cannot be merged: its {setting} {reason}")
    if not (folder / WEIGHTS).is_file():
        pickled = (folder / "adapter_model.bin").exists()
        note = "; adapter_model.bin is a pickle, which dposcope does not read" if pickled else ""
        raise DposcopeError(f"{folder} has no {WEIGHTS}{note}; save it again with peft's save_pretrained")
    if find_spec("peft") is None:
        raise DposcopeError("an adapter needs the peft package; install it with: pip install 'dposcope[train]'")
    return config


def merge_adapter(base: LanguageModel, folder: Path) -> LanguageModel:
    """`base` with an adapter merged into its weights: an ordinary model of the same precision, on the same device. Of a
    quantised base, its dequantised weights are taken.

    Each adapted weight is computed in float32 and rounded once. A resized embedding that is stored with the adapter is
    used, and so are the tokenizer in the folder and its end-of-text token.

    Args:
        base: the model that the adapter was trained on; it is not changed.
        folder: with `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        DposcopeError: see `check_adapter`; or the adapter does not fit the base; or an intervention is on its experts.
    """
    config = check_adapter(folder)
    if is_listened(base.model):
        raise DposcopeError(f"an intervention is on {base.name}; load {folder.name} outside the `with`")
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise DposcopeError(f"cannot read {folder / WEIGHTS}: {error}; is the file whole?") from error
    _check_ranks(config, tensors, folder)
    model = copied_model(base.model)
    for module in model.modules():
        # Hooks of an active intervention on the base do not belong to the adapter.
        module._forward_hooks.clear()  # pyright: ignore[reportPrivateUsage]
        module._forward_pre_hooks.clear()  # pyright: ignore[reportPrivateUsage]
    if base.quantised:
        model = plain_(model)  # a sum of codes and an adapter would have to be quantised again
    try:
        # peft draws random initial values, which the stored ones replace, and gives warnings that do not apply here.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), without_progress_bars():
            warnings.simplefilter("ignore")
            _resize(model, tensors)
            merged = _merged(model, folder, tensors)
    except Exception as error:  # an adapter of another model may fail anywhere in two libraries
        if is_memory(error):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        # The first line of such an error of torch names no fault.
        reason = lines[1] if lines[0].startswith("Error(s) in loading") and len(lines) > 1 else lines[0]
        raise DposcopeError(
            f"{folder} does not fit {base.name}: {_printable(reason, 200)}; its config names "
            f"{_quoted(config.get('base_model_name_or_path'))} as its base"
        ) from error
    tokenizer = _tokenizer(folder) or base.tokenizer
    merged.generation_config = _ending(base, tokenizer)
    whose = f"the dequantised weights of {base.name}" if base.quantised else base.name
    note = f"{config['peft_type']} adapter, merged into {whose} in float32"
    return LanguageModel(merged.requires_grad_(True).eval(), tokenizer, short_name(folder), notes=(note,))


def _check_ranks(config: dict[str, Any], tensors: dict[str, Tensor], folder: Path) -> None:
    """Refuse a rank that no stored tensor has room for; peft would make matrices of it first."""
    if config["peft_type"] not in _RANKED:
        return
    widest = max((size for tensor in tensors.values() for size in tensor.shape), default=0)
    pattern = config.get("rank_pattern")
    given = [config.get(name) for name in ("r", "init_r", "target_r")]
    for rank in [*given, *(cast(dict[str, Any], pattern).values() if isinstance(pattern, dict) else ())]:
        if rank is not None and (type(rank) is not int or not 1 <= rank <= widest):
            raise DposcopeError(
                f"{folder / CONFIG} has the rank {_quoted(rank)}, and its tensors have at most {widest}; download it "
                "again"
            )


def _merged(model: PreTrainedModel, folder: Path, tensors: dict[str, Tensor]) -> PreTrainedModel:
    from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
    from peft.tuners.tuners_utils import BaseTunerLayer

    ends = _ends(model)
    config = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = True
    adapted: Any = get_peft_model(model, config)  # pyright: ignore[reportArgumentType]
    loaded: Any = set_peft_model_state_dict(adapted, tensors)
    own = (PEFT_TYPE_TO_PREFIX_MAPPING[config.peft_type], "modules_to_save.default", "token_adapter")  # pyright: ignore[reportArgumentType]
    state, missing = adapted.state_dict(), set(loaded.missing_keys)
    given = {tensor.data_ptr() for name, tensor in state.items() if name not in missing}
    lacking = [
        name
        for name in loaded.missing_keys
        # Weights of the base are not stored, and weights that two modules share are stored once.
        if any(part in name for part in own) and ".base_layer." not in name and state[name].data_ptr() not in given
    ]
    for names, fault in ((loaded.unexpected_keys, "that the base has no place for"), (lacking, "missing")):
        if names:
            raise DposcopeError(f"{plural(len(names), 'tensor')} {fault}, such as {_quoted(names[0])}")
    _untie(model, ends)
    for module in [module for module in adapted.modules() if isinstance(module, BaseTunerLayer)]:
        whole: Any = module.get_base_layer()
        precision = whole.weight.dtype
        module.float()  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue] — of nn.Module, which every layer is
        module.merge()
        whole.to(precision)
    return adapted.merge_and_unload()  # all is merged; this puts modules_to_save in place


def _ends(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Embedding and unembedding by module name, in this order."""
    names = {module: name for name, module in model.named_modules()}
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    return {names[module]: module for module in modules if module is not None}


def _resize(model: PreTrainedModel, tensors: dict[str, Tensor]) -> None:
    """Resize the embeddings, if the adapter stores whole embeddings with another number of rows."""
    ends = _ends(model)
    rows = {
        name: tensor.shape[0]
        for name in ends
        for key, tensor in tensors.items()
        if key.endswith(f".{name}.weight") and tensor.ndim == 2
    }
    have = {int(module.get_parameter("weight").shape[0]) for module in ends.values()}
    if not rows or set(rows.values()) == have:
        return
    if len(set(rows.values())) != 1 or (len(rows) < len(ends) and not _tied(ends)):
        raise DposcopeError(f"it stores embeddings of {sorted(rows.values())} rows, and the base has {sorted(have)}")
    model.resize_token_embeddings(next(iter(rows.values())), mean_resizing=False)


def _untie(model: PreTrainedModel, ends: dict[str, nn.Module]) -> None:
    """Give the unembedding its own weight, if it shares one with the embedding and only one of them is adapted.

    Before merging, such an adapter acts on one of the two only. An adapter that trains rows of a tied embedding acts on
    both.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    now = {name: model.get_submodule(name) for name in ends}
    if not _tied(ends) or not any(isinstance(module, BaseTunerLayer | ModulesToSaveWrapper) for module in now.values()):
        return
    head = list(ends.values())[-1]
    head.register_parameter("weight", nn.Parameter(head.get_parameter("weight").detach().clone()))
    model.config.get_text_config().tie_word_embeddings = False
    model.config.tie_word_embeddings = False


def _tied(ends: dict[str, nn.Module]) -> bool:
    return len({id(module.get_parameter("weight")) for module in ends.values()}) == 1


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """The tokenizer in an adapter's folder, if there is one."""
    if not (folder / "tokenizer_config.json").is_file():
        return None
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # damaged files may fail anywhere in two libraries
        reason = first_line(error)
        raise DposcopeError(
            f"cannot read the tokenizer in {folder}: {reason}; remove its tokenizer files to use the tokenizer of "
            f"the base"
        ) from error


def _ending(base: LanguageModel, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """The base's generation config, which also stops at the end-of-text token of the adapter's tokenizer."""
    config = copy.deepcopy(base.model.generation_config)
    own = tokenizer.eos_token_id
    if isinstance(own, int) and own != base.tokenizer.eos_token_id:
        config.eos_token_id = sorted({*base.end_ids, own})
    return config


def _quoted(text: object) -> str:
    """A text from a file: printable characters only, shortened, in quotes."""
    return repr(_printable(str(text), 80))


def _printable(text: str, most: int) -> str:
    return "".join(letter for letter in text if letter.isprintable())[:most]
