"""Links in a model's folder: none of them carries a file from elsewhere into what is made of the model."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.model.checks.own_files import own_files
from dposcope.model.load import load
from helpers.families import random_gains, tiny
from helpers.hostile import refused
from helpers.jobs import command, contents, write_jsonl

SECRET = "what only this user may read"
SIDE_FILES = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "qwen.tiktoken"),
    *("chat_template.jinja", "chat_template.json", "preprocessor_config.json", "tekken.json", "params.json"),
    *("LICENSE", "LICENSE.txt", "licence.md", "NOTICE", "USE_POLICY.md", "Gemma_Terms.md", "COPYING"),
    *("model.safetensors", "model.safetensors.index.json"),
)
"""Files that a checkpoint consists of."""
OTHERS = (
    *("notes.txt", "run.json", "trainer_state.json", "train.log", "id_rsa", "secrets.env", "modeling_custom.py"),
    *("data.csv", "figure.png", "README.pdf", "history.md"),
)
"""Files that lie beside one."""


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    """A model, an edit of it, and a file of the user's outside."""
    folder, lm = tmp_path_factory.mktemp("ground"), tiny("llama")
    lm.save_pretrained(folder / "model")
    Edit.of(Gains(random_gains(lm))).save(folder / "edit")
    (folder / "secret").write_text(SECRET)
    return folder


def model(ground: Path, folder: Path) -> Path:
    return shutil.copytree(ground / "model", folder / "model")


def linked(found: Path, name: str, target: Path) -> None:
    """`name` in a model's folder becomes a link."""
    (found / name).parent.mkdir(exist_ok=True)
    (found / name).unlink(missing_ok=True)
    (found / name).symlink_to(target)


def folding(ground: Path, found: Path, folder: Path, *flags: object) -> list[object]:
    return ["fold", found, "--edit", ground / "edit", "--out", folder / "out", *flags]


def holds(folder: Path, words: str) -> list[str]:
    return [name for name, data in contents(folder).items() if words.encode() in data]


# Links that lead out


@pytest.mark.parametrize("how", ["absolute", "relative", "through another link"])
@pytest.mark.parametrize("name", SIDE_FILES)
def test_a_side_file_that_is_a_link_out_is_refused(ground, tmp_path, name, how):
    found, secret = model(ground, tmp_path), tmp_path / "secret"
    secret.write_text(SECRET)
    match how:
        case "absolute":
            linked(found, name, secret)
        case "relative":
            linked(found, name, Path("../secret"))
        case _:
            linked(found, "notes.txt", secret)
            linked(found, name, Path("notes.txt"))
    told = refused(folding(ground, found, tmp_path))
    assert told == (
        f"{found / name} is a link that leads out of the model's folder, to {secret}; put the file itself there, or "
        "copy the whole model with: cp -rL"
    )


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_part_of_a_model_stays_where_it_is(ground, tmp_path, capsys, name):
    """A link or a file: it is not followed, not copied, and told."""
    for what in ("link", "file"):
        place = tmp_path / what
        found = model(ground, place)
        if what == "link":
            linked(found, name, ground / "secret")
        else:
            (found / name).write_text(SECRET)
        told = command(capsys, *folding(ground, found, place))
        assert told.code == 0, told.err
        assert f"note:     not copied, as no checkpoint has them: {name}\n" in told.out
        assert holds(place / "out", SECRET) == []
        assert not (place / "out" / name).exists()


@pytest.mark.parametrize("form", ["checkpoint", "adapters"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_every_form_refuses_links_of_what_it_reads(ground, tmp_path, name, form):
    found = model(ground, tmp_path)
    shutil.move(found / name, tmp_path / name)
    linked(found, name, tmp_path / name)
    assert "leads out of the model's folder" in refused(folding(ground, found, tmp_path, "--form", form))


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer.json", "additional_chat_templates/tool.jinja"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["edit"],
        ["tune"],
        ["evaluate"],
        ["dpo", "--pairs", "p.jsonl"],
        ["probe"],
        ["pairs"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_no_command_takes_a_link_into_what_it_makes(ground, tmp_path, arguments, name):
    """`save_pretrained` would write what a link of the tokenizer gave."""
    found = model(ground, tmp_path)
    linked(found, name, ground / "secret")
    out = tmp_path / ("out.jsonl" if arguments == ["pairs"] else "out")
    pairs = tmp_path / "p.jsonl"
    write_jsonl(pairs, [{"prompt": f"a b {n}", "chosen": "b c d", "rejected": "c d e"} for n in range(40)])
    rest = [pairs if one == "p.jsonl" else one for one in arguments[1:]]
    told = refused([arguments[0], found, *rest, "--out", out])
    assert "leads out of the model's folder" in told


def test_an_adapter_is_checked_too(ground, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    linked(adapter, "chat_template.jinja", ground / "secret")
    with pytest.raises(DposcopeError, match="leads out of the model's folder"):
        load(adapter, base=tiny("llama"))


def test_a_shard_of_any_name_is_checked(ground, tmp_path):
    """An index may call a shard `notes.txt`."""
    found = model(ground, tmp_path)
    shutil.move(found / "model.safetensors", tmp_path / "elsewhere")
    linked(found, "notes.txt", tmp_path / "elsewhere")
    (found / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "notes.txt"}}))
    assert "notes.txt is a link that leads out" in refused(folding(ground, found, tmp_path))


def test_a_folder_of_templates_that_is_a_link_out_is_refused(ground, tmp_path):
    found = model(ground, tmp_path)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/tool.jinja").write_text(SECRET)
    linked(found, "additional_chat_templates", tmp_path / "theirs")
    assert "leads out" in refused(folding(ground, found, tmp_path))


@pytest.mark.parametrize("name", ["runs", "checkpoint-500", "onnx"])
@pytest.mark.parametrize("what", ["folder", "link"])
def test_further_folders_are_left_alone(ground, tmp_path, capsys, name, what):
    found, theirs = model(ground, tmp_path), tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "config.json").write_text(SECRET)
    if what == "link":
        linked(found, name, theirs)
    else:
        shutil.copytree(theirs, found / name)
    told = command(capsys, *folding(ground, found, tmp_path))
    assert told.code == 0, told.err
    assert f"as no checkpoint has them: {name}\n" in told.out
    assert holds(tmp_path / "out", SECRET) == []


# Links that stay


def test_links_within_the_folder_are_copied_as_files(ground, tmp_path, capsys):
    found = model(ground, tmp_path)
    (found / "original").mkdir()
    (found / "original/params.json").write_text("{}")
    shutil.move(found / "tokenizer_config.json", found / "original/tokenizer_config.json")
    linked(found, "tokenizer_config.json", Path("original/tokenizer_config.json"))
    told = command(capsys, *folding(ground, found, tmp_path))
    assert told.code == 0, told.err
    out = tmp_path / "out"
    assert not any(path.is_symlink() for path in out.rglob("*"))
    assert (out / "tokenizer_config.json").read_bytes() == (ground / "model/tokenizer_config.json").read_bytes()
    assert (out / "original/params.json").read_text() == "{}"


def test_a_link_to_the_whole_folder_is_the_folder(ground, tmp_path, capsys):
    (tmp_path / "model").symlink_to(ground / "model")
    assert command(capsys, *folding(ground, tmp_path / "model", tmp_path)).code == 0


def snapshot(ground: Path, cache: Path, digits: int) -> Path:
    """The model as the Hugging Face cache keeps it: links to blobs, which are named by digests."""
    repository = cache / "models--org--name"
    made, blobs = repository / "snapshots" / ("0f" * 20), repository / "blobs"
    (made / "additional_chat_templates").mkdir(parents=True)
    blobs.mkdir()
    files = {path.name: path for path in (ground / "model").iterdir()}
    for number, (name, path) in enumerate(files.items()):
        blob = blobs / f"{number:0{digits}x}"
        shutil.copy(path, blob)
        (made / name).symlink_to(Path("../../blobs") / blob.name)
    (blobs / ("ab" * (digits // 2))).write_text("{{ messages }}")
    (made / "additional_chat_templates/tool.jinja").symlink_to(Path("../../../blobs") / ("ab" * (digits // 2)))
    return made


@pytest.mark.parametrize("digits", [40, 64])
@pytest.mark.parametrize("form", ["checkpoint", "adapters"])
def test_a_snapshot_of_the_cache_works(ground, tmp_path, capsys, digits, form):
    found = snapshot(ground, tmp_path, digits)
    told = command(capsys, *folding(ground, found, tmp_path, "--form", form))
    assert told.code == 0, told.err
    assert "not copied" not in told.out
    if form == "checkpoint":
        out = tmp_path / "out"
        assert not any(path.is_symlink() for path in out.rglob("*"))
        names = {path.name for path in found.iterdir()} | {
            "README.md",
            "dposcope_edit.json",
            "dposcope_edit.safetensors",
        }
        assert {path.name for path in out.iterdir()} == names
        assert (out / "additional_chat_templates/tool.jinja").read_text() == "{{ messages }}"
    assert load(found, dtype="float32", device="cpu").n_blocks == 3


def test_a_folder_of_links_to_the_cache_works(ground, tmp_path, capsys):
    """`hf download --local-dir` made such folders."""
    found, own = snapshot(ground, tmp_path, 64), tmp_path / "own"
    own.mkdir()
    for path in found.iterdir():
        if path.is_symlink():
            (own / path.name).symlink_to(path.resolve())
    assert command(capsys, *folding(ground, own, tmp_path)).code == 0


BLOBS: dict[str, Callable[[Path], Path]] = {
    "a blob that is a link itself": lambda secret: secret.parent / "blobs" / ("0a" * 32),
    "a folder of another name": lambda secret: secret.parent / "objects" / ("0a" * 32),
    "a name that is no digest": lambda secret: secret.parent / "blobs" / "passwd",
    "a digest of another length": lambda secret: secret.parent / "blobs" / ("0a" * 10),
    "a digest with a suffix": lambda secret: secret.parent / "blobs" / f"{'0a' * 32}.json",
    "a folder within the cache": lambda secret: secret.parent / "blobs" / "x" / ("0a" * 32),
}


@pytest.mark.parametrize("what", BLOBS)
def test_what_only_looks_like_the_cache_is_refused(ground, tmp_path, what):
    found, secret = model(ground, tmp_path), tmp_path / "secret"
    secret.write_text(SECRET)
    target = BLOBS[what](secret)
    target.parent.mkdir(parents=True)
    if "link itself" in what:
        target.symlink_to(secret)
    else:
        target.write_text(SECRET)
    linked(found, "vocab.txt", target)
    assert "leads out" in refused(folding(ground, found, tmp_path))


# What is no file


@pytest.mark.parametrize("what", ["pipe", "socket", "dangling link", "loop", "hidden link"])
def test_what_is_no_ordinary_file_is_not_copied(ground, tmp_path, capsys, what, monkeypatch):
    found = model(ground, tmp_path)
    match what:
        case "pipe":
            os.mkfifo(found / "NOTICE")
        case "socket":
            monkeypatch.chdir(found)  # an address has at most some hundred letters
            with socket.socket(socket.AF_UNIX) as made:
                made.bind("NOTICE")
        case "dangling link":
            linked(found, "NOTICE", Path("gone"))
        case "loop":
            linked(found, "NOTICE", Path("NOTICE"))
        case _:
            linked(found, ".NOTICE", ground / "secret")
    told = command(capsys, *folding(ground, found, tmp_path))
    assert told.code == (2 if what in ("pipe", "socket") else 0), told
    assert not (tmp_path / "out" / "NOTICE").exists()
    assert not (tmp_path / "out" / ".NOTICE").exists()


def test_files_are_told_apart(ground, tmp_path):
    found = model(ground, tmp_path)
    for name in (*OTHERS, "pytorch_model.bin", "original/consolidated.00.pth", "original/tokenizer.model", "NOTICE"):
        (found / name).parent.mkdir(exist_ok=True)
        (found / name).touch()
    told = own_files(found)
    names = {
        kind: {str(path.relative_to(found)) for path in getattr(told, kind)} for kind in ("side", "weights", "others")
    }
    assert names["weights"] == {"model.safetensors", "pytorch_model.bin", "original/consolidated.00.pth"}
    assert names["others"] == set(OTHERS)
    own = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert names["side"] == own | {"original/tokenizer.model", "NOTICE"}
