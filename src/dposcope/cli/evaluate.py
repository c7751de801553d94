"""`dposcope evaluate`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dposcope.jobs.settings import EvaluateSettings


def evaluate(
    model: str,
    /,
    *,
    out: Path,
    settings: Annotated[EvaluateSettings, Parameter(name="*")] = EvaluateSettings(),  # noqa: B008 — frozen
    borrow: Annotated[list[Path] | None, Parameter(negative_iterable=())] = None,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Measure a model, plain and under any number of conditions, on the same prompts.

    Conditions, each with --condition:

    scale:alpha=0.3,beta=0.55 — the paper's edit as gains;
    assign:alpha=0.01,beta=0.55,ranking=reference — as the authors' code does it: neurons set to shifted means;
    steer:alpha=1 — the direction, times α, out of the last block's stream (relative=0.1: in mean norms);
    ablate:weight=1 — the direction out of what projections write;
    edit:DIR/edit.safetensors — a saved edit; gains-of:, ablation-of: and control: its parts and its control;
    edit:DIR/edit.safetensors,strength=0.8 — the same, weaker or stronger;
    model:DIR/model — a tuned checkpoint of the same architecture, or the folder of an adapter (LoRA, IA3);
    scale:alpha=0.1+ablate:weight=1 — together; mild=scale:alpha=0.1 — under a name of yours.
    scale and ablate take blocks=9-17, ablate site=mlp; controls: shuffled=yes for scale, random=yes for the others.

    DIR gets scores.json, scores.parquet, samples.parquet and scores.md.

    Parameters
    ----------
    model
        A bundled name (see dposcope models), a folder, a .gguf file, or a Hugging Face id.
    out
        Folder of the run; new, empty, or of the same run before.
    borrow
        A folder of another run, or of a reproduction: what it has measured from the same model, data and settings is
        copied, not measured again. May be given several times.
    json
        Print the scores as JSON instead of a table.
    quiet
        No progress bars.
    """
    from dposcope.cli.console import out as console
    from dposcope.cli.console import print_json, print_scores, reporting
    from dposcope.jobs.evaluate.job import run_evaluate
    from dposcope.jobs.run import RunPolicy, lenders

    with reporting(quiet=quiet) as bars:
        scores = run_evaluate(model, out, settings, reporter=bars, policy=RunPolicy(borrow=lenders(borrow or [])))
    if json:
        print_json(scores.to_json())
        return
    print_scores(scores)
    console.print(f"scores: {out / 'scores.json'}", markup=False, soft_wrap=True)
