"""A choice that does not exist is refused wherever one can be made; a typo must not pick another method in silence."""

import pytest
import torch

from dposcope.directions.features import residual_features
from dposcope.directions.means import mean_difference
from dposcope.directions.probe import fit_probe
from dposcope.directions.tokens import token_contrast
from dposcope.errors import DposcopeError
from dposcope.evaluation.perplexity import window_losses
from dposcope.interventions.steer import Steer
from dposcope.model.batches import encode
from dposcope.neurons.activations import collect_means
from helpers.families import CIVIL, RUDE, TEXTS

LABELLED = [*RUDE, *CIVIL] * 2, ([True] * 6 + [False] * 6) * 2

CHOICES = {
    "protocol of means": lambda lm: collect_means(lm, TEXTS, new_tokens=2, protocol="stirct"),
    "protocol of features": lambda lm: residual_features(lm, TEXTS, protocol="stirct"),
    "protocol of a difference of means": lambda lm: mean_difference(lm, *LABELLED, protocol="stirct"),
    "protocol of a probe": lambda lm: fit_probe(lm, *LABELLED, protocol="stirct"),
    "protocol of log-perplexity": lambda lm: window_losses(lm, " ".join(TEXTS), window=20, protocol="stirct"),
    "matrix of a token contrast": lambda lm: token_contrast(lm, ["idiot"], ["kind"], matrix="inputs"),
    "site of steering": lambda lm: Steer(torch.ones(lm.d_model), alpha=1.0, site="residuals").on(lm).__enter__(),
    "side of a cut": lambda lm: encode(lm, TEXTS, max_tokens=3, keep="begin"),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_an_unknown_choice_is_refused(llama, choice):
    with pytest.raises(DposcopeError, match=choice.split()[0] if choice != "side of a cut" else "keep"):
        CHOICES[choice](llama)
