"""The paper's tables of tokens: what the direction, toxic, anti-toxic and SVD vectors promote (1, 6, 14, 15, 16)."""

import polars as pl

from dposcope.evaluation.numbers import fixed
from dposcope.jobs.explain.explanation import Explanation
from dposcope.jobs.explain.tables.neuron import percent
from dposcope.neurons.toxic import PromotedTokens, ToxicNeurons, promoted_table
from dposcope.report.table import Table

EXAMPLES, MOST_ROWS = 4, 12
"""Vectors listed in a table of examples and in a longer one that people read; the data beside the longer has all."""

_READING = "v block.index; rank by cosine."


def direction_table(model: str, found: Explanation) -> Table:
    """Table 1: what the direction promotes, and the toxic vectors nearest to it."""
    nearest = _holding(found.toxic)
    tokens = found.direction_tokens
    itself = {"rank": 0, "block": None, "index": None, "cosine": 1.0}
    judged = {
        "tokens": list(tokens.tokens),
        "toxic": list(tokens.toxic),
        "toxic_tokens": sum(tokens.toxic),
    }
    frame = pl.concat([pl.DataFrame([itself | judged], schema=nearest.schema), nearest.head(EXAMPLES)])
    return Table(
        "table-01-direction",
        f"Tokens that the direction and the nearest toxic value vectors of {model} promote (paper, Table 1).",
        frame,
        ("vector", "rank", "top tokens"),
        (("W", "–", _tokens(tokens)), *_vectors(found.toxic, EXAMPLES)),
        (f"{_READING} Rank 0 in the data is the direction itself.",),
    )


def anti_toxic_examples_table(model: str, found: Explanation) -> Table:
    """Table 6: the nearest anti-toxic value vectors that, reversed, promote a toxic token."""
    return Table(
        "table-06-anti-toxic-examples",
        f"The nearest anti-toxic value vectors of {model}, reversed, with a toxic token (paper, Table 6).",
        _holding(found.anti_toxic).head(EXAMPLES),
        ("vector", "rank", "top tokens"),
        _vectors(found.anti_toxic, EXAMPLES),
        (_READING,),
    )


def toxic_vectors_table(model: str, found: Explanation) -> Table:
    """Table 14: toxic value vectors that promote a toxic token."""
    return _vectors_table("table-14-toxic-vectors", f"Toxic value vectors of {model} (paper, Table 14).", found.toxic)


def anti_toxic_vectors_table(model: str, found: Explanation) -> Table:
    """Table 15: anti-toxic value vectors that, reversed, promote a toxic token."""
    title = f"Anti-toxic value vectors of {model}, reversed (paper, Table 15)."
    return _vectors_table("table-15-anti-toxic-vectors", title, found.anti_toxic)


def subspace_table(model: str, found: Explanation) -> Table:
    """Table 16: what the axes of the toxic subspace promote, and their weighted sum."""
    axes = found.subspace.to_polars()
    names = [f"axis {axis}" for axis in axes["axis"]]
    rows = [
        (name, fixed(value), percent(share), fixed(cosine), _tokens(tokens))
        for name, (_, value, share, cosine), tokens in zip(names, axes.rows(), found.axis_tokens[:-1], strict=True)
    ]
    together = found.subspace.combined.cosine(found.direction)
    rows.append(("weighted sum", "–", "–", fixed(together), _tokens(found.axis_tokens[-1])))
    numbers = pl.concat([axes, pl.DataFrame({"cosine": [together]})], how="diagonal")
    promoted = promoted_table(dict(zip([*names, "weighted sum"], found.axis_tokens, strict=True)))
    return Table(
        "table-16-subspace",
        f"The toxic subspace of {model}, from {found.subspace.vectors:,} value vectors (paper, Table 16).",
        pl.concat([promoted, numbers], how="horizontal"),
        ("vector", "singular value", "share of squares", "cosine with W", "top tokens"),
        tuple(rows),
        ("Weighted sum: the axes, each times its singular value.",),
    )


def conflicts_table(model: str, found: Explanation) -> Table:
    """Signs that conflict along the axes, beside random axes and chance (paper, appendix G)."""
    names = {"cosine": "sign of the cosine", "change": "sign of the change of projection"}
    paper = {"cosine": "74.7 %", "change": "74.3 %"}
    both = (found.alignment, found.changes)
    axes = len(found.alignment.signs)
    rows = tuple(
        (names[signs.of], percent(signs.share), percent(signs.random_share), percent(signs.chance), paper[signs.of])
        for signs in both
    )
    return Table(
        "subspace-conflicts",
        f"Neurons of {model} whose signs along the axes of the toxic subspace conflict (paper, appendix G).",
        pl.concat([signs.to_polars() for signs in both]),
        ("", "conflicting", "along random axes", "chance", "paper (GPT-2)"),
        rows,
        (
            f"{axes} independent signs conflict in {percent(found.alignment.chance)} of cases. Of the paper's three "
            "axes that is 75 %: what it reports is the level of chance.",
        ),
    )


def stability_table(model: str, found: Explanation) -> Table:
    """How the subspace turns as value vectors are added (paper, appendix G)."""
    frame = found.stability.to_polars()
    rows = tuple(
        ("two random subspaces" if few is None else f"{few} and {more}", *(f"{fixed(angle, 1)}°" for angle in angles))
        for few, more, *angles in frame.iter_rows()
    )
    return Table(
        "subspace-stability",
        f"Principal angles between the toxic subspaces of {model} from growing numbers of value vectors "
        "(paper, appendix G).",
        frame,
        ("value vectors", *(f"angle {place + 1}" for place in range(len(found.stability.random_angles)))),
        rows,
    )


def _vectors_table(name: str, title: str, neurons: ToxicNeurons) -> Table:
    rows = _vectors(neurons, MOST_ROWS)
    return Table(
        name,
        title,
        neurons.to_polars(),
        ("vector", "rank", "top tokens"),
        rows,
        (
            f"Of the {len(neurons):,} nearest, with a toxic token (judge: {neurons.judge}): "
            f"{int(neurons.holds_toxic.sum()):,}; shown: {len(rows)}. {_READING}",
        ),
    )


def _vectors(neurons: ToxicNeurons, most: int) -> tuple[tuple[str, ...], ...]:
    """Rows of the first vectors that hold a toxic token."""
    sign = "−" if neurons.side == "anti-toxic" else ""
    places = neurons.holds_toxic.nonzero().squeeze(1)[:most].tolist()
    blocks, indices = neurons.aligned.block.tolist(), neurons.aligned.index.tolist()
    return tuple(
        (f"{sign}v {blocks[place]}.{indices[place]}", str(place + 1), _tokens(neurons.promoted[place]))
        for place in places
    )


def _holding(neurons: ToxicNeurons) -> pl.DataFrame:
    return neurons.to_polars().filter(pl.col("toxic_tokens") > 0)


def _tokens(promoted: PromotedTokens) -> str:
    return ", ".join(shown for token in promoted.tokens if (shown := token.strip()))
