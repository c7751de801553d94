"""A layout in a file: what it may say, what is refused, and that a model of an unknown type is read by it."""

import io
import json
import sys

import pytest
import torch
import transformers
from peft import PeftModel

from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.model.checks.layout import find_layout
from dposcope.model.checks.layout_file import read_layout, use_layout
from dposcope.model.generate import generate
from dposcope.model.head.logits import logit_scale, logit_softcap, unembed
from dposcope.model.language_model import LanguageModel
from dposcope.model.layout import names, table
from dposcope.model.layout.table import Layout
from dposcope.model.load import load
from dposcope.reading import read_object
from dposcope.talk.subject import Subject
from dposcope.talk.web.server import TalkServer
from helpers.families import bos_tokenizer, build, tiny
from helpers.jobs import command, make_job

GOOD = """
# of a type that is not known
model_type = "lfm3"
blocks = "model.layers"
mlp-out = "feed_forward.w2"
attention_out = ["self_attn.o_proj", "conv.out_proj"]
final-norm = "model.embedding_norm"
"""

IDS = torch.tensor([[2, 40, 41, 55]])


@pytest.fixture(autouse=True)
def _registry(monkeypatch):
    """Tables as they were again afterwards; and LFM3, whose convolutions are no name that is known, is a stranger."""
    monkeypatch.setattr(table, "_LAYOUTS", dict(table._LAYOUTS))
    monkeypatch.setattr(names, "_IN_PLACE_OF_ATTENTION", frozenset())
    yield
    table.expect_layout(None)


def written(folder, text=GOOD, name="own.toml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def stranger(seed=0):
    """A model of a type that is neither known nor recognised: some blocks have a convolution."""
    config = transformers.Lfm3Config(
        vocab_size=96,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=3,
        layer_types=["conv", "full_attention", "conv"],
    )
    return LanguageModel(build(config, seed=seed), bos_tokenizer(), "stranger")


def test_a_file_is_read_and_its_record_is_the_same(tmp_path):
    found = read_layout(written(tmp_path, GOOD + 'unembedding = "lm_head"\nlogit-scale = 2\nlogit_softcap = 30.5\n'))
    assert found.model_type == "lfm3"
    assert found.layout == Layout(
        "model.layers",
        "feed_forward.w2",
        ("self_attn.o_proj", "conv.out_proj"),
        "model.embedding_norm",
        "lm_head",
        2.0,
        30.5,
    )
    assert read_layout(found.to_json()) == found


def test_scale_soft_cap_and_unembedding_of_a_layout_are_used(tmp_path):
    lm = tiny("llama")
    lm.model.config.model_type = "capped"
    plain = LanguageModel(lm.model, lm.tokenizer).fingerprint
    told = GOOD.replace("lfm3", "capped").replace("feed_forward.w2", "mlp.down_proj")
    told = told.replace('"conv.out_proj"', '"self_attn.o_proj"').replace("embedding_norm", "norm")
    use_layout(written(tmp_path, told + "logit_scale = 2\nlogit_softcap = 3\nunembedding = 'lm_head'\n"))
    assert (logit_scale(lm.model), logit_softcap(lm.model)) == (2.0, 3.0)
    x = torch.randn(2, 16)
    expected = 3 * torch.tanh(2 * lm.model.lm_head(x) / 3)
    assert torch.equal(unembed(lm.model, x), expected)
    with pytest.raises(DposcopeError, match="capped computes logits by more than its final norm"):
        find_layout(lm.model)  # as the model itself has neither
    # Another layout is another set of neurons: what identifies the model tells them apart.
    assert LanguageModel(lm.model, lm.tokenizer).fingerprint != plain


def test_a_file_may_say_that_there_is_no_final_norm_and_what_stands_before_the_unembedding(tmp_path):
    told = GOOD.replace('"model.embedding_norm"', "false") + 'transform = "lm_head"\n'
    found = read_layout(written(tmp_path, told))
    assert (found.layout.final_norm, found.layout.transform) == (None, "lm_head")
    assert read_layout(found.to_json()) == found


BAD = {
    "blocks = 3\n": "blocks in .* is no path of a module; write names with dots",
    'blocks = ""\n': "blocks in .* is no path of a module",
    'blocks = "model.layers()"\n': "blocks in .* is no path of a module",
    "blocks = \"__import__('os')\"\n": "blocks in .* is no path of a module",
    'blocks = "model..layers"\n': "blocks in .* is no path of a module",
    f'blocks = "{"a" * 201}"\n': "blocks in .* is no path of a module",
    "attention_out = []\n": "attention_out in .* lists 0 paths; give 1 to 8",
    f"attention_out = {['a'] * 9}\n": "attention_out in .* lists 9 paths",
    "attention_out = [1]\n": "attention_out in .* is no path",
    "model_type = 'a b'\n": "model_type in .* is no model type; copy",
    "final_norm = true\n": "final_norm in .* is no path of a module",
    "logit_scale = 0\n": "logit_scale in .* is no number above 0",
    "logit_scale = true\n": "logit_scale in .* is no number above 0",
    "logit_scale = '2'\n": "logit_scale in .* is no number above 0; write it without quotes",
    "logit_softcap = inf\n": "logit_softcap in .* is no number above 0",
    "logit_softcap = nan\n": "logit_softcap in .* is no number above 0",
    "code = 'import os'\n": "has an unknown field 'code'; choose among model_type, blocks",
    "mlp_out = 'a'\nmlp-out = 'a'\n": "has mlp_out twice, with - and with _",
    "= 3\n": "is not TOML",
}


@pytest.mark.parametrize("line", BAD)
def test_what_is_wrong_is_told_in_one_line(line, tmp_path):
    name = line.partition(" ")[0].replace("-", "_")
    kept = [one for one in GOOD.splitlines() if one.partition(" ")[0].replace("-", "_") != name]
    with pytest.raises(DposcopeError, match=BAD[line]) as caught:
        read_layout(written(tmp_path, "\n".join([*kept, line])))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model_type", "blocks", "mlp-out", "attention_out", "final-norm"])
def test_what_is_missing_is_told(name, tmp_path):
    text = "\n".join(line for line in GOOD.splitlines() if not line.startswith(name))
    with pytest.raises(DposcopeError, match=f"has no {name.replace('-', '_')}; a layout needs model_type, blocks"):
        read_layout(written(tmp_path, text))


def test_files_that_are_none_or_too_large_are_refused(tmp_path):
    with pytest.raises(DposcopeError, match="there is no layout file"):
        read_layout(tmp_path / "no.toml")
    with pytest.raises(DposcopeError, match=r"own\.toml has more than 1,048,576 bytes"):
        read_layout(written(tmp_path, "#" * (2 << 20)))
    with pytest.raises(DposcopeError, match="the layout is longer than"):
        read_layout('{"blocks": "' + "a" * (2 << 20) + '"}')
    with pytest.raises(DposcopeError, match="the layout is not JSON"):
        read_layout('{"blocks": ')


def test_a_layout_of_another_type_is_not_left_out_in_silence(tmp_path):
    use_layout(written(tmp_path))
    with pytest.raises(DposcopeError, match="the layout is for model_type 'lfm3', and this model has 'llama'; mend"):
        find_layout(tiny("llama").model)
    use_layout(None)
    find_layout(tiny("llama").model)
    use_layout(written(tmp_path))
    find_layout(stranger().model)
    find_layout(tiny("llama").model)  # a second model, such as a classifier's or one for fluency


def test_a_run_keeps_the_layout(tmp_path, capsys):
    """From the command line: an unknown type is refused, read by the file, and again by what the run recorded."""
    job = make_job(tmp_path / "job")
    lm = stranger()
    lm.save_pretrained(job.model)
    given = ["--trust-code", "edit", job.model, "--out", tmp_path / "out", *job.flags(), "--quiet"]
    refused = command(capsys, *given)
    assert refused.code == 2
    assert "no layout for model_type 'lfm3'" in refused.err
    path = written(tmp_path)
    done = command(capsys, *given, "--layout", path)
    assert done.code == 0, done.err
    path.unlink()
    kept = read_object(tmp_path / "out" / "run.json")["settings"]["layout"]
    assert json.loads(kept)["mlp_out"] == "feed_forward.w2"
    other = command(capsys, *given)
    assert other.code == 2
    assert "layout was '{" in other.err
    table._LAYOUTS.pop("lfm3")
    again = command(capsys, *given, "--layout", kept)
    assert again.code == 0, again.err
    assert Subject.find(str(tmp_path / "out")).layout == kept


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's
def test_an_edit_made_with_a_layout_is_folded_shipped_and_talked_to(tmp_path, capsys, monkeypatch):
    """The whole way by the command line; what each command makes of it is what hooks do."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("the cat\n"))
    job = make_job(tmp_path / "job")
    stranger().save_pretrained(job.model)
    layout = ["--layout", written(tmp_path)]
    precise = ["--dtype", "float32", "--device", "cpu"]

    def run(*arguments: object) -> str:
        """As in a program of its own: nothing is registered before."""
        table._LAYOUTS.pop("lfm3", None)
        done = command(capsys, *arguments)
        assert done.code == 0, done.err
        assert "note:" not in done.out
        return done.out

    made = ["edit", job.model, "--out", "run", *job.flags(also_score=None, ablate=0.8), *layout]
    run("--trust-code", *made, "--no-controls", "--quiet")
    run("fold", job.model, "--edit", "run", "--out", "folded", *layout)
    run("fold", job.model, "--edit", "run", "--out", "adapters", "--form", "adapters", *layout)
    lm, edit = load(job.model, dtype="float32"), Edit.load(tmp_path / "run/edit")
    assert edit.about["fingerprint"] == lm.fingerprint
    plain, folded = lm.model(IDS).logits, load(tmp_path / "folded", dtype="float32").model(IDS).logits
    shipped = PeftModel.from_pretrained(load(job.model, dtype="float32").model, tmp_path / "adapters/ablation")
    with edit.on(lm):
        edited = lm.model(IDS).logits
        text = generate(lm, ["the cat"], new_tokens=6)[0].text
    assert not torch.allclose(plain, edited, atol=1e-2), "the edit does nothing"
    torch.testing.assert_close(folded, edited, rtol=0, atol=1e-4)
    torch.testing.assert_close(shipped(IDS).logits, edited, rtol=0, atol=1e-4)
    asked = ["--new-tokens", "6", *precise, "--quiet"]
    for named in (["run"], [job.model, "--edit", "run", *layout]):
        answers = json.loads(run("generate", *named, "--prompt", "the cat", *asked, "--raw", "--json"))
        assert answers["texts"][0]["answers"][1]["text"] == text
        assert answers["notes"] == []
    assert f"strength 1: {text.strip()}" in run("chat", "run", *asked, "--raw")
    pages = []

    def serve(server: TalkServer) -> None:
        pages.append(server.files[""].body)
        raise KeyboardInterrupt

    monkeypatch.setattr(TalkServer, "serve_forever", serve)
    run("serve", "run", *precise, "--quiet", "--port", "0")
    assert len(pages) == 1
