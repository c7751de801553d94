"""How long the bundled model takes to load when it is in the cache already.

    python benchmarks/load.py [--model gemma-3-270m] [--rounds 5]

The first load, which may dequantise, is left out, and so is importing torch and transformers. Target: under 3 s.
"""

import argparse
import statistics
import time

import dposcope as ds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    ds.load(arguments.model)
    seconds: list[float] = []
    for _ in range(arguments.rounds):
        start = time.perf_counter()
        ds.load(arguments.model)
        seconds.append(time.perf_counter() - start)
    print(f"{arguments.model}: median {statistics.median(seconds):.2f} s of {arguments.rounds} (target < 3 s)")


if __name__ == "__main__":
    main()
