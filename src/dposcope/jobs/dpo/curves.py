"""The curves of a training: loss, accuracy, margin and KL over the pairs seen."""

from collections.abc import Mapping, Sequence
from functools import partial

from matplotlib.figure import Figure

from dposcope.report.figures import COLOURS, MUTED, house_style
from dposcope.training.schedule import examples_seen

_PANELS = (
    ("loss", "loss", None),
    ("accuracy", "pairs told apart", 0.5),
    ("margin", "reward margin", 0.0),
    ("kl", "KL, nats per token", 0.0),
)
_TAUGHT = ("distillation", "KL from the teacher, nats", 0.0)
_COLUMNS = 2


def training_curves(
    history: Sequence[Mapping[str, float]], *, pairs: int, batch_size: int, best_step: int | None = None
) -> Figure:
    """A panel for each curve that there is, a fifth with a teacher; training in one colour, validation in another.

    Args:
        history: what was logged, see `Trained.history`.
        pairs: that are learned from: the axis counts pairs, see `examples_seen`.
        batch_size: pairs per step.
        best_step: the step whose parameters were taken, marked; None: the last.
    """
    taught = any(name in entry for entry in history for name in ("distillation", "eval_distillation"))
    panels = (*_PANELS, _TAUGHT) if taught else _PANELS
    rows = -(-len(panels) // _COLUMNS)
    seen = partial(examples_seen, pairs=pairs, batch_size=batch_size)
    with house_style():
        figure = Figure(figsize=(7.2, 2.2 * rows), layout="constrained")
        every = list(figure.subplots(rows, _COLUMNS).flat)
        for axes in every[len(panels) :]:
            axes.remove()
        drawn = every[: len(panels)]
        for axes, (name, label, level) in zip(drawn, panels, strict=True):
            if level is not None:
                axes.axhline(level, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
            if best_step is not None:
                axes.axvline(seen(best_step), color=MUTED, linewidth=0.9)
            for prefix, role, legend in (("", "base", "training"), ("eval_", "edit", "validation")):
                points = [entry for entry in history if f"{prefix}{name}" in entry]
                steps = [seen(int(entry["step"])) for entry in points]
                values = [entry[f"{prefix}{name}"] for entry in points]
                marker = {"base": None, "edit": "D"}[role]
                axes.plot(steps, values, color=COLOURS[role], marker=marker, markersize=3.5, label=legend)
            axes.set_ylabel(label)
            axes.grid()
        for axes in drawn[-_COLUMNS:]:
            axes.set_xlabel("pairs seen")
        drawn[0].legend(frameon=False)
        return figure
