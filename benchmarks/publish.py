"""Put a finished explanation into the documentation: its tables as one page, its figures, its claims.

    python benchmarks/publish.py runs/explain docs/results/explain-gemma-3-270m

Words are starred as in the run's own tables. Nothing is computed here, so what is published is what the run measured.
"""

import argparse
import shutil
from pathlib import Path

from dposcope.artefacts import write_text
from dposcope.study.finished import FinishedRun

LEFT_OUT = ("beside-paper",)
"""Tables that are long and say nothing that the others do not."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    run = FinishedRun.read(arguments.run)
    chosen = [table for table in run.tables if not table.name.startswith(LEFT_OUT)]
    figures = sorted((arguments.run / "figures").glob("*.svg"))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    head = f"# All tables and figures: {run.model}, {run.protocol} protocol"
    parts = [head, *(f"## {table.name}\n\n{table.markdown()}" for table in chosen)]
    parts += [f"## {figure.stem}\n\n![{figure.stem}](figures/{figure.name})" for figure in figures]
    write_text(arguments.folder / "tables.md", "\n\n".join(part.rstrip() for part in parts) + "\n")
    (arguments.folder / "figures").mkdir(exist_ok=True)
    for figure in figures:
        shutil.copyfile(figure, arguments.folder / "figures" / figure.name)
    print(f"{len(chosen)} tables and {len(figures)} figures in {arguments.folder}")


if __name__ == "__main__":
    main()
