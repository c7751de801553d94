"""Steered text in batches beside the same text one prompt at a time, paired in one run.

    python benchmarks/pplm.py [--model gemma-3-270m] [--dtype float32] [--rounds 3] [--prompts 32] [--tokens 20]

Prompts and settings are the same; each round does both, in turn, so a machine whose speed drifts slows both, and the
ratio is taken round by round. The direction is random: speed does not depend on it. Target: batches of 32 write at
least 4 × as many tokens a second. In float32 the texts are nearly all identical; in bfloat16 sums of another order
round otherwise, and some texts part.
"""

import argparse
import statistics
import time

import torch

import dposcope as ds
from dposcope.data.prompts import load_prompts
from dposcope.directions.direction import Direction
from dposcope.model.generate import Continuation
from dposcope.pairs.pplm import perturbed_continuations

TARGET = 4.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=20)
    arguments = parser.parse_args()

    lm = ds.load(arguments.model, dtype=arguments.dtype)
    prompts = load_prompts(None)[: arguments.prompts]
    stream = torch.Generator().manual_seed(0)
    # As long as a difference of class means is on Gemma-3-270m, in whose units the projection is measured.
    vector = torch.randn(lm.d_model, generator=stream, dtype=torch.float64)
    direction = Direction(vector / vector.norm() * 2500, "random", -1)

    sizes = {"batched": min(32, len(prompts)), "one by one": 1}
    seconds: dict[str, list[float]] = {name: [] for name in sizes}
    texts: dict[str, list[Continuation]] = {}
    perturbed_continuations(lm, prompts[:2], direction, new_tokens=2)  # warms up
    for _ in range(arguments.rounds):
        for name, size in sizes.items():
            start = time.perf_counter()
            texts[name] = perturbed_continuations(lm, prompts, direction, new_tokens=arguments.tokens, batch_size=size)
            seconds[name].append(time.perf_counter() - start)

    written = sum(len(continuation.ids) for continuation in texts["batched"])
    print(
        f"{arguments.model}, {arguments.dtype}, {len(prompts)} prompts × {arguments.tokens} tokens, "
        f"{arguments.rounds} rounds"
    )
    for name, times in seconds.items():
        print(f"{name:10} {statistics.median(times):7.1f} s   {written / statistics.median(times):6.2f} tokens/s")
    ratios = [alone / batched for alone, batched in zip(seconds["one by one"], seconds["batched"], strict=True)]
    same = [one.ids == other.ids for one, other in zip(texts["one by one"], texts["batched"], strict=True)]
    print(
        f"batched is {statistics.median(ratios):.1f} × as fast ({min(ratios):.1f}–{max(ratios):.1f}; "
        f"target ≥ {TARGET:.0f}); identical texts: {sum(same)} of {len(same)}"
    )


if __name__ == "__main__":
    main()
