"""Every form that an edit ships in, beside the hooked model: greedy texts, logits, log-perplexity.

    python benchmarks/forms.py --edit edit.safetensors [--model gemma-3-270m] [--gguf model.gguf] [--prompts F]
        [--neutral F] [--limit 50] [--windows 4] [--forms checkpoint,folder,adapters,gguf,int8,bfloat16,float16]

    checkpoint  the edit folded into the loaded model, saved, read by transformers alone
    folder      folded from file to file, the model never loaded, read by transformers alone
    adapters    read by peft alone, on top of the plain model
    gguf        the scales of a GGUF file changed, dequantised (--gguf, or the bundled model's file)
    int8        the scales of a checkpoint changed that compressed-tensors keeps as int8 (made here, row by row)
    bfloat16, float16   a checkpoint of half precision folded from file to file

Each is compared with the same model, in the same precision, under the edit's hooks; GGUF and int8 with the gains alone,
which is all that they can hold. `texts` counts prompts whose 20 greedy tokens differ anywhere. `logits` is the mean
difference after the prompts' last tokens as a share of the mean change that the edit itself makes there; `rounding` the
largest of one weight as a share of the largest weight.
"""

import argparse
import json
import math
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_utils import PreTrainedModel

import dposcope as ds
from dposcope.errors import DposcopeError
from dposcope.model.bundled import BUNDLED
from dposcope.shipping.model_card import write_checkpoint
from dposcope.shipping.ship import load_edit, ship

FORMS = ("checkpoint", "folder", "adapters", "gguf", "int8", "bfloat16", "float16")
_NEEDS = {"adapters": "peft", "gguf": "gguf", "int8": "compressed_tensors"}
_EMBEDDED = "gemma-3-270m"
_BATCH = 25
_NEW_TOKENS = 20


@dataclass(frozen=True, eq=False)
class Reading:
    """What a model does with the prompts and the text."""

    texts: list[list[int]]
    """Greedy tokens."""
    logits: Tensor
    """After each prompt, `[n, vocabulary]`, float64."""
    log_perplexity: float


@dataclass(frozen=True)
class Compared:
    """One form beside the hooked model."""

    form: str
    differing: int
    """Of the prompts."""
    prompts: int
    logits: float
    """Mean difference over the mean change that the edit makes."""
    log_perplexity: float
    """Difference, nats per token."""
    rounding: float | None


@dataclass(frozen=True, eq=False)
class Task:
    """What every model is asked."""

    prompts: list[str]
    neutral: str
    windows: int

    @torch.inference_mode()
    def read(self, lm: ds.LanguageModel, edit: ds.Edit | None = None) -> Reading:
        """By this library, under an edit's hooks where one is given."""
        with nullcontext() if edit is None else edit.on(lm):
            texts = [list(one.ids) for one in ds.generate(lm, self.prompts, new_tokens=_NEW_TOKENS)]
            return self._with_logits(lm, texts)

    @torch.inference_mode()
    def read_alone(self, model: PreTrainedModel, tokens_of: Path | str, end: frozenset[int]) -> Reading:
        """Texts by `generate` of transformers or peft, with nothing of this library."""
        tokenizer = AutoTokenizer.from_pretrained(tokens_of, padding_side="left")
        texts: list[list[int]] = []
        for start in range(0, len(self.prompts), _BATCH):
            asked = tokenizer(self.prompts[start : start + _BATCH], return_tensors="pt", padding=True)
            width = asked["input_ids"].shape[1]
            rows = model.generate(**asked, max_new_tokens=_NEW_TOKENS, do_sample=False)[:, width:].tolist()
            texts += [_until(row, end) for row in rows]
        inner = getattr(model, "get_base_model", lambda: model)()  # of peft, its adapters still in its layers
        return self._with_logits(ds.LanguageModel(inner, tokenizer, "read alone"), texts)

    def _with_logits(self, lm: ds.LanguageModel, texts: list[list[int]]) -> Reading:
        last = [
            lm.model(torch.tensor([lm.tokenizer(prompt)["input_ids"]]), logits_to_keep=1).logits[0, -1].double()
            for prompt in self.prompts
        ]
        loss = ds.window_losses(lm, self.neutral, max_windows=self.windows).mean
        return Reading(texts, torch.stack(last), float(loss))


def _until(row: Sequence[int], end: frozenset[int]) -> list[int]:
    """Up to the first token that ends a text."""
    return row[: next((place for place, token in enumerate(row) if token in end), len(row))]


def compared(form: str, found: Reading, hooked: Reading, plain: Reading, rounding: float | None = None) -> Compared:
    """Two readings, by the size of what the edit does."""
    effect = (hooked.logits - plain.logits).abs().mean()
    return Compared(
        form,
        sum(ours != theirs for ours, theirs in zip(found.texts, hooked.texts, strict=True)),
        len(found.texts),
        float((found.logits - hooked.logits).abs().mean() / effect),
        abs(found.log_perplexity - hooked.log_perplexity),
        rounding,
    )


def compare(
    model: str, edit: ds.Edit, task: Task, forms: Sequence[str], scratch: Path, gguf: Path | None = None
) -> list[Compared]:
    """Make the forms in `scratch`, and compare them."""
    lm = ds.load(model, dtype="float32", device="cpu")
    base = scratch / "base"
    lm.model.save_pretrained(base)
    lm.tokenizer.save_pretrained(base)
    rows: list[Compared] = []
    if {"checkpoint", "folder", "adapters"} & set(forms):
        hooked, plain = task.read(lm, edit), task.read(lm)
        for form in ("checkpoint", "folder", "adapters"):
            if form in forms:
                _tell(form)
                read, rounding = _ALONE[form](lm, edit, base, scratch / form)
                rows.append(compared(form, task.read_alone(read, base, lm.end_ids), hooked, plain, rounding))
    gains = edit.gains_alone()
    if "gguf" in forms:
        _tell("gguf")
        if gguf is None:
            gguf = scratch / "base.gguf"
            BUNDLED[_EMBEDDED].assemble(BUNDLED[_EMBEDDED], gguf)
        rows.append(_from_file_to_file("gguf", gguf, gains, task, scratch, "float32"))
    if "int8" in forms:
        _tell("int8")
        quantise(base, scratch / "int8")
        rows.append(_from_file_to_file("int8", scratch / "int8", gains, task, scratch, "float32"))
    for form in ("bfloat16", "float16"):
        if form in forms:
            _tell(form)
            folder = scratch / f"base-{form}"
            half = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, form))
            half.save_pretrained(folder)
            lm.tokenizer.save_pretrained(folder)
            rows.append(_from_file_to_file(form, folder, edit, task, scratch, form))
    return rows


def _tell(form: str) -> None:
    print(form, file=sys.stderr, flush=True)


def _from_file_to_file(form: str, source: Path, edit: ds.Edit, task: Task, scratch: Path, dtype: str) -> Compared:
    """What `dposcope fold` writes, beside the same source under hooks."""
    out = scratch / f"{form}-edited{source.suffix}"
    done = ship(source, edit, out)
    read = _decompressed if form == "int8" else partial(ds.load, dtype=dtype, device="cpu")
    lm = read(str(source))
    hooked, plain = task.read(lm, edit), task.read(lm)
    del lm
    found = task.read(read(str(out)))
    return compared(form, found, hooked, plain, done.rounding)


def _decompressed(folder: str) -> ds.LanguageModel:
    """With plain weights: those of a compressed checkpoint are codes, which dposcope refuses to read."""
    from transformers import CompressedTensorsConfig

    plain = CompressedTensorsConfig(dequantize=True)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # the checkpoint has a config of its own, and only this attribute of ours counts
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=plain)
    return ds.LanguageModel(model.eval(), AutoTokenizer.from_pretrained(folder), Path(folder).name)


Made = tuple[PreTrainedModel, float | None]


def _checkpoint(lm: ds.LanguageModel, edit: ds.Edit, _base: Path, out: Path) -> Made:
    write_checkpoint(lm, edit, out)
    return AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval(), None


def _folder(_lm: ds.LanguageModel, edit: ds.Edit, base: Path, out: Path) -> Made:
    done = ship(base, edit, out)
    return AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval(), done.rounding


def _adapters(_lm: ds.LanguageModel, edit: ds.Edit, base: Path, out: Path) -> Made:
    from peft import PeftModel

    done = ship(base, edit, out, form="adapters")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for folder in sorted(file.parent for file in out.rglob("adapter_config.json")):  # the ablation before the gains
        plain = model.get_base_model() if isinstance(model, PeftModel) else model
        model = PeftModel.from_pretrained(plain, folder)
    return model.eval(), done.rounding


_ALONE: dict[str, Callable[[ds.LanguageModel, ds.Edit, Path, Path], Made]] = {
    "checkpoint": _checkpoint,
    "folder": _folder,
    "adapters": _adapters,
}


def quantise(source: Path, out: Path) -> None:
    """A checkpoint folder as compressed-tensors keeps int8: a symmetric scale for each row of a linear layer."""
    model = AutoModelForCausalLM.from_pretrained(source)
    linear = {name for name, one in model.named_modules() if isinstance(one, torch.nn.Linear) and name != "lm_head"}
    out.mkdir()
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            (out / file.name).write_bytes(file.read_bytes())
    for file in source.glob("*.safetensors"):
        stored: dict[str, Tensor] = {}
        for name, tensor in load_file(file).items():
            if name.removesuffix(".weight") in linear:
                scale = tensor.abs().amax(1, keepdim=True).clamp(min=1e-9) / 127
                stored[name] = (tensor / scale).round().clamp(-128, 127).to(torch.int8)
                stored[f"{name}_scale"] = scale
            else:
                stored[name] = tensor
        save_file(stored, out / file.name, metadata={"format": "pt"})
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": False, "strategy": "channel"}
    config = json.loads((out / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "format": "int-quantized"}},
    }
    (out / "config.json").write_text(json.dumps(config))


def table(rows: Sequence[Compared]) -> str:
    """Markdown."""
    lines = ["| form | texts that differ | logits | log-PPL | rounding |", "| --- | --- | --- | --- | --- |"]
    for one in rows:
        cells = [one.form, f"{one.differing} of {one.prompts}"]
        cells += [_told(number) for number in (one.logits, one.log_perplexity, one.rounding)]
        lines.append("".join(f"| {cell} " for cell in cells) + "|")
    return "\n".join(lines)


def _told(number: float | None) -> str:
    if number is None:
        return "–"
    return f"{number:.1e}" if math.isfinite(number) else "overflows"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--edit", required=True)
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--prompts")
    parser.add_argument("--neutral")
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--forms", type=lambda text: text.split(","), default=list(FORMS))
    options = parser.parse_args()
    if unknown := set(options.forms) - set(FORMS):
        parser.error(f"no form {sorted(unknown)[0]!r}; there are {', '.join(FORMS)}")
    try:
        if "gguf" in options.forms and options.gguf is None and options.model != _EMBEDDED:
            raise DposcopeError("no GGUF file of this model is at hand; give --gguf, or --forms without gguf")
        for form, package in _NEEDS.items():
            if form in options.forms and find_spec(package) is None:
                raise DposcopeError(f"{form} needs the {package} package; install it, or give --forms without {form}")
        edit = load_edit(options.edit)
        task = Task(
            ds.load_prompts(options.prompts, limit=options.limit), ds.load_neutral(options.neutral), options.windows
        )
        with tempfile.TemporaryDirectory() as scratch:
            rows = compare(options.model, edit, task, options.forms, Path(scratch), options.gguf)
    except DposcopeError as error:
        print(f"forms: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error
    print(table(rows))


if __name__ == "__main__":
    main()
