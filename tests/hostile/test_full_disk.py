"""A full disk: every command says in one line that it cannot write, and leaves no half of a result.

No file may grow beyond a limit, which the system enforces whatever library writes: Python, safetensors, tokenizers.
Edit and dpo have tests of their own, `tests/jobs/test_run.py` and `tests/jobs/dpo/test_job.py`.
"""

import resource
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dposcope.directions.direction import Direction
from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.jobs.reproduce.tiny import tiny_model
from dposcope.shipping.model_card import write_model
from helpers.edits import both_of
from helpers.families import random_direction, tiny
from helpers.jobs import Job, contents, crashes, make_job


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    """With an edit and a direction in the folder above the model's."""
    made = make_job(tmp_path_factory.mktemp("job"), windows=40)
    lm = tiny("llama")
    Edit.of(both_of(lm)).save(made.model.parent / "edit")
    Direction(random_direction(lm), "mine", -1).save(made.model.parent / "direction")
    return made


COMMANDS: dict[str, tuple[Callable[[Job, Path], list[object]], list[int]]] = {
    "evaluate": (lambda job, out: ["evaluate", job.model, "--out", out, *job.flags()], [100, 1_500, 4_000]),
    "fold": (
        lambda job, out: ["fold", job.model, "--edit", job.model.parent, "--out", out],
        [100, 500, 3_000, 30_000],
    ),
    "fold into adapters": (
        lambda job, out: ["fold", job.model, "--edit", job.model.parent, "--form", "adapters", "--out", out],
        [10, 300, 2_000],
    ),
    "probe": (
        lambda job, out: [
            *("probe", job.model, "--out", out / "w", "--comments", job.comments, "--dtype", "float32"),
            *("--kind", "mean-difference"),
        ],
        [10, 250],
    ),
    "pairs": (
        lambda job, out: [
            *("pairs", job.model, "--method", "sample", "--prompts", job.prompts, "--out", out / "pairs.jsonl"),
            *("--scorer", "helpers.jobs:softness", "--samples", "4", "--dtype", "float32"),
            *("--pairing", "extremes", "--min-gap", "0.02"),
        ],
        [100, 1_500],
    ),
    "pairs import": (
        lambda job, out: ["pairs", "import", rows(job), "--out", out / "pairs.jsonl"],
        [10],
    ),
}
"""Name → command line for an --out, and sizes that no file may exceed."""


def rows(job: Job) -> Path:
    path = job.model.parent / "rows.jsonl"
    path.write_text('{"prompt": "the", "chosen": " river", "rejected": " sea"}\n' * 9)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_so_and_leaves_nothing_half_written(job, tmp_path, name):
    arguments, limits = COMMANDS[name]
    for limit in limits:
        out = tmp_path / str(limit)
        told = crashes("space", arguments=list(map(str, arguments(job, out))), limits=[limit], out=str(out))[0]
        assert told["code"] == 2, told
        assert told["err"].count("\n") == 1, told
        assert told["err"].startswith("dposcope: cannot write"), told
        assert "free some space" in told["err"]
        assert all(len(data) <= limit for data in contents(out).values()), "a file that was cut off"
        assert not any(Path(left).name.endswith(".part") for left in told["left"])


@contextmanager
def limited(size: int) -> Generator[None]:
    """No file may become larger, in this process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def stingy(monkeypatch):
    """The weights of a model are written, whatever the limit: its tokenizer comes after."""
    monkeypatch.setattr(
        "transformers.PreTrainedModel.save_pretrained", lambda _model, folder: Path(folder).mkdir(exist_ok=True)
    )


def test_a_tokenizer_that_cannot_be_written(llama, tmp_path, stingy):
    """Its library raises an error of no kind."""
    with limited(1_000), pytest.raises(OSError, match=r"cannot write .*model: File too large \(os error 27\)"):
        llama.save_pretrained(tmp_path / "model")
    with (
        limited(1_000),
        pytest.raises(DposcopeError, match=r"cannot write .*model: .*File too large.*; free some space"),
    ):
        write_model(llama, tmp_path / "model", card="")
    with limited(1_000), pytest.raises(OSError, match="File too large"):
        tiny_model(tmp_path / "tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["model"], "of the first try, which writes in place"


def test_weights_that_cannot_be_written(llama, tmp_path):
    with limited(10_000), pytest.raises(OSError, match=r"cannot write .*model: .*File too large"):
        llama.save_pretrained(tmp_path / "model")
    assert llama.save_pretrained(tmp_path / "model") is None
