"""A model whose blocks lie in a file: whatever is done with it gives what it gives in memory, to the bit.

GPUs are pretended, as in `test_spread.py`.
"""

import pytest

from dposcope.errors import DposcopeError
from dposcope.model.devices.streamed import stream_
from dposcope.model.language_model import LanguageModel
from helpers.deeds import DONE, EVERY, ON_ONE, pair, unequal
from helpers.fake_devices import CPU, GPUS, FakeDevices, spread

WITH_TUNED = (
    *("interchange", "contributions", "explanation", "attribution", "mediation", "losses of continuations"),
    *("extrapolated", "fingerprint"),
)


def streamed(lm: LanguageModel, folder, device=CPU) -> LanguageModel:
    stream_(lm, device, folder)
    return LanguageModel(lm.model, lm.tokenizer, lm.name)


@pytest.mark.parametrize("what", WITH_TUNED)
def test_a_tuned_model_beside_a_base_that_is_on_a_gpu(what, tmp_path):
    wanted = DONE[what](*pair("llama"))
    base, tuned = pair("llama")
    with FakeDevices():
        found = DONE[what](spread(base, 1), streamed(tuned, tmp_path, GPUS[0]))
    assert unequal(found, wanted, exact=True) is None


NO_GRADIENTS = r"has no gradients; run it under torch.no_grad\(\), or load it without stream"
NO_COPY = "is not copied, and so neither edited nor folded; load it without stream"
REFUSED = dict.fromkeys(("attribution", "PPLM"), NO_GRADIENTS) | dict.fromkeys(("folded", "edited"), NO_COPY)
"""What needs weights that stay on a GPU."""


@pytest.mark.parametrize("what", [*ON_ONE, "explanation", "PPLM", "sampled", "without a cache"])
def test_both(what, tmp_path):
    wanted = DONE[what](*pair("llama"))
    one, other = (pair("llama") for _ in range(2))
    assert unequal(DONE[what](*(streamed(lm, tmp_path) for lm in one)), wanted, exact=True) is None, "on the CPU"
    with FakeDevices():
        there = [streamed(lm, tmp_path, GPUS[0]) for lm in other]
        if what in REFUSED:
            with pytest.raises(DposcopeError, match=REFUSED[what]):
                DONE[what](*there)
        else:
            assert unequal(DONE[what](*there), wanted, exact=True) is None


@pytest.mark.parametrize("family", EVERY)
def test_every_family(family, tmp_path):
    wanted = DONE["attribution"](*pair(family))
    base, tuned = pair(family)
    with FakeDevices():
        found = DONE["attribution"](spread(base, 1), streamed(tuned, tmp_path, GPUS[0]))
    assert unequal(found, wanted, exact=True) is None
