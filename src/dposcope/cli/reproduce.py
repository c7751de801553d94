"""`dposcope reproduce` and `dposcope report`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dposcope.jobs.reproduce.settings import ReproduceSettings


def reproduce(
    *models: str,
    out: Path,
    preset: str = "cpu-gemma-3-270m",
    settings: Annotated[ReproduceSettings, Parameter(name="*")] = ReproduceSettings(),  # noqa: B008 — frozen
    borrow: Annotated[list[Path] | None, Parameter(negative_iterable=())] = None,
    dry_run: bool = False,
    raw: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Run the whole paper on a model: pairs, DPO, every neuron explained, patching, editing, one report.

    dposcope reproduce --preset cpu-gemma-3-270m --out DIR

    dposcope reproduce MODEL [MODEL …] --preset NAME --prompts F --comments F --text F --neutral F --out DIR

    DIR gets report.html (all models, studies and protocols beside one another), tables/*, and per model and study
    pairs/, dpo/ and explain-PROTOCOL/, each what the command of that name leaves. Started again after an
    interruption, the same command goes on; with another setting it does again only what rests on that.

    Presets: cpu-gemma-3-270m, cpu-smollm2-135m (two CPU cores), short (the heart of it), smoke (a tiny random model),
    paper-gpt2-medium, paper-gemma-2-2b, paper-llama-3.1-8b, paper-mistral-7b (the paper's settings), or a TOML file.

    Parameters
    ----------
    models
        What to study: bundled names, folders, .gguf files or Hugging Face ids. Default: the preset's.
    out
        Folder of everything; new, empty, or of the same command before.
    preset
        What is done: a name from above, or a .toml file of one's own.
    borrow
        A folder of another run, or of a reproduction: what it has measured from the same model, data and settings is
        copied, not measured again. May be given several times.
    dry_run
        Show the plan: steps, what is done already, time, memory and disk on this machine. Nothing is written.
    raw
        Write offensive words in tables as they are, not starred.
    json
        Print the plan, or the findings, as JSON.
    quiet
        No progress bars.
    """
    from dposcope.artefacts import read_json
    from dposcope.cli.console import out as console
    from dposcope.cli.console import print_json, print_table, reporting
    from dposcope.jobs.reproduce.job import run_reproduce
    from dposcope.jobs.reproduce.overview import findings_lines
    from dposcope.jobs.reproduce.plan import plan_reproduction
    from dposcope.jobs.reproduce.preset import load_preset
    from dposcope.jobs.run import lenders

    chosen = load_preset(preset)
    if dry_run:
        from dposcope.jobs.reproduce.checks import check_steps, read_here
        from dposcope.jobs.reproduce.estimate import Machine, estimate_plan, plan_table
        from dposcope.jobs.run import check_folder

        steps = plan_reproduction(models, out, chosen, settings, raw=raw)
        check_folder(out, "reproduce")
        check_steps([one.step for one in steps if not one.done and read_here(one.step)])
        machine = Machine.measured(steps[0].step.settings.device)
        estimates = estimate_plan(steps, machine)
        if json:
            print_json([one.to_json() for one in estimates])
            return
        print_table(plan_table(chosen.title, estimates, out=out, gpu=machine.gpu))
        return
    with reporting(quiet=quiet) as bars:
        made = run_reproduce(models, out, chosen, settings, raw=raw, reporter=bars, borrow=lenders(borrow or []))
    if json:
        print_json(read_json(out / "overview.json"))
        return
    for planned in made.steps:
        console.print(f"{planned.name}: {planned.step.folder}", markup=False, soft_wrap=True)
    for line in findings_lines(made.runs):
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"report: {out / 'report.html'}", markup=False, soft_wrap=True)


def report(
    runs: Annotated[list[Path], Parameter(negative_iterable=())],
    /,
    *,
    out: Path | None = None,
    title: str | None = None,
    raw: bool = False,
) -> None:
    """Render finished runs again, or compare several, without a model.

    dposcope report DIR [DIR …] --out DIR

    Parameters
    ----------
    runs
        Folders of dposcope explain, or of dposcope reproduce (all explanations below it).
    out
        Folder for report.html and tables/*. Default: that of a single reproduction.
    title
        Of the page. Default: that of a single reproduction.
    raw
        Write offensive words in tables as they are, not starred.
    """
    from dposcope.cli.console import out as console
    from dposcope.jobs.reproduce.finished import check_place, find_runs, title_of
    from dposcope.jobs.reproduce.overview import write_overview

    target = out if out is not None else runs[0]
    found = find_runs(runs, out=out)
    check_place(target)
    write_overview(target, found, title=title or title_of(runs), raw=raw)
    console.print(f"report: {target / 'report.html'}", markup=False, soft_wrap=True)
