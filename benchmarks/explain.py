"""Collecting neuron means beside TransformerLens and nnsight, and the whole explanation beside two plain generations.

    pip install transformer-lens nnsight
    python benchmarks/explain.py [--model gemma-3-270m] [--prompts F] [--limit 400] [--rounds 3]
    python benchmarks/explain.py --whole --tuned DIR/model       the explanation beside two plain generations

Same model (bfloat16), same prompts, 20 greedy tokens each; each contender in a process of its own, in turn, `--rounds`
times. dposcope chooses its batches by itself; the others have none of their own, and get batches of 32 and, where the
name says so, of as many prompts as dposcope takes. Time is that of collecting, after a first batch that warms up and
without loading; memory is the peak of the resident set while collecting, and what of it is above the loaded model. All
collect the mean of the input of every MLP output projection at the 20 positions that predict:

    dposcope             `recording` while `generate` writes
    nnsight              `LanguageModel.generate`, each step's activations added up inside the trace
    transformer-lens     Transformers writes, `TransformerBridge.run_with_cache` reads prompt and text again with a
                         names_filter, a batch at a time
    transformer-lens all the same without a names_filter, as in its tutorials
    dposcope 32          as dposcope, 32 prompts at a time
    nnsight wide         as nnsight, as many prompts at a time as dposcope
    transformer-lens wide
                         the same of TransformerLens

The last line says how far each contender's means are from ours.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import dposcope as ds
from dposcope.data.prompts import load_prompts
from dposcope.model.batches import rows_to_write

NEW, BATCH = 20, 32
Collect = Callable[[Sequence[str]], torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--tuned", help="with --whole: the tuned model; by default the model itself")
    parser.add_argument("--prompts", help="by default the built-in ones, repeated")
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="contenders, separated by commas")
    parser.add_argument("--whole", action="store_true", help="the whole explanation beside two plain generations")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print("RESULT " + json.dumps(work(arguments)))
    elif arguments.whole:
        whole(arguments)
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    names = arguments.only.split(",") if arguments.only else list(CONTENDERS)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        # TransformerLens loads from a folder; all get the same one.
        lm = ds.load(arguments.model, dtype="bfloat16")
        lm.model.save_pretrained(folder)
        lm.tokenizer.save_pretrained(folder)
        del lm
        for _ in range(arguments.rounds):
            for name in names:
                found[name].append(start(arguments, name, folder))
                print(f"  {name}: {found[name][-1]}", file=sys.stderr)
        means = {name: torch.load(Path(folder) / f"{name}.pt", weights_only=True) for name in names}
    print(f"{arguments.model}, bfloat16, {arguments.limit} prompts × {NEW} tokens, {arguments.rounds} rounds")
    for name in names:
        parts = {key: statistics.median(run[key] for run in found[name]) for key in ("seconds", "peak", "above")}
        line = f"{name:22} {parts['seconds']:7.1f} s {parts['peak']:7.0f} MiB, {parts['above']:7.0f} above the model"
        if name != names[0]:
            ratios = {
                key: statistics.median(
                    ours[key] / theirs[key] for ours, theirs in zip(found[names[0]], found[name], strict=True)
                )
                for key in parts
            }
            apart = float((means[name] - means[names[0]]).abs().mean() / means[names[0]].abs().mean())
            line += (
                f"   dposcope: {1 / ratios['seconds']:.2f} × the speed, {ratios['peak']:.2f} × the peak, "
                f"{ratios['above']:.2f} × above the model; means differ by {100 * apart:.2f} %"
            )
        print(line)


def start(arguments: argparse.Namespace, name: str, folder: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", name, "--folder", folder, "--limit", str(arguments.limit)]
    if arguments.prompts:
        command += ["--prompts", arguments.prompts]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(lines[0].removeprefix("RESULT "))


def work(arguments: argparse.Namespace) -> dict[str, float]:
    warnings.filterwarnings("ignore")
    prompts = some_prompts(arguments)
    collect = CONTENDERS[arguments.child](arguments.folder)
    collect(prompts[:BATCH])
    resident = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    begin = time.perf_counter()
    means = collect(prompts)
    seconds = time.perf_counter() - begin
    peak = status("VmHWM")
    torch.save(means, Path(arguments.folder) / f"{arguments.child}.pt")
    return {"seconds": seconds, "peak": peak, "above": peak - resident}


def some_prompts(arguments: argparse.Namespace) -> list[str]:
    prompts = load_prompts(arguments.prompts)
    return (prompts * (1 + arguments.limit // len(prompts)))[: arguments.limit]


def status(name: str) -> float:
    """Of this process, in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def ours(folder: str, at_once: int | None = None) -> Collect:
    lm = ds.load(folder, dtype="bfloat16")

    def collect(prompts: Sequence[str]) -> torch.Tensor:
        with ds.recording(lm) as recorded:
            ds.generate(lm, prompts, new_tokens=NEW, max_prompt_tokens=None, batch_size=at_once, stop_at_end=False)
        return recorded.value().mean

    return collect


def nnsight(folder: str, at_once: int | None = BATCH) -> Collect:
    import nnsight as nn

    lm = ds.load(folder, dtype="bfloat16")
    lm.tokenizer.padding_side = "left"
    model = nn.LanguageModel(lm.model, tokenizer=lm.tokenizer)
    blocks, width = lm.n_blocks, lm.d_mlp

    def collect(prompts: Sequence[str]) -> torch.Tensor:
        total = torch.zeros(blocks, width, dtype=torch.float64)
        for batch in by_length(lm, prompts, at_once):
            encoded = dict(lm.tokenizer(batch, return_tensors="pt", padding=True))
            with model.generate(encoded, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False) as tracer:
                sums = nn.save([torch.zeros(width, dtype=torch.float64) for _ in range(blocks)])
                for _step in tracer.iter[0:NEW]:
                    for block in range(blocks):
                        sums[block] += model.model.layers[block].mlp.down_proj.input[:, -1].double().sum(0)
            total += torch.stack(list(sums))
        return total / (len(prompts) * NEW)

    return collect


def transformer_lens(folder: str, at_once: int | None = BATCH, *, filtered: bool = True) -> Collect:
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(folder, dtype=torch.bfloat16)
    plain = ds.LanguageModel(bridge.original_model, bridge.tokenizer)
    plain.tokenizer.padding_side = "left"
    blocks = plain.model.config.num_hidden_layers
    names = [f"blocks.{block}.mlp.out.hook_in" for block in range(blocks)]

    @torch.inference_mode()
    def collect(prompts: Sequence[str]) -> torch.Tensor:
        sums = [torch.zeros(1, dtype=torch.float64) for _ in range(blocks)]
        for batch in by_length(plain, prompts, at_once):
            encoded = plain.tokenizer(batch, return_tensors="pt", padding=True)
            written = plain.model.generate(**encoded, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
            mask = torch.cat([encoded["attention_mask"], torch.ones(len(batch), NEW, dtype=torch.long)], 1)
            _, cache = bridge.run_with_cache(
                written, attention_mask=mask, names_filter=(lambda name: name in names) if filtered else None
            )
            for block, name in enumerate(names):
                sums[block] = sums[block] + cache[name][:, -NEW - 1 : -1].double().sum((0, 1))
        return torch.stack(sums) / (len(prompts) * NEW)

    return collect


def by_length(lm: ds.LanguageModel, prompts: Sequence[str], at_once: int | None) -> list[list[str]]:
    """Batches of prompts of like length, as dposcope makes them, so that nobody reads more padding; None: of as many as
    dposcope takes."""
    ids = {text: lm.tokenizer(text)["input_ids"] for text in prompts}
    ordered = sorted(prompts, key=lambda text: -len(ids[text]))
    rows = rows_to_write(lm, [ids[text] for text in prompts], NEW, at_once)
    return [ordered[start : start + rows] for start in range(0, len(ordered), rows)]


CONTENDERS: dict[str, Callable[[str], Collect]] = {
    "dposcope": ours,
    "nnsight": nnsight,
    "transformer-lens": transformer_lens,
    "transformer-lens all": lambda folder: transformer_lens(folder, filtered=False),
    "dposcope 32": lambda folder: ours(folder, BATCH),
    "nnsight wide": lambda folder: nnsight(folder, None),
    "transformer-lens wide": lambda folder: transformer_lens(folder, None),
}


def whole(arguments: argparse.Namespace) -> None:
    base = ds.load(arguments.model, dtype="bfloat16")
    tuned = ds.load(arguments.tuned or arguments.model, dtype="bfloat16")
    prompts = some_prompts(arguments)
    direction = ds.Direction(torch.randn(base.d_model, generator=torch.Generator().manual_seed(0)), "random", -1)

    def plain() -> None:
        for lm in (base, tuned):
            ds.generate(lm, prompts, batch_size=BATCH)

    def explained() -> None:
        ds.explain(base, tuned, direction, prompts, batch_size=BATCH)

    seconds: dict[str, list[float]] = {"two plain generations": [], "explain": []}
    ds.generate(base, prompts[:BATCH])
    for _ in range(arguments.rounds):
        for name, run in zip(seconds, (plain, explained), strict=True):
            begin = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begin)
    ratios = [ours / theirs for theirs, ours in zip(*seconds.values(), strict=True)]
    for name, times in seconds.items():
        print(f"{name:22} {statistics.median(times):7.1f} s")
    print(f"ratio: median {statistics.median(ratios):.3f}, {min(ratios):.3f}–{max(ratios):.3f} (target ≤ 1.15)")


if __name__ == "__main__":
    main()
