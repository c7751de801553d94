"""Abliteration and ProFS as files, so that `dposcope evaluate` measures them beside edits.

    python -m benchmarks.rivals.published gemma-3-270m --comments comments.csv --out DIR

Both are made from 500 toxic and 500 civil comments. `DIR/abliteration` is an edit, with heretic's kernel and each
block's own direction: `--condition abliteration=edit:DIR/abliteration,strength=1`. `DIR/profs` is a model, of rank 2 in
the later half of the blocks, as published: `--condition profs=model:DIR/profs`.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.rivals.abliteration import LATE, abliteration
from benchmarks.rivals.features import block_features
from benchmarks.rivals.profs import projected, toxic_directions

import dposcope as ds
from dposcope.data.comments import load_comments
from dposcope.errors import DposcopeError
from dposcope.shipping.model_card import write_model

SENTENCES = 500
"""Of each class."""
RANK = 2
_MLP_SHARE = 0.5


def publish(model: str, comments: str | None, out: Path, *, dtype: str = "auto", batch_size: int = 50) -> None:
    """Write both.

    Raises:
        DposcopeError: the comments cannot be read.
    """
    read = load_comments(comments).half("first").balanced().first(2 * SENTENCES).balanced()
    lm = ds.load(model, dtype=dtype)
    features = block_features(lm, read.texts, read.labels, batch_size=batch_size)
    blocks = range(len(features.norms))
    own = [features.difference(block) for block in blocks]
    abliteration(own, LATE, 1.0, mlp_share=_MLP_SHARE).save(out / "abliteration")
    basis = {
        block: toxic_directions(features.toxic[block], features.civil[block], RANK)
        for block in blocks
        if block >= len(blocks) // 2
    }
    with projected(basis).on(lm):
        write_model(lm, out / "profs", card=f"`{model}` with ProFS of rank {RANK}, for a comparison.\n")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--comments")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()
    try:
        publish(options.model, options.comments, options.out, dtype=options.dtype)
    except DposcopeError as error:
        print(f"published: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
