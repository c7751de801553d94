"""From a name to a model: a bundled one, a folder, a GGUF file, or a Hugging Face id."""

import gc
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from dposcope.artefacts import check_path
from dposcope.errors import DposcopeError, first_line, is_memory
from dposcope.files import check_regular, expanded
from dposcope.model.adapter import is_adapter, merge_adapter
from dposcope.model.bundled import BUNDLED, bundled_folder, name_of_source
from dposcope.model.checks.config import MEND, check_files, check_loadable
from dposcope.model.checks.given import check_lm
from dposcope.model.checks.hub import check_hub_name, hub_answers, hub_id
from dposcope.model.checks.in_memory import check_in_memory, check_settings
from dposcope.model.checks.numbers import check_forward, check_weights
from dposcope.model.checks.own_files import own_files
from dposcope.model.checks.tokens import check_tokens
from dposcope.model.devices.copies import convert_, copied_model
from dposcope.model.devices.placement import Placement
from dposcope.model.devices.spread import Stored, check_whole_blocks, is_spread_over, outlined, placed, spread_
from dposcope.model.devices.streamed import stream_
from dposcope.model.gguf import load_gguf
from dposcope.model.language_model import LanguageModel
from dposcope.model.quantised.loading import (
    StoredForm,
    check_method,
    check_quantise,
    in_one_form,
    quantisation,
    without_remarks,
)
from dposcope.model.quantised.plain import forget_quantisation
from dposcope.model.quantised.weights import held_by, is_quantised
from dposcope.model.quiet import without_progress_bars
from dposcope.model.tuned import comparable
from dposcope.processes.launcher import local_rank
from dposcope.protocols import DeviceMap, Quantise
from dposcope.reading import read_object

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    source: str | Path | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    device_map: DeviceMap | None = None,
    base: LanguageModel | None = None,
    quantise: Quantise | None = None,
    stream: str | Path | None = None,
) -> LanguageModel:
    """Load a causal language model and its tokenizer, or take both as they are in memory.

    Only safetensors weights are read (no pickle), and no code from the model's repository runs. The network is used
    only for a Hugging Face id. With `base`, the result can be compared with it: both models read the same tokens, and
    embedding rows that belong to no token are removed (`notes` says so).

    A model in memory is checked like a loaded one and used as it is, without a copy of its weights. Only evaluation
    mode is set where it was in training mode (`notes` says so). It may be spread over several devices, with whole
    blocks, as accelerate's `dispatch_model` does it.

    Args:
        source: `gemma-3-270m` or another bundled name, a folder, a `.gguf` file, a Hugging Face id (`hf:NAME` where it
            looks like a bundled name), or a model that transformers loaded.
        tokenizer: of a model in memory; everything else has its own.
        dtype: "float32", "bfloat16", "float16", a torch dtype, or "auto": as stored, or that of `base`.
        device: "cpu", "cuda", …, or "auto": a GPU if there is one, or the device of `base`. If a launcher started
            several processes (LOCAL_RANK is set), each uses its own GPU.
        device_map: "auto": whole blocks are spread over all GPUs of this machine; with one GPU or none it is as
            without. None: one device. With a `base` that is spread, each block goes where the base has it.
        base: the model that `source` was tuned from. `source` may then be the folder of a PEFT adapter (LoRA, IA3 and
            others that merge into weights), which is merged into a copy of `base`; of a quantised one, into its
            dequantised weights.
        quantise: "4bit" (NF4) or "8bit": the weights of the blocks are quantised on loading, by bitsandbytes. None: as
            stored. A checkpoint that is stored quantised needs no `quantise`; if it is
            stored by compressed-tensors, in FP8 or MXFP4, it is dequantised on loading (`notes` says so).
        stream: a folder on a disk: the weights of the blocks lie there in a file without a name, and each is read when
            it is needed, so that memory (and a GPU's) does not hold the model whole. It is slower, with the same
            results. On a GPU such a model has no gradients, and cannot be folded. None: all weights are in memory.

    Raises:
        DposcopeError: there is no such model, it is not a causal language model, its architecture is unknown, or it
            was not tuned from `base`; it cannot be quantised, or a package for that is missing; it does not fit into
            the GPUs, or a device is named beside `device_map`; `stream` is given for a model that is quantised, spread
            or an adapter on a GPU, or the disk is full. Of a model in memory: see `check_in_memory`; or another dtype,
            device or quantisation than its own is asked for.
    """
    if base is not None:
        check_lm(base, "base")
    if not isinstance(source, str | Path):
        if quantise is not None:
            raise DposcopeError("a model in memory stays as it is: load it quantised, or give load its name or folder")
        if device_map is not None:
            raise DposcopeError("a model in memory stays where it is; leave device_map out, or load it with one")
        if stream is not None:
            raise DposcopeError("a model in memory stays there; leave stream out, or give load its name or folder")
        return _in_memory(source, tokenizer, dtype=dtype, device=device, base=base)
    if tokenizer is not None:
        raise DposcopeError(f"{source} has its own tokenizer; give a tokenizer only beside a model in memory")
    name = str(source)
    spread = is_spread_over(device_map, device)
    like = None if base is None or str(device) != "auto" else Placement.of(base)
    precision = _dtype_name(base.dtype if base is not None and dtype == "auto" else dtype)
    place = device_of(base.device if base is not None and str(device) == "auto" else device)
    path = expanded(source)
    adapter = base is not None and path.is_dir() and is_adapter(path)
    if not adapter:
        check_source(source)
    form = _Form(precision, place, quantise, spread, like if like is not None and like.spread else None)
    if stream is not None:
        _check_streamed(name, form, adapter=adapter)
    if quantise is not None:
        check_quantise(quantise)
        if adapter or (path.suffix == ".gguf" and not path.is_dir()):
            what = "an adapter, which is merged into its base" if adapter else "a GGUF file"
            raise DposcopeError(f"{source} is {what}, and is not quantised on loading; leave quantise out")
    if name in BUNDLED and not path.exists():
        lm = _from_folder(str(bundled_folder(name)), name, form, local=True)
    elif path.suffix == ".gguf" and not path.is_dir():
        pair = load_gguf(path, dtype="float32" if precision == "auto" else precision)
        lm = LanguageModel(pair.model, pair.tokenizer, name_of_source(path))
        if form.is_spread:
            spread_(lm.model, placed(lm.model, name, Stored(lm.dtype.itemsize), form.like))
    elif adapter:
        assert base is not None
        lm = merge_adapter(base, path)
        if precision != "auto":
            convert_(lm.model, _DTYPES[precision])
    elif path.is_dir():
        lm = _from_folder(str(path), name, form, local=True)
    else:
        lm = _from_hub(hub_id(name), form)
    if stream is not None or not (lm.quantised or form.is_spread):  # those are there already
        _put(lm, name, place, stream)
    lm.model.eval()
    _ = lm.d_mlp  # refuse an architecture that is not supported now, not after an hour
    check_weights(lm, name)
    if base is not None:
        lm = comparable(base, lm)
    elif path.suffix != ".gguf":  # transformers adds tokens to its tokenizer by itself; `check_ids` looks at each text
        check_tokens(lm, name)
    check_forward(lm, name)
    return lm


def _put(lm: LanguageModel, name: str, place: torch.device, stream: str | Path | None) -> None:
    """Move a model that is in main memory to where it runs, or let it run there from a file."""
    try:
        if stream is not None:
            stream_(lm, place, stream)
        else:
            lm.model.to(place)  # pyright: ignore[reportArgumentType] — transformers types `to` too narrowly
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
        raise DposcopeError(f"cannot move {name} to device {place}: {reason}; use device cpu or auto") from error


def _check_streamed(name: str, form: "_Form", *, adapter: bool) -> None:
    """Refuse, before anything is loaded, a model whose weights cannot lie in a file."""
    if form.quantise is not None:
        raise DposcopeError(f"{name} is to be quantised, and its weights cannot lie in a file; leave stream out")
    if form.is_spread:
        raise DposcopeError(f"{name} is to be spread over several GPUs, which needs no file; leave stream out")
    if adapter and form.place.type != "cpu":
        raise DposcopeError(
            f"{name} is an adapter, and is merged on the GPU, which takes the memory of two models; merge it on the "
            "CPU with dposcope.load(adapter, base=base).save_pretrained(folder), and name that folder, or leave stream "
            "out"
        )


def _in_memory(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    dtype: str | torch.dtype,
    device: str | torch.device,
    base: LanguageModel | None,
) -> LanguageModel:
    check_in_memory(model, tokenizer)
    assert tokenizer is not None
    check_settings(model, _dtype_name(dtype), None if str(device) == "auto" else device_of(device))
    name = name_of_source(model.name_or_path) if model.name_or_path else "model"
    lm = LanguageModel(model, tokenizer, name)
    _ = lm.d_mlp
    check_whole_blocks(lm)
    check_weights(lm, name)
    check_tokens(lm, name)
    if model.training:
        model.eval()
        lm = replace(lm, notes=("set to evaluation mode",))
    if base is not None:
        lm = comparable(base, replace(lm, model=_on_the_same_weights(model)))
    check_forward(lm, name)
    return lm


def _on_the_same_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A second model whose parameters are views of the first one's, so that its embedding can lose rows alone."""
    coded = {id(one) for module in model.modules() if is_quantised(module) for one in module.parameters()}
    views = {
        id(one): one if id(one) in coded else nn.Parameter(one.detach(), one.requires_grad)
        for one in model.parameters()
    }
    return copied_model(model, {**held_by(model), **views, **{id(one): one for one in model.buffers()}})


def check_source(source: str | Path) -> None:
    """Refuse a source that is clearly not a model, without loading it. A hub id is not looked up.

    Raises:
        DposcopeError: it is not a bundled name, a folder of a checkpoint, a GGUF file, or a possible hub id; it is
            nearly a bundled name, and not written as `hf:NAME`; or a file of the folder is a link that leads out of it.
    """
    name, path = str(source), expanded(source)
    if name in BUNDLED and not path.exists():
        return
    check_path(path)
    if path.suffix == ".gguf" and not path.is_dir():
        if not path.exists():
            raise DposcopeError(f"there is no file {path}; check the path")
        check_regular(path)
    elif path.is_dir():
        own_files(path)  # before any of them is read
        check_files(path)
        if is_adapter(path):
            raise DposcopeError(
                f"{path} is an adapter, which needs its base model: give it as the tuned model of a base, or "
                "merge it with dposcope.load(adapter, base=dposcope.load(base)).save_pretrained(folder)"
            )
        if not (path / "config.json").is_file():
            raise DposcopeError(f"{path} holds no config.json; name a folder written by save_pretrained")
    elif path.exists():
        raise DposcopeError(f"{name!r} is not a model; give a folder, a .gguf file, a bundled name or a hub id")
    else:
        check_hub_name(name)


@dataclass(frozen=True)
class _Form:
    """How a checkpoint becomes a model."""

    precision: str
    """Of its plain weights; "auto": as stored."""
    place: torch.device
    """Where quantised weights are put; plain ones are moved there afterwards."""
    quantise: Quantise | None
    spread: bool = False
    """Whether the parts are divided among all GPUs."""
    like: Placement | None = None
    """Where the base has its parts, if it is spread."""

    @property
    def is_spread(self) -> bool:
        """Whether parts are on several devices."""
        return self.spread or self.like is not None

    def device_map(self, source: str, name: str, stored: StoredForm, *, local: bool) -> dict[str, torch.device] | None:
        """Module → device; None: all of the model is made on the CPU.

        Raises:
            DposcopeError: the model does not fit into the GPUs.
        """
        plain = stored.plain_when_loaded and self.quantise is None
        if not self.is_spread:
            # Quantised weights stay where they are made, so they are made where they belong.
            return None if plain else {"": self.place}
        config = AutoConfig.from_pretrained(source, local_files_only=local, trust_remote_code=False)
        dtype = stored.dtype if self.precision == "auto" else _DTYPES[self.precision]
        method = None if stored.plain_when_loaded else config.to_dict().get("quantization_config")
        taken = Stored.of(dtype.itemsize, self.quantise, method)
        return placed(outlined(config), name, taken, self.like)


def _from_hub(name: str, form: _Form) -> LanguageModel:
    """From the hub, or from its cache where it does not answer."""
    if hub_answers(name):
        return _from_folder(name, name, form, local=False)
    try:
        return _from_folder(name, name, form, local=True)
    except DposcopeError as error:
        own = "" if "/" in name else f", or give a folder or a bundled name ({', '.join(BUNDLED)})"
        raise DposcopeError(
            f"cannot load {name!r}: the Hugging Face hub does not answer, and the model is not in its cache; check the "
            f"network{own}"
        ) from error


def _from_folder(source: str, name: str, form: _Form, *, local: bool) -> LanguageModel:
    if local and Path(source).is_dir():
        check_loadable(Path(source))  # refuses what would take hours to build, or more memory than there is
    try:
        stored = StoredForm.of(source, local=local)
        _check_form(stored, form, name)
        dtype = stored.dtype if form.precision == "auto" else _DTYPES[form.precision]
        told = quantisation(stored, form.quantise, dtype)
        places = form.device_map(source, name, stored, local=local)
        with without_progress_bars(), without_remarks():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=form.precision,
                use_safetensors=True,
                local_files_only=local,
                trust_remote_code=False,
                output_loading_info=True,
                **({} if told is None else {"quantization_config": told}),
                **({} if places is None else {"device_map": places}),
            )
            with _uncollected():
                tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local, trust_remote_code=False)
    except DposcopeError:
        raise
    except Exception as error:  # a stranger's files may fail anywhere in three libraries
        if is_memory(error):
            raise
        raise DposcopeError(_why(error, name, local)) from error
    model, loading = loaded
    if loading["missing_keys"]:
        # transformers would fill them with random numbers.
        missing = sorted(loading["missing_keys"])
        raise DposcopeError(
            f"{name} has no {', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}, "
            "so it is not a causal language model, or it is incomplete; check the folder"
        )
    in_one_form(model)
    notes: tuple[str, ...] = ()
    if stored.method is not None and stored.plain_when_loaded:
        forget_quantisation(model)
        notes = (f"stored by {stored.method}, and dequantised on loading",)
    return LanguageModel(model, tokenizer, name_of_source(name), notes=notes, quantise=form.quantise)


def _check_form(stored: StoredForm, form: _Form, name: str) -> None:
    if stored.method is None:
        return
    if form.quantise is not None:
        raise DposcopeError(f"{name} is stored quantised by {stored.method} already; leave quantise out")
    check_method(stored.method, name)


@contextmanager
def _uncollected() -> Generator[None]:
    """No garbage collection inside. A tokenizer's file becomes half a million lists, and the collector would check them
    again and again, which takes as long as reading them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _why(error: Exception, name: str, local: bool) -> str:
    text = str(error)
    first = first_line(error)
    if "Unrecognized configuration class" in text:
        return f"{name} is not a causal language model; dposcope reads decoders such as GPT-2, Llama, Gemma or Qwen"
    if "mismatched" in text.lower():
        return (
            f"cannot load {name}: it holds weights of other shapes than its config.json says; download the "
            f"checkpoint again"
        )
    if "safetensors" in text and ("does not appear to have" in text or "no file named" in text):
        return f"{name} has no safetensors weights; convert it first (model.save_pretrained writes them)"
    if isinstance(error, ImportError):  # of a way to quantise or a part of the model; it names the package
        return f"cannot load {name}: {first}; install what it needs"
    if local:
        return f"cannot load {name}: {first}; {MEND}"
    if "gated" in text.lower() or "401" in first or "403" in first:
        return (
            f"cannot load {name!r} from the Hugging Face hub: {first}; if it is gated, accept its licence on its page "
            "there and log in with: hf auth login"
        )
    return f"cannot load {name!r} from the Hugging Face hub: {first}; check the id and the network"


def _dtype_name(dtype: str | torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    if name != "auto" and name not in _DTYPES:
        raise DposcopeError(f"dtype {name!r} is not one of auto, {', '.join(_DTYPES)}")
    return name


def device_of(device: str | torch.device) -> torch.device:
    """The device that a name stands for; auto: a GPU if there is one.

    Raises:
        DposcopeError: it is unknown, not here, or holds no weights.
    """
    if str(device) == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise DposcopeError(f"device {device!r} is unknown; use auto, cpu, cuda or cuda:1") from error
    if place.type == "meta":
        raise DposcopeError("device meta holds no weights; use auto, cpu or cuda")
    if place.type == "cuda" and not torch.cuda.is_available():
        raise DposcopeError("no CUDA device is available here; use device cpu or auto")
    own = local_rank()
    # If a launcher started several processes, each uses the GPU with its number.
    return torch.device("cuda", own) if place == torch.device("cuda") and own is not None else place


def load_native(
    model: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    device_map: DeviceMap | None = None,
    quantise: Quantise | None = None,
    stream: str | Path | None = None,
) -> LanguageModel:
    """Load `model` in the precision that is fastest on this machine.

    `dtype="auto"` keeps the stored precision, but runs a float32 checkpoint in bfloat16 if the hardware supports it.
    This takes half the time, and most models were trained in bfloat16.

    Args:
        model: see `load`.
        dtype: auto, or the precision to run in.
        device: see `load`.
        device_map: see `load`.
        quantise: see `load`. With it, auto is bfloat16 if the hardware supports it.
        stream: see `load`.

    Raises:
        DposcopeError: see `load`.
    """
    if quantise is not None and dtype == "auto" and native_bfloat16(device_of(device)):
        dtype = "bfloat16"  # now: the precision of a quantised model cannot be changed
    if stream is None:
        return _in_native(
            lambda precision: load(model, dtype=precision, device=device, device_map=device_map, quantise=quantise),
            model,
            dtype,
            device_of(device),
        )
    place = device_of(device)
    _check_streamed(model, _Form(dtype, place, quantise, is_spread_over(device_map, device)), adapter=False)
    # What lies in a file is not converted any more, so it is put there last.
    lm = _in_native(lambda precision: load(model, dtype=precision, device="cpu"), model, dtype, place)
    _put(lm, model, place, stream)
    return lm


def _in_native(loaded: Callable[[str], LanguageModel], model: str, dtype: str, place: torch.device) -> LanguageModel:
    """A model in bfloat16 where nothing else is asked for, a device has that and the weights are in float32."""
    if dtype != "auto" or not native_bfloat16(place):
        return loaded(dtype)
    if _says_float32(model):
        return loaded("bfloat16")
    lm = loaded("auto")
    if not lm.quantised and lm.dtype == torch.float32:
        convert_(lm.model, torch.bfloat16)
    return lm


def _says_float32(model: str) -> bool:
    """Whether it is known before loading that its weights are in float32, so that they need no memory in it."""
    path = expanded(model)
    folder = BUNDLED[model].folder if model in BUNDLED and not path.exists() else path
    try:
        told = read_object(folder / "config.json")
    except (OSError, DposcopeError):
        return False  # whoever loads it tells
    return "quantization_config" not in told and (told.get("dtype") or told.get("torch_dtype")) == "float32"


def native_bfloat16(device: torch.device) -> bool:
    """Whether a device supports bfloat16 multiplication without emulation."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        has = torch.cpu.get_capabilities()
        return bool(has.get("avx512_bf16") or has.get("amx_bf16") or has.get("bf16"))
    return False
