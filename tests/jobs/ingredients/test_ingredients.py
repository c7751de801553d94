"""Data read and split, and the stages that make a direction, means and a judge."""

import json

import polars as pl
import pytest
import torch

from dposcope.data.seeds import load_seeds
from dposcope.directions.direction import Direction
from dposcope.directions.means import mean_difference
from dposcope.directions.probe import fit_probe
from dposcope.directions.tokens import token_contrast
from dposcope.errors import DposcopeError
from dposcope.evaluation.trained_scorer import TrainedScorer
from dposcope.jobs.edit.settings import EditSettings
from dposcope.jobs.ingredients.data import read_comments, read_data
from dposcope.jobs.ingredients.direction import make_direction
from dposcope.jobs.ingredients.job import Job as StudyJob
from dposcope.jobs.ingredients.prepared import prepare, prepare_judge
from dposcope.jobs.opening import open_run
from dposcope.model.checks.identity import identity
from dposcope.model.load import load
from dposcope.neurons.activations import collect_means
from dposcope.neurons.groups import cosines
from helpers.jobs import Job, make_job, write_csv, write_jsonl


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    return make_job(tmp_path_factory.mktemp("job"))


def settings(job: Job, **others) -> EditSettings:
    return EditSettings(**job.settings(**others))


def direction_of(lm, comments, chosen: EditSettings) -> Direction:
    return make_direction(lm, comments, chosen.direction_spec)


def rows(job: Job) -> list[tuple[str, bool]]:
    return [(text, bool(label)) for text, label in pl.read_csv(job.comments).iter_rows()]


def test_what_is_learned_and_what_is_reported_share_nothing(job):
    """SPEC section 8: prompts and comments by halves."""
    data = read_data(settings(job))
    prompts = [json.loads(line)["prompt"] for line in job.prompts.read_text().splitlines()]
    assert list(data.report.prompts) == prompts[:12]
    assert list(data.learn) == list(data.choose) == prompts[12:]
    pairs = rows(job)
    direction = list(zip(data.direction_comments.texts, data.direction_comments.labels.tolist(), strict=True))
    assert direction == pairs[:60]
    assert list(zip(data.judge_texts, data.judge_labels, strict=True)) == pairs[60:]


def test_limits_take_the_top_of_each_file(job):
    data = read_data(settings(job, limit=8, max_passages=2, direction_rows=20))
    assert len(data.report.prompts) == len(data.learn) == 4
    assert len(data.report.passages) == 2
    assert list(data.direction_comments.texts) == [text for text, _ in rows(job)[:20]]
    assert len(data.judge_texts) == 60  # the judge's half does not shrink


def test_further_comments_go_to_the_judge(job, tmp_path):
    pairs = write_csv(tmp_path / "pairs.csv", ["toxic", "neutral"], [["a dumb thing", "a thing"], ["you fool", "you"]])
    plain, more = read_data(settings(job)), read_data(settings(job, judge_comments=[str(pairs), str(job.comments)]))
    assert more.direction_comments.texts == plain.direction_comments.texts
    assert more.judge_texts[:60] == plain.judge_texts
    assert more.judge_texts[60:64] == ("a dumb thing", "a thing", "you fool", "you")
    assert more.judge_labels[60:64] == (True, False, True, False)
    assert len(more.judge_texts) == 60 + 4 + 120
    shared = sum(text in plain.direction_comments.texts for text in more.judge_texts)
    assert shared >= 60
    assert more.notes == (
        f"The judge also reads {shared} comments that the direction is made from: it is not independent.",
    )
    assert plain.notes == ()


def test_columns_and_labels_are_chosen(job, tmp_path):
    table = [[text, "rude" if label else "fine"] for text, label in rows(job)]
    file = write_csv(tmp_path / "other.csv", ["body", "kind"], table)
    chosen = settings(job, comments=str(file), text_column="body", label_column="kind", positive_label="rude")
    assert read_comments(chosen).texts == read_comments(settings(job)).texts
    assert (read_comments(chosen).labels == read_comments(settings(job)).labels).all()


@pytest.mark.parametrize("part", ["learn_prompts", "choose_prompts", "direction_comments", "judge_comments"])
def test_each_digest_sees_its_part_alone(job, part):
    from dataclasses import replace

    from dposcope.data.comments import Comments

    data = read_data(settings(job))
    changed = {
        "learn_prompts": lambda: replace(data, learn=("x", *data.learn[1:])),
        "choose_prompts": lambda: replace(data, choose=("x", *data.choose[1:])),
        "direction_comments": lambda: replace(
            data, direction_comments=Comments(data.direction_comments.texts, ~data.direction_comments.labels)
        ),
        "judge_comments": lambda: replace(data, judge_labels=tuple(not label for label in data.judge_labels)),
    }[part]()
    assert {name for name in data.digests if data.digests[name] != changed.digests[name]} == {part}


def test_data_is_read_before_any_model(job, tmp_path):
    with pytest.raises(DposcopeError, match="there is no file"):
        read_data(settings(job, neutral=str(tmp_path / "none.txt")))
    with pytest.raises(DposcopeError, match=r"holds no|has no column"):
        read_data(settings(job, neutral=str(job.comments)))


def test_too_few_comments_for_a_judge_are_told_at_once(job, tmp_path):
    few = write_csv(tmp_path / "few.csv", ["comment_text", "toxic"], [[f"a word {n}", n % 2] for n in range(16)])
    with pytest.raises(DposcopeError, match="at least 10 of each class: add comments"):
        read_data(settings(job, comments=str(few)))


# Directions


@pytest.mark.parametrize("kind", ["mean-difference", "probe", "token-contrast"])
def test_a_direction_of_each_kind(job, llama, kind):
    chosen = settings(job, direction=kind)
    data = read_data(chosen)
    made = direction_of(llama, data.direction_comments, chosen)
    assert made.kind == kind.replace("-", "_")
    assert made.vector.shape == (llama.d_model,)


@pytest.mark.parametrize("protocol", ["strict", "reference"])
def test_a_direction_is_made_by_the_protocol_and_the_seed_of_the_run(job, llama, protocol):
    chosen = settings(job, protocol=protocol, seed=3)
    comments = read_data(chosen).direction_comments
    balanced, seeds = comments.balanced(), load_seeds()
    expected = {
        "mean-difference": mean_difference(llama, balanced.texts, balanced.labels, protocol=protocol),
        "probe": fit_probe(llama, comments.texts, comments.labels, protocol=protocol, seed=3),
        "token-contrast": token_contrast(
            llama, seeds.toxic, seeds.non_toxic, matrix={"strict": "input", "reference": "output"}[protocol]
        ),
    }
    for kind, direction in expected.items():
        made = direction_of(llama, comments, settings(job, direction=kind, protocol=protocol, seed=3))
        assert torch.equal(made.vector, direction.vector), kind


def test_the_probe_keeps_the_classes_shares_and_the_difference_balances_them(job, llama, tmp_path):
    """SPEC section 2 reads a probe's accuracy against the majority's; section 8 balances what means are taken of."""
    skewed = [(text, label) for place, (text, label) in enumerate(rows(job)) if not label or place % 4]
    file = write_csv(tmp_path / "skewed.csv", ["comment_text", "toxic"], [[text, int(label)] for text, label in skewed])
    for kind, balanced in (("mean-difference", True), ("probe", False)):
        chosen = settings(job, direction=kind, comments=str(file))
        comments = read_data(chosen).direction_comments
        about = direction_of(llama, comments, chosen).about
        toxic, civil = comments.counts.toxic, comments.counts.non_toxic
        assert toxic != civil
        expected = (min(toxic, civil),) * 2 if balanced else (toxic, civil)
        assert (about["texts_with"], about["texts_without"]) == expected


def test_a_saved_direction_is_used_as_it_is(job, llama, tmp_path):
    mine = Direction(torch.arange(1.0, 17.0, dtype=torch.float64), "mine", 1, {"note": "x"})
    mine.save(tmp_path / "w")
    for name in ("w", "w.safetensors", "w.json"):
        chosen = settings(job, direction=str(tmp_path / name))
        found = direction_of(llama, read_data(chosen).direction_comments, chosen)
        assert torch.equal(found.vector, mine.vector)
        assert (found.kind, found.block) == ("mine", 1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mean_difference", "is neither mean-difference, probe, token-contrast nor a saved direction"),
        ("/no/such", "is neither mean-difference, probe, token-contrast nor a saved direction"),
        ("{means}", "holds 'NeuronMeans', not 'Direction'; name a file written as Direction"),
    ],
)
def test_what_is_no_direction_is_refused(job, llama, tmp_path, name, words):
    collect_means(llama, ["the river"]).save(tmp_path / "means")
    chosen = settings(job, direction=name.format(means=tmp_path / "means"))
    with pytest.raises(DposcopeError, match=words):
        direction_of(llama, read_data(chosen).direction_comments, chosen)


# Stages


def test_direction_means_and_judge_are_kept_in_the_folder(job, tmp_path):
    chosen = settings(job)
    lm, data = load(str(job.model), dtype="float32"), read_data(chosen)
    with open_run(tmp_path / "out", "test", {}) as run:
        one = StudyJob(run, lm, data)
        made = prepare(one, chosen.direction_spec)
        judge = prepare_judge(one, 0)
    direction = direction_of(lm, data.direction_comments, chosen)
    means = collect_means(lm, data.learn)
    assert torch.equal(made.direction.vector, direction.vector)
    assert torch.equal(made.means.mean, means.mean)
    assert made.means.count == means.count
    assert torch.equal(made.cosine, cosines(lm, direction.vector))
    again = TrainedScorer.fit(data.judge_texts, [int(label) for label in data.judge_labels], seed=0)
    assert (judge(["a dumb man"]) == again(["a dumb man"])).all()
    assert one.model == {"fingerprint": lm.fingerprint, "identity": identity(lm), "device": "cpu"}


# Concepts


def concept_of(job: Job, folder, **more) -> str:
    """A concept file that says what the job's options say."""
    given = job.settings()
    file = folder / "rain-talk.toml"
    values = {name: given[name] for name in ("comments", "prompts", "scorer")} | more
    file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()), "utf-8")
    return str(file)


def with_concept(job: Job, concept: str, **others) -> EditSettings:
    """The job's settings, but what its concept says."""
    given = {name: value for name, value in job.settings(**others).items() if name not in CONCEPTS_OWN}
    return EditSettings(concept=concept, **given)


CONCEPTS_OWN = ("comments", "prompts", "scorer")


@pytest.mark.usefixtures("trusting")
def test_a_concept_names_the_same_data_as_the_options(job, tmp_path):
    assert read_data(with_concept(job, concept_of(job, tmp_path))).digests == read_data(settings(job)).digests


@pytest.mark.usefixtures("trusting")
def test_too_few_texts_are_named_by_the_concept(job, tmp_path):
    few = write_csv(tmp_path / "few.csv", ["comment_text", "toxic"], [["wet", 1], ["dry", 0]] * 12)
    concept = concept_of(job, tmp_path, comments=str(few), adjective="wet")
    with pytest.raises(DposcopeError, match="the judge is left 1 wet comment and needs at least 10"):
        read_data(with_concept(job, concept))


@pytest.mark.usefixtures("trusting")
def test_a_contrast_takes_the_concepts_seeds(job, llama, tmp_path):
    from dposcope.directions.tokens import token_contrast

    seeds = {"seeds-with": ["rain", "fell"], "seeds-without": ["quiet", "hills"]}
    chosen = with_concept(job, concept_of(job, tmp_path, **seeds), direction="token-contrast")
    found = direction_of(llama, read_data(chosen).direction_comments, chosen)
    assert torch.equal(found.vector, token_contrast(llama, ["rain", "fell"], ["quiet", "hills"]).vector)
    with pytest.raises(DposcopeError, match="'rain-talk' has no seed words"):
        read_data(with_concept(job, concept_of(job, tmp_path), direction="token-contrast"))


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("protocol", ["strict", "reference"])
def test_a_contrast_is_of_the_protocols_embedding(job, llama, tmp_path, protocol):
    """SPEC 2: the paper's text takes the input embedding, the published code the unembedding; here they differ."""
    seeds = {"seeds-with": ["rain", "fell"], "seeds-without": ["quiet", "hills"]}
    chosen = with_concept(job, concept_of(job, tmp_path, **seeds), direction="token-contrast", protocol=protocol)
    found = direction_of(llama, read_data(chosen).direction_comments, chosen)
    inside, outside = llama.model.get_input_embeddings().weight, llama.model.get_output_embeddings().weight
    assert not torch.equal(inside, outside)
    matrix = inside if protocol == "strict" else outside

    def mean(words):
        return sum(
            sum(matrix[token].double() for token in llama.tokenizer(word, add_special_tokens=False)["input_ids"])
            / len(llama.tokenizer(word, add_special_tokens=False)["input_ids"])
            for word in words
        ) / len(words)

    naive = mean(["rain", "fell"]) - mean(["quiet", "hills"])
    torch.testing.assert_close(found.vector.double(), naive.detach(), rtol=1e-5, atol=1e-6)


def test_prompts_that_repeat_others_are_told(job, tmp_path):
    """Greedy texts to them are the same, so intervals say too much."""
    twice = write_jsonl(tmp_path / "twice.jsonl", [{"prompt": f"the cat {number % 4}"} for number in range(12)])
    data = read_data(settings(job, prompts=str(twice), split="same"))
    assert data.notes == (
        "8 prompts of the 12 to report on repeat an earlier one: intervals are narrower and marks more than the texts "
        "warrant. Give each prompt once.",
    )
    assert len(data.report.prompts) == 12
