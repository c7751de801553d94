"""What tests share: tiny models, made once, and a watch that no test leaves a mark on them."""

import fcntl
import os
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pytest
import torch
from accelerate.utils import memory

from dposcope.data.trust import trusting_files
from dposcope.model.language_model import LanguageModel
from helpers import unchanged
from helpers.families import CONFIGS, FAMILIES, bits, build, hook_count, tiny
from helpers.light import FEW_TOKENS
from helpers.light import light as lightly
from helpers.parsed import read_once
from helpers.tokenizers import llama2_like

# Tiny matrices gain nothing from threads, and one thread adds in one order.
torch.set_num_threads(1)

# The first call into a tiny model may be slow; a deadline would only measure the machine.
hypothesis.settings.register_profile("dposcope", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("dposcope")


@pytest.fixture(scope="module")
def light():
    """Figures are blank and measured texts short, for tests that look at neither."""
    with lightly():
        yield


@pytest.fixture(scope="module")
def lighter():
    """`light`, with texts of half that length, for tests that hold runs against each other or look at no text."""
    with lightly(FEW_TOKENS):
        yield


@pytest.fixture(scope="session", autouse=True)
def _unsynced():
    """No test pulls the plug of the machine, and a disk takes some ten milliseconds for every file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _file: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _garbage_left():
    """A training of a tiny model looks for garbage as it ends, which takes longer than its steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "gc", SimpleNamespace(collect=lambda: 0))
        yield


@pytest.fixture(scope="session", autouse=True)
def _options_read_once():
    """A process of its own, which tests start too, reads them as they are."""
    with read_once():
        yield


@pytest.fixture
def trusting():
    """Files may name functions as scorers."""
    with trusting_files():
        yield


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory) -> Path:
    """A finished smoke reproduction, made once for all workers, in a folder of its own; to be left as it is."""
    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "reproduced"
    shared.mkdir(exist_ok=True)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "done").exists():
            unchanged.reproduce(shared)
            (shared / "done").touch()
    return shared / "reproduce"


@pytest.fixture(scope="session")
def _zoo():
    models = {family: tiny(family) for family in FAMILIES}
    return {family: (lm, bits(lm.model)) for family, lm in models.items()}


@pytest.fixture
def family_lm(_zoo):
    """`family_lm("gpt2")` is the shared model of a family; the test may not change it."""
    used: dict[str, LanguageModel] = {}

    def get(family: str) -> LanguageModel:
        used[family] = _zoo[family][0]
        return used[family]

    yield get
    for family, lm in used.items():
        hooks, kept = hook_count(lm.model), bits(lm.model) == _zoo[family][1]
        if hooks or not kept:  # let no other test pay for it
            fresh = tiny(family)
            _zoo[family] = (fresh, bits(fresh.model))
        assert hooks == 0, f"hooks left on the shared {family} model"
        assert kept, f"the shared {family} model was changed"


@pytest.fixture(params=FAMILIES)
def lm(request, family_lm) -> LanguageModel:
    """A tiny model of every family in turn."""
    return family_lm(request.param)


@pytest.fixture
def gpt2(family_lm) -> LanguageModel:
    """The one whose projections have biases and whose positions are absolute embeddings."""
    return family_lm("gpt2")


@pytest.fixture
def llama(family_lm) -> LanguageModel:
    """A gated one with a tokenizer that adds <bos>."""
    return family_lm("llama")


@pytest.fixture
def mistral_of_llama2() -> LanguageModel:
    """With a tokenizer that takes the space from the first token that it decodes."""
    tokenizer = llama2_like()
    config = CONFIGS["mistral"]()
    config.vocab_size, config.bos_token_id, config.eos_token_id, config.pad_token_id = len(tokenizer), 1, 2, 0
    return LanguageModel(build(config, seed=3), tokenizer, "tiny-mistral-of-llama2")


@pytest.fixture
def gemma2(family_lm) -> LanguageModel:
    """Post-norms, sliding windows, and soft-caps on attention and logits."""
    return family_lm("gemma2")
