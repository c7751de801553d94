"""`dposcope fold`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from dposcope.jobs.numbers import SignedStrength, within


def fold(
    model: str,
    /,
    *,
    edit: Path,
    out: Path,
    form: Literal["checkpoint", "adapters"] | None = None,
    gains_alone: bool = False,
    layout: Path | None = None,
    strength: Annotated[float, Parameter(validator=within(SignedStrength))] = 1.0,
    push: str | None = None,
    public: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Put an edit into a model's files, without loading the model.

    dposcope fold gemma-3-270m --edit gemma-3-270m --out edited

    dposcope fold model.gguf --edit runs/tune --gains-alone --out edited.gguf

    --form adapters writes PEFT adapters, to be switched at run time. In a GGUF file only scale factors change.

    A checkpoint may be larger than memory; it keeps its shards, names and precision. A GGUF file, or a checkpoint
    quantised by compressed-tensors, can hold gains of neurons only: they go into the scales of up projections, and no
    weight is quantised again.

    Parameters
    ----------
    model
        A folder with config.json and safetensors weights, a bundled name, or a .gguf file.
    edit
        edit.safetensors of dposcope edit, tune or dpo --train gains, or the folder of the run; or the name of a bundled
        model, for the edit that comes with dposcope.
    out
        The new folder, or the new .gguf file; must not exist.
    form
        For a folder: checkpoint or adapters. Default: checkpoint.
    gains_alone
        Leave out ablations and gains of heads, which GGUF cannot hold.
    layout
        A .toml file that says where a model of an unknown type keeps its blocks, projections and final norm; see
        docs/how-to/own-model.md. Default: what dposcope knows or recognises.
    strength
        Strength of the edit: at 0.5 every gain is half as far from 1, and half of a direction is ablated; above 1:
        stronger.
    push
        Upload the new folder to the Hugging Face hub as OWNER/NAME, private, with its model card. Prompts, texts and
        records of the run stay here. Default: nothing is uploaded.
    public
        With --push: everyone may read it.
    dry_run
        Show how long it would take, and how much memory and disk. The edit is checked; no weights are loaded, and
        nothing is written.
    json
        Print the result as JSON.
    """
    from dposcope.cli.shown.ends import next_evaluate, say_pushed
    from dposcope.errors import DposcopeError
    from dposcope.model.checks.layout_file import use_layout
    from dposcope.shipping.push import check_push, upload
    from dposcope.shipping.ship import load_edit, ship
    from dposcope.terminal import print_json, say

    check_push(push, public=public)
    if push is not None and out.suffix == ".gguf":
        raise DposcopeError("--push is for a folder, and --out is a .gguf file; leave --push out")
    if layout is not None and model.endswith(".gguf"):
        raise DposcopeError("--layout is for a folder, and a .gguf file names its own tensors; leave --layout out")
    loaded = load_edit(edit)
    if gains_alone:
        loaded = loaded.gains_alone()
    if strength != 1:
        loaded = loaded.strength(strength)
    use_layout(layout)
    if dry_run:
        from dposcope.cli.shown.dry_run import show_work
        from dposcope.jobs.estimate.fold import fold_work

        show_work(fold_work(model, out, loaded, form=form), device="cpu", out=out, json=json)
        return
    done = ship(model, loaded, out, form=form)
    pushed = None if push is None else upload(done.path, push, base=model, public=public, again=False)
    if json:
        print_json(done.to_json())
        return
    say(f"edit:     {loaded}")
    verb = "written" if done.form == "adapters" else "changed"
    say(f"{done.form}: {done.path}")
    say(f"tensors:  {done.tensors:,} {verb}")
    say(f"rounding: {done.rounding:.1e} of the largest value")
    for note in done.notes:
        say(f"note:     {note}")
    say_pushed(pushed, base=model)
    if done.form == "gguf":
        next_evaluate(str(done.path), None, done.path.with_suffix(""))
    elif done.form == "checkpoint":
        next_evaluate(model, f"model:{done.path}", done.path)
