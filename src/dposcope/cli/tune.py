"""`dposcope tune`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dposcope.jobs.tune.settings import TuneSettings


def tune(
    model: str,
    /,
    *,
    out: Path,
    settings: Annotated[TuneSettings, Parameter(name="*")] = TuneSettings(),  # noqa: B008 — frozen
    join: bool = False,
    push: str | None = None,
    public: bool = False,
    dry_run: bool = False,
    raw: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Find the edit that removes most of a concept within a bound on cost, measure it, and write the edited model.

    dposcope tune gemma-3-270m --quick --out runs/quick

    dposcope tune gemma-3-270m --prompts prompts.jsonl --comments comments.csv --out runs/tune

    The model continues some of the prompts several times, a scorer ranks the continuations, and one gain per MLP neuron
    is learned from these pairs, with KL on neutral text. Optuna then searches over these gains, the paper's groups,
    least squares, their strength and depth, and an ablation, on other prompts. The best edit within the bound is
    measured once, on prompts that no step before has read (--report-prompts, or the first half of --prompts). No
    preference data is needed. After an interruption, the same command continues. It needs pip install 'dposcope[tune]'.

    DIR gets model/ (the edited checkpoint), edit.safetensors, trials.parquet, scores.json and report.html.

    torchrun --nproc-per-node N -m dposcope tune … shares the work on N GPUs.

    Parameters
    ----------
    model
        A bundled name (see dposcope models), a folder, a .gguf file, or a Hugging Face id.
    out
        Folder of the run: new, empty, or that of an earlier start of the same run.
    join
        Run trials for another process that runs the same command without --join, until there are enough. With
        CUDA_VISIBLE_DEVICES=1 before the command, this process uses another GPU.
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
        from dposcope.jobs.estimate.tune import tune_work

        show_plan(lambda: tune_work(model, out, settings), settings, out=out, json=json)
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
    from dposcope.interventions.origin import warning
    from dposcope.jobs.tune.job import join_tune, run_tune
    from dposcope.model.checks.layout_file import use_layout
    from dposcope.processes.shared import once
    from dposcope.shipping.push import check_push, upload
    from dposcope.terminal import say

    if join:
        with reporting(quiet=quiet) as bars:
            use_layout(settings.layout)
            trials = join_tune(model, out, settings, reporter=bars)
        say(f"{len(trials)} trials are done; the run in {out} continues with them")
        return
    check_push(push, public=public, model=model, quantise=settings.quantise)
    with reporting(quiet=quiet) as bars:
        use_layout(settings.layout)
        done = run_tune(model, out, settings, reporter=bars)
    there = done.advice is None and (out / "model").exists()
    pushed = once(lambda: upload(out / "model", push, base=model, public=public)) if push and there else None
    if json:
        print_scores_as_json(done.scores, raw=raw)
        return
    if settings.negative_control is not None:
        say(warning(settings.negative_control))
    if done.advice is not None:
        say(f"No edit was found that lowers {done.scores.concept} within the bounds. The model is unchanged.")
        say(done.advice)
        say(f"report:  {out / 'report.html'}")
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
