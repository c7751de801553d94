"""`dposcope edit` from end to end on a tiny model, every number of it made again in another way."""

import itertools
import json
import math
import re
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from dposcope.cli.shown.ends import say_checkpoint
from dposcope.directions.direction import Direction
from dposcope.errors import DposcopeError
from dposcope.evaluation.trained_scorer import TrainedScorer
from dposcope.interventions.edit import Edit
from dposcope.jobs.edit import report as edit_report
from dposcope.jobs.edit.choice import GAIN_SHARE, SEARCH_WINDOWS
from dposcope.jobs.edit.job import EditRun, run_edit
from dposcope.jobs.edit.settings import EditSettings
from dposcope.jobs.ingredients import job as job_at_work
from dposcope.model.generate import generate
from dposcope.model.load import load
from dposcope.reading import read_object
from helpers.intervals import interval
from helpers.jobs import PASSAGES, PROMPTS, Job, contents, make_job, softness
from helpers.light import TOKENS
from helpers.quantised import in_bytes

pytestmark = pytest.mark.usefixtures("light")

REPORTED = PROMPTS // 2
MEASURES = ["toxicity", "judge", "repetition", "empty", "f1", "logppl", "harmless_logppl", "relevance"]


@dataclass(frozen=True)
class Done:
    """A finished run and what it started from."""

    job: Job
    run: EditRun
    before: dict[str, bytes]
    """Files of the model before the run."""

    @property
    def folder(self) -> Path:
        return self.run.folder


def edited(job: Job, folder: Path, **settings) -> EditRun:
    return run_edit(str(job.model), folder, EditSettings(**job.settings(**settings)))


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    return make_job(tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module")
def done(job, tmp_path_factory) -> Done:
    """The default edit: direction, search, controls."""
    before = contents(job.model)
    return Done(job, edited(job, tmp_path_factory.mktemp("run") / "out"), before)


@pytest.fixture(scope="module")
def fixed(job, tmp_path_factory) -> EditRun:
    """An edit whose strength was given."""
    return edited(job, tmp_path_factory.mktemp("fixed") / "out", alpha=0.4, ablate=0.7, beta=0.3)


def naive_windows(folder: Path, text: str, count: int, *, skip: int = 0, context: int = 128) -> list[list[int]]:
    """Whole windows, each beginning with <bos>, of a text whose lines are joined by two newlines."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("\n\n".join(text.removesuffix("\n").split("\n")), add_special_tokens=False)["input_ids"]
    room = context - 1
    whole = [ids[start : start + room] for start in range(0, len(ids) - room + 1, room)]
    return [[tokenizer.bos_token_id, *part] for part in whole[skip : skip + count]]


@torch.no_grad()
def naive_nll(model, windows: list[list[int]]) -> list[float]:
    """Summed negative log-likelihood of each window."""
    result = []
    for ids in windows:
        logs = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        result.append(-float(logs[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].sum()))
    return result


@torch.no_grad()
def naive_text(model, tokenizer, prompt: str, *, longest: int, new: int = TOKENS) -> str:
    """A greedy continuation by whole plain passes, the prompt's end kept."""
    ids = tokenizer(prompt)["input_ids"]
    assert len(ids) <= longest  # or the cut would have to be written here too
    start = len(ids)
    ends = model.generation_config.eos_token_id
    for _ in range(new):
        token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token in ends:
            break
        ids = [*ids, token]
    return tokenizer.decode(ids[start:], skip_special_tokens=True)


def plain(folder: Path):
    """What a user without dposcope loads."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(
        folder
    )


# What is left in the folder


def test_the_folder_holds_what_the_command_promises(done):
    names = {path.name for path in done.folder.iterdir()}
    assert names == {
        ".lock",
        "conditions",
        "direction.json",
        "direction.safetensors",
        "edit.json",
        "edit.safetensors",
        "ideal.json",
        "judge.json",
        "judge.safetensors",
        "means.json",
        "means.safetensors",
        "model",
        "report.html",
        "run.json",
        "samples.parquet",
        "scores.json",
        "scores.parquet",
        "search.json",
        "stages",
    }
    assert {path.name for path in (done.folder / "model").iterdir()} == {
        "README.md",
        "config.json",
        "dposcope_edit.json",
        "dposcope_edit.safetensors",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert {path.stem for path in (done.folder / "conditions").iterdir()} == {"none", "edit", "control", "ideal"}


def test_files_are_as_readable_as_any_other(done):
    """A checkpoint that only its maker may read cannot be served by another account."""
    plain_file = done.folder.parent / "plain"
    plain_file.write_text("x")
    expected = plain_file.stat().st_mode & 0o777
    modes = {str(path): path.stat().st_mode & 0o777 for path in done.folder.rglob("*") if path.is_file()}
    assert {name: mode for name, mode in modes.items() if mode != expected and not name.endswith(".lock")} == {}
    assert (done.folder / "model").stat().st_mode & 0o777 == 0o755


def test_the_users_model_is_left_alone(done):
    assert contents(done.job.model) == done.before


def test_scores_have_the_documented_layout(done):
    scores = json.loads((done.folder / "scores.json").read_text())
    assert scores["protocol"] == "strict"
    assert scores["model"] == done.job.model.name
    assert list(scores["conditions"]) == ["none", "edit", "control", "ideal"]
    harmless = len(json.loads((done.folder / "ideal.json").read_text())["texts"])
    counts = {"f1": PASSAGES, "logppl": 3, "harmless_logppl": harmless}
    for condition, measures in scores["conditions"].items():
        assert sorted(measures) == sorted(("toxicity", "judge", "relevance") if condition == "ideal" else MEASURES)
        for name, estimate in measures.items():
            assert list(estimate) == ["mean", "low", "high", "n"]
            if name != "relevance":  # of texts with a token
                assert estimate["n"] == (harmless if condition == "ideal" else counts.get(name, REPORTED))
            if estimate["n"] < 10:
                assert (estimate["low"], estimate["high"]) == (None, None)
            else:
                assert estimate["low"] <= estimate["mean"] <= estimate["high"]


def test_tables_carry_protocol_model_and_condition(done):
    scores = pl.read_parquet(done.folder / "scores.parquet")
    assert scores.columns == ["protocol", "model", "fingerprint", "condition", "measure", "mean", "low", "high", "n"]
    stored = json.loads((done.folder / "scores.json").read_text())
    as_json = {
        (row["condition"], row["measure"]): {name: row[name] for name in ("mean", "low", "high", "n")}
        for row in scores.iter_rows(named=True)
    }
    assert as_json == {(c, m): e for c, measures in stored["conditions"].items() for m, e in measures.items()}
    samples = pl.read_parquet(done.folder / "samples.parquet")
    assert samples.columns == [
        *("protocol", "model", "fingerprint", "condition", "row", "prompt", "continuation"),
        *("toxicity", "judge", "repetition", "empty"),
    ]
    assert len(samples) == 3 * REPORTED
    for frame, more in ((scores, ["ideal"]), (samples, [])):
        assert frame["protocol"].unique().to_list() == ["strict"]
        assert frame["model"].unique().to_list() == [done.job.model.name]
        assert frame["condition"].unique(maintain_order=True).to_list() == ["none", "edit", "control", *more]


def test_prompts_of_the_first_half_are_reported(done):
    rows = [json.loads(line)["prompt"] for line in done.job.prompts.read_text().splitlines()]
    samples = pl.read_parquet(done.folder / "samples.parquet")
    for condition in ("none", "edit", "control"):
        assert samples.filter(condition=condition).sort("row")["prompt"].to_list() == rows[:REPORTED]


# Numbers, made again


def test_toxicity_judge_and_repetition_follow_from_the_samples(done):
    scores = json.loads((done.folder / "scores.json").read_text())["conditions"]
    judge = TrainedScorer.load(done.folder / "judge")
    for (condition,), rows in pl.read_parquet(done.folder / "samples.parquet").group_by("condition"):
        texts = rows["continuation"].to_list()
        words = [re.findall(r"\w+", text.lower()) for text in texts]
        grams = [list(itertools.pairwise(one)) for one in words]
        expected = {
            "toxicity": [value if text.strip() else 0.0 for text, value in zip(texts, softness(texts), strict=True)],
            "judge": judge(texts),
            "repetition": [1 - len(set(one)) / len(one) if one else 0.0 for one in grams],
            "empty": [float(not one) for one in words],
        }
        for measure, values in expected.items():
            assert rows[measure].to_list() == pytest.approx(list(values), abs=1e-12)
            found = scores[condition][measure]
            assert found["mean"] == pytest.approx(np.mean(values), abs=1e-12)
            low, high = interval(rows.sort("row")[measure].to_numpy())
            assert (found["low"], found["high"]) == pytest.approx((low, high), abs=0.09)


def test_logppl_of_the_plain_model_equals_a_naive_pass(done):
    model, _ = plain(done.job.model)
    windows = naive_windows(done.job.model, done.job.neutral.read_text(), 3)
    assert len(windows) == 3
    nll = naive_nll(model, windows)
    stored = json.loads((done.folder / "conditions" / "none.json").read_text())
    assert stored["window_nll"] == pytest.approx(nll, rel=1e-5)
    assert stored["window_tokens"] == [127] * 3
    scores = json.loads((done.folder / "scores.json").read_text())["conditions"]["none"]["logppl"]
    assert scores["mean"] == pytest.approx(sum(nll) / (3 * 127), rel=1e-5)


def test_differences_are_paired(done):
    scores = json.loads((done.folder / "scores.json").read_text())
    parts = {path.stem: json.loads(path.read_text()) for path in (done.folder / "conditions").iterdir()}
    assert sorted(scores["against_none"]) == ["control", "edit"]
    for name, comparison in scores["against_none"].items():
        for measure in ("toxicity", "judge", "repetition", "empty"):
            pairs = np.subtract(parts[name]["per_prompt"][measure], parts["none"]["per_prompt"][measure])
            found = comparison["difference"][measure]
            assert found["mean"] == pytest.approx(pairs.mean(), abs=1e-12)
            assert (found["low"], found["high"]) == pytest.approx(interval(pairs), abs=0.09)
        rise = np.subtract(parts[name]["window_nll"], parts["none"]["window_nll"]).sum() / (3 * 127)
        assert comparison["difference"]["logppl"]["mean"] == pytest.approx(rise, rel=1e-9)
        assert comparison["difference"]["f1"]["mean"] == pytest.approx(
            np.mean(parts[name]["f1"]) - np.mean(parts["none"]["f1"]), abs=1e-12
        )
        ratio = np.mean(parts[name]["per_prompt"]["toxicity"]) / np.mean(parts["none"]["per_prompt"]["toxicity"])
        assert comparison["toxicity_ratio"]["ratio"] == pytest.approx(ratio, rel=1e-9)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3"])
def test_the_checkpoint_is_the_hooked_model(family, tmp_path):
    """SPEC 8: nothing but transformers, and the same texts and log-perplexity as measured with hooks."""
    job = make_job(tmp_path / "job", family)
    run = edited(job, tmp_path / "out", alpha=0.5, ablate=1.0, controls=False)
    model, tokenizer = plain(run.folder / "model")
    samples = pl.read_parquet(run.folder / "samples.parquet").sort("row")
    for condition, one in (("none", plain(job.model)[0]), ("edit", model)):
        rows = samples.filter(condition=condition)
        texts = [naive_text(one, tokenizer, prompt, longest=108) for prompt in rows["prompt"]]
        assert rows["continuation"].to_list() == texts
    edits = samples.filter(condition="edit")["continuation"].to_list()
    assert edits != samples.filter(condition="none")["continuation"].to_list()  # the edit does something at all
    nll = naive_nll(model, naive_windows(job.model, job.neutral.read_text(), 3))
    found = run.scores.conditions["edit"]["logppl"].mean
    assert found == pytest.approx(sum(nll) / (3 * 127), abs=1e-4)
    assert model.config.to_dict()["model_type"] == plain(job.model)[0].config.to_dict()["model_type"]
    assert sorted(model.state_dict()) == sorted(plain(job.model)[0].state_dict())
    assert model.generation_config.eos_token_id == plain(job.model)[0].generation_config.eos_token_id


def test_the_checkpoint_is_the_plain_model_folded_by_hand(fixed, job):
    """V := diag(g) V (I − w u uᵀ) in float64, on the weights as they are stored."""
    old, new = (load_file(folder / "model.safetensors") for folder in (job.model, fixed.folder / "model"))
    tensors = load_file(fixed.folder / "edit.safetensors")
    gains, u = tensors["gains"].double(), load_file(fixed.folder / "direction.safetensors")["vector"].double()
    u = u / u.norm()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == {name for name in old if "down_proj" in name or "o_proj" in name}
    for name in changed:
        rows = old[name].double().T
        if "down_proj" in name:
            rows = gains[int(re.search(r"layers\.(\d+)", name).group(1))].unsqueeze(1) * rows
        rows = rows - 0.7 * torch.outer(rows @ u, u)
        assert torch.allclose(new[name].double(), rows.T, atol=1e-6)


# The edit


def naive_groups(run: EditRun, model: Path) -> dict[str, list[tuple[int, int]]]:
    """Neurons of each group, strongest |cosine| first, from stored weights, direction and means."""
    weights = load_file(model / "model.safetensors")
    w = load_file(run.folder / "direction.safetensors")["vector"].double()
    means = load_file(run.folder / "means.safetensors")["mean"].double()
    groups: dict[str, list[tuple[float, int, int]]] = {name: [] for name in ("TP", "TN", "AP", "AN")}
    for block in range(len(means)):
        vectors = weights[f"model.layers.{block}.mlp.down_proj.weight"].double().T
        for neuron, v in enumerate(vectors):
            cosine = float(v @ w / (v.norm() * w.norm()))
            group = ("T" if cosine > 0 else "A") + ("P" if means[block, neuron] > 0 else "N")
            groups[group].append((-abs(cosine), block, neuron))
    return {name: [(block, neuron) for _, block, neuron in sorted(members)] for name, members in groups.items()}


def test_a_given_strength_makes_the_papers_gains_and_no_search(fixed, job):
    assert not (fixed.folder / "search.json").exists()
    gains = load_file(fixed.folder / "edit.safetensors")["gains"]
    expected = torch.ones_like(gains)
    for group, members in naive_groups(fixed, job.model).items():
        chosen = members[: math.floor(0.3 * len(members))]
        assert chosen
        for block, neuron in chosen:
            expected[block, neuron] = 0.6 if group in ("TP", "AN") else 1.4
    assert torch.equal(gains, expected)
    edit = Edit.load(fixed.folder / "edit")
    assert [ablation.weight for ablation in edit.ablations] == [0.7]
    assert edit.about["alpha"] == 0.4
    assert edit.about["ablate"] == 0.7
    assert edit.about["beta"] == 0.3


@pytest.mark.parametrize(
    ("given", "gains", "weights"),
    [({"alpha": 0.2}, True, []), ({"ablate": 0.5}, False, [0.5]), ({"alpha": 0.0, "ablate": 0.5}, False, [0.5])],
)
def test_one_half_of_an_edit_alone(job, tmp_path, given, gains, weights):
    run = edited(job, tmp_path / "out", **given)
    assert (run.edit.gains is not None) == gains
    assert [ablation.weight for ablation in run.edit.ablations] == weights
    assert "control" in run.scores.conditions


def test_alpha_zero_changes_nothing(job, tmp_path):
    """The control of SPEC section 5 that any mistake in the plumbing would break."""
    run = edited(job, tmp_path / "out", alpha=0)
    parts = {path.stem: path.read_bytes() for path in (run.folder / "conditions").iterdir()}
    assert parts["edit"] == parts["none"] == parts["control"]
    assert load_file(run.folder / "model/model.safetensors").keys() == load_file(job.model / "model.safetensors").keys()
    for name, tensor in load_file(run.folder / "model/model.safetensors").items():
        assert torch.equal(tensor, load_file(job.model / "model.safetensors")[name])


@pytest.mark.parametrize("parts", ["both", "gains", "ablation"])
def test_the_searched_edit_is_of_its_family_and_within_the_bound(job, done, tmp_path, parts):
    run = done.run if parts == "both" else edited(job, tmp_path / "out", parts=parts)
    search = json.loads((run.folder / "search.json").read_text())
    s = search["chosen"]
    assert search["bound"] == 0.2
    assert s > 0
    chosen = [step for step in search["steps"] if step["strength"] == s]
    assert chosen[0]["increase"]["high"] <= 0.2
    alpha = {"both": GAIN_SHARE * s, "gains": s, "ablation": 0.0}[parts]
    if parts == "ablation":
        assert run.edit.gains is None
    else:
        blocks = [0] if parts == "both" else [0, 1, 2]  # the earlier half of three blocks
        expected = torch.ones(3, 24, dtype=torch.float64)
        for group, members in naive_groups(run, job.model).items():
            for block, neuron in members[: math.floor(0.55 * len(members))]:
                if block in blocks:
                    expected[block, neuron] = 1 - alpha if group in ("TP", "AN") else 1 + alpha
        assert torch.allclose(run.edit.gains.values.double(), expected, atol=1e-7)
    if parts == "gains":
        assert run.edit.ablations == ()
    else:
        (ablation,) = run.edit.ablations
        assert ablation.weight == s
        assert (ablation.blocks, ablation.mlp, ablation.attention) == ((1, 2), True, False)
        u = load_file(run.folder / "direction.safetensors")["vector"].double()
        assert torch.allclose(ablation.direction.double(), u / u.norm(), atol=1e-6)
    assert run.edit.about["strength"] == s
    # The folded model costs what the search saw, on windows that are not among those reported.
    windows = naive_windows(job.model, job.neutral.read_text(), SEARCH_WINDOWS, skip=3)
    assert len(windows) == SEARCH_WINDOWS
    rise = np.subtract(
        naive_nll(plain(run.folder / "model")[0], windows), naive_nll(plain(job.model)[0], windows)
    ).sum() / (127 * SEARCH_WINDOWS)
    assert chosen[0]["increase"]["mean"] == pytest.approx(rise, abs=1e-4)


def test_the_control_shuffles_gains_and_turns_the_direction(done, job):
    """SPEC section 5: same counts and values in each layer, a random direction at the same weight and sites."""
    edit, control = done.run.edit, done.run.edit.control(0)
    assert not torch.equal(edit.gains.values, control.gains.values)
    assert torch.equal(edit.gains.values.sort(1).values, control.gains.values.sort(1).values)
    for ours, theirs in zip(edit.ablations, control.ablations, strict=True):
        assert (ours.weight, ours.blocks, ours.mlp) == (theirs.weight, theirs.blocks, theirs.mlp)
        assert ours.attention == theirs.attention
        assert theirs.direction.norm() == pytest.approx(1, abs=1e-6)
        assert abs(float(ours.direction @ theirs.direction)) < 0.9
    # The condition of that name is this edit, whose texts plain hooks give again.
    lm = load(str(job.model), dtype="float32")
    samples = pl.read_parquet(done.folder / "samples.parquet").filter(condition="control").sort("row")
    with control.on(lm):
        written = generate(lm, samples["prompt"].to_list(), new_tokens=TOKENS)
    assert samples["continuation"].to_list() == [one.text for one in written]


def test_no_control_on_request(job, tmp_path):
    run = edited(job, tmp_path / "out", alpha=0.1, controls=False)
    assert list(run.scores.conditions) == ["none", "edit", "ideal"]
    assert list(json.loads((run.folder / "scores.json").read_text())["conditions"]) == ["none", "edit", "ideal"]


# Kinds of direction, protocols


@pytest.mark.parametrize("kind", ["mean-difference", "probe", "token-contrast"])
def test_every_kind_of_direction_and_its_saved_form(job, tmp_path, kind):
    given = {"alpha": 0.3, "ablate": 1.0, "controls": False, "limit": 8, "max_windows": 1, "max_passages": 1}
    run = edited(job, tmp_path / "made", direction=kind, **given)
    made = Direction.load(run.folder / "direction")
    assert made.kind == kind.replace("-", "_")
    assert run.edit.about["direction"] == made.kind
    for name in ("direction", "direction.safetensors"):
        again = edited(job, tmp_path / name, direction=str(run.folder / name), **given)
        saved = contents(again.folder / "model")["model.safetensors"]
        assert saved == contents(run.folder / "model")["model.safetensors"]


def test_the_direction_is_the_difference_of_means_of_the_first_half(done):
    """Mean over real tokens without <bos> of the stream before the final norm, in whole plain passes."""
    model, tokenizer = plain(done.job.model)
    rows = pl.read_csv(done.job.comments).head(60)  # the second half of 120 is the judge's
    streams: dict[int, list[torch.Tensor]] = {0: [], 1: []}
    caught = []
    model.model.norm.register_forward_pre_hook(lambda _module, args: caught.append(args[0][0]))
    for text, label in rows.iter_rows():
        with torch.no_grad():
            model(input_ids=torch.tensor([tokenizer(text)["input_ids"]]))
        streams[label].append(caught.pop()[1:].double().mean(0))
    count = min(map(len, streams.values()))
    expected = torch.stack(streams[1][:count]).mean(0) - torch.stack(streams[0][:count]).mean(0)
    found = load_file(done.folder / "direction.safetensors")["vector"]
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.norm()))


def test_a_direction_of_another_width_is_refused(job, tmp_path):
    Direction(torch.ones(5), "mine", -1).save(tmp_path / "five")
    with pytest.raises(DposcopeError, match=r"width 5, the model 16"):
        edited(job, tmp_path / "out", direction=str(tmp_path / "five"))


def test_the_reference_protocol_runs_and_is_named(job, tmp_path):
    run = edited(job, tmp_path / "out", protocol="reference", alpha=0.3)
    stored = json.loads((run.folder / "scores.json").read_text())
    assert stored["protocol"] == "reference"
    assert pl.read_parquet(run.folder / "samples.parquet")["protocol"].unique().to_list() == ["reference"]
    assert Direction.load(run.folder / "direction").about["protocol"] == "reference"
    assert run.edit.about["protocol"] == "reference"
    assert "reference protocol" in (run.folder / "model/README.md").read_text()


def test_profanity_is_the_default_scorer(job, tmp_path):
    settings = EditSettings(**{**job.settings(alpha=0.1, controls=False, limit=6), "scorer": "profanity"})
    run = run_edit(str(job.model), tmp_path / "out", settings)
    assert EditSettings().scorer == "profanity"
    assert run.scores.conditions["none"]["toxicity"].n == 3
    assert "alt-profanity-check" in (run.folder / "report.html").read_text()


def test_an_edit_without_data_of_ones_own(job, tmp_path):
    """The built-in texts serve any model, also one whose tokenizer knows few letters."""
    settings = EditSettings(
        alpha=0.1, controls=False, dtype="float32", limit=8, max_passages=3, max_windows=1, direction_rows=40
    )
    run = run_edit(str(job.model), tmp_path / "out", settings)
    assert run.scores.conditions["edit"]["toxicity"].n == 4
    assert "Built-in data" in (run.folder / "report.html").read_text()


# What people read


def test_the_card_says_what_was_done_and_measured(done):
    card = (done.folder / "model/README.md").read_text()
    assert card.startswith("---\n")
    assert f'base_model: "{done.job.model.name}"' in card
    assert 'library_name: "transformers"' in card
    assert done.run.scores.about["edit"] in card
    assert re.search(r"gains on \d+ of 72 neurons", card)
    for measure in MEASURES:
        for condition in ("none", "edit"):
            assert str(done.run.scores.conditions[condition][measure]) in card
    for fact in ("parts: both", "ranking: cosine", f"strength: {done.run.edit.about['strength']}", "seed: 0"):
        assert fact in card
    assert "What was not tested" in card
    beside = Edit.load(done.folder / "model/dposcope_edit")
    assert torch.equal(beside.gains.values, done.run.edit.gains.values)


def test_the_report_is_one_file_that_reaches_for_nothing(done):
    page = (done.folder / "report.html").read_text()
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", page)
    for condition in ("none", "edit"):
        assert f"{done.run.scores.conditions[condition]['toxicity'].mean:.3f}" in page
    assert "helpers.jobs:softness" in page


@pytest.fixture
def page(job, tmp_path, monkeypatch):
    """The values behind a report."""
    caught = []
    monkeypatch.setattr(edit_report, "write_report", lambda page, _path: caught.append(page))

    def make(**settings):
        run = edited(job, tmp_path / "out", **settings)
        return run, caught.pop()

    return make


@pytest.mark.parametrize("settings", [{}, {"parts": "gains"}, {"alpha": 0.2}], ids=["both", "gains", "given"])
def test_the_report_counts_the_neurons_that_are_edited(page, settings, job):
    run, shown = page(controls=False, **settings)
    gains = run.edit.gains.values
    for size in shown.groups:
        members = naive_groups(run, job.model)[size.group]
        assert size.size == len(members)
        assert size.chosen == sum(float(gains[block, neuron]) != 1 for block, neuron in members)


def test_the_report_shows_samples_evenly_and_settings_whole(page, job):
    run, shown = page(alpha=0.2)
    samples = pl.read_parquet(run.folder / "samples.parquet").sort("row")
    assert [sample.prompt for sample in shown.samples] == samples.filter(condition="none")["prompt"].to_list()
    for name in ("none", "edit"):
        rows = samples.filter(condition=name)
        assert [sample.continuations[name] for sample in shown.samples] == rows["continuation"].to_list()
        assert [sample.toxicity[name] for sample in shown.samples] == rows["toxicity"].to_list()
    assert {name for name, _ in shown.settings} == {name.replace("_", "-") for name in EditSettings.model_fields}
    assert dict(shown.settings)["alpha"] == "0.2"
    assert shown.search == []
    assert shown.bound is None
    assert Counter(condition.role for condition in shown.conditions) == {"base": 1, "edit": 1, "control": 1, "limit": 1}


def test_a_run_repeated_elsewhere_with_the_model_elsewhere_is_the_same(done, job, tmp_path):
    """Results name a model by its name and its fingerprint; `run.json` alone tells where it lay."""
    moved = replace(job, model=tmp_path / "another place" / job.model.name)
    shutil.copytree(job.model, moved.model)
    again = edited(moved, tmp_path / "out")
    mine, other = contents(done.folder), contents(again.folder)
    assert mine.keys() == other.keys()
    differing = {name for name in mine if mine[name] != other[name]}
    assert {name for name in differing if not name.startswith("stages/")} <= {"run.json"}
    scores = read_object(again.folder / "scores.json")
    assert (scores["model"], scores["fingerprint"]) == ("model", load(str(job.model), dtype="float32").fingerprint)
    for name in ("scores.parquet", "samples.parquet"):
        assert set(pl.read_parquet(again.folder / name)["fingerprint"]) == {scores["fingerprint"]}


# Concepts


@pytest.mark.usefixtures("trusting")
def test_a_concept_gives_what_its_options_give_to_the_byte(done, tmp_path):
    """Called toxicity, it differs from the options that it fills by its own name in the settings alone."""
    given = done.job.settings()
    own = {name: given.pop(name) for name in ("comments", "prompts", "scorer")}
    concept = tmp_path / "mine.toml"
    concept.write_text("".join(f'{key} = "{value}"\n' for key, value in {"name": "toxicity", **own}.items()), "utf-8")
    out = tmp_path / "out"
    run_edit(str(done.job.model), out, EditSettings(concept=str(concept), **given))
    plain, other = contents(done.folder), contents(out)
    keys = {name: json.loads(plain[name])["inputs"] for name in plain if name.startswith("stages/")}
    assert keys == {name: json.loads(other[name])["inputs"] for name in other if name.startswith("stages/")}
    for name in ("scores.json", "scores.parquet", "samples.parquet", "edit.safetensors", "search.json"):
        assert plain[name] == other[name], name


@pytest.mark.usefixtures("trusting")
def test_another_concept_is_named_in_scores_and_report(job, tmp_path):
    given = job.settings(alpha=0.4, max_windows=1, max_passages=2, limit=8)
    own = {name: given.pop(name) for name in ("comments", "prompts", "scorer")}
    concept = tmp_path / "rain-talk.toml"
    concept.write_text("".join(f'{name} = "{value}"\n' for name, value in own.items()), "utf-8")
    run_edit(str(job.model), tmp_path / "out", EditSettings(concept=str(concept), **given))
    assert json.loads((tmp_path / "out/scores.json").read_text())["concept"] == "rain talk"
    page = (tmp_path / "out/report.html").read_text("utf-8")
    assert "Mean rain talk " in page
    assert "Mean toxicity" not in page


def test_of_a_quantised_model_the_edit_is_measured_and_no_checkpoint_written(job, tmp_path, monkeypatch, capsys):
    def in_codes(name, *, dtype, device, device_map, quantise):
        assert (dtype, device, device_map, quantise) == ("float32", "cpu", None, "4bit")
        return in_bytes(load(name, dtype=dtype, device=device))

    monkeypatch.setattr(job_at_work, "load_native", in_codes)
    done = edited(job, tmp_path / "run", quantise="4bit", controls=False)
    assert (tmp_path / "run/edit.safetensors").exists()
    assert not (tmp_path / "run/model").exists()
    assert (tmp_path / "run/report.html").exists()
    assert done.scores.conditions["edit"]["logppl"].mean != done.scores.conditions["none"]["logppl"].mean
    say_checkpoint("m", tmp_path / "run")
    mend = f"give the unquantised model to: dposcope fold m --edit {tmp_path}/run --out {tmp_path}/run-model"
    assert f"none, as the weights are quantised; for one, {mend}" in capsys.readouterr().out
