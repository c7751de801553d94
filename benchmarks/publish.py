"""Put finished explanations into the documentation: their tables as one page each, their figures, their claims.

    python benchmarks/publish.py runs/explain docs/results/explained
    python benchmarks/publish.py runs/gemma runs/smollm2 docs/results/reproduce --raw published
    python benchmarks/publish.py --only-raw runs/measured-0 runs/measured-1 docs/results/seeds

Of reproductions every explanation gets a folder of its own, MODEL/STUDY-PROTOCOL/, and the tables over all of them
stand in overview.md beside those. Words are starred as in the run's own tables. Nothing is computed here, so what is
published is what the run measured.

With `--raw FOLDER` the numbers behind the pages go there, where `dposcope report` reads them: every table, the scores
of every prompt under every condition with the continuations (words starred), claims, interchanges, and how pairs and
model were made. Prompts are of a data set of others: each is told by its row and its digest. Of a path only the last
part is kept. `--only-raw` keeps the same of any run with scores, `dposcope evaluate` and `edit` among them, each in a
folder of its own name, and of a training how it was made.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from dposcope.artefacts import text_digest, write_text
from dposcope.data.masking import mask_offensive
from dposcope.jobs.explain.beside_paper import BESIDE_PAPER
from dposcope.jobs.finished import ABOUT
from dposcope.jobs.reproduce.finished import FinishedRun, find_runs
from dposcope.jobs.reproduce.overview_tables import overview_tables
from dposcope.report.table import Table, write_parquet

LEFT_OUT = BESIDE_PAPER
"""Tables that are long and say nothing that the others do not."""
RAW = (
    *("explain.json", "scores.json", "scores.parquet", "tables.json", "run.json", "claims.parquet"),
    *("interchange.parquet", "training.json"),
)
"""Of a run, beside its texts."""
DIGEST = "prompt_digest"
"""Column that stands for the prompt."""
MADE = ("pairs/pairs.json", "dpo/training.json")
"""Of a reproduction: how its pairs were made, with their digest, and how the model was trained."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--raw", type=Path, help="also the numbers behind the pages, here")
    parser.add_argument("--only-raw", action="store_true", help="of every run the numbers alone, in FOLDER/RUN")
    arguments = parser.parse_args()
    if arguments.only_raw:
        if len({run.name for run in arguments.runs}) < len(arguments.runs):
            parser.error("two runs have the same last name, and would be written over each other")
        for run in arguments.runs:
            keep_raw(run, arguments.folder / run.name, made=())
        return
    first, *others = arguments.runs
    if not others and (first / "explain.json").is_file():
        publish(FinishedRun.read(first), arguments.folder)
        if arguments.raw is not None:
            keep_raw(first, arguments.raw)
        return
    runs = find_runs(arguments.runs, out=arguments.folder)
    for run in runs:
        publish(run, arguments.folder / run.model / f"{run.study}-{run.protocol}")
        if arguments.raw is not None:
            keep_raw(run.folder, arguments.raw / run.model / run.study / f"explain-{run.protocol}")
    write_text(arguments.folder / "overview.md", page("# All runs beside one another", overview_tables(runs), []))


def publish(run: FinishedRun, folder: Path) -> None:
    """One explanation: tables.md and figures/."""
    chosen = [table for table in run.tables if table.name not in LEFT_OUT]
    figures = sorted((run.folder / "figures").glob("*.svg"))
    folder.mkdir(parents=True, exist_ok=True)
    head = f"# All tables and figures: {run.model}, {run.study}, {run.protocol} protocol"
    write_text(folder / "tables.md", page(head, chosen, figures))
    shutil.rmtree(folder / "figures", ignore_errors=True)
    (folder / "figures").mkdir()
    for figure in figures:
        shutil.copyfile(figure, folder / "figures" / figure.name)
    print(f"{len(chosen)} tables and {len(figures)} figures in {folder}")


def keep_raw(run: Path, folder: Path, *, made: Sequence[str] = MADE) -> None:
    """What `dposcope report` reads, the scores behind it, and how pairs and model were made.

    Args:
        run: its folder.
        folder: where it goes.
        made: files beside the run's folder that go with it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in RAW:
        keep(run / name, folder / name)
    for name in made:
        keep(run.parent / name, folder / Path(name).name)
    if not (run / "samples.parquet").is_file():
        return
    texts = pl.read_parquet(run / "samples.parquet")
    digests = pl.Series(DIGEST, map(text_digest, texts["prompt"]), dtype=pl.String)
    starred = pl.Series("continuation", map(mask_offensive, texts["continuation"]), dtype=pl.String)
    place = texts.columns.index("prompt")
    write_parquet(folder / "samples.parquet", texts.with_columns(starred).insert_column(place, digests).drop("prompt"))


def keep(file: Path, kept: Path) -> None:
    """A copy of one file where it is there; in JSON, without folders, strong words, and digests of other files."""
    if file.suffix == ".json" and file.is_file():
        told = json.loads(file.read_text(encoding="utf-8"))
        if file.name == ABOUT:
            told.pop("finished", None)
        write_text(kept, json.dumps(publishable(told), ensure_ascii=False, separators=(",", ":")) + "\n")
    elif file.is_file():
        shutil.copyfile(file, kept)


def publishable(value: Any) -> Any:
    """The same, of every absolute path in it only the last part, and words starred."""
    match value:
        case dict():
            return {name: publishable(one) for name, one in value.items()}
        case list():
            return [publishable(one) for one in value]
        case str():
            return mask_offensive(Path(value).name if Path(value).is_absolute() else value)
        case _:
            return value


def page(head: str, tables: Sequence[Table], figures: Sequence[Path]) -> str:
    """Markdown with each table and figure under a heading of its name."""
    parts = [head, *(f"## {table.name}\n\n{table.markdown()}" for table in tables)]
    parts += [f"## {figure.stem}\n\n![{figure.stem}](figures/{figure.name})" for figure in figures]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


if __name__ == "__main__":
    main()
