"""What hooks, folding and recording cost beside plain generation, paired in one run.

    python benchmarks/overhead.py [--model gemma-3-270m] [--dtype bfloat16] [--rounds 7] [--prompts 64]

Each round generates the same continuations in every way, in turn, so a machine whose speed drifts
slows all of them; the ratio to plain is taken round by round. Targets: hooks ≤ 1.10, folded ≤ 1.02,
recording ≤ 1.15.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

import dposcope as ds
from dposcope.data.prompts import load_prompts
from dposcope.interventions.fold import folded
from dposcope.neurons.activations import recording

TARGETS = {"hooks": 1.10, "folded": 1.02, "recording": 1.15}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prompts", type=int, default=64)
    arguments = parser.parse_args()

    lm = ds.load(arguments.model, dtype=arguments.dtype)
    prompts = load_prompts(None)[: arguments.prompts]
    stream = torch.Generator().manual_seed(0)
    gains = ds.Gains(1 + 0.02 * torch.randn(lm.n_blocks, lm.d_mlp, generator=stream))
    edit = ds.Edit.of(gains, ds.ablate(torch.randn(lm.d_model, generator=stream), weight=0.5))

    contexts: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "plain": nullcontext,
        "hooks": lambda: edit.on(lm),
        "folded": lambda: folded(lm, edit),
        "recording": lambda: recording(lm),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contexts}
    for round_number in range(arguments.rounds + 1):
        for name, context in contexts.items():
            with context():
                start = time.perf_counter()
                ds.generate(lm, prompts, batch_size=32, stop_at_end=False)
                elapsed = time.perf_counter() - start
            if round_number > 0:  # the first warms up
                seconds[name].append(elapsed)

    print(f"{arguments.model}, {arguments.dtype}, {len(prompts)} prompts × 20 tokens, {arguments.rounds} rounds")
    for name, times in seconds.items():
        ratios = [mine / plain for mine, plain in zip(times, seconds["plain"], strict=True)]
        target = f"  (target ≤ {TARGETS[name]:.2f})" if name in TARGETS else ""
        print(
            f"{name:10} {statistics.median(times):7.2f} s   ratio to plain: median {statistics.median(ratios):.3f}, "
            f"{min(ratios):.3f}–{max(ratios):.3f}{target}"
        )


if __name__ == "__main__":
    main()
