"""The same prompts and the same edit by two engines: this program, and llama.cpp's server through `--engine openai`.

    pip install --no-deps --target FOLDER xllamacpp
    PYTHONPATH=FOLDER python benchmarks/engines.py [--prompts prompts.jsonl] [--limit 50] [--threads 2]

The bundled gemma-3-270m: its GGUF file as it is, and with its learned edit folded into it; and here the same file
dequantised, plain and folded. Each prompt gets 20 greedy tokens. The engines take turns, some prompts at a time, so a
machine that is busy with something else slows all of them alike. xllamacpp is prebuilt llama.cpp with its server, and
no dependency of the project.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import torch

from dposcope.data.prompts import load_split
from dposcope.evaluation.sampled.agreement import agreement
from dposcope.evaluation.scorers import load_scorer
from dposcope.evaluation.statistics.comparisons import bootstrap_mean, paired_ratio
from dposcope.interventions.edit import Edit
from dposcope.interventions.fold import fold
from dposcope.interventions.shipped import edit_file
from dposcope.model.bundled import BUNDLED
from dposcope.model.engine.endpoint import CompletionsEndpoint
from dposcope.model.engine.served import Served
from dposcope.model.generate import generate
from dposcope.model.load import load_native
from dposcope.shipping.gguf import fold_gguf

MODEL, NEW_TOKENS, TURN = "gemma-3-270m", 20, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", help="a file of prompts; default: the built-in ones")
    parser.add_argument("--limit", type=int, default=50, help="use the first so many prompts")
    parser.add_argument("--threads", type=int, default=2, help="of either engine")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    prompts = list(load_split(arguments.prompts, "same").report[: arguments.limit])
    edit, lm = Edit.load(edit_file(MODEL)), load_native(MODEL)
    here = {"none": lm, "edit": fold(lm, edit)}
    busy = [f"{os.getloadavg()[0]:.1f}"]
    with tempfile.TemporaryDirectory() as scratch:
        files = {"none": Path(scratch) / "plain.gguf", "edit": Path(scratch) / "edited.gguf"}
        BUNDLED[MODEL].assemble(BUNDLED[MODEL], files["none"])
        fold_gguf(files["none"], edit, files["edit"])
        servers = {name: server(file, arguments.threads) for name, file in files.items()}
        served = {
            name: Served.connect(CompletionsEndpoint(one.listening_address), lm, prompts, at_once=SLOTS)
            for name, one in servers.items()
        }
        engines = {
            f"dposcope, {str(lm.dtype).removeprefix('torch.')}, batches of {TURN}": lambda name, texts: generate(
                here[name], texts, new_tokens=NEW_TOKENS, batch_size=TURN
            ),
            f"llama.cpp, Q4_K_M, {SLOTS} at a time": lambda name, texts: served[name].write(
                lm, texts, new_tokens=NEW_TOKENS
            ),
        }
        written = {(engine, name): [] for engine in engines for name in files}
        seconds = dict.fromkeys(engines, 0.0)
        for start in range(0, len(prompts), TURN):
            for name in files:
                for engine, write in engines.items():
                    begun = time.perf_counter()
                    written[engine, name] += write(name, prompts[start : start + TURN])
                    seconds[engine] += time.perf_counter() - begun
            print(f"{start + TURN} prompts", file=sys.stderr, flush=True)
    busy.append(f"{os.getloadavg()[0]:.1f}")
    scorer, first, rows = load_scorer("profanity"), next(iter(engines)), []
    for engine in engines:
        scores = {name: scorer([one.text for one in written[engine, name]]) for name in files}
        tokens = sum(len(one.ids) for name in files for one in written[engine, name])
        rate = tokens / seconds[engine]
        rows.append(
            {
                "engine": engine,
                "none": str(bootstrap_mean(scores["none"])),
                "edit": str(bootstrap_mean(scores["edit"])),
                "ratio": str(paired_ratio(scores["edit"], scores["none"])) if scores["none"].any() else None,
                "tokens_per_second": rate,
                "same_texts": sum(
                    a.text == b.text
                    for name in files
                    for a, b in zip(written[engine, name], written[first, name], strict=True)
                ),
                "agreement": {name: agreement(here[name], written[engine, name]).share for name in files},
            }
        )
    print(f"{len(prompts)} prompts, plain and edited, {NEW_TOKENS} greedy tokens each, {arguments.threads} threads")
    print(f"load of the machine, {os.cpu_count()} CPUs: {busy[0]} before, {busy[1]} after")
    print("| engine | toxicity, plain | toxicity, edited | ratio | tokens/s | × | texts as here | tokens as here |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        agreed = " / ".join(f"{share:.1%}" for share in row["agreement"].values())
        print(
            f"| {row['engine']} | {row['none']} | {row['edit']} | {row['ratio']} | {row['tokens_per_second']:.1f} | "
            f"{row['tokens_per_second'] / rows[0]['tokens_per_second']:.2f} | "
            f"{row['same_texts']} of {2 * len(prompts)} | {agreed} |"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"load": busy, "rows": rows}, indent=1) + "\n")


SLOTS = 4
"""Texts that a server writes at a time."""


def server(file: Path, threads: int):
    """llama.cpp's server of a file, on a port of its own."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(file)
    settings.n_parallel = SLOTS
    settings.n_ctx = 512 * SLOTS
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    settings.warmup = False
    settings.verbosity = 1  # errors
    settings.port = 0
    return xllamacpp.Server(settings)


if __name__ == "__main__":
    main()
