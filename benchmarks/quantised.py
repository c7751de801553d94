"""What quantising the bundled model on loading does to memory, log-perplexity and the edit that comes with it.

    python benchmarks/quantised.py [--model gemma-3-270m] [--prompts 64] [--windows 12]

Needs the extra `quantised`. Each form runs in a process of its own. Memory is what the process holds after loading
(`VmRSS`, freed pages given back) beyond what the same imports hold without a model, and the bytes of weights and
scales. Embeddings are not quantised, and are most of a small model. Prompts and neutral text are the built-in ones
that `dposcope evaluate` reports on; toxicity is by the scorer profanity, of 20 greedy tokens, the edit by hooks.
"""

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from dposcope.data.corpus import load_neutral
from dposcope.data.prompts import load_split
from dposcope.evaluation.perplexity import window_losses
from dposcope.evaluation.scorers import load_scorer
from dposcope.evaluation.statistics.comparisons import bootstrap_mean, paired_difference, paired_ratio
from dposcope.interventions.shipped import shipped_edit
from dposcope.model.generate import generate
from dposcope.model.load import load_native
from dposcope.model.quantised.weights import scales

FORMS = {"bfloat16": None, "8bit": "8bit", "4bit": "4bit"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--windows", type=int, default=12)
    parser.add_argument("--form", choices=FORMS, help="measure one and print it as JSON")
    arguments = parser.parse_args()
    if arguments.form is not None:
        print(json.dumps(measured(arguments.model, arguments.form, arguments.prompts, arguments.windows)))
        return
    given = ["--model", arguments.model, "--prompts", str(arguments.prompts), "--windows", str(arguments.windows)]
    found = {}
    for form in FORMS:
        command = [sys.executable, __file__, *given, "--form", form]
        found[form] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        print(form, file=sys.stderr, flush=True)
    plain = found["bfloat16"]
    heads = ["", "process, MB", "weights, MB", "log-perplexity", "beside bfloat16", "toxicity, plain", "edited"]
    print("| " + " | ".join([*heads, "ratio", "rise of log-perplexity", "seconds"]) + " |")
    print("|" + " --- |" * 10)
    for form, one in found.items():
        tokens = one["tokens"]
        logppl = sum(one["none"]["nll"]) / sum(tokens)
        change = paired_difference(one["none"]["nll"], plain["none"]["nll"], denominators=tokens)
        rise = paired_difference(one["edit"]["nll"], one["none"]["nll"], denominators=tokens)
        before, after = (np.array(one[name]["toxicity"]) for name in ("none", "edit"))
        sizes = [f"{one['held']:.0f}", f"{one['weights']:.0f}", f"{logppl:.3f}", change]
        edited = [bootstrap_mean(before), bootstrap_mean(after), paired_ratio(after, before), rise]
        print("| " + " | ".join(map(str, [form, *sizes, *edited, f"{one['seconds']:.0f}"])) + " |")


def measured(model: str, form: str, prompts: int, windows: int) -> dict[str, object]:
    if FORMS[form] is not None:
        __import__("bitsandbytes")
    empty = held()
    lm = load_native(model, dtype="bfloat16", device="cpu", quantise=FORMS[form])
    tensors = [*lm.model.parameters(), *lm.model.buffers(), *scales(lm.model).values()]
    result: dict[str, object] = {
        "held": held() - empty,
        "weights": sum(one.numel() * one.element_size() for one in tensors) / 2**20,
    }
    report = load_split(None, "halves").report[:prompts]
    text, scorer, edit = load_neutral(None), load_scorer("profanity"), shipped_edit(model)
    start = time.perf_counter()

    def all_of() -> dict[str, list[float]]:
        losses = window_losses(lm, text, max_windows=windows, window=256)
        result["tokens"] = losses.tokens.tolist()
        written = generate(lm, report, new_tokens=20)
        return {"nll": losses.nll.tolist(), "toxicity": scorer([one.text for one in written]).tolist()}

    result["none"] = all_of()
    with edit.on(lm):
        result["edit"] = all_of()
    return {**result, "seconds": time.perf_counter() - start}


def held() -> float:
    """MB that the process holds."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


if __name__ == "__main__":
    main()
