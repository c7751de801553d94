"""`dposcope explain`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dposcope.jobs.explain.settings import ExplainSettings


def explain(
    base: str,
    tuned: str,
    /,
    *,
    out: Path,
    settings: Annotated[ExplainSettings, Parameter(name="*")] = ExplainSettings(),  # noqa: B008 — frozen
    borrow: Annotated[list[Path] | None, Parameter(negative_iterable=())] = None,
    raw: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Explain what tuning changed in a model, neuron by neuron, and prove it by patching.

    dposcope explain BASE TUNED --prompts F --comments F --out DIR

    DIR gets report.html (findings, the paper's claims one by one, figures, a browser of all neurons), tables/*
    (Parquet, CSV, Markdown, LaTeX), figures/* (SVG, PNG, their data as CSV), explain.json and scores.json. Started
    again after an interruption, the same command goes on where it stopped.

    Quick look, without patches, steering and edits: --neurons-only.

    dposcope explain gemma-3-270m edit:gemma-3-270m --out DIR      what an edit does, in the same tables

    Parameters
    ----------
    base
        The model before tuning: a bundled name (see dposcope models), a folder, a .gguf file, or a Hugging Face id.
    tuned
        The model that was tuned from it, such as DIR/model of dposcope dpo; the folder of a PEFT adapter (LoRA, IA3);
        or an edit: edit:FILE, edit:FOLDER of its run, or edit:gemma-3-270m, which comes with dposcope.
    out
        Folder of the run; new, empty, or of the same run before.
    borrow
        A folder of another run, or of a reproduction: what it has measured from the same model, data and settings is
        copied, not measured again. May be given several times.
    raw
        Write offensive words in tables as they are, not starred (Parquet files always hold them as they are).
    json
        Print the main numbers as JSON.
    quiet
        No progress bars.
    """
    from dposcope.artefacts import read_json
    from dposcope.cli.console import out as console
    from dposcope.cli.console import print_json, reporting
    from dposcope.jobs.explain.job import run_explain
    from dposcope.jobs.explain.report import summary
    from dposcope.jobs.run import RunPolicy, lenders

    with reporting(quiet=quiet) as bars:
        made = run_explain(
            base, tuned, out, settings, raw=raw, reporter=bars, policy=RunPolicy(borrow=lenders(borrow or []))
        )
    if json:
        print_json(read_json(out / "explain.json"))
        return
    for line in summary(made.results):
        console.print(line, markup=False)
    console.print(f"report: {out / 'report.html'}", markup=False, soft_wrap=True)
