"""`dposcope dpo`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dposcope.jobs.dpo.settings import DpoSettings


def dpo(
    model: str,
    /,
    *,
    out: Path,
    settings: Annotated[DpoSettings, Parameter(name="*")],
    push: str | None = None,
    public: bool = False,
    dry_run: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Tune a model on preference pairs: DPO with a KL term that preserves other text.

    dposcope pairs gemma-3-270m --out pairs.jsonl

    dposcope dpo gemma-3-270m --pairs pairs.jsonl --out runs/dpo

    dposcope evaluate gemma-3-270m --condition model:runs/dpo/model --out runs/scores

    DIR gets model/ (an ordinary checkpoint), training.json (settings, versions, curves), training.svg, and with
    --train gains edit.safetensors. After an interruption, the same command resumes from the last checkpoint and ends
    with the same weights.

    torchrun --nproc-per-node N -m dposcope dpo … trains on N GPUs: each has the whole model and a share of a batch.

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
    json
        Print training.json instead of a summary.
    quiet
        No progress bars.
    """
    if dry_run:
        from dposcope.cli.shown.dry_run import show_plan
        from dposcope.jobs.estimate.dpo import dpo_work

        show_plan(lambda: dpo_work(model, out, settings), settings, out=out, json=json)
        return
    from dposcope.cli.console import reporting
    from dposcope.cli.shown.ends import next_evaluate, say_checkpoint, say_pushed
    from dposcope.evaluation.numbers import fixed
    from dposcope.evaluation.statistics.comparisons import wilson
    from dposcope.jobs.dpo.job import run_dpo
    from dposcope.model.checks.layout_file import use_layout
    from dposcope.processes.group import Processes
    from dposcope.shipping.push import check_push, upload
    from dposcope.terminal import print_json, say

    gains_of = model if settings.train == "gains" else None
    check_push(push, public=public, model=gains_of, quantise=settings.quantise)
    with reporting(quiet=quiet) as bars:
        use_layout(settings.layout)
        done = run_dpo(model, out, settings, reporter=bars)
    if not Processes.here().is_main:
        return
    record = done.record
    pushed = upload(out / "model", push, base=model, public=public) if push and (out / "model").exists() else None
    if json:
        print_json(record.to_json())
        return
    checked = [entry for entry in record.curves if "eval_loss" in entry]
    taken = next((entry for entry in checked if entry["step"] == record.best_step), checked[-1])
    say(
        f"{record.read}; on {record.pairs.validation:,} "
        f"validation pairs: loss {fixed(taken['eval_loss'])}, "
        f"accuracy {wilson(taken['eval_accuracy'], record.pairs.validation)}, "
        f"margin {fixed(taken['eval_margin'], 2)}, KL {fixed(taken['eval_kl'], 4)}"
    )
    say_checkpoint(model, out, label="checkpoint:")
    if (out / "edit.safetensors").exists():
        say(f"edit:       {out / 'edit.safetensors'}")
    say_pushed(pushed, base=model)
    say(f"curves:     {out / 'training.svg'}")
    written = (out / "model").exists()
    next_evaluate(
        model,
        f"model:{out / 'model'}" if written else f"edit:{out}",
        out,
        None if written else settings.quantise,
        asked=settings,
    )
