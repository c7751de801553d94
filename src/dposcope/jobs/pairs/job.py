"""`dposcope pairs`: preference pairs from a model, in parts that a crash cannot spoil (paper 3.1, SPEC 6 and 7).

While at work the parts lie in a hidden folder beside the file; at the end one file and its facts are
written and the folder goes. Killed at any point, the same command goes on and ends with the same bytes.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dposcope.artefacts import library_versions, read_sealed, sealed, value_digest, write_json
from dposcope.data.comments import direction_and_judge
from dposcope.data.corpus import load_neutral
from dposcope.data.prompts import load_split
from dposcope.data.text_prompts import cut_prompts
from dposcope.durable import place
from dposcope.errors import DposcopeError, plural
from dposcope.evaluation.conditions.scores import BASE
from dposcope.evaluation.direction_scorer import direction_scorer
from dposcope.evaluation.sampled.agreement import agreement
from dposcope.evaluation.scorer import Scorer
from dposcope.jobs.finished import Finished, plain
from dposcope.jobs.ingredients.data import read_comments
from dposcope.jobs.ingredients.direction import DIRECTIONS, check_direction, check_of_model
from dposcope.jobs.measuring.engine import Servers
from dposcope.jobs.named_files import named_files
from dposcope.jobs.pairs.parts import (
    PART,
    Part,
    SampledPairs,
    Source,
    SteeredPairs,
    Writing,
    direction_stage,
    make_parts,
)
from dposcope.jobs.pairs.settings import PairsSettings
from dposcope.jobs.processes.shared_run import open_shared_run
from dposcope.jobs.reporter import Quiet, Reporter
from dposcope.jobs.run import Run, RunPolicy
from dposcope.marks import FileMark, damage
from dposcope.model.cache import check_keys_and_values
from dposcope.model.chat.prompts import asked_by, asked_how
from dposcope.model.checks.identity import identity
from dposcope.model.engine.served import Served, Writer
from dposcope.model.generate import Sampling, generate
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import load_native
from dposcope.pairs.checks import PairStatistics, check_pairs
from dposcope.pairs.harmless import HarmlessTexts, write_harmless
from dposcope.pairs.pairs import Pairs, write_pairs
from dposcope.pairs.pplm import Perturbation
from dposcope.pairs.sampled import Pairer
from dposcope.processes.group import Processes
from dposcope.processes.shared import once, together
from dposcope.reading import read_object

KIND: Final = "dposcope pairs"
"""What the JSON beside a file of pairs says it is."""
_CODE: Final = "revision 2"
"""Of the code that makes pairs. Whoever changes what it computes raises the number; see `Run.stage`."""
_ELSEWHERE: Final = {
    *("prompts", "prompt_column", "report_prompts", "learn_text", "learn_text_column", "comments", "scorer", "concept"),
    *("count", "dtype", "device", "device_map", "shuffled", "quantise", "chat", "system", "wrap", "prefill", "engine"),
    *("base_url", "concurrency"),
}
"""Settings that decide a part by what they name, which stands among its inputs, or decide none."""


@dataclass(frozen=True)
class PairsMade:
    """What a finished run left."""

    path: Path
    """JSONL of pairs."""
    facts: dict[str, Any]
    """The JSON beside it: settings, versions, model, statistics."""
    statistics: PairStatistics
    """Of the pairs, as the JSON has them."""
    made_before: bool
    """The file was there already, made by the same settings."""


@dataclass(frozen=True)
class _Facts:
    """What is read of the JSON beside a file of pairs."""

    settings: dict[str, Any]
    statistics: PairStatistics
    finished: Finished


def run_pairs(
    model: str,
    out: Path,
    settings: PairsSettings,
    reporter: Reporter | None = None,
    *,
    policy: RunPolicy = RunPolicy(),  # noqa: B008 — frozen
) -> PairsMade:
    """Make pairs and write them to `out`, with their facts in a JSON file beside it.

    In several processes (`torchrun`, `accelerate launch`) each calls this, and they share the work.

    Args:
        model: a bundled name, a folder, a GGUF file or a hub id.
        out: the file, its name ending in .jsonl.
        settings: see `PairsSettings`.
        reporter: told of progress.
        policy: where it adopts, pairs that these settings do not make any more are replaced instead of refused.

    Raises:
        DposcopeError: bad input; `out` holds something else; no pair could be made.
    """
    processes = Processes.joined(settings.device)
    with together(processes):
        return _run_pairs(model, out, settings, (reporter if processes.is_main else None) or Quiet(), policy, processes)


def _run_pairs(
    model: str, out: Path, settings: PairsSettings, reporter: Reporter, policy: RunPolicy, processes: Processes
) -> PairsMade:
    once(lambda: check_out(out))
    servers = None
    if settings.base_url is not None:
        if not processes.alone:
            raise DposcopeError("--engine openai works in one process; start it without torchrun or accelerate")
        servers = Servers.read(settings.base_url, [], at_once=settings.concurrency)
    source = read_source(settings)
    asked, about, work = described(model, settings), out.with_suffix(".json"), out.with_name(f".{out.name}.making")
    before = once(lambda: _facts_of(out))
    fault = None if before is None else once(lambda: _fault(out, before, asked))
    if before is not None and fault is None:
        reporter.reused(f"Pairs in {out}")
        once(lambda: shutil.rmtree(work, ignore_errors=True))
        return PairsMade(out, read_sealed(about, dict[str, Any]), before.statistics, made_before=True)
    if fault is not None:
        if not policy.adopt:
            raise DposcopeError(f"{out} holds other pairs ({fault}); choose another --out, or delete that file")
        reporter.note(f"Pairs, once more: {fault}")
        once(lambda: _remove(out))
    read = named_files(asked)
    scorer = source.scorer(settings.scorer, seed=settings.seed)
    # The statistics of the finished pairs are by the true scorer.
    ranking = scorer.shuffled(settings.seed) if settings.shuffled else scorer
    with open_shared_run(work, "pairs", asked, processes=processes, reporter=reporter, policy=policy) as run:
        try:
            reporter.stage(f"Loading {model}")
            lm = asked_by(
                load_native(model, **settings.loading),
                settings.chat_options,
            )
            served = None if servers is None else _connected(servers, lm, source.texts, reporter)
            parts = _parts(run, lm, source, ranking, settings, served)
            data = source.digests | {"scorer": scorer.digest}
            made = once(lambda: _finish(run, out, lm, parts, scorer, settings, data=data, read=read, served=served))
        except DposcopeError:
            # Where no work would be lost, nothing is left behind, and other settings may follow in the same place.
            if processes.is_main and not any((work / "stages").glob("*.json")):
                shutil.rmtree(work, ignore_errors=True)
            raise
    once(lambda: shutil.rmtree(work, ignore_errors=True))
    return made


def _remove(out: Path) -> None:
    for stale in (out, harmless_file(out), out.with_suffix(".json")):
        stale.unlink(missing_ok=True)


def check_out(out: Path) -> None:
    """Refuse a file that can be none of this command's, without touching it.

    Raises:
        DposcopeError: its name does not end in .jsonl; or it, or the facts or harmless texts beside it, are someone
            else's.
    """
    if out.suffix != ".jsonl":
        raise DposcopeError(f"pairs are written as JSONL, and {out} does not end in .jsonl; give --out such a name")
    _facts_of(out)
    about, beside = out.with_suffix(".json"), harmless_file(out)
    # The facts are written before the texts, so texts without them are not ours.
    ours = read_object(about).get("finished", {}).get("files", {}) if about.exists() else {}
    if beside.exists() and beside.name not in ours:
        raise DposcopeError(
            f"{beside} would be overwritten and is not from dposcope pairs; choose another --out, or delete that file"
        )


def read_source(settings: PairsSettings) -> Source:
    """Read what settings name.

    Raises:
        DposcopeError: a file is missing, damaged or lacks a column.
    """
    if settings.method == "sample":
        how = "same" if settings.use == "all" else "halves"
        texts = load_split(settings.prompts, how, report=settings.report_prompts, column=settings.prompt_column).learn
        if settings.rank_by == "scorer":
            # The judge of every measure reads the second half.
            second = None if settings.comments is None else read_comments(settings).half("first")
            return Source(texts, second=second)
    else:
        texts = (load_neutral(settings.learn_text, column=settings.learn_text_column, option="--learn-text-column"),)
    check_direction(settings.direction, settings.meant)
    comments = direction_and_judge(read_comments(settings), direction_rows=settings.direction_rows).direction
    saved = None if settings.direction in DIRECTIONS else value_digest(settings.direction)
    return Source(texts, comments, saved)


def _parts(
    run: Run,
    lm: LanguageModel,
    source: Source,
    scorer: Scorer,
    settings: PairsSettings,
    served: Served | None,
) -> list[Part]:
    """All parts, by the method that settings name.

    Raises:
        DposcopeError: the text gives fewer prompts than pairs are wanted, or the model cannot be run so.
    """
    method, prompts = settings.method, source.texts
    made_from: dict[str, Any] = {
        "model": identity(lm),
        "device": lm.device.type,
        **asked_how(lm),
        "scorer": scorer.name,
        "scorer_digest": scorer.digest,
        "settings": settings.model_dump(mode="json", exclude=_ELSEWHERE),
        **source.digests,
    }
    if method == "pplm":  # before the direction: a text too short is told at once, and leaves nothing
        prompts = cut_prompts(
            source.texts[0],
            lm.tokenizer,
            count=settings.count,
            prompt_tokens=settings.prompt_tokens,
            seed=settings.seed,
            spare=True,
        )
    if served is not None:
        made_from["engine"] = served.identity
    direction, ranks = None, scorer
    if source.comments is not None:
        check_of_model(lm, settings.direction_spec, fits=settings.fits_direction)
        if method == "pplm":
            check_keys_and_values(lm.model)
        direction = direction_stage(run, lm, source.comments, settings.direction_spec, made_from)
        made_from["direction"] = value_digest(run.folder / "direction")
        if method == "sample":
            ranks = direction_scorer(lm, direction, source.comments.balanced(), batch_size=settings.batch_size)
            ranks = ranks.shuffled(settings.seed) if settings.shuffled else ranks
    writing = Writing(settings.new_tokens, settings.max_prompt_tokens, settings.batch_size)
    if method == "pplm" and direction is not None:
        make = SteeredPairs(lm, direction, scorer, _perturbation(settings), writing)
    else:
        sampling = Sampling(settings.temperature, settings.top_p, settings.seed)
        make = SampledPairs(lm, ranks, _pairer(settings), settings.samples, sampling, writing, _writer(served))
    # Scores are shuffled among the samples of all prompts, so these are one part.
    size = len(prompts) if settings.shuffled else PART[method]
    return list(make_parts(run, make, prompts, made_from, method=method, most=settings.most, size=size))


def _connected(servers: Servers, lm: LanguageModel, prompts: Sequence[str], reporter: Reporter) -> Served:
    """The server that samples, which has the model.

    Raises:
        DposcopeError: it fails, or has another one.
    """
    served = servers.connect(reporter, lm, prompts)[BASE]
    found = agreement(lm, served.probes).check(served.name, lm.name)
    if found.note is not None:
        reporter.note(f"{served.name}: {found.note}.")
    return served


def _writer(served: Served | None) -> Writer:
    return generate if served is None else served.write


def _perturbation(settings: PairsSettings) -> Perturbation:
    return Perturbation(
        step_size=settings.step_size,
        iterations=settings.iterations,
        horizon=settings.horizon,
        window=settings.window,
        gamma=settings.gamma,
        gm_scale=settings.gm_scale,
        kl_scale=settings.kl_scale,
        top_k=settings.top_k,
        sample=settings.draw,
        seed=settings.seed,
    )


def _pairer(settings: PairsSettings) -> Pairer:
    return Pairer(
        settings.pairing,
        settings.preferred_below,
        settings.dispreferred_from,
        settings.min_gap,
        settings.pairs_per_prompt,
        settings.seed,
    )


def harmless_file(pairs: Path) -> Path:
    """Where the harmless continuations stand that were sampled with pairs: `NAME.harmless.jsonl`."""
    return pairs.with_suffix(".harmless.jsonl")


def described(model: str, settings: PairsSettings) -> dict[str, Any]:
    """What decides the pairs, as their facts name it."""
    return plain({"model": model, **settings.model_dump(mode="json", exclude={"concurrency"})})


def pairs_finished(model: str, out: Path, settings: PairsSettings) -> bool:
    """Whether the pairs are there that these settings make; no model is needed.

    Raises:
        DposcopeError: the file is someone else's.
    """
    facts = _facts_of(out)
    return facts is not None and _fault(out, facts, described(model, settings)) is None


def _finish(
    run: Run,
    out: Path,
    lm: LanguageModel,
    parts: Sequence[Part],
    scorer: Scorer,
    settings: PairsSettings,
    *,
    data: dict[str, str],
    read: dict[str, str],
    served: Served | None,
) -> PairsMade:
    """Write the file of pairs and the facts beside it."""
    kept = [pair for part in parts for pair in part.kept][: settings.most]
    if not kept:
        shutil.rmtree(run.folder / "stages", ignore_errors=True)
        raise DposcopeError(_mend_nothing(settings))
    pairs = Pairs.of(one.pair for one in kept)
    # All files are written in the folder of the work and renamed, so that a kill leaves nothing beside them.
    harmless, beside = [one for part in parts for one in part.harmless], harmless_file(out)
    whole, texts, told = (run.folder / name for name in ("pairs.jsonl", "harmless.jsonl", "facts.json"))
    if harmless:
        write_harmless(
            texts,
            HarmlessTexts(tuple(one.prompt for one in harmless), tuple(one.text for one in harmless)),
            [one.score for one in harmless],
        )
    write_pairs(
        whole,
        pairs,
        extra={
            "method": [settings.method] * len(kept),
            "preferred_score": [one.preferred_score for one in kept],
            "dispreferred_score": [one.dispreferred_score for one in kept],
        },
    )
    # The facts come first, and tell of the file what it will be: a file of pairs is then never without them.
    marks = {out.name: FileMark.of(whole)} | ({beside.name: FileMark.of(texts)} if harmless else {})
    end = Finished(read, _CODE, library_versions(), marks)
    statistics = check_pairs(pairs, lm.tokenizer, scorer)
    facts: dict[str, Any] = {
        "kind": KIND,
        "settings": run.settings,
        "data": data,
        "model": {
            "name": lm.name,
            "fingerprint": lm.fingerprint,
            "dtype": str(lm.dtype).removeprefix("torch."),
            **asked_how(lm),
            **({} if served is None else {"engine": served.identity}),
        },
        "harmless": len(harmless),
        "left_out": {"identical": sum(part.identical for part in parts), "blank": sum(part.blank for part in parts)},
        "statistics": statistics.to_json(),
        "finished": end.to_json(),
    }
    write_json(told, sealed(facts))
    if not harmless:
        beside.unlink(missing_ok=True)
    place(told, out.with_suffix(".json"))
    if harmless:
        place(texts, beside)
    place(whole, out)
    return PairsMade(out, facts, statistics, made_before=False)


def _facts_of(out: Path) -> _Facts | None:
    """The facts of finished pairs; None when there are no such pairs yet.

    Raises:
        DposcopeError: either file is someone else's, or the facts are damaged.
    """
    about = out.with_suffix(".json")
    if about.exists() and read_object(about, mend="choose another --out").get("kind") != KIND:
        raise DposcopeError(f"{about} would be overwritten and is not from dposcope pairs; choose another --out")
    if not out.exists():
        return None
    if not about.exists():
        raise DposcopeError(f"{out} exists already and is not from dposcope pairs; choose another --out")
    return read_sealed(about, _Facts, mend=f"delete it and {out}, and run again")


def _fault(out: Path, facts: _Facts, asked: dict[str, Any]) -> str | None:
    """Why finished pairs are not those that these settings make now; None: they are."""
    return facts.finished.fault(facts.settings, asked, code=_CODE) or damage(out.parent, facts.finished.files)


def _mend_nothing(settings: PairsSettings) -> str:
    if settings.method == "pplm":
        return "steering changed no text; raise --step-size, --iterations or --gm-scale"
    if settings.pairing == "random":
        return (
            f"no prompt gave both a continuation that scores below {settings.preferred_below} and one that scores "
            f"{settings.dispreferred_from} or more; raise --samples (now "
            f"{plural(settings.samples, 'continuation')} each), move --preferred-below or --dispreferred-from, choose "
            "--pairing extremes, or give prompts that draw the concept"
        )
    return (
        f"no prompt gave two continuations whose scores differ by more than {settings.min_gap}; lower --min-gap, raise "
        f"--samples (now {plural(settings.samples, 'continuation')} each), or give prompts that draw the concept"
    )
