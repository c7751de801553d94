"""The paper's tables of tokens: what the direction, toxic, anti-toxic and SVD vectors promote (1, 6, 14, 15, 16)."""

import polars as pl

from dposcope.evaluation.numbers import COUNT, MEAN, SHARE, TOKENS, Format, percent
from dposcope.jobs.explain.explanation import Explanation
from dposcope.neurons.toxic import ToxicNeurons, promoted_table
from dposcope.report.table import Column, Table

EXAMPLES, MOST_ROWS = 4, 12
"""Number of vectors shown in a table of examples, and in a longer table. The data file of the longer has all."""


def _reading(neurons: ToxicNeurons) -> str:
    """How a vector's name and rank are read."""
    experts = neurons.aligned.names[0].count(".") == 2
    return f"v {'block.expert.index' if experts else 'block.index'}; rank by cosine."


def direction_table(model: str, explanation: Explanation) -> Table:
    """Table 1: what the direction promotes, and the toxic vectors nearest to it."""
    nearest = _holding(explanation.toxic)
    tokens = explanation.direction_tokens
    itself = {"rank": 0, "block": None, "index": None, "cosine": 1.0}
    judged = {"tokens": list(tokens.tokens), "toxic": list(tokens.toxic), "toxic_tokens": sum(tokens.toxic)}
    frame = pl.concat([pl.DataFrame([itself | judged], schema=nearest.schema), nearest.head(EXAMPLES)])
    view = _named(frame, explanation.toxic).with_columns(
        pl.col("vector").fill_null("W"), rank=pl.when(pl.col("block").is_not_null()).then("rank")
    )
    return Table(
        "table-01-direction",
        f"Tokens that the direction and the nearest toxic value vectors of {model} promote (paper, Table 1).",
        frame,
        _VECTORS,
        (f"{_reading(explanation.toxic)} Rank 0 in the data is the direction itself.",),
        view=view,
        number=1,
    )


def anti_toxic_examples_table(model: str, explanation: Explanation) -> Table:
    """Table 6: the nearest anti-toxic value vectors that, reversed, promote a toxic token."""
    frame = _holding(explanation.anti_toxic).head(EXAMPLES)
    return Table(
        "table-06-anti-toxic-examples",
        f"The nearest anti-toxic value vectors of {model}, reversed, with a toxic token (paper, Table 6).",
        frame,
        _VECTORS,
        (_reading(explanation.anti_toxic),),
        view=_named(frame, explanation.anti_toxic),
        number=6,
    )


def toxic_vectors_table(model: str, explanation: Explanation) -> Table:
    """Table 14: toxic value vectors that promote a toxic token."""
    title = f"Toxic value vectors of {model} (paper, Table 14)."
    return _vectors_table("table-14-toxic-vectors", title, explanation.toxic, number=14)


def anti_toxic_vectors_table(model: str, explanation: Explanation) -> Table:
    """Table 15: anti-toxic value vectors that, reversed, promote a toxic token."""
    title = f"Anti-toxic value vectors of {model}, reversed (paper, Table 15)."
    return _vectors_table("table-15-anti-toxic-vectors", title, explanation.anti_toxic, number=15)


def subspace_table(model: str, explanation: Explanation) -> Table:
    """Table 16: what the axes of the toxic subspace promote, and their weighted sum."""
    axes = explanation.subspace.to_polars()
    names = [*(f"axis {axis}" for axis in axes["axis"]), "weighted sum"]
    together = explanation.subspace.combined.cosine(explanation.direction)
    numbers = pl.concat([axes, pl.DataFrame({"cosine": [together]})], how="diagonal")
    promoted = promoted_table(dict(zip(names, explanation.axis_tokens, strict=True)))
    return Table(
        "table-16-subspace",
        f"The toxic subspace of {model}, from {explanation.subspace.vectors:,} value vectors (paper, Table 16).",
        pl.concat([promoted, numbers], how="horizontal"),
        (
            Column("vector", "vector"),
            Column("singular_value", "singular value", MEAN),
            Column("share", "share of squares", SHARE),
            Column("cosine", "cosine with W", MEAN),
            Column("tokens", "top tokens", TOKENS),
        ),
        ("Weighted sum: the axes, each times its singular value.",),
        number=16,
    )


def conflicts_table(model: str, explanation: Explanation) -> Table:
    """Conflicting signs along the axes, along random axes, and by chance (paper, appendix G)."""
    names = {"cosine": "sign of the cosine", "change": "sign of the change of projection"}
    paper = {"cosine": 0.747, "change": 0.743}
    signs = explanation.alignment
    frame = pl.concat([signs.to_polars(), explanation.changes.to_polars()])
    return Table(
        "subspace-conflicts",
        f"Neurons of {model} whose signs along the axes of the toxic subspace conflict (paper, appendix G).",
        frame,
        (
            Column("sign", "sign of what"),
            Column("share", "conflicting", SHARE),
            Column("random_share", "along random axes", SHARE),
            Column("chance", "chance", SHARE),
            Column("paper", "paper (GPT-2)", SHARE),
        ),
        (
            f"{len(signs.signs)} independent signs conflict in {percent(signs.chance)} of cases. For the paper's three "
            "axes this is 75 %: the share that the paper reports is the level of chance.",
        ),
        view=frame.with_columns(
            sign=pl.col("of").replace_strict(names), paper=pl.col("of").replace_strict(paper, return_dtype=pl.Float64)
        ),
    )


def stability_table(model: str, explanation: Explanation) -> Table:
    """Principal angles between subspaces of more and more value vectors (paper, appendix G)."""
    frame = explanation.stability.to_polars()
    grown = pl.format("{} and {}", "vectors", "next").fill_null("two random subspaces")
    angles = range(1, len(explanation.stability.random_angles) + 1)
    return Table(
        "subspace-stability",
        f"Principal angles between the toxic subspaces of {model} from growing numbers of value vectors "
        "(paper, appendix G).",
        frame,
        (
            Column("grown", "value vectors"),
            *(Column(f"angle_{angle}", f"angle {angle}", Format("degrees", 1)) for angle in angles),
        ),
        view=frame.with_columns(grown=grown),
    )


_VECTORS = (Column("vector", "vector"), Column("rank", "rank", COUNT), Column("tokens", "top tokens", TOKENS))


def _vectors_table(name: str, title: str, neurons: ToxicNeurons, *, number: int) -> Table:
    view = _named(_holding(neurons).head(MOST_ROWS), neurons)
    return Table(
        name,
        title,
        neurons.to_polars(),
        _VECTORS,
        (
            f"Of the {len(neurons):,} nearest, with a toxic token (judge: {neurons.judge}): "
            f"{int(neurons.holds_toxic.sum()):,}; shown: {len(view)}. {_reading(neurons)}",
        ),
        view=view,
        number=number,
    )


def _named(vectors: pl.DataFrame, neurons: ToxicNeurons) -> pl.DataFrame:
    """Add each vector's name: `v 3.17`, or `−v 3.17` on the anti-toxic side; null for the direction, of rank 0."""
    sign, names = "−" if neurons.side == "anti-toxic" else "", neurons.aligned.names
    named = [f"{sign}v {names[rank - 1]}" if rank else None for rank in vectors["rank"].to_list()]
    return vectors.with_columns(vector=pl.Series(named, dtype=pl.String))


def _holding(neurons: ToxicNeurons) -> pl.DataFrame:
    return neurons.to_polars().filter(pl.col("toxic_tokens") > 0)
