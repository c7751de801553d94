"""Commands on a mixture of experts, from a folder to a folder."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.model.load import load
from dposcope.neurons.activations import NeuronMeans
from dposcope.neurons.contributions import Contributions
from helpers.changes import tuned_copy
from helpers.families import assert_close, logits_of
from helpers.jobs import command, make_job
from helpers.own_mixtures import own_mixture
from helpers.preferences import pairs_file
from helpers.shared_experts import shared_mixture_of

pytestmark = pytest.mark.usefixtures("lighter")

IDS = [2, 40, 41, 55, 60]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return make_job(tmp_path_factory.mktemp("mixture"), "mixtral", windows=12)


def test_edit_finds_gains_from_means_over_routed_tokens_and_fold_writes_them(job, tmp_path, capsys):
    told = command(capsys, "edit", job.model, *job.flags(), "--out", tmp_path / "out", "--quiet")
    assert told.code == 0, told.err
    means = NeuronMeans.load(tmp_path / "out" / "means")
    assert means.routed.experts == 5
    assert int(means.routed.counts[0, ::24].sum()) == 2 * means.count
    told = command(capsys, "fold", job.model, "--edit", tmp_path / "out", "--out", tmp_path / "folded")
    assert told.code == 0, told.err
    assert_folded(job.model, tmp_path)


def assert_folded(model, folder):
    """Plain transformers computes with the folded checkpoint what the edit's hooks do."""
    lm, edit = load(model, dtype="float32", device="cpu"), Edit.load(folder / "out" / "edit")
    with edit.on(lm):
        hooked = logits_of(lm, IDS)
    plain = AutoModelForCausalLM.from_pretrained(folder / "folded").eval()
    with torch.no_grad():
        assert_close(plain(input_ids=torch.tensor([IDS])).logits[0], hooked, 2e-5)
    assert not torch.equal(hooked, logits_of(lm, IDS))


def test_edit_and_fold_of_a_mixture_whose_attention_is_one_too(job, tmp_path, capsys):
    own_mixture("jetmoe").save_pretrained(tmp_path / "model")
    flags = job.flags(max_windows=1, max_passages=2)
    told = command(capsys, "edit", tmp_path / "model", *flags, "--out", tmp_path / "out", "--quiet")
    assert told.code == 0, told.err
    told = command(capsys, "fold", tmp_path / "model", "--edit", tmp_path / "out", "--out", tmp_path / "folded")
    assert told.code == 0, told.err
    assert_folded(tmp_path / "model", tmp_path)


def test_dpo_learns_gains_and_its_checkpoint_has_them_in_its_weights(job, tmp_path, capsys):
    given = {"pairs": pairs_file(tmp_path / "pairs.jsonl"), "train": "gains", "epochs": 1, "batch-size": 4}
    given |= {"learn-text": job.neutral, "micro-batch-size": 2, "validation": 5, "window-tokens": 12, "window-pool": 9}
    flags = [part for name, value in given.items() for part in (f"--{name}", value)]
    flags += ["--dtype", "float32", "--device", "cpu", "--quiet", "--out", tmp_path / "out"]
    told = command(capsys, "dpo", job.model, *flags)
    assert told.code == 0, told.err
    edit = Edit.load(tmp_path / "out" / "edit")
    assert len(edit.gains.touched) > 50
    lm, trained = (load(folder, dtype="float32", device="cpu") for folder in (job.model, tmp_path / "out" / "model"))
    with edit.on(lm):
        assert_close(logits_of(trained, IDS), logits_of(lm, IDS), 2e-5)


def test_adapters_of_a_mixture_are_refused_in_one_line(job, tmp_path, capsys):
    lm = load(job.model, dtype="float32", device="cpu")
    Edit.of(Gains(torch.full((lm.n_blocks, lm.d_mlp), 0.5))).save(tmp_path / "edit")
    given = ["--edit", tmp_path / "edit", "--form", "adapters", "--out", tmp_path / "out"]
    told = command(capsys, "fold", job.model, *given)
    assert told.code == 2
    assert "adapters cannot hold an edit of a mixture of experts" in told.err
    assert not (tmp_path / "out").exists()


def test_edit_and_explain_of_a_mixture_with_a_dense_block_and_shared_experts(job, tmp_path, capsys):
    """From a folder to a browser: absent columns are in no table, and the page tells which experts are shared."""
    base = shared_mixture_of("deepseek_v3")
    model, tuned = tmp_path / "base", tmp_path / "tuned"
    base.save_pretrained(model)
    tuned_copy(base, strength=0.1).save_pretrained(tuned)
    told = command(capsys, "edit", model, *job.flags(), "--out", tmp_path / "edit", "--quiet")
    assert told.code == 0, told.err
    gains = Edit.load(tmp_path / "edit" / "edit").gains
    assert len(gains.touched) > 0
    assert (gains.values[~base.here] == 1).all()
    flags = ["--no-edits", "--no-claim-directions", "--quiet"]
    told = command(
        capsys,
        "explain",
        model,
        tuned,
        "--out",
        tmp_path / "out",
        *job.flags(toxic_neurons=4, folds=0, seeds=0, max_windows=1, max_passages=2),
        *flags,
    )
    assert told.code == 0, told.err
    change = Contributions.load(tmp_path / "out" / "contributions")
    assert torch.equal(change.here, base.here)
    assert not change.total[~base.here].any()
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert f"{base.n_neurons} neurons in 3 blocks" in page
    assert "Experts from number 4 on are shared" in page
    assert "Dense blocks (0) count as experts" in page
