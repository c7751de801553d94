"""What the program's short spinning saves on cores that it shares, and what it costs on free ones.

    python benchmarks/shared_cores.py [--model gemma-3-270m] [--beside 8] [--tokens 4] [--times 3]

Writes 32 texts in a fresh process, with OpenMP's own spinning and with ours, first alone and then beside processes that
do nothing but count; the two take turns. Prints medians of wall and processor seconds, and their ratios.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

from dposcope.cli.machine.threads import SPINS

COUNT = "while True: pass"
WAYS = {"OpenMP's own": None, f"ours ({SPINS})": SPINS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--beside", type=int, default=8, help="processes that count")
    parser.add_argument("--tokens", type=int, default=4)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        print(json.dumps(measured(given.model, given.tokens)))
        return
    print(f"{os.cpu_count()} cores; load before: {os.getloadavg()[0]:.1f}")
    for beside in (0, given.beside):
        others = [subprocess.Popen([sys.executable, "-c", COUNT]) for _ in range(beside)]
        try:
            compare(given, beside)
        finally:
            for one in others:
                one.kill()


def compare(given: argparse.Namespace, beside: int) -> None:
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(given.times):
        for way, spins in WAYS.items():
            taken[way].append(started(given, spins))
    medians = {way: [statistics.median(column) for column in zip(*rows, strict=True)] for way, rows in taken.items()}
    for way, (wall, processor) in medians.items():
        print(f"beside {beside}, {way}: {wall:.1f} s, {processor:.1f} s of processor time")
    (wall, processor), (ours, mine) = medians.values()
    print(
        f"beside {beside}, ours / OpenMP's own: {ours / wall:.2f} of the time, {mine / processor:.2f} of the processor"
    )


def started(given: argparse.Namespace, spins: str | None) -> tuple[float, float]:
    """Wall and processor seconds in a fresh process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "MKL_"))}
    environment |= {} if spins is None else {"GOMP_SPINCOUNT": spins}
    command = [sys.executable, __file__, "--inside", "--model", given.model, "--tokens", str(given.tokens)]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    wall, processor = json.loads(told.splitlines()[-1])
    return wall, processor


def measured(model: str, tokens: int) -> tuple[float, float]:
    import dposcope as ds

    lm = ds.load(model, dtype="bfloat16")
    prompts = [f"The {who} said that" for who in ("man", "woman", "child", "king", "queen", "dog", "cat", "cook")] * 4
    ds.generate(lm, prompts, new_tokens=1, batch_size=32)
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    ds.generate(lm, prompts, new_tokens=tokens, batch_size=32)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return time.monotonic() - began, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
