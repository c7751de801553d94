"""What decides the numbers and texts of a model beside its weights, as digests: results of one are not another's."""

import json
import weakref
from typing import Any, Final

from transformers import PreTrainedConfig
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from dposcope.artefacts import text_digest
from dposcope.model.language_model import LanguageModel

_OF_NO_NUMBER: Final = {
    *("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "use_cache", "initializer_range", "pretraining_tp"),
    *("output_router_logits", "router_aux_loss_coef"),
}
"""Settings of a config that the numbers of a forward pass do not depend on, or that are compared in another way."""
_DIGESTS: Final = weakref.WeakKeyDictionary[PreTrainedTokenizerBase, tuple[str, str]]()
"""Tokenizer → a digest of all but its vocabulary, and of all. A large vocabulary takes a second."""


def identity(lm: LanguageModel) -> str:
    """A digest of all that decides what a model computes and writes: `LanguageModel.fingerprint`, settings of its
    config, tokens that end a text, and its tokenizers."""
    ends = [sorted(lm.end_ids), lm.tokenizer.bos_token_id]
    writer = "" if lm.writer is None else tokenizer_digest(lm.writer)
    beside = (settings_digest(lm.model.config), json.dumps(ends), tokenizer_digest(lm.tokenizer), writer)
    return f"{lm.fingerprint}-{text_digest(*beside)}"


def deciding_settings(config: PreTrainedConfig) -> dict[str, Any]:
    """The settings of a config that decide what the same weights compute.

    Only what the class of the config knows of itself counts: trainers leave notes of their own in a config. Dropout
    does nothing outside training.
    """
    own = type(config)().to_dict().keys() - PreTrainedConfig().to_dict().keys() - _OF_NO_NUMBER
    return {name: value for name, value in config.to_dict().items() if name in own and "drop" not in name}


def settings_digest(config: PreTrainedConfig) -> str:
    """A digest of `deciding_settings`; of a classifier, of what its scores are made by, too."""
    told = deciding_settings(config.get_text_config()) | {"problem_type": config.to_dict().get("problem_type")}
    return text_digest(json.dumps(told, sort_keys=True, default=str))


def _state(stage: Any) -> str:
    """JSON of one stage of a tokenizer; of one that somebody wrote in Python, its class."""
    try:
        return stage.__getstate__().decode()
    except Exception:  # the library raises the most general one
        return type(stage).__name__


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """A digest of what makes ids of a text and a text of ids. How texts are padded and cut at a call is no part."""
    backend: Any = vars(tokenizer).get("_tokenizer")  # None of one that is written in Python
    cleaned = [tokenizer.init_kwargs.get(name) for name in ("clean_up_tokenization_spaces", "do_lower_case")]
    parts = [repr(sorted(tokenizer.added_tokens_decoder.items())), repr(cleaned)]
    if backend is not None:
        stages = (backend.normalizer, backend.pre_tokenizer, backend.post_processor, backend.decoder)
        parts += ["" if stage is None else _state(stage) for stage in stages]
    key = text_digest(*parts)
    if (found := _DIGESTS.get(tokenizer)) is not None and found[0] == key:
        return found[1]
    vocabulary = json.dumps(tokenizer.get_vocab(), sort_keys=True) if backend is None else _state(backend.model)
    digest = text_digest(key, type(tokenizer).__name__, vocabulary)
    _DIGESTS[tokenizer] = (key, digest)
    return digest
