"""Does the best edit look like what DPO does, and does either follow the paper's rule?

    python benchmarks/what_moved.py gemma-3-270m --edit RUN/edit --tuned RUN/model --prompts F --comments F \\
      --neutral F --out DIR

Three tables and a figure in DIR: `rule` (share of neurons that lost toxicity, by group and by the block that the
direction was read at), `alike` (rank correlation of the edit's reductions with those of the tuned model, beside those
of its control, shuffled gains, and what two halves of the prompts give for the tuned model itself), `parts` (parts of
the edit applied alone). Mean activations come from each model's own 20 greedy tokens after the second half of the
prompts; parts are scored on the first half.
"""

import argparse
import sys
import time
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

import dposcope as ds
from dposcope.data.prompts import split_prompts
from dposcope.errors import DposcopeError
from dposcope.evaluation.scorers import load_scorer
from dposcope.neurons.folds import FoldedMeans, collect_by_fold
from dposcope.neurons.groups import cosines, projections
from dposcope.report.figures import save_figure
from moved.parts import parts, score_parts
from moved.rule import followed, members, rank_correlation
from moved.show import ALONE, CONTROL, TUNED, WRITES, alike_table, figure, parts_table, rule_table

HALVES = 2


def main() -> None:
    """The command."""
    options = _parser().parse_args()
    try:
        run(options)
    except DposcopeError as error:
        print(f"what_moved: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error


def run(options: argparse.Namespace) -> None:
    """Read, collect, compare, write."""
    begun = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - begun:6.0f} s  {what}", file=sys.stderr, flush=True)

    prompts = split_prompts(ds.load_prompts(options.prompts, limit=options.limit))
    comments = ds.load_comments(options.comments).half("first").balanced()
    lm = ds.load(options.model, dtype=options.dtype, device=options.device)
    edit = ds.Edit.load(options.edit)
    if edit.gains is None:
        raise DposcopeError(f"{options.edit} has no gains of neurons, so there is no neuron to look at")

    def means(model: ds.LanguageModel) -> FoldedMeans:
        return collect_by_fold(model, prompts.learn, HALVES, batch_size=options.batch_size)

    tell("neurons of the plain model")
    before = means(lm)
    mean = before.whole.mean
    tell("neurons of the edited model")
    with edit.on(lm):
        edited = means(lm)
    tell("neurons under its control")
    with edit.control(0).on(lm):
        shuffled = means(lm)
    after: FoldedMeans | None = None
    if options.tuned:
        tell("neurons of the tuned model")
        tuned = ds.load(options.tuned, base=lm)
        after = means(tuned)
        del tuned

    own = (1 - edit.gains.values.double()) * mean
    shifts = {ALONE: own, WRITES: _shift(before, edited), CONTROL: _shift(before, shuffled)}
    if after is not None:
        shifts[TUNED] = _shift(before, after)

    rule_rows: list[dict[str, object]] = []
    along: dict[int, Tensor] = {}
    for block in options.blocks:
        tell(f"direction at block {block}")
        direction = ds.mean_difference(
            lm, comments.texts, comments.labels, block=block, batch_size=options.batch_size
        ).vector
        along[block] = projections(lm, direction)
        groups = members(cosines(lm, direction), mean)
        for change, shift in shifts.items():
            for group, mask in groups.items():
                rule_rows.append({"change": change, "block": block, "group": group} | _told(shift * along[block], mask))
    folder = Path(options.out)
    first = options.blocks[0]
    projected = along[first]
    rule = rule_table(pl.DataFrame(rule_rows), lm.name)
    rule.save(folder)
    if after is not None:
        groups = members(projected, mean)
        gains, written, control, moved = (table * projected for table in shifts.values())
        first_half, second_half = (
            (one.mean - other.mean) * projected for one, other in zip(before.folds, after.folds, strict=True)
        )
        rows: list[dict[str, Any]] = [
            {
                "group": group,
                "edit": rank_correlation(written, moved, mask),
                "gains": rank_correlation(gains, moved, mask),
                "control": rank_correlation(control, moved, mask),
                "halves": rank_correlation(first_half, second_half, mask),
            }
            for group, mask in groups.items()
        ]
        alike_table(rows, lm.name).save(folder)
        drawn = figure(rule.frame, rows, first)
        for kind in ("svg", "png"):
            save_figure(drawn, folder / f"what-moved.{kind}")
    if options.parts:
        norms = torch.stack([lm.value_vectors(block).double().norm(dim=1).cpu() for block in range(lm.n_blocks)])
        disturbance = (edit.gains.values.double() - 1).abs() * before.whole.second_moment.sqrt() * norms
        found = parts(edit, own * projected, members(projected, mean), disturbance, seed=0)
        scored = score_parts(
            lm,
            found,
            prompts.report,
            load_scorer(options.scorer),
            ds.NeutralText.read(lm, ds.load_neutral(options.neutral)),
            batch_size=options.batch_size,
            tell=tell,
        )
        parts_table(scored, lm.name, len(prompts.report)).save(folder)
    tell(f"done: {folder}")


def _shift(before: FoldedMeans, after: FoldedMeans) -> Tensor:
    """m^pre − m^after, `[L, d_mlp]`."""
    return before.whole.mean - after.whole.mean


def _told(reduction: Tensor, mask: Tensor) -> dict[str, object]:
    found = followed(reduction, mask)
    numbers = {"neurons": found.neurons}
    for name, value in (("share", found.share), ("weighted", found.weighted)):
        numbers |= {name: value.mean, f"{name}_low": value.low, f"{name}_high": value.high}
    return numbers


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--edit", required=True, help="an Edit with gains: DIR/edit of a run")
    parser.add_argument("--tuned", help="a checkpoint or adapter tuned from MODEL")
    for name in ("prompts", "comments", "neutral"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--limit", type=int, default=400, help="prompts to read")
    parser.add_argument("--blocks", type=int, nargs="+", default=[-1], help="where directions are read")
    parser.add_argument("--no-parts", dest="parts", action="store_false", help="leave out the parts applied alone")
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--scorer", default="profanity")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", required=True)
    return parser


if __name__ == "__main__":
    main()
