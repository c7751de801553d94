"""What it saves that a command keeps the memory it has freed, paired in one run.

    python benchmarks/allocator.py gemma-3-270m --pairs RUN/pairs.jsonl --learn-text RUN/neutral.jsonl \\
        [--teacher RUN/teacher/model] [--train gains] [--examples 40] [--rounds 3]

The same training steps in a process of its own each, in turn: as a command does them (what is freed is kept, and goes
back once a minute), kept throughout, and plain; the first two beside plain, round by round. Seconds, processor seconds
in the kernel, page faults and peak memory are those of the whole process, loading included.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WAYS = ("command", "kept", "plain")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--pairs", required=True)
    parser.add_argument("--learn-text")
    parser.add_argument("--teacher")
    parser.add_argument("--train", default="gains")
    parser.add_argument("--examples", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", choices=WAYS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments)
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    for number in range(arguments.rounds):
        for way in WAYS if number % 2 else reversed(WAYS):
            command = [sys.executable, __file__, *sys.argv[1:], "--worker", way]
            line = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]
            found[way].append([float(part) for part in line.split()])
            print(f"round {number + 1}, {way:7}: {line}", file=sys.stderr, flush=True)
    print(f"{arguments.model}, {arguments.train}, {arguments.examples} pairs, {arguments.rounds} rounds")
    print("         seconds   in the kernel   million faults   peak GB")
    for way, rounds in found.items():
        seconds, kernel, faults, peak = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"{way:7}  {seconds:7.1f}   {kernel:13.1f}   {faults:14.2f}   {peak:7.2f}")
    for way in WAYS[:-1]:
        pairs = list(zip(found[way], found["plain"], strict=True))
        told = {
            "speed": [plain[0] / own[0] for own, plain in pairs],
            "memory": [own[3] / plain[3] for own, plain in pairs],
        }
        for name, ratios in told.items():
            print(f"{way}, {name}: {statistics.median(ratios):.2f} × ({min(ratios):.2f}–{max(ratios):.2f})")


def work(arguments: argparse.Namespace) -> None:
    began = time.perf_counter()
    from dposcope.cli.machine.allocator import GivingBack, keep_freed_memory
    from dposcope.jobs.dpo.job import run_dpo
    from dposcope.jobs.dpo.settings import DpoSettings
    from dposcope.jobs.reporter import Quiet

    if arguments.worker != "plain" and not keep_freed_memory():
        sys.exit("this allocator is not glibc's, or was set by an environment variable")
    settings = DpoSettings(
        pairs=arguments.pairs,
        learn_text=arguments.learn_text,
        teacher=arguments.teacher,
        train=arguments.train,
        max_examples=arguments.examples,
        validation=8,
        validate_every=4000,
    )
    with tempfile.TemporaryDirectory() as folder:
        reporter = GivingBack(Quiet()) if arguments.worker == "command" else None
        run_dpo(
            arguments.model, Path(folder) / "run", settings, reporter=reporter, checkpoint=arguments.train != "gains"
        )
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = time.perf_counter() - began
    print(f"{seconds:.1f} {used.ru_stime:.1f} {used.ru_minflt / 1e6:.2f} {used.ru_maxrss * 1024 / 1e9:.2f}")


if __name__ == "__main__":
    main()
