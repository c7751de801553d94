"""A run at work, and what is checked before anything is computed."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from dposcope.evaluation.conditions.measure import PASSAGE_TOKENS, PROMPT_TOKENS, REFERENCE_PROMPT
from dposcope.evaluation.overlap import GENERATED_TOKENS
from dposcope.evaluation.perplexity import check_window, longest_window
from dposcope.jobs.ingredients.data import Data
from dposcope.jobs.ingredients.direction import check_of_model
from dposcope.jobs.run import Run
from dposcope.jobs.settings import MeasureSettings
from dposcope.model.chat.cut import Side
from dposcope.model.chat.prompts import asked_by, asked_how, encode_prompts
from dposcope.model.checks.identity import identity
from dposcope.model.generate import check_room
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import load_native
from dposcope.protocols import LEAST_ITEMS

_OR_FRAME: Final = "or what --wrap, --system and --prefill add"
"""What else takes room."""


@dataclass(frozen=True, eq=False)
class Job:
    """A run at work: its folder, its model, its data."""

    run: Run
    lm: LanguageModel
    data: "Data"

    @classmethod
    def begin(
        cls,
        run: Run,
        model: str,
        data: "Data",
        settings: MeasureSettings,
        *,
        searched: str | None = None,
        learns: bool = True,
    ) -> "Job":
        """Load the model, and check what only its tokenizer can tell.

        Args:
            run: open.
            model: its name.
            data: read.
            settings: say how the model is loaded and asked.
            searched: neutral text that a strength is searched on, if there is a search.
            learns: whether prompts to learn from are read.

        Raises:
            DposcopeError: the model cannot be loaded or asked so, or see `check_fits`.
        """
        run.reporter.stage(f"Loading {model}")
        lm = load_native(model, **settings.loading)
        job = cls(run, asked_by(lm, settings.chat_options), data)
        check_fits(job.lm, data, settings, searched, learns=learns)
        data.tell(run.reporter)  # now: a model that cannot be loaded is told in one line
        return job

    @cached_property
    def model(self) -> dict[str, Any]:
        """What identifies the loaded model, for the stages' inputs. The model must not change meanwhile."""
        known = {"fingerprint": self.lm.fingerprint, "identity": identity(self.lm)}
        return {**known, "device": self.lm.device.type, **asked_how(self.lm)}


def check_fits(
    lm: LanguageModel, data: Data, settings: MeasureSettings, searched: str | None = None, *, learns: bool = True
) -> None:
    """Refuse data that the model cannot read, and a direction that it cannot have, before anything is computed.

    Args:
        lm: the model; its weights are not read.
        data: all of it.
        settings: say which direction, and whether one is fitted.
        searched: text that a strength is searched on, if there is a search.
        learns: whether prompts to learn from are read. They come first; those to report on are looked at in their
            turn, or here where nothing comes before them.

    Raises:
        DposcopeError: `window_losses` would find no window, or a search too few for an interval; a prompt that is read
            first, or a passage, leaves no room for a continuation; a direction is from a block that is not there, or of
            another width.
    """
    report = data.report
    if searched is not None:
        longest_window(lm, searched, least=LEAST_ITEMS)
    check_window(lm, report.neutral, protocol=report.protocol, skip_windows=report.skip_windows)
    reference = report.protocol == "reference"
    keep: Side = "start" if reference else "end"
    most = REFERENCE_PROMPT if reference else PROMPT_TOKENS
    if learns:
        first = encode_prompts(lm, data.learn, max_tokens=None if reference else PROMPT_TOKENS)
    else:
        first = encode_prompts(lm, report.prompts, max_tokens=most, keep=keep)
    check_room(lm, first, GENERATED_TOKENS, mend=f"shorten the prompts, {_OR_FRAME}")
    most = REFERENCE_PROMPT if reference else PASSAGE_TOKENS
    passages = encode_prompts(lm, report.passages.prompts, max_tokens=most, keep=keep)
    check_room(lm, passages, GENERATED_TOKENS, mend=f"shorten the passages, {_OR_FRAME}")
    check_of_model(lm, settings.direction_spec, fits=settings.fits_direction)
