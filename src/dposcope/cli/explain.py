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
    dry_run: bool = False,
    raw: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Explain what tuning changed in a model, neuron by neuron, and test it by patching.

    dposcope explain gemma-3-270m edit:gemma-3-270m --out runs/explained

    dposcope explain gemma-3-270m runs/dpo/model --prompts prompts.jsonl --out runs/own

    DIR gets report.html (findings, the paper's claims one by one, figures, a browser of the neurons), tables/*
    (Parquet, CSV, Markdown, LaTeX), figures/* (SVG, PNG, their data as CSV), explain.json and scores.json. After an
    interruption, the same command continues the run.

    For a quick look without patching, steering and edits: --neurons-only.

    torchrun --nproc-per-node N -m dposcope explain … shares the work on N GPUs; the results are those of one process.

    Parameters
    ----------
    base
        The model before tuning: a bundled name (see dposcope models), a folder, a .gguf file, or a Hugging Face id.
    tuned
        The model that was tuned from it, such as DIR/model of dposcope dpo; the folder of a PEFT adapter (LoRA, IA3);
        or an edit: edit:FILE, edit:FOLDER of a run, or edit:gemma-3-270m, which comes with dposcope.
    out
        Folder of the run: new, empty, or that of an earlier start of the same run.
    borrow
        Folder of another run, or of a reproduction. Results that it has for the same model, data and settings are
        copied instead of computed again. May be given several times. Default: none.
    dry_run
        Show what the command would do: its stages with their tokens, and time, memory and disk on this machine. Config,
        tokenizer and data are read and checked; no weights are loaded, and nothing is written.
    raw
        Write offensive words in tables without stars (Parquet files never have stars).
    json
        Print the main numbers as JSON.
    quiet
        No progress bars.
    """
    if dry_run:
        from dposcope.cli.shown.dry_run import show_plan
        from dposcope.jobs.estimate.explain import explain_work

        show_plan(lambda: explain_work(base, tuned, out, settings), settings, out=out, json=json)
        return
    from dposcope.cli.console import reporting
    from dposcope.cli.shown.ends import most_changed, next_edit, next_patching, say_effect, say_texts
    from dposcope.jobs.explain.conditions import TUNED
    from dposcope.jobs.explain.job import run_explain
    from dposcope.jobs.explain.report import summary
    from dposcope.jobs.run import RunPolicy, lenders
    from dposcope.model.checks.layout_file import use_layout
    from dposcope.reading import read_object
    from dposcope.terminal import print_json, say

    with reporting(quiet=quiet) as bars:
        use_layout(settings.layout)
        made = run_explain(
            base, tuned, out, settings, raw=raw, reporter=bars, policy=RunPolicy(borrow=lenders(borrow or []))
        )
    if json:
        print_json(read_object(out / "explain.json"))
        return
    say_effect(made.results.scores, TUNED)
    for line in summary(made.results):
        say(line)
    say_texts(most_changed(out, TUNED), raw=raw)
    say(f"report:  {out / 'report.html'}")
    if settings.neurons_only:
        next_patching()
    else:
        next_edit(base, out, settings)
