"""The embedded model's edit in its GGUF file and in its checkpoint folder, beside the hooked model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize

import dposcope
from dposcope.model.bundled import BUNDLED

pytestmark = pytest.mark.real

MODEL = "gemma-3-270m"
PROMPTS = ["The old harbour of the town", "She opened the letter and", "In the middle of the night"]


@pytest.fixture(scope="module")
def gains(gemma) -> dposcope.Gains:
    """As strong as edits that people ship; a few neurons turned round."""
    values = 1 + 0.2 * torch.randn(gemma.n_blocks, gemma.d_mlp, generator=torch.Generator().manual_seed(0))
    values[:, :20] = -0.5
    return dposcope.Gains(values)


@torch.no_grad()
def logits(lm) -> torch.Tensor:
    ids = torch.tensor([lm.tokenizer(PROMPTS[0])["input_ids"]])
    return lm.model(input_ids=ids).logits[0].double()


def written(lm) -> list[list[int]]:
    return [list(continuation.ids) for continuation in dposcope.generate(lm, PROMPTS)]


def test_the_gguf_file_takes_gains_in_its_scales(gemma, gains, tmp_path):
    """Each block's weights are those of the plain file times the gain, to the rounding of half precision."""
    model = BUNDLED[MODEL]
    model.assemble(model, tmp_path / "base.gguf")
    done = dposcope.fold_gguf(tmp_path / "base.gguf", gains, tmp_path / "edited.gguf")
    before, after = (GGUFReader(tmp_path / name).tensors for name in ("base.gguf", "edited.gguf"))
    changed = 0
    with gains.on(gemma):
        hooked = logits(gemma)
    plain = {}
    try:
        for old, new in zip(before, after, strict=True):
            if np.array_equal(old.data, new.data):
                continue
            changed += 1
            block = int(old.name.split(".")[1])
            assert old.name == f"blk.{block}.ffn_up.weight"
            own = dequantize(old.data, old.tensor_type).astype(np.float64)
            exact = gains.values[block].double().numpy()[:, None] * own
            found = dequantize(new.data, new.tensor_type)
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
    assert written(gemma) != texts
