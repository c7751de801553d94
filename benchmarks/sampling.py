"""How long a token's draw takes beside the model that gives its logits, by how much of the vocabulary is sorted.

    python benchmarks/sampling.py gemma-3-270m --prompts F --rounds 5

Logits are those of the model's own sampled continuations (temperature 1, top-p 0.95), so nuclei are as wide as in
`dposcope pairs --method sample`. Every way draws the same number of tokens from the same logits, in turn, several
rounds; what is told is the median round and its ratio to sorting everything. Greedy text takes the likeliest token: so
does `argmax`, to which the last line compares.
"""

import argparse
import statistics
import time

import torch

import dposcope as ds
from dposcope.model import generate as sampler
from dposcope.model.batches import batches, encode
from dposcope.model.generate import likeliest

WAYS = {"the whole vocabulary": (), "512, then all": (512,), "512, 8,192, then all": (512, 8_192)}
TOP_P = 0.95


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--prompts")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args()
    lm = ds.load(options.model, dtype=options.dtype)
    logits, seconds = _logits(lm, ds.load_prompts(options.prompts, limit=options.rows))
    reached = torch.softmax(logits.float(), -1).sort(-1, descending=True).values.cumsum(-1, dtype=torch.float64)
    widths = (reached < TOP_P).sum(-1) + 1
    shares = [f"{float((widths > width).double().mean()):.1%} wider than {width:,}" for width in (512, 8_192)]
    print(f"{len(logits)} rows of {logits.shape[-1]:,} logits; nuclei: {', '.join(shares)}")
    print(f"the model's own step: {1e3 * seconds / len(logits):.2f} ms a row")
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    usual = sampler._WIDTHS
    try:
        for _ in range(options.rounds):
            for way, tried in WAYS.items():
                sampler._WIDTHS = tried
                draw = sampler._Draw(ds.Sampling(top_p=TOP_P), list(range(len(logits))))
                start = time.perf_counter()
                draw(logits)
                times[way].append(time.perf_counter() - start)
    finally:
        sampler._WIDTHS = usual
    slowest = statistics.median(times["the whole vocabulary"])
    for way, found in times.items():
        median = statistics.median(found)
        print(f"{way}: {1e3 * median / len(logits):.2f} ms a row, {slowest / median:.2f} × as fast")
    greedy: dict[str, list[float]] = {"argmax": [], "likeliest": []}
    for _ in range(options.rounds):
        for way, take in (("argmax", lambda: logits.argmax(-1)), ("likeliest", lambda: likeliest(logits))):
            start = time.perf_counter()
            take()
            greedy[way].append(time.perf_counter() - start)
    slow, fast = (statistics.median(found) for found in greedy.values())
    print(f"greedy: {1e3 * fast / len(logits):.3f} ms a row, {slow / fast:.2f} × as fast as argmax")


@torch.inference_mode()
def _logits(lm: ds.LanguageModel, prompts: list[str]) -> tuple[torch.Tensor, float]:
    """Logits after half of a sampled continuation, one row a prompt, and the seconds of such steps with a cache."""
    written = ds.generate(lm, prompts, new_tokens=10, sampling=ds.Sampling(top_p=TOP_P))
    texts = [prompt + one.text for prompt, one in zip(prompts, written, strict=True)]
    rows: list[torch.Tensor] = []
    seconds = 0.0
    for batch in batches(lm, encode(lm, texts, max_tokens=64), batch_size=32, side="left"):
        given = {"attention_mask": batch.mask[:, :-1], "use_cache": True}
        before = lm.model(input_ids=batch.ids[:, :-1], logits_to_keep=1, **given)
        start = time.perf_counter()
        after = lm.model(
            input_ids=batch.ids[:, -1:],
            attention_mask=batch.mask,
            past_key_values=before.past_key_values,
            logits_to_keep=1,
        )
        seconds += time.perf_counter() - start
        rows.append(after.logits[:, -1])
    return torch.cat(rows), seconds


if __name__ == "__main__":
    main()
