"""`dposcope evaluate`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dposcope.jobs.evaluate.settings import EvaluateSettings


def evaluate(
    model: str,
    /,
    *,
    out: Path,
    settings: Annotated[EvaluateSettings, Parameter(name="*")] = EvaluateSettings(),  # noqa: B008 — frozen
    borrow: Annotated[list[Path] | None, Parameter(negative_iterable=())] = None,
    dry_run: bool = False,
    raw: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Measure a model, plain and under any number of conditions, on the same prompts.

    dposcope evaluate gemma-3-270m --condition edit:gemma-3-270m --out runs/scores

    Conditions, each with --condition:

    scale:alpha=0.3,beta=0.55 — the paper's edit as gains;
    assign:alpha=0.01,beta=0.55,ranking=reference — the edit of the authors' code: neurons are set to shifted means;
    steer:alpha=1 — subtract α times the direction from the last block's residual stream (relative=0.1: in mean norms);
    ablate:weight=1 — remove the direction from the outputs of the output projections;
    edit:DIR/edit.safetensors — a saved edit; gains-of:, ablation-of: and control: give its parts and its control;
    edit:DIR/edit.safetensors,strength=0.8 — a weaker or stronger version of it;
    model:DIR/model — a tuned checkpoint of the same architecture, or the folder of an adapter (LoRA, IA3);
    model:DIR/model,strength=0.5 — the same half way along its tuning: each weight W0 + s (W1 - W0);
    interchange:with=DIR/model,part=mlp,blocks=6-11 — parts take the values that they have in a tuned model (or in an
    edit, with=edit:NAME) on the same tokens; part is neurons (neurons=FILE for some of them), heads, mlp, attention,
    block or residual; reverse=yes gives the tuned model the values of its base;
    scale:alpha=0.1+ablate:weight=1 — both together; mild=scale:alpha=0.1 — with your own name.
    scale, ablate, interchange take blocks=9-17, ablate takes site=mlp; controls: shuffled=yes for scale, random=yes for
    others.

    With --engine openai servers write the texts, and each condition needs its own: --base-url http://localhost:8000/v1
    for the plain model, --base-url mine=http://localhost:8001/v1 for the condition mine.

    DIR gets scores.json, scores.parquet, samples.parquet, scores.md and front.svg.

    torchrun --nproc-per-node N -m dposcope evaluate … shares the work on N GPUs; the results are those of one process.

    Parameters
    ----------
    model
        A bundled name (see dposcope models), a folder, a .gguf file, or a Hugging Face id.
    out
        Folder of the run: new, empty, or that of an earlier start of the same run.
    borrow
        Folder of another run, or of a reproduction. Results that it has for the same model, data and settings are
        copied instead of computed again. May be given several times. Default: none.
    dry_run
        Show what the command would do: its stages with their tokens, and time, memory and disk on this machine. Config,
        tokenizer and data are read and checked; no weights are loaded, and nothing is written.
    raw
        Show offensive words in the texts without stars.
    json
        Print the scores as JSON instead of a table.
    quiet
        No progress bars.
    """
    if dry_run:
        from dposcope.cli.shown.dry_run import show_plan
        from dposcope.jobs.estimate.evaluate import evaluate_work

        show_plan(lambda: evaluate_work(model, out, settings), settings, out=out, json=json)
        return
    from dposcope.cli.console import print_scores, print_scores_as_json, reporting
    from dposcope.cli.shown.ends import most_changed, next_edit, next_explain, say_effect, say_texts
    from dposcope.evaluation.conditions.scores import BASE
    from dposcope.jobs.evaluate.job import run_evaluate
    from dposcope.jobs.run import RunPolicy, lenders
    from dposcope.model.checks.layout_file import use_layout
    from dposcope.terminal import say

    with reporting(quiet=quiet) as bars:
        use_layout(settings.layout)
        scores = run_evaluate(model, out, settings, reporter=bars, policy=RunPolicy(borrow=lenders(borrow or [])))
    if json:
        print_scores_as_json(scores, raw=raw)
        return
    print_scores(scores)
    named = [name for name in scores.against_none if name != BASE]
    if len(named) == 1:  # of several the table says more
        say_effect(scores, named[0])
        say_texts(most_changed(out, named[0]), raw=raw)
    elif scores.no_verdict is not None:
        say(scores.no_verdict)
    say(f"scores:  {out / 'scores.json'}")
    tuned = next((one for one in settings.condition or [] if one.startswith(("edit:", "model:"))), None)
    if tuned is None or "," in tuned or "+" in tuned:
        next_edit(model, out, settings)
    else:
        next_explain(model, tuned.removeprefix("model:"), out, settings)
