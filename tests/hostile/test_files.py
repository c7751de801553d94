"""Names of files that are no files: each is refused at once, wherever a command takes a file."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dposcope.interventions.ablate import Ablation
from dposcope.interventions.edit import Edit
from helpers.hostile import refused
from helpers.jobs import Job, make_job

ODD = {
    "a pipe": "is a pipe; copy what it gives into a file, and name that",
    "a socket": "is a socket",
    "an endless device": "is a device",
    "a folder": "is a folder; name a file in it",
    "a link to a pipe": "is a pipe",
}


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    return make_job(tmp_path_factory.mktemp("job"))


@pytest.fixture(params=ODD)
def odd(request, tmp_path) -> Iterator[tuple[Path, str]]:
    """What stands where a file should, and what is said of it. Its name is given a suffix by the test."""
    place = tmp_path / "odd"
    match request.param:
        case "a pipe":
            os.mkfifo(place)
        case "a link to a pipe":
            os.mkfifo(tmp_path / "pipe")
            place.symlink_to("pipe")
        case "a folder":
            place.mkdir()
        case "an endless device":
            place.symlink_to("/dev/zero")
        case _:
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(str(place))
                yield place, ODD[request.param]
                return
    yield place, ODD[request.param]


def named(odd: Path, suffix: str) -> Path:
    return odd.rename(odd.with_suffix(suffix))


DATA = {
    "prompts": (".jsonl", []),
    "report_prompts": (".jsonl", []),
    "comments": (".csv", []),
    "neutral": (".txt", []),
    "passages": (".parquet", []),
    "judge_comments": (".tsv", []),
}


@pytest.mark.parametrize("option", DATA)
def test_data(job, tmp_path, odd, option):
    place, told = odd
    suffix, _ = DATA[option]
    line = refused(["evaluate", job.model, "--out", tmp_path / "out", *job.flags(**{option: named(place, suffix)})])
    assert told in line


NAMES: dict[str, tuple[str, list[str]]] = {
    "--config": (".toml", ["edit", "MODEL", "--config", "ODD"]),
    "--config as JSON": (".json", ["edit", "MODEL", "--config", "ODD"]),
    "--concept": (".toml", ["edit", "MODEL", "--concept", "ODD"]),
    "--preset": (".toml", ["reproduce", "--preset", "ODD"]),
    "--scorer": (".txt", ["edit", "MODEL", "--scorer", "words:ODD"]),
    "--pairs": (".jsonl", ["dpo", "MODEL", "--pairs", "ODD"]),
    "pairs check": (".csv", ["pairs", "check", "ODD"]),
    "pairs import": (".json", ["pairs", "import", "ODD"]),
    "--against": (".json", ["pairs", "check", "PAIRS", "--against", "ODD"]),
    "--harmless": (".jsonl", ["dpo", "MODEL", "--pairs", "PAIRS", "--harmless", "ODD"]),
    "--learn-text": (".txt", ["pairs", "MODEL", "--method", "pplm", "--learn-text", "ODD"]),
    "--comments of probe": (".csv", ["probe", "MODEL", "--comments", "ODD"]),
    "--direction": (".json", ["lens", "MODEL", "--direction", "ODD"]),
    "a GGUF model": (".gguf", ["lens", "ODD", "--neuron", "0.0"]),
    "a GGUF model to fold": (".gguf", ["fold", "ODD", "--edit", "gemma-3-270m"]),
}
OUT = {"pairs": "out.jsonl", "fold": "out.gguf"}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [{"prompt": f"the river {n}", "chosen": " is long", "rejected": " is dumb"} for n in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", NAMES)
def test_other_files(job, pairs, tmp_path, odd, name):
    place, told = odd
    suffix, command = NAMES[name]
    if suffix == ".gguf" and told.endswith("in it"):
        pytest.skip("a folder whose name ends in .gguf is a checkpoint's")
    path = named(place, suffix)
    words = {"ODD": str(path), "MODEL": str(job.model), "PAIRS": str(pairs), "words:ODD": f"words:{path}"}
    given = [words.get(word, word) for word in command]
    if command[0] != "lens" and command[:2] != ["pairs", "check"]:
        given += ["--out", str(tmp_path / OUT.get(command[0], "out"))]
    assert told in refused(given)


PARTS = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]


@pytest.mark.parametrize("part", [*PARTS, "chat_template.jinja", "additional_chat_templates/tool.jinja"])
@pytest.mark.parametrize("command", ["lens", "fold"])
def test_parts_of_a_model(job, tmp_path, part, command):
    model = tmp_path / "model"
    shutil.copytree(job.model, model)
    (model / part).unlink(missing_ok=True)
    (model / part).parent.mkdir(exist_ok=True)
    os.mkfifo(model / part)
    rest = ["--neuron", "0.0"] if command == "lens" else ["--edit", "gemma-3-270m", "--out", tmp_path / "out"]
    assert f"{part} is a pipe" in refused([command, model, *rest])


@pytest.mark.parametrize("part", ["adapter_config.json", "adapter_model.safetensors", "tokenizer_config.json"])
def test_parts_of_an_adapter(job, tmp_path, part):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (adapter / part).unlink(missing_ok=True)
    os.mkfifo(adapter / part)
    condition = f"tuned=model:{adapter}"
    line = refused(["evaluate", job.model, "--out", tmp_path / "out", *job.flags(), "--condition", condition])
    assert f"{part} is a pipe" in line


@pytest.mark.parametrize("part", ["config.json", "model.safetensors", "tokenizer.json"])
def test_parts_of_a_classifier(job, tmp_path, part):
    folder = tmp_path / "classifier"
    shutil.copytree(job.model, folder)
    (folder / part).unlink()
    os.mkfifo(folder / part)
    line = refused(["edit", job.model, "--out", tmp_path / "out", *job.flags(scorer=str(folder))])
    assert f"{part} is a pipe" in line


@pytest.mark.parametrize("part", ["edit.json", "edit.safetensors"])
@pytest.mark.parametrize("command", ["fold", "evaluate", "dpo"])
def test_parts_of_an_edit(job, pairs, tmp_path, part, command):
    folder = tmp_path / "edit"
    Edit.of(Ablation(torch.ones(16), 0.5)).save(folder / "edit")
    (folder / part).unlink()
    os.mkfifo(folder / part)
    given = {
        "fold": ["fold", job.model, "--edit", folder],
        "evaluate": ["evaluate", job.model, *job.flags(), "--condition", f"edit:{folder}"],
        "dpo": ["dpo", job.model, "--pairs", pairs, "--train", "gains", "--start", folder],
    }[command]
    line = refused([*given, "--out", tmp_path / "out"])
    assert f"{part} is a pipe" in line


@pytest.mark.parametrize("name", ["prompts.jsonl", "comments.csv", "neutral.txt", "settings.toml", "spec.toml"])
def test_more_bytes_than_can_be_meant(job, tmp_path, name):
    """A file with a hole takes no room on the disk."""
    path = tmp_path / name
    path.touch()
    os.truncate(path, 1 << 40)
    flags = {
        "settings.toml": ["--config", path],
        "spec.toml": ["--concept", path],
    }.get(name, job.flags(**{name.partition(".")[0]: path}))
    line = refused(["edit", job.model, "--out", tmp_path / "out", *flags])
    assert "bytes, the most that are read of such a file; give a smaller one or a part" in line


@pytest.mark.parametrize("out", ["a pipe", "a socket", "an endless device"])
@pytest.mark.parametrize("command", ["edit", "dpo", "probe", "fold", "pairs"])
def test_an_out_that_is_no_place(job, pairs, tmp_path, out, command):
    place = tmp_path / ("out.jsonl" if command == "pairs" else "out")
    listening = socket.socket(socket.AF_UNIX)
    match out:
        case "a pipe":
            os.mkfifo(place)
        case "a socket":
            listening.bind(str(place))
        case _:
            place.symlink_to("/dev/full")
    given = {
        "edit": ["edit", job.model, *job.flags()],
        "dpo": ["dpo", job.model, "--pairs", pairs],
        "probe": ["probe", job.model, "--comments", job.comments],
        "fold": ["fold", job.model, "--edit", "gemma-3-270m"],
        "pairs": ["pairs", "import", pairs],
    }[command]
    try:
        if command == "probe":  # the name of two files beside it
            given[2:] = ["--comments", "/no/such.csv"]
        assert refused([*given, "--out", place])
    finally:
        listening.close()
