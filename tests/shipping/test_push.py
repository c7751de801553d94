"""What goes to the hub, to whom, and with which card; the hub is a folder of this machine."""

import json
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.shipping.metadata import licence_in
from dposcope.shipping.push import check_push, upload
from helpers.families import random_gains, tiny
from helpers.jobs import command, contents, make_job


@dataclass
class Hub:
    """The calls of `HfApi` that an upload makes."""

    endpoint: str = "https://hub.example"
    private: dict[str, bool] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    licences: dict[str, str] = field(default_factory=dict)
    error: Exception | None = None

    def create_repo(self, place, *, repo_type, private, exist_ok):
        assert (repo_type, exist_ok) == ("model", True)
        if self.error is not None:
            raise self.error
        self.private.setdefault(place, private)

    def model_info(self, place):
        if place in self.licences:
            return SimpleNamespace(card_data={"license": self.licences[place]})
        return SimpleNamespace(private=self.private[place], card_data=None)

    def upload_file(self, *, path_or_fileobj, path_in_repo, repo_id, repo_type):
        assert repo_type == "model"
        self.files.setdefault(repo_id, {})[path_in_repo] = path_or_fileobj

    def upload_folder(self, *, repo_id, repo_type, folder_path, allow_patterns):
        assert repo_type == "model"
        for name, content in contents(Path(folder_path)).items():
            if any(fnmatch(name, one) for one in allow_patterns):
                self.files.setdefault(repo_id, {})[name] = content


@pytest.fixture
def hub(monkeypatch) -> Hub:
    there = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda *, token: there)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "a token")
    return there


MODEL = (
    *("config.json", "tokenizer.json", "gains/adapter_config.json", "ablation-bias/adapter_model.safetensors"),
    *("model-00001-of-00002.safetensors", "pytorch_model-00002-of-00002.safetensors", "tradeoff.png"),
    *("tekken.json", "qwen.tiktoken", "spiece.model", "sentencepiece.bpe.model", "preprocessor_config.json"),
    *(
        "video_preprocessor_config.json",
        "LICENSE",
        "NOTICE",
        "USE_POLICY.md",
        "additional_chat_templates/tool[1].jinja",
    ),
)
"""Beside the card and the index."""


@pytest.fixture
def folder(tmp_path) -> Path:
    made = tmp_path / "model"
    for name in ("gains", "ablation-bias", "additional_chat_templates"):
        (made / name).mkdir(parents=True)
    for name in MODEL:
        (made / name).write_text(name)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "pytorch_model-00002-of-00002.safetensors"}}
    (made / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in ("means.safetensors", "old/tokenizer.json", "pytorch_model.bin"):
        (made / name).parent.mkdir(exist_ok=True)
        (made / name).write_text("of no use")
    for name in ("samples.parquet", "run.json", "prompts.jsonl", "dposcope_edit.txt", ".token"):
        (made / name).write_text("private")
    (made / "README.md").write_text('---\nlibrary_name: "transformers"\n---\n\n# A card\n')
    return made


def test_only_what_a_model_is_made_of_goes_up(hub, folder):
    before = contents(folder)
    done = upload(folder, "me/mine", base="gemma-3-270m")
    assert set(hub.files["me/mine"]) == {*MODEL, "README.md", "model.safetensors.index.json"}
    assert (done.url, done.public, done.licence) == ("https://hub.example/me/mine", False, "gemma")
    assert hub.private == {"me/mine": True}
    assert contents(folder) == before  # the run's own files stay as they were
    assert licence_in(hub.files["me/mine"]["README.md"].decode()) == "gemma"


def test_what_is_not_whole_or_leads_out_does_not_go_up(hub, folder, tmp_path):
    (folder / "pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(DposcopeError, match=r"has no pytorch_model-00002-of-00002.safetensors, which its index names"):
        upload(folder, "me/mine", base="gemma-3-270m")
    (tmp_path / "key").write_text("private")
    (folder / "merges.txt").symlink_to(tmp_path / "key")
    (folder / "model.safetensors").write_text("whole")
    with pytest.raises(DposcopeError, match=r"merges.txt is a link that leads out of the model's folder"):
        upload(folder, "me/mine", base="gemma-3-270m")
    assert (hub.private, hub.files) == ({}, {})


def test_public_only_where_asked(hub, folder):
    assert upload(folder, "me/open", base="gemma-3-270m", public=True).public
    assert hub.private == {"me/open": False}
    with pytest.raises(DposcopeError, match="me/open is public; give --public to upload there, or another OWNER/NAME"):
        upload(folder, "me/open", base="gemma-3-270m")


def test_the_licence_is_that_of_the_base(hub, folder, tmp_path):
    hub.licences["some/model"] = "mit"
    assert upload(folder, "me/a", base="hf:some/model").licence == "mit"
    base = tmp_path / "base"
    base.mkdir()
    assert upload(folder, "me/b", base=str(base)).licence is None
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert upload(folder, "me/c", base=str(base)).licence == "apache-2.0"
    (folder / "README.md").write_text("---\nlicense: other\n---\n")
    upload(folder, "me/d", base=str(base))
    assert licence_in(hub.files["me/d"]["README.md"].decode()) == "other"  # the card's own stays
    (base / "README.md").write_bytes("---\nlicense: mit\n---\n# Größe\n".encode("latin-1"))
    (folder / "README.md").write_text("# A card\n")
    assert upload(folder, "me/e", base=str(base)).licence == "mit"


@pytest.mark.parametrize(
    ("place", "public", "said"),
    [
        ("mine", False, "--push mine is not a place of the Hugging Face hub; give OWNER/NAME"),
        ("a/b/c", False, "is not a place of the Hugging Face hub"),
        (None, True, "--public is for --push OWNER/NAME; give that, or leave --public out"),
    ],
)
def test_a_place_is_checked_before_the_run(hub, place, public, said):
    with pytest.raises(DposcopeError, match=said):
        check_push(place, public=public)


def test_no_run_begins_that_would_leave_nothing_to_upload(hub, tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}')
    line = "--push uploads a checkpoint, and none is written of a quantised model; leave it out, and afterwards push"
    for model, quantise in ((str(tmp_path), None), ("gemma-3-270m", "4bit")):
        with pytest.raises(DposcopeError, match=line):
            check_push("me/mine", model=model, quantise=quantise)
    told = command(capsys, "edit", "m", "--out", tmp_path / "out", "--push", "me/mine", "--quantise", "8bit")
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert line in told.err
    check_push("me/mine", model="gemma-3-270m")


def test_without_a_token_no_run_begins(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    for order in (["edit", "m"], ["tune", "m"], ["dpo", "m", "--pairs", "p"], ["fold", "m", "--edit", "e"]):
        told = command(capsys, *order, "--out", tmp_path / "out", "--push", "me/mine")
        assert told.code == 2
        assert told.err == (
            "dposcope: --push needs a token of the Hugging Face hub that may write; log in with: hf auth login, or set "
            "HF_TOKEN\n"
        )
    assert not (tmp_path / "out").exists()


def test_what_the_hub_refuses_is_one_line(hub, folder):
    hub.error = OSError("403 Forbidden\nmore")
    with pytest.raises(DposcopeError, match=r"^cannot upload to me/mine: 403 Forbidden; .* is whole, and the same"):
        upload(folder, "me/mine", base="gemma-3-270m")


@pytest.mark.parametrize("public", [False, True])
def test_what_fold_could_not_upload_is_uploaded_as_it_says(hub, capsys, tmp_path, public):
    """The same command would say that the folder exists already."""
    lm = tiny("llama")
    lm.model.save_pretrained(tmp_path / "base")
    lm.tokenizer.save_pretrained(tmp_path / "base")
    Edit(Gains(random_gains(lm))).save(tmp_path / "edit")
    hub.error = OSError("403 Forbidden")
    order = ["fold", tmp_path / "base", "--edit", tmp_path / "edit", "--out", tmp_path / "an out"]
    told = command(capsys, *order, "--push", "me/mine", *(["--public"] if public else []))
    by_hand = f"hf upload me/mine '{tmp_path / 'an out'}' .{'' if public else ' --private'}"
    whole = f"{tmp_path / 'an out'} is whole, and this uploads it: {by_hand}"
    assert (told.code, told.err) == (2, f"dposcope: cannot upload to me/mine: 403 Forbidden; {whole}\n")
    hub.error, hub.private = None, {"me/open": False}
    told = command(capsys, *order[:-1], tmp_path / "other", "--push", "me/open")
    assert "me/open is public; " in told.err
    assert f"this uploads it: hf upload OWNER/NAME {tmp_path / 'other'} . --private" in told.err


def test_an_edit_is_pushed_with_a_whole_card(hub, capsys, tmp_path):
    job = make_job(tmp_path / "job")
    flags = job.flags(alpha=0.3, ablate=1.0)
    told = command(capsys, "edit", job.model, "--out", tmp_path / "out", *flags, "--push", "me/mine", "--quiet")
    assert told.code == 0, told.err
    assert "hub:     https://hub.example/me/mine (private)" in told.out
    assert f"no licence of {job.model} is known" in told.out.replace("\n", " ")
    found = hub.files["me/mine"]
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json", "dposcope_edit.json"} <= set(found)
    assert not any("sample" in name or "prompt" in name or "run" in name for name in found)
    prompts = [line[12:-2] for line in job.prompts.read_text().splitlines()]
    assert not any(prompt in found["README.md"].decode() for prompt in prompts)
    head = yaml.safe_load(found["README.md"].decode().split("---")[1])
    assert (head["library_name"], head["pipeline_tag"]) == ("transformers", "text-generation")
    (index,) = head["model-index"]
    (result,) = index["results"]
    measured = {one["type"]: one["value"] for one in result["metrics"]}
    assert {"toxicity", "judge", "logppl", "f1", "repetition"} <= set(measured)
    assert result["dataset"]["name"] == "12 held-out prompts of the run"
    again = command(capsys, "edit", job.model, "--out", tmp_path / "out", *flags, "--push", "me/other", "--json")
    assert again.code == 0
    assert set(hub.files["me/other"]) == set(found)


def test_a_gguf_file_is_not_pushed(hub, capsys, tmp_path):
    told = command(capsys, "fold", "m.gguf", "--edit", "e", "--out", tmp_path / "out.gguf", "--push", "me/mine")
    assert "--push is for a folder, and --out is a .gguf file; leave --push out" in told.err
