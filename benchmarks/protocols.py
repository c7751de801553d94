"""What each difference between the paper's text and its published code does to a number, one change at a time.

    python benchmarks/protocols.py gemma-3-270m --prompts F --comments F --neutral F --passages F --out DIR
    python benchmarks/protocols.py … --tuned DIR --pairs F      the rows that need a tuned model, too
    python benchmarks/protocols.py … --only a,b,k               some differences

Everything is the strict protocol but for the one thing that a row changes. Mean activations and the direction are
strict, the edit is the paper's (α = 0.01, β = 0.55), its neurons ranked by |cos|, its direction a difference of means.
Prompts are split as in the commands: the first half is measured, on the second half means are taken. Comments: the
first 2,000 to fit on (at most 40 % of all), the next 2,000 to test on, both with as many toxic as not. Data left out
are the built-in ones. DIR gets `protocols.md`, `.parquet`, `.csv` and `.tex`; nobody's text is in them.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import dposcope as ds
from dposcope.data.comments import Comments
from dposcope.data.prompts import split_prompts
from dposcope.errors import DposcopeError, plural
from dposcope.evaluation.scorers import load_scorer
from dposcope.report.table import Table
from versus.bench import ALPHA, BETA, Bench, Data
from versus.editing import assignment, hooks_left, perplexity_positions, rankings, steering, trim
from versus.measuring import f1, prompt_cut, windows
from versus.reading import embeddings, half_precision, mean_activations, probe_features
from versus.rows import STATEMENTS, Row, make_table
from versus.tuning import TunedBench, kl_term, reducing, tuned_bench

MEASURES: dict[str, Callable[[Bench], list[Row]]] = {
    "a": perplexity_positions,
    "b": assignment,
    "c": rankings,
    "d": trim,
    "e": prompt_cut,
    "f": f1,
    "g": windows,
    "h": probe_features,
    "i": mean_activations,
    "k": hooks_left,
    "l": steering,
    "m": embeddings,
    "o": half_precision,
}
"""Difference → what measures it."""

WITH_TUNED: dict[str, Callable[[TunedBench], list[Row]]] = {"j": kl_term, "n": reducing}
"""Those that need a tuned model; j needs pairs, too."""

FIT, TEST = 2_000, 2_000
"""Rows of comments, before they are balanced."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    try:
        options = _parser().parse_args(arguments)
        table = measure(options)
        folder = Path(options.out)
        table.save(folder)
    except DposcopeError as error:
        print(f"protocols: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error
    print(folder / f"{table.name}.md")


def measure(options: argparse.Namespace) -> Table:
    """Read, load, measure."""
    wanted = _wanted(options)
    data = _read(options)
    begun = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - begun:6.0f} s  {what}", file=sys.stderr, flush=True)

    tell(f"loading {options.model}")
    lm = ds.load(options.model, dtype=options.dtype, device=options.device)
    bench = Bench(
        lm,
        data,
        load_scorer(options.scorer),
        options.max_windows,
        options.batch_size,
        tell,
        ds.load(options.tuned, base=lm) if options.tuned else None,
    )
    found: dict[str, Sequence[Row]] = {}
    tuned = tuned_bench(bench)
    for key in wanted:
        tell(f"{key}: {STATEMENTS[key].title}")
        if key in MEASURES:
            found[key] = MEASURES[key](bench)
        else:
            assert tuned is not None
            found[key] = WITH_TUNED[key](tuned)
    tell("done")
    return make_table(found, model=lm.name, notes=_notes(options, bench))


def _wanted(options: argparse.Namespace) -> list[str]:
    possible = [key for key in STATEMENTS if key in MEASURES or (options.tuned and (key != "j" or options.pairs))]
    if options.pairs and not options.tuned:
        raise DposcopeError("--pairs are for the KL term of a tuned model; name it with --tuned")
    if not options.only:
        return possible
    asked = options.only.split(",")
    for key in asked:
        if key not in STATEMENTS:
            raise DposcopeError(f"--only names no difference {key!r}; choose from {', '.join(STATEMENTS)}")
        if key not in possible:
            raise DposcopeError(f"difference {key} needs a tuned model: give --tuned{' and --pairs' * (key == 'j')}")
    return [key for key in possible if key in asked]


def _read(options: argparse.Namespace) -> Data:
    prompts = split_prompts(ds.load_prompts(options.prompts, limit=options.limit))
    comments = ds.load_comments(options.comments)
    fit = min(FIT, len(comments) * 2 // 5)
    pairs = ds.load_pairs(options.pairs).first(options.max_pairs) if options.pairs else None
    return Data(
        prompts.report,
        prompts.learn,
        _slice(comments, 0, fit).balanced(),
        _slice(comments, fit, fit + TEST).balanced(),
        ds.load_neutral(options.neutral),
        ds.load_passages(options.passages, limit=options.max_passages),
        pairs,
    )


def _slice(comments: Comments, start: int, stop: int) -> Comments:
    return Comments(comments.texts[start:stop], comments.labels[start:stop])


def _notes(options: argparse.Namespace, bench: Bench) -> list[str]:
    data, kind = bench.data, str(bench.lm.dtype).removeprefix("torch.")
    window = min(1024, bench.lm.context_length)
    return [
        f"{kind} on {bench.lm.device.type}; scorer {bench.scorer.name}; {len(data.report)} prompts, means on "
        f"{len(data.learn)} others; {len(data.passages)} passages; "
        f"{plural(options.max_windows, 'window')} of {window:,}; "
        f"{len(data.fit)} comments to fit on and {len(data.test)} to test on, balanced"
        f"{'' if data.pairs is None else f'; {len(data.pairs)} pairs'}. The edit: α = {ALPHA}, β = {BETA}.",
        "Strict and reference: mean (95 % bootstrap interval) where there are items. Paired: reference − strict, or "
        "reference over strict (×), on the same items; its interval is what may be called a difference.",
        f"Of equally many neurons chosen at random, a share of {BETA} would be the same.",
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    for name in ("prompts", "comments", "neutral", "passages"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--tuned", help="a checkpoint or adapter tuned from MODEL")
    parser.add_argument("--pairs", help="preference pairs, for the KL term")
    parser.add_argument("--limit", type=int, default=400, help="prompts to read; half of them are measured")
    parser.add_argument("--max-windows", type=int, default=16)
    parser.add_argument("--max-passages", type=int, default=250)
    parser.add_argument("--max-pairs", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--scorer", default="profanity")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", help="differences to measure, such as a,b,k")
    parser.add_argument("--out", required=True)
    return parser


if __name__ == "__main__":
    main()
