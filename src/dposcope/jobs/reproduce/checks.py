"""Check all steps before a reproduction starts, so that an error in the last step does not show up after a day."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from dposcope.data.corpus import load_neutral
from dposcope.data.hub import is_hub_spec
from dposcope.data.text_prompts import cut_prompts
from dposcope.directions.judge import load_judge
from dposcope.errors import DposcopeError
from dposcope.evaluation.scorers import load_scorer
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.explain.job import check_explain
from dposcope.jobs.explain.settings import ExplainSettings
from dposcope.jobs.ingredients.data import read_data
from dposcope.jobs.pairs.job import read_source
from dposcope.jobs.pairs.settings import PairsSettings
from dposcope.jobs.reproduce.plan import Step
from dposcope.model.bundled import BUNDLED
from dposcope.model.outline import outline


def read_here(step: Step) -> bool:
    """Whether everything that the step reads is on this machine; planning downloads nothing."""
    settings = step.settings.model_dump(mode="json")
    values = [item for value in settings.values() for item in (value if isinstance(value, list) else [value])]
    scorer = settings.get("scorer", "")
    on_hub = any(isinstance(item, str) and is_hub_spec(item) for item in values)
    return not on_hub and ("/" not in scorer or Path(scorer).exists())


def _is_built(model: str) -> bool:
    return model in BUNDLED and BUNDLED[model].ready


def _check_prompts(model: str, settings: PairsSettings, text: str) -> None:
    """Refuse a text that gives fewer prompts than pairs are wanted."""
    cut_prompts(
        text,
        outline(model).lm.tokenizer,
        count=settings.count,
        prompt_tokens=settings.prompt_tokens,
        seed=settings.seed,
        spare=True,
    )


def check_steps(steps: Sequence[Step]) -> None:
    """Read all data of the steps, and load their scorers and judges.

    Raises:
        DposcopeError: a file is missing, damaged or lacks a column; or a package that a step needs is missing.
    """
    for step in steps:
        match step.settings:
            case PairsSettings():
                source = read_source(step.settings)
                if step.settings.method == "pplm" and (Path(step.model).is_dir() or _is_built(step.model)):
                    _check_prompts(step.model, step.settings, source.texts[0])
            case DpoSettings():
                load_neutral(
                    step.settings.learn_text, column=step.settings.learn_text_column, option="--learn-text-column"
                )
                if step.settings.train == "lora" and find_spec("peft") is None:
                    raise DposcopeError("train = 'lora' needs the package peft; run: pip install 'dposcope[train]'")
            case ExplainSettings():
                check_explain(step.settings)
                read_data(step.settings)
                load_judge(
                    step.settings.token_judge, concept=step.settings.meant, scorer=load_scorer(step.settings.scorer)
                )
    for scorer in sorted({step.settings.scorer for step in steps if not isinstance(step.settings, DpoSettings)}):
        load_scorer(scorer)
