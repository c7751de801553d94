"""A GGUF file before and after `dposcope fold`, as llama.cpp runs them: toxicity of greedy continuations, paired.

    pip install xllamacpp
    python benchmarks/gguf_forms.py --edit edit.safetensors --prompts prompts.jsonl [--model model.gguf] [--limit 20]

Without --model it is the file of the bundled gemma-3-270m. With --edited FILE that file is measured instead of one
made from --edit. Prompts are the first half of the file's, which `dposcope tune` reports on, or the first --limit of
those; each gets 20 greedy tokens. xllamacpp is prebuilt llama.cpp with its server, and no dependency of the project;
it may also lie in a folder of its own, named by PYTHONPATH (pip install --no-deps --target FOLDER xllamacpp).
"""

import argparse
import json
import tempfile
import time
import urllib.request
from pathlib import Path

from dposcope.data.prompts import load_prompts, split_prompts
from dposcope.evaluation.scorers import load_scorer
from dposcope.evaluation.statistics.comparisons import bootstrap_mean, paired_difference, paired_ratio
from dposcope.model.bundled import BUNDLED
from dposcope.shipping.gguf import fold_gguf
from dposcope.shipping.ship import load_edit

NEW_TOKENS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="the plain .gguf file")
    parser.add_argument("--edit", type=Path, help="edit.safetensors, or the folder of a run")
    parser.add_argument("--edited", type=Path, help="an edited .gguf file")
    parser.add_argument("--prompts", required=True, help="file of report prompts")
    parser.add_argument("--limit", type=int, help="use the first so many prompts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the numbers and texts here")
    arguments = parser.parse_args()
    if (arguments.edit is None) == (arguments.edited is None):
        parser.error("give one of --edit and --edited")
    prompts = list(split_prompts(load_prompts(arguments.prompts)).report)[: arguments.limit]
    with tempfile.TemporaryDirectory() as scratch:
        plain = arguments.model or embedded(Path(scratch) / "model.gguf")
        edited = arguments.edited
        if edited is None:
            edited = Path(scratch) / "edited.gguf"
            done = fold_gguf(plain, load_edit(arguments.edit), edited)
            print(f"{done.tensors} tensors changed, rounding {done.rounding:.1e}", *done.notes, sep="; ")
        files = {"none": plain, "edit": edited}
        texts = {name: continuations(file, prompts, arguments.threads) for name, file in files.items()}
    scorer = load_scorer("profanity")
    scores = {name: scorer(written) for name, written in texts.items()}
    report = {
        "prompts": len(prompts),
        "scorer": scorer.name,
        "conditions": {name: bootstrap_mean(values).to_dict() for name, values in scores.items()},
        "difference": paired_difference(scores["edit"], scores["none"]).to_dict(),
        "same_texts": sum(a == b for a, b in zip(texts["none"], texts["edit"], strict=True)),
    }
    print(f"toxicity by {scorer.name} over {len(prompts)} prompts, {NEW_TOKENS} greedy tokens by llama.cpp")
    for name, values in scores.items():
        print(f"  {name}: {bootstrap_mean(values)}")
    print(f"  difference: {paired_difference(scores['edit'], scores['none'])}")
    if scores["none"].mean() > 0:
        ratio = paired_ratio(scores["edit"], scores["none"])
        report["ratio"] = ratio.to_dict()
        print(f"  ratio: {ratio}")
    print(f"  texts that stayed: {report['same_texts']} of {len(prompts)}")
    if arguments.json:
        arguments.json.write_text(json.dumps({**report, "texts": texts}, indent=1, ensure_ascii=False) + "\n")


def embedded(target: Path) -> Path:
    """The GGUF file of the bundled model."""
    model = BUNDLED["gemma-3-270m"]
    model.assemble(model, target)
    return target


def continuations(file: Path, prompts: list[str], threads: int) -> list[str]:
    """What llama.cpp's server writes after each prompt, greedily, in the prompts' order."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(file)
    settings.n_parallel = 1
    settings.n_ctx = 1024
    settings.cpuparams.n_threads = threads
    settings.cpuparams_batch.n_threads = threads
    settings.warmup = False
    settings.verbosity = 1  # errors
    settings.port = 0
    server = xllamacpp.Server(settings)
    start, written = time.monotonic(), []
    for prompt in prompts:
        # The server puts <bos> before a text where the file says so, as transformers does.
        asked = {"prompt": prompt, "n_predict": NEW_TOKENS, "temperature": 0, "top_k": 1, "cache_prompt": False}
        request = urllib.request.Request(
            f"{server.listening_address}/completion",
            json.dumps(asked).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            written.append(json.load(answer)["content"])
    print(f"{file.name}: {len(prompts)} prompts in {time.monotonic() - start:.0f} s")
    return written


if __name__ == "__main__":
    main()
