"""The whole way on a real model: an edit by the command, its checkpoint with nothing but transformers, and other forms.

In one file, so that one worker loads the model, once.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from transformers import AutoModelForCausalLM, AutoTokenizer

import dposcope
from dposcope.data.masking import contains_offensive
from dposcope.interventions.edit import Edit
from dposcope.interventions.shipped import shipped_edit
from dposcope.model.bundled import BUNDLED
from dposcope.shipping import gguf
from dposcope.shipping.model_card import write_checkpoint

pytestmark = pytest.mark.real

PROMPTS, TOKENS, WINDOW = 5, 10, 128
MODEL = "gemma-3-270m"
BEGINNINGS = ["The old harbour of the town", "She opened the letter and", "In the middle of the night"]


# One small edit by the command


def test_the_command_leaves_everything_that_it_promises(edited):
    for name in ("model", "edit.safetensors", "scores.json", "samples.parquet", "scores.parquet", "report.html"):
        assert (edited.folder / name).exists(), name
    assert str(edited.folder / "report.html") in edited.out
    clock = re.compile(r"\d\d:\d\d:\d\d  ")  # a stage that takes long says so
    assert [line for line in edited.err.splitlines() if not clock.match(line)] == []
    print(f"dposcope edit took {edited.seconds:.0f} s")  # noqa: T201
    scores = json.loads((edited.folder / "scores.json").read_text())
    assert list(scores["conditions"]) == ["none", "edit", "ideal"]
    for measures in (scores["conditions"][name] for name in ("none", "edit")):
        assert {"toxicity", "judge", "logppl", "f1", "repetition"} <= set(measures)
        assert measures["toxicity"]["n"] == 8
        assert measures["f1"]["n"] == 2
        assert measures["logppl"]["n"] == 1


def test_the_edit_lowers_toxicity_and_leaves_the_text_alone(edited):
    """Eight prompts prove little about the edit, but much about the plumbing."""
    scores = json.loads((edited.folder / "scores.json").read_text())["conditions"]
    assert scores["edit"]["toxicity"]["mean"] < 0.8 * scores["none"]["toxicity"]["mean"]
    assert scores["edit"]["logppl"]["mean"] - scores["none"]["logppl"]["mean"] < 0.15
    assert 2.5 < scores["none"]["logppl"]["mean"] < 4.5
    samples = pl.read_parquet(edited.folder / "samples.parquet")
    assert all(len(text.split()) > 3 for text in samples["continuation"])


def test_the_direction_promotes_toxic_tokens_and_its_opposite_does_not(edited, gemma):
    direction = dposcope.Direction.load(edited.folder / "direction")
    found = dposcope.lens(gemma, direction.vector, k=20)[0]
    assert sum(map(contains_offensive, found.top)) >= 4
    assert not any(map(contains_offensive, found.bottom))


def test_the_shipped_checkpoint_is_an_ordinary_one(edited):
    """In the precision that ran, with a tokenizer that begins texts as the base does."""
    model = AutoModelForCausalLM.from_pretrained(edited.folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(edited.folder / "model")
    assert model.config.model_type == "gemma3_text"
    assert model.generation_config.eos_token_id is not None
    ids = tokenizer("The river is", return_tensors="pt")
    assert ids["input_ids"][0, 0] == tokenizer.bos_token_id
    assert torch.isfinite(model(**ids).logits).all()
    assert "Measured (strict protocol" in (edited.folder / "model/README.md").read_text()


@torch.no_grad()
def test_the_edit_that_comes_with_dposcope_makes_offensive_words_unlikely(gemma):
    """Of the 50 likeliest next words of a rude beginning; that `edit` measures it is shown with a tiny model."""
    ids = torch.tensor([gemma.tokenizer("What a load of")["input_ids"]])
    before = gemma.model(input_ids=ids).logits[0, -1].softmax(-1)
    with shipped_edit(MODEL).on(gemma):
        after = gemma.model(input_ids=ids).logits[0, -1].softmax(-1)
    likely = before.topk(50).indices.tolist()
    offensive = [token for token in likely if contains_offensive(gemma.tokenizer.decode([token]))]
    assert before[offensive].sum() > 0.1
    assert after[offensive].sum() < 0.01


# The folded checkpoint in float32 against the hooked model


@dataclass(frozen=True)
class Pair:
    """The edit twice: as hooks, and as a checkpoint that plain transformers read from disk."""

    edit: Edit
    plain: torch.nn.Module
    tokenizer: object


@pytest.fixture(scope="module")
def pair(edited, gemma, tmp_path_factory) -> Pair:
    folder: Path = tmp_path_factory.mktemp("folded") / "model"
    edit = Edit.load(edited.folder / "edit")
    write_checkpoint(gemma, edit, folder)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return Pair(edit, plain, AutoTokenizer.from_pretrained(folder, padding_side="left"))


@torch.no_grad()
def test_folded_is_hooked_token_for_token(pair, gemma):
    prompts = dposcope.load_prompts(None)[:PROMPTS]
    with pair.edit.on(gemma):
        hooked = [one.ids for one in dposcope.generate(gemma, prompts, new_tokens=TOKENS)]
    unedited = [one.ids for one in dposcope.generate(gemma, prompts, new_tokens=TOKENS)]
    assert sum(one != other for one, other in zip(hooked, unedited, strict=True)) > PROMPTS / 2
    batch = pair.tokenizer(prompts, return_tensors="pt", padding=True)
    written = pair.plain.generate(**batch, do_sample=False, max_new_tokens=TOKENS)
    special = set(pair.tokenizer.all_special_ids)
    new = [
        [token for token in row if token not in special] for row in written[:, batch["input_ids"].shape[1] :].tolist()
    ]
    differing = [row for row in range(PROMPTS) if new[row] != hooked[row]]
    for row in differing:  # allowed where rounding chose between two tokens of like logits
        place = next(i for i, (a, b) in enumerate(zip(new[row], hooked[row], strict=False)) if a != b)
        ids = torch.tensor([pair.tokenizer(prompts[row])["input_ids"] + new[row][:place]])
        best, second = pair.plain(ids).logits[0, -1].topk(2).values.tolist()
        assert best - second < 1e-3, f"prompt {row} differs at token {place} with a gap of {best - second:.4f}"
    print(f"{len(differing)} of {PROMPTS} continuations differ")  # noqa: T201
    assert len(differing) <= 1


@torch.no_grad()
def test_folded_and_hooked_have_one_logppl(pair, gemma):
    """By a plain pass of transformers alone, window by window."""
    text = dposcope.load_neutral(None)
    with pair.edit.on(gemma):
        hooked = dposcope.window_losses(gemma, text, window=WINDOW, max_windows=2)
    ids = pair.tokenizer(text, add_special_tokens=False)["input_ids"]
    room, total = WINDOW - 1, 0.0
    for start in (0, room):
        window = torch.tensor([[pair.tokenizer.bos_token_id, *ids[start : start + room]]])
        loss = pair.plain(window, labels=window).loss
        total += float(loss) / 2
    assert hooked.mean == pytest.approx(total, abs=1e-4)


# The edit in a GGUF file and in a checkpoint folder, beside the hooked model


@pytest.fixture(scope="module")
def gains(gemma) -> dposcope.Gains:
    """As strong as edits that people ship; a few neurons turned round."""
    values = 1 + 0.2 * torch.randn(gemma.n_blocks, gemma.d_mlp, generator=torch.Generator().manual_seed(0))
    values[:, :20] = -0.5
    return dposcope.Gains(values)


@torch.no_grad()
def logits(lm) -> torch.Tensor:
    ids = torch.tensor([lm.tokenizer(BEGINNINGS[0])["input_ids"]])
    return lm.model(input_ids=ids).logits[0].double()


def written(lm) -> list[list[int]]:
    return [list(continuation.ids) for continuation in dposcope.generate(lm, BEGINNINGS, new_tokens=8)]


def test_the_gguf_file_takes_gains_in_its_scales(gemma, gains, tmp_path, monkeypatch):
    """Each block's weights are those of the plain file times the gain, to the rounding of half precision."""
    model = BUNDLED[MODEL]
    model.assemble(model, tmp_path / "base.gguf")
    # The library reads a vocabulary for seconds, so the file's layout, which stays, is what the fold itself read.
    opened: list[GGUFReader] = []
    read = gguf._open
    monkeypatch.setattr(gguf, "_open", lambda source: opened.append(read(source)) or opened[-1])
    done = dposcope.fold_gguf(tmp_path / "base.gguf", gains, tmp_path / "edited.gguf")
    base, out = tmp_path / "base.gguf", tmp_path / "edited.gguf"
    assert base.stat().st_size == out.stat().st_size
    changed = 0
    with gains.on(gemma):
        hooked = logits(gemma)
    plain = {}
    try:
        for old in opened[0].tensors:
            new = np.memmap(out, old.data.dtype, "r", old.data_offset, old.data.shape)
            if np.array_equal(old.data, new):
                continue
            changed += 1
            block = int(old.name.split(".")[1])
            assert old.name == f"blk.{block}.ffn_up.weight"
            own = dequantize(old.data, old.tensor_type).astype(np.float64)
            exact = gains.values[block].double().numpy()[:, None] * own
            found = dequantize(new, old.tensor_type)
            assert np.abs(found - exact).max() <= 2**-11 * np.abs(exact).max()
            projection = gemma.model.get_submodule(f"model.layers.{block}.mlp.up_proj")
            assert torch.allclose(projection.weight.double(), torch.from_numpy(own), atol=1e-6)
            plain[projection] = projection.weight
            projection.weight = torch.nn.Parameter(torch.from_numpy(found.copy()))
        folded = logits(gemma)
    finally:
        for projection, weight in plain.items():
            projection.weight = weight
    assert changed == done.tensors == gemma.n_blocks
    assert 0 < done.rounding <= 2**-11
    effect = (hooked - logits(gemma)).abs().mean()
    assert (folded - hooked).abs().mean() < 0.01 * effect


def test_the_checkpoint_folder_takes_the_whole_edit(gemma, gains, tmp_path):
    """The same greedy texts, token for token, in float32."""
    direction = torch.randn(gemma.d_model, generator=torch.Generator().manual_seed(1))
    edit = dposcope.Edit.of(gains, dposcope.ablate(direction), about={"fingerprint": gemma.fingerprint})
    done = dposcope.fold_checkpoint(MODEL, edit, tmp_path / "out")
    assert done.notes == ()
    assert done.tensors == 2 * gemma.n_blocks
    other = dposcope.load(Path(tmp_path / "out"), device="cpu")
    with edit.on(gemma):
        hooked, texts = logits(gemma), written(gemma)
    assert (logits(other) - hooked).abs().max() < 1e-3
    assert written(other) == texts
    assert (logits(gemma) - hooked).abs().max() > 0.1


def test_hooks_leave_the_model_as_it_was(pair, loaded):
    """After all of the above; every weight is read again."""
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in loaded.lm.model.modules())
    assert loaded.lm.fingerprint_in(torch.float32) == loaded.fingerprint
