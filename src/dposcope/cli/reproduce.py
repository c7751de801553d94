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

    dposcope reproduce --preset smoke --out runs/smoke

    dposcope reproduce --preset short --dry-run --out runs/short

    DIR gets report.html (all models, studies and protocols side by side), tables/*, and per model and study pairs/,
    dpo/ and explain-PROTOCOL/, each with the files of the command of that name. After an interruption, the same command
    continues. With a changed setting, only the steps that depend on it are run again.

    Presets: cpu-gemma-3-270m, cpu-smollm2-135m (two CPU cores), short (the main results), smoke (a tiny random model),
    paper-gpt2-medium, paper-gemma-2-2b, paper-llama-3.1-8b, paper-mistral-7b (the paper's settings), or a TOML file.

    Parameters
    ----------
    models
        Models: bundled names, folders, .gguf files or Hugging Face ids. Default: those of the preset.
    out
        Folder of all results: new, empty, or that of an earlier start of the same command.
    preset
        The studies to run: a name from above, or your own .toml file.
    borrow
        Folder of another run, or of a reproduction. Results that it has for the same model, data and settings are
        copied instead of computed again. May be given several times. Default: none.
    dry_run
        Show the plan: steps, finished steps, and time, memory and disk on this machine. Nothing is written.
    raw
        Write offensive words in tables without stars.
    json
        Print the plan, or the findings, as JSON.
    quiet
        No progress bars.
    """
    from dposcope.cli.console import print_table, reporting
    from dposcope.jobs.reproduce.job import run_reproduce
    from dposcope.jobs.reproduce.overview import findings_lines
    from dposcope.jobs.reproduce.plan import plan_reproduction
    from dposcope.jobs.reproduce.preset import load_preset
    from dposcope.jobs.run import lenders
    from dposcope.model.checks.layout_file import use_layout
    from dposcope.reading import read_object
    from dposcope.terminal import print_json, say

    chosen = load_preset(preset)
    if dry_run:
        from dposcope.jobs.estimate.machine import Machine
        from dposcope.jobs.opening import check_folder
        from dposcope.jobs.reproduce.checks import check_steps, read_here
        from dposcope.jobs.reproduce.estimate import estimate_plan, plan_table

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
        use_layout(settings.layout)
        made = run_reproduce(models, out, chosen, settings, raw=raw, reporter=bars, borrow=lenders(borrow or []))
    if json:
        print_json(read_object(out / "overview.json"))
        return
    for planned in made.steps:
        say(f"{planned.name}: {planned.step.folder}")
    for line in findings_lines(made.runs):
        say(line)
    say(f"report: {out / 'report.html'}")


def report(
    runs: Annotated[list[Path], Parameter(negative_iterable=())],
    /,
    *,
    out: Path | None = None,
    title: str | None = None,
    raw: bool = False,
) -> None:
    """Write the report of finished runs again, or compare several runs, without a model.

    dposcope report runs/explained --out runs/report

    Parameters
    ----------
    runs
        Folders of dposcope explain, or of dposcope reproduce (all explanations below it).
    out
        Folder for report.html and tables/*. Default: the folder of a single reproduction.
    title
        Title of the page. Default: the title of a single reproduction.
    raw
        Write offensive words in tables without stars.
    """
    from dposcope.jobs.ownership import refuse_foreign_report
    from dposcope.jobs.reproduce.finished import find_runs, title_of
    from dposcope.jobs.reproduce.overview import write_overview
    from dposcope.terminal import say

    target = out if out is not None else runs[0]
    finished = find_runs(runs, out=out)
    refuse_foreign_report(target)
    write_overview(target, finished, title=title or title_of(runs), raw=raw)
    say(f"report: {target / 'report.html'}")
