"""How near `--dry-run` comes: time and memory of short runs beside their estimates.

    python benchmarks/estimates.py [--model gemma-3-270m] [--only evaluate pairs]

Each command is estimated before its run and after it, since the machine may have other things to do; the estimate is
the mean of both. Real seconds are those of the whole process, with its start; memory is the largest that it held.
Pairs are built-in comments, a harmless one preferred to a rude one.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from dposcope.data.named import located

FEW = ("--also-score", "none", "--limit", "32", "--max-passages", "8", "--max-windows", "2")
DPO = ("dpo", "{model}", "--pairs", "{pairs}", "--epochs", "1", "--validation", "8")
COMMANDS = {
    "evaluate": ("evaluate", "{model}", "--condition", "edit:gemma-3-270m", *FEW, "--out", "{out}/scores"),
    "pairs": ("pairs", "{model}", "--samples", "6", "--out", "{out}/pairs.jsonl"),
    "edit": ("edit", "{model}", *FEW, "--alpha", "0.1", "--out", "{out}/edit"),
    "probe": ("probe", "{model}", "--out", "{out}/toxic"),
    "dpo, gains": (*DPO, "--dtype", "auto", "--out", "{out}/gains"),
    "dpo, gains, float32": (*DPO, "--dtype", "float32", "--out", "{out}/wide"),
    "dpo, LoRA, float32": (*DPO, "--train", "lora", "--dtype", "float32", "--out", "{out}/lora"),
    "dpo, all weights": (*DPO, "--train", "full", "--out", "{out}/full"),
    "dpo, all weights, recomputed": (*DPO, "--train", "full", "--recompute", "--out", "{out}/recomputed"),
}
"""Name → arguments; a minute or two each on two free cores."""
_PROGRAM = (sys.executable, "-m", "dposcope")


@dataclass(frozen=True)
class Measured:
    """Of one process."""

    seconds: float
    cpu: float
    """Seconds of all cores."""
    memory: float
    """Bytes at the peak."""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS), help="names of commands")
    arguments = parser.parse_args()
    print("| command | seconds | estimated | ratio | CPU seconds | memory, GB | estimated | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as out:
            pairs = write_pairs(Path(out) / "built-in.jsonl")
            given = [part.format(model=arguments.model, out=out, pairs=pairs) for part in COMMANDS[name]]
            before = estimated(given)
            real = measured(given, Path(out))
            after = estimated([*given[:-1], f"{out}/again{Path(given[-1]).suffix}"])
        print(row(name, real, [before, after]), flush=True)


def write_pairs(path: Path) -> Path:
    """Pairs of comments that come with dposcope."""
    with located(None, "comments.jsonl") as file:
        comments = pl.read_ndjson(file)
    rude, harmless = (comments.filter(toxic=label)["comment_text"].head(80) for label in (1, 0))
    prompts = [f"Comment {number}:" for number in range(1, len(rude) + 1)]  # pairs of one prompt stay together
    pl.DataFrame({"prompt": prompts, "chosen": harmless, "rejected": rude}).write_ndjson(path)
    return path


def row(name: str, real: Measured, estimates: list[dict]) -> str:
    """One line of Markdown."""
    seconds = statistics.mean(one["seconds"] for one in estimates)
    memory = estimates[0]["memory"]["total"]
    return (
        f"| {name} | {real.seconds:.0f} | {seconds:.0f} | {real.seconds / seconds:.2f} | {real.cpu:.0f} | "
        f"{real.memory / 1e9:.2f} | {memory / 1e9:.2f} | {real.memory / memory:.2f} |"
    )


def estimated(arguments: list[str]) -> dict:
    """What `--dry-run` says."""
    told = subprocess.run([*_PROGRAM, *arguments, "--dry-run", "--json"], check=True, capture_output=True, text=True)
    return json.loads(told.stdout)


def measured(arguments: list[str], folder: Path) -> Measured:
    """Run a command to its end."""
    start = time.perf_counter()
    with (folder / "output").open("w") as output:
        process = subprocess.Popen([*_PROGRAM, *arguments, "--quiet"], stdout=output, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit((folder / "output").read_text())
    return Measured(time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


if __name__ == "__main__":
    main()
