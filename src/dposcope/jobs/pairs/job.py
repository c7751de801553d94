"""`dposcope pairs`: preference pairs from a model, in parts that a crash cannot spoil (paper 3.1, SPEC 6 and 7).

While at work the parts lie in a hidden folder beside the file; at the end one file and its facts are
written and the folder goes. Killed at any point, the same command goes on and ends with the same bytes.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dposcope.artefacts import file_digest, library_versions, read_json, write_json
from dposcope.errors import DposcopeError, plural
from dposcope.evaluation.scorer import Scorer
from dposcope.jobs.pairs.parts import Part, Source, make_parts
from dposcope.jobs.pairs.settings import PairsSettings
from dposcope.jobs.run import Quiet, Reporter, Run, RunPolicy, open_run
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import load_native
from dposcope.pairs.checks import check_pairs
from dposcope.pairs.pairs import Pairs, write_pairs

KIND: Final = "dposcope pairs"
"""What the JSON beside a file of pairs says it is."""


@dataclass(frozen=True)
class PairsMade:
    """What a finished run left."""

    path: Path
    """JSONL of pairs."""
    facts: dict[str, Any]
    """The JSON beside it: settings, versions, model, statistics."""
    made_before: bool
    """The file was there already, made by the same settings."""


def run_pairs(
    model: str,
    out: Path,
    settings: PairsSettings,
    reporter: Reporter | None = None,
    *,
    policy: RunPolicy = RunPolicy(),  # noqa: B008 — frozen
) -> PairsMade:
    """Make pairs and write them to `out`, with their facts in a JSON file beside it.

    Args:
        model: a bundled name, a folder, a GGUF file or a hub id.
        out: the file, its name ending in .jsonl.
        settings: see `PairsSettings`.
        reporter: told of progress.
        policy: where it adopts, pairs that other settings or other weights made are replaced instead of refused.

    Raises:
        DposcopeError: bad input; `out` holds something else; no pair could be made.
    """
    reporter = reporter or Quiet()
    if out.suffix != ".jsonl":
        raise DposcopeError(f"pairs are written as JSONL, and {out} does not end in .jsonl; give --out such a name")
    source = Source.read(settings)
    asked: dict[str, Any] = json.loads(json.dumps({"model": model, **settings.model_dump(mode="json")}, default=str))
    work, about = out.with_name(f".{out.name}.making"), out.with_suffix(".json")
    scorer = source.scorer(settings)
    # The statistics of the finished pairs are by the true scorer.
    ranking = scorer.shuffled(settings.seed) if settings.shuffled else scorer
    # Its name stands among the settings; what is behind the name may change.
    data = source.digests | {"scorer": scorer.digest}
    try:
        before = _made_before(out, about, {"settings": asked, "data": data})
        if before is not None and policy.adopt:
            _check_model(out, before, load_native(model, dtype=settings.dtype, device=settings.device))
    except DposcopeError:
        if not policy.adopt:
            raise
        before = None
        for stale in (out, about):
            stale.unlink(missing_ok=True)
    if before is not None:
        reporter.reused(f"Pairs in {out}")
        shutil.rmtree(work, ignore_errors=True)
        return PairsMade(out, before, made_before=True)
    with open_run(work, "pairs", asked, reporter=reporter, policy=policy) as run:
        try:
            reporter.stage(f"Loading {model}")
            lm = load_native(model, dtype=settings.dtype, device=settings.device)
            parts = list(make_parts(run, lm, source, ranking, settings))
            facts = _finish(run, out, lm, parts, scorer, settings, data=data)
        except DposcopeError:
            # Where no work would be lost, nothing is left behind, and other settings may follow in the same place.
            if not any((work / "stages").glob("*.json")):
                shutil.rmtree(work, ignore_errors=True)
            raise
    shutil.rmtree(work, ignore_errors=True)
    return PairsMade(out, facts, made_before=False)


def _finish(
    run: Run,
    out: Path,
    lm: LanguageModel,
    parts: Sequence[Part],
    scorer: Scorer,
    settings: PairsSettings,
    *,
    data: dict[str, str],
) -> dict[str, Any]:
    """Write the file of pairs and the facts beside it, and give the facts."""
    kept = [pair for part in parts for pair in part.kept][: settings.most]
    if not kept:
        shutil.rmtree(run.folder / "stages", ignore_errors=True)
        raise DposcopeError(_mend_nothing(settings))
    pairs = Pairs.of(one.pair for one in kept)
    whole = run.folder / "pairs.jsonl"
    write_pairs(
        whole,
        pairs,
        extra={
            "method": [settings.method] * len(kept),
            "preferred_score": [one.preferred_score for one in kept],
            "dispreferred_score": [one.dispreferred_score for one in kept],
        },
    )
    facts = {
        "kind": KIND,
        "settings": run.settings,
        "data": data,
        "model": {"name": lm.name, "fingerprint": lm.fingerprint, "dtype": str(lm.dtype).removeprefix("torch.")},
        "versions": library_versions(),
        "sha256": file_digest(whole),
        "left_out": {"identical": sum(part.identical for part in parts), "blank": sum(part.blank for part in parts)},
        "statistics": check_pairs(pairs, lm.tokenizer, scorer).to_json(),
    }
    # The facts come first: a file of pairs is then never without them.
    write_json(out.with_suffix(".json"), facts)
    whole.replace(out)
    return facts


def _made_before(out: Path, about: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """The facts of `out` when it is what these settings made; None when there is no such file yet.

    Raises:
        DposcopeError: either file is someone else's.
    """
    facts: dict[str, Any] = {}
    if about.exists():
        found = read_json(about)
        if not isinstance(found, dict) or found.get("kind") != KIND:
            raise DposcopeError(f"{about} would be overwritten and is not from dposcope pairs; choose another --out")
        facts = found
    if not out.exists():
        return None
    if not facts:
        raise DposcopeError(f"{out} exists already and is not from dposcope pairs; choose another --out")
    # A file from before an option was there was made as its default has it.
    usual = {name: field.default for name, field in PairsSettings.model_fields.items()}
    for name, wanted in asked.items():
        for key in {**facts[name], **wanted}:
            old, new = facts[name].get(key, usual.get(key) if name == "settings" else None), wanted.get(key)
            if old != new:
                what = f"--{key.replace('_', '-')} was {old!r}, now {new!r}" if name == "settings" else f"another {key}"
                raise DposcopeError(f"{out} holds other pairs ({what}); choose another --out, or delete that file")
    if file_digest(out) != facts["sha256"]:
        raise DposcopeError(f"{out} was changed since it was made; choose another --out, or delete that file")
    return facts


def _check_model(out: Path, facts: dict[str, Any], lm: LanguageModel) -> None:
    """Refuse pairs of a model that bore the same name.

    Raises:
        DposcopeError: its weights are others.
    """
    if facts["model"]["fingerprint"] != lm.fingerprint:
        raise DposcopeError(f"{out} holds pairs of other weights; choose another --out, or delete that file")


def _mend_nothing(settings: PairsSettings) -> str:
    if settings.method == "pplm":
        return "steering changed no text; raise --step-size, --iterations or --gm-scale"
    return (
        f"no prompt gave two continuations whose scores differ by more than {settings.min_gap}; lower --min-gap, raise "
        f"--samples (now {plural(settings.samples, 'continuation')} each), or give prompts that draw the concept"
    )
