"""Memory, disk, time and the first limit of every command, for models of 8, 32 and 70 billion parameters:
docs/scale.md.

    python tools/scale.py          writes the page
    python tools/scale.py --print  prints it

No model is loaded and nothing is measured: sizes come from configs that are built here, work from the program's own
estimates (`--dry-run`), and the rates of both machines are written below.
"""

import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, PreTrainedTokenizerFast, Qwen2Config

from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.edit.settings import EditSettings
from dposcope.jobs.estimate.dpo import Trained, dpo_stages, less_memory
from dposcope.jobs.estimate.edit import edit_stages
from dposcope.jobs.estimate.evaluate import evaluate_stages
from dposcope.jobs.estimate.explain import explain_stages
from dposcope.jobs.estimate.fold import fold_stages
from dposcope.jobs.estimate.machine import GIB, Machine
from dposcope.jobs.estimate.measuring import Counted, direction, loading
from dposcope.jobs.estimate.pairs import pairs_stages
from dposcope.jobs.estimate.table import bottleneck_line, hours, rounded, size
from dposcope.jobs.estimate.tune import tune_stages
from dposcope.jobs.estimate.work import MEMORY, Less, Running, Stage, Texts, Work
from dposcope.jobs.evaluate.settings import EvaluateSettings
from dposcope.jobs.explain.settings import ExplainSettings
from dposcope.jobs.measuring.conditions import ConditionSpec, PartSpec
from dposcope.jobs.pairs.settings import PairsSettings
from dposcope.jobs.settings import ProbeSettings
from dposcope.jobs.tune.settings import TuneSettings
from dposcope.model.language_model import LanguageModel
from dposcope.model.size import ModelSize, model_size
from dposcope.training.kept import Kept

PAGE: Final = Path(__file__).parents[1] / "docs" / "scale.md"

GPU: Final = Machine("one 80-GB GPU", 4e14, 2e12, 80 * 10**9, 2, gpu=True)
"""Assumed, below what is printed of an H100."""
CPU: Final = Machine("2 CPU cores", 9e11, 2e10, 24 * GIB, 2)
"""Products as benchmarks/limit.py measured them on two free cores of an EPYC in bfloat16: 449 G
multiply-adds a second; the bandwidth is assumed."""

PROMPTS, PROMPT, PASSAGES, PASSAGE, WINDOWS = 400, 16, 500, 64, 12
COMMENTS, COMMENT, PAIRS, COMPLETION = 2000, 80, 1000, 20
STORED: Final = 2
"""Bytes of a stored weight: bfloat16."""
LEAN: Final = "dpo, all weights, 8-bit optimiser"
LEAN_OPTIONS: Final = "--optimizer rmsprop-8bit --precompute-reference --recompute"
BESIDE: Final = 2e7
"""Bytes of a tokenizer's files."""


def configs() -> dict[str, PreTrainedConfig]:
    """The models, by the names of their makers."""
    llama = {"vocab_size": 128_256, "num_key_value_heads": 8, "tie_word_embeddings": False}
    return {
        "8B (Llama-3.1-8B)": LlamaConfig(
            **llama, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32
        ),
        "32B (Qwen2.5-32B)": Qwen2Config(
            vocab_size=152_064, hidden_size=5120, intermediate_size=27_648, num_hidden_layers=64,
            num_attention_heads=40, num_key_value_heads=8, tie_word_embeddings=False,
        ),
        "70B (Llama-3.1-70B)": LlamaConfig(
            **llama, hidden_size=8192, intermediate_size=28_672, num_hidden_layers=80, num_attention_heads=64
        ),
    }  # fmt: skip


def without_weights(config: PreTrainedConfig) -> LanguageModel:
    """A model of this size, and a tokenizer that nobody asks."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return LanguageModel(model, PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}))))


def counted() -> Counted:
    """Data of a usual size; half of the prompts to learn from, half to report on."""
    half = Texts.alike(PROMPTS // 2, PROMPT)
    return Counted(
        learn=half,
        choose=half,
        comments=Texts.alike(COMMENTS, COMMENT),
        prompts=half,
        passages=Texts.alike(PASSAGES, PASSAGE),
        windows=Texts.alike(WINDOWS, 1024),
    )


@dataclass(frozen=True, eq=False)
class Alike(Kept):
    """What a model keeps whose blocks are alike, counted on two and four of them: each further one keeps as much."""

    four: Kept
    blocks: int
    """Of the whole model."""

    @classmethod
    def of(cls, config: PreTrainedConfig) -> "Alike":
        """Of a config with more blocks."""
        two, four = (without_weights(_cut(config, blocks)) for blocks in (2, 4))
        return cls(two, Kept(four), config.num_hidden_layers)

    def per_token(self, *given: Any, **named: Any) -> float | None:
        """Of one token, over all blocks."""
        two, four = super().per_token(*given, **named), self.four.per_token(*given, **named)
        return None if two is None or four is None else two + (self.blocks - 2) * (four - two) / 2


def _cut(config: PreTrainedConfig, blocks: int) -> PreTrainedConfig:
    few = copy.deepcopy(config)
    few.num_hidden_layers = blocks
    if "layer_types" in few.to_dict():
        few.layer_types = few.layer_types[:blocks]
    return few


def works(found: ModelSize, kept: Kept) -> dict[str, Work]:
    """Command → what it does with a model of this size, of which training keeps so much."""
    running, data, comments = Running(found, 2), counted(), Texts.alike(COMMENTS, COMMENT)
    probe = ProbeSettings()
    condition = ConditionSpec("edit", (PartSpec("edit", {}),))
    weights = float(found.parameters * STORED)
    known = {"stored": STORED}
    stages: dict[str, Sequence[Stage]] = {
        "probe": [loading(running, STORED), direction(running, comments, probe.direction_spec)],
        "evaluate (one edit)": evaluate_stages(running, EvaluateSettings(), data, [condition], **known),
        "edit": edit_stages(running, EditSettings(), data, window=1024, learned=False, beside=int(BESIDE), **known),
        "pairs": pairs_stages(running, PairsSettings(), data.learn, Texts(), Texts(), **known),
        "dpo, gains": _dpo(running, "gains", kept),
        "dpo, LoRA": _dpo(running, "lora", kept),
        "dpo, all weights": _dpo(running, "full", kept),
        LEAN: _dpo(running, "full", kept, lean=True),
        "tune": tune_stages(running, TuneSettings(), data, window=1024, beside=int(BESIDE), kept=kept, **known),
        "explain": explain_stages(running, ExplainSettings(), data, comments, **known),
        "explain --stream": explain_stages(running, ExplainSettings(), data, comments, files=1, **known),
        "fold": fold_stages(found, STORED, stored=weights, written=weights + BESIDE),
    }
    whole = Running(found, 4)
    made = {
        name: Work(
            name.partition(",")[0].partition(" ")[0], "", whole if "all" in name else running, tuple(own),
            trains_all="all" in name,
        )
        for name, own in stages.items()
    }  # fmt: skip
    full = made["dpo, all weights"]
    return made | {"dpo, all weights": replace(full, less=Less(LEAN_OPTIONS, made[LEAN].peak.total))}


def _dpo(running: Running, train: Literal["full", "lora", "gains"], kept: Kept, *, lean: bool = False) -> list[Stage]:
    settings = DpoSettings(pairs="pairs.jsonl", train=train)
    held_out = settings.validation_pairs(PAIRS)
    read = PROMPT + 2 * (COMPLETION - 1)
    texts = Trained(
        Texts.alike(PAIRS - held_out, read),
        Texts.alike(held_out, read),
        2.0 * COMPLETION,
        Texts.alike(settings.window_pool, settings.window_tokens - 1),
    )
    schedule = settings.schedule(PAIRS - held_out, autocast=train == "full")
    if lean:
        less = less_memory(settings, schedule)
        assert less is not None
        settings, options = less
        assert options == LEAN_OPTIONS
        schedule = settings.schedule(PAIRS - held_out, autocast=True)
    return dpo_stages(running, settings, texts, schedule, stored=STORED, beside=int(BESIDE), kept=kept)


def page() -> str:
    """All of it."""
    parts = [_HEAD]
    for name, config in configs().items():
        found = model_size(without_weights(config).model)
        lines = [
            f"\n## {name}\n",
            f"{rounded(found.parameters / 1e9):g} billion parameters: {size(2.0 * found.parameters)} in bfloat16.\n",
            "| command | memory | disk | 80-GB GPU | first limit there | 2 CPU cores |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for command, work in works(found, Alike.of(config)).items():
            meanwhile = f" (+ {size(work.scratch)} meanwhile)" if work.scratch > 1e9 else ""
            fits = work.bottleneck(GPU) != MEMORY
            gpu = _about(work.seconds(GPU)) if fits else "–"
            alone = replace(CPU, memory=10**15)  # a machine with such cores and enough memory
            lines.append(
                f"| {command} | {size(work.peak.total)} | {size(work.disk)}{meanwhile} | {gpu} | "
                f"{bottleneck_line(work, GPU).rstrip('.')} | {_about(work.seconds(alone))} |"
            )
        parts += lines
    return "\n".join(parts) + "\n"


def _about(seconds: float) -> str:
    """One or two digits: an estimate bears no more."""
    return hours(rounded(seconds))


_HEAD = f"""\
# Large models

What each command takes with models of 8, 32 and 70 billion parameters. These are estimates: nothing on this page was
run. The same estimate for your model, data and machine is one option away:

```sh
dposcope evaluate gemma-3-270m --condition edit:gemma-3-270m --out runs/scores --dry-run
```

`--dry-run` is an option of all commands but `generate`, `chat`, `serve`, `lens`, `models` and `report`. It reads
config, tokenizer and data, and checks them as the command would. It loads no weights and writes nothing. It measures
the machine for some seconds: a large matrix product, and a sum over more memory than any cache holds. It then shows for
each stage the tokens that are read and written, training steps, time, memory and disk, and the first limit. `--json`
gives the same as JSON.

## What is assumed

- Data: {PROMPTS} prompts of {PROMPT} tokens, half of them to learn from; {COMMENTS:,} comments of {COMMENT} tokens;
  {PASSAGES} passages of {PASSAGE} tokens; {WINDOWS} windows of 1,024 tokens of neutral text; {PAIRS:,} pairs with
  completions of {COMPLETION} tokens. All settings are the defaults.
- GPU: {GPU.operations / 1e12:.0f} TFLOP/s in bfloat16, {GPU.bandwidth / 1e12:.0f} TB/s from its memory, 80 GB.
  These rates are assumed, not measured. Real times may be two or three times as long.
- CPU: {CPU.operations / 1e9:.0f} GFLOP/s, as measured on two free cores of an EPYC with bfloat16 instructions;
  {CPU.bandwidth / 1e9:.0f} GB/s from memory are assumed. Times are as if memory were enough.
- "dpo, all weights" is in float32 with RMSprop. With the 8-bit optimiser it has the options
  `{LEAN_OPTIONS}` ([how](how-to/train.md#little-memory)).
- Memory is the peak of the process. "Meanwhile" is disk that is free again at the end.
- Weights are stored in bfloat16, and loaded from a disk with 0.5 GB/s.
- The largest number of texts, pairs and conditions is counted. Scorers, statistics and figures are not.

"First limit" is what most of the time goes to: compute, memory bandwidth, starting kernels (kernel launches), or the
disk. Where the memory is too small, it says what to lower. A dash stands where the command does not fit.

dposcope uses one GPU for a model, or with `--device-map auto` all GPUs of a machine: their memories add up, and times
stay ([several GPUs](how-to/several-gpus.md#one-model-over-several-gpus)). `fold` never loads a model."""


if __name__ == "__main__":
    if sys.argv[1:] == ["--print"]:
        print(page(), end="")
    else:
        PAGE.write_text(page(), encoding="utf-8")
