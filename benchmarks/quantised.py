"""What quantising the bundled model on loading does to memory, log-perplexity and the edit that comes with it.

    python benchmarks/quantised.py [--model gemma-3-270m] [--limit 120] [--forms bf16 8bit 4bit]

Needs the extra `quantised`. Each form is measured by `dposcope evaluate MODEL --condition edit:MODEL --limit …`, with
gains by hooks, in a process of its own. Memory is what another process holds after loading (`VmRSS`, freed pages given
back), beside one that has imported the same and loaded nothing. Embeddings are not quantised, and are most of a small
model.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dposcope.evaluation.conditions.scores import BASE, Scores, StoredScores
from dposcope.reading import read_json

FORMS = {"bf16": [], "8bit": ["--quantise", "8bit"], "4bit": ["--quantise", "4bit"]}

_HELD = """
import ctypes, gc, json, sys
import torch, transformers
from dposcope.model.load import load_native
model, quantise = sys.argv[1], sys.argv[2]
if quantise in ("8bit", "4bit", "nothing"):
    import bitsandbytes
lm = None
if quantise != "nothing":
    how = quantise if quantise in ("8bit", "4bit") else None
    lm = load_native(model, dtype="bfloat16", device="cpu", quantise=how)
gc.collect()
ctypes.CDLL(None).malloc_trim(0)
held = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
print(json.dumps({"held": held / 1024}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--limit", type=int, default=120)
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS)
    arguments = parser.parse_args()
    nothing = held(arguments.model, "nothing")
    print("| weights of blocks | memory, MB | log-perplexity | toxicity, plain → edited | ratio | seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    for form in arguments.forms:
        memory = held(arguments.model, form) - nothing
        start = time.perf_counter()
        scores = measured(arguments.model, FORMS[form], arguments.limit)
        seconds = time.perf_counter() - start
        name = f"edit:{arguments.model}"
        base, edit, against = scores.conditions[BASE], scores.conditions[name], scores.against_none[name]
        print(
            f"| {form} | {memory:.0f} | {base['logppl'].mean:.3f} | {base['toxicity'].mean:.3f} → "
            f"{edit['toxicity'].mean:.3f} | {against.toxicity_ratio} | {seconds:.0f} |",
            flush=True,
        )


def held(model: str, form: str) -> float:
    """MB."""
    done = subprocess.run([sys.executable, "-c", _HELD, model, form], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["held"]


def measured(model: str, options: list[str], limit: int) -> Scores:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "scores"
        command = ["evaluate", model, "--condition", f"edit:{model}", "--limit", str(limit), "--dtype", "bfloat16"]
        subprocess.run(
            [sys.executable, "-m", "dposcope", *command, *options, "--quiet", "--out", str(out)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return Scores.from_json(read_json(out / "scores.json", StoredScores))


if __name__ == "__main__":
    main()
