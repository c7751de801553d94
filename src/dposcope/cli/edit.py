"""`dposcope edit`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dposcope.jobs.edit.settings import EditSettings


def edit(
    model: str,
    /,
    *,
    out: Path,
    settings: Annotated[EditSettings, Parameter(name="*")] = EditSettings(),  # noqa: B008 — frozen
    push: str | None = None,
    public: bool = False,
    dry_run: bool = False,
    raw: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Make a model less toxic (or --concept) without training, measure it, and write a checkpoint and a report.

    dposcope edit gemma-3-270m --out runs/first

    dposcope edit gemma-3-270m --prompts prompts.jsonl --comments comments.csv --out runs/own

    A direction is computed from labelled comments, and neuron means from continuations of the model. MLP neurons get
    gains by the paper's four groups, and the direction is ablated. The strength is the largest within the bound on
    neutral text. After an interruption, the same command continues the run.

    DIR gets model/ (the edited checkpoint), edit.safetensors, scores.json, samples.parquet and report.html.

    torchrun --nproc-per-node N -m dposcope edit … shares the work on N GPUs; the results are those of one process.

    Parameters
    ----------
    model
        A bundled name (see dposcope models), a folder, a .gguf file, or a Hugging Face id.
    out
        Folder of the run: new, empty, or that of an earlier start of the same run.
    push
        Upload the model to the Hugging Face hub as OWNER/NAME, private, with its model card. Prompts, texts and
        records of the run stay here. Default: nothing is uploaded.
    public
        With --push: everyone may read it.
    dry_run
        Show what the command would do: its stages with their tokens, and time, memory and disk on this machine. Config,
        tokenizer and data are read and checked; no weights are loaded, and nothing is written.
    raw
        Show offensive words in the texts without stars.
    json
        Print the scores as JSON instead of a summary.
    quiet
        No progress bars.
    """
    if dry_run:
        from dposcope.cli.shown.dry_run import show_plan
        from dposcope.jobs.estimate.edit import edit_work

        show_plan(lambda: edit_work(model, out, settings), settings, out=out, json=json)
        return
    from dposcope.cli.console import print_scores_as_json, reporting
    from dposcope.cli.shown.ends import (
        most_changed,
        next_chat,
        next_explain,
        say_checkpoint,
        say_effect,
        say_pushed,
        say_texts,
    )
    from dposcope.jobs.edit.job import run_edit
    from dposcope.model.checks.layout_file import use_layout
    from dposcope.processes.shared import once
    from dposcope.shipping.push import check_push, upload
    from dposcope.terminal import say

    check_push(push, public=public, model=model, quantise=settings.quantise)
    with reporting(quiet=quiet) as bars:
        use_layout(settings.layout)
        done = run_edit(model, out, settings, reporter=bars)
    there = (out / "model").exists()  # not of a quantised model
    pushed = once(lambda: upload(out / "model", push, base=model, public=public)) if push and there else None
    if json:
        print_scores_as_json(done.scores, raw=raw)
        return
    say(f"edit:    {done.scores.about['edit']}")
    say_effect(done.scores, "edit")
    say_texts(most_changed(out, "edit"), raw=raw)
    say_checkpoint(model, out)
    say_pushed(pushed, base=model)
    say(f"report:  {out / 'report.html'}")
    next_chat(out, settings)
    if (out / "model").exists() or not done.edit.ablations:  # an ablation is explained by the weights that it changes
        next_explain(model, f"edit:{out}", out, settings)
