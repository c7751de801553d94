"""One label of any Hugging Face sequence classifier as a scorer, such as the paper's `unitary/toxic-bert`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from dposcope.artefacts import tensor_fingerprint, text_digest
from dposcope.data.given.numbers import whole
from dposcope.errors import DposcopeError, first_line
from dposcope.evaluation.scorer import Scorer
from dposcope.files import check_is_path
from dposcope.memory import halving_own_batches
from dposcope.model.checks.config import CONFIG, check_files, check_loadable
from dposcope.model.checks.hub import hub_answers
from dposcope.model.checks.identity import settings_digest, tokenizer_digest
from dposcope.processes.shared import shared


def classifier_scorer(
    id_or_path: str | Path,
    *,
    label: str | None = None,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    max_length: int = 512,
) -> Scorer:
    """Probability of one label.

    It is a sigmoid where the labels are independent (`problem_type` is multi_label_classification, or there is one
    label) and a softmax otherwise. The seventh decimal may depend on the texts that are scored together. Only
    safetensors weights are read, and no code that a checkpoint brings is run.

    Args:
        id_or_path: a folder, read without the network, or a hub id.
        label: the label whose probability is the score. By default the only label, else
            "toxic", else "toxicity", else LABEL_1 of the unnamed LABEL_0 and LABEL_1.
        batch_size: texts per forward.
        device: where the classifier stays, whatever the judged model uses; by default
            the first CUDA device, else the CPU.
        max_length: tokens after which a text is cut, at most what the classifier takes.

    Raises:
        DposcopeError: it cannot be loaded, has no trained head, is a regression, or the
            label is not among its labels.
    """
    check_is_path(id_or_path)
    for name, value in (("batch_size", batch_size), ("max_length", max_length)):
        if whole(name, value) < 1:
            raise DposcopeError(f"{name} {value} is below 1; give a positive number")
    source = str(id_or_path)
    model, tokenizer = _load(source)
    config = model.config
    names = cast(dict[int, str], config.id2label)
    labels = [names[index] for index in range(len(names))]
    if config.problem_type == "regression":
        raise DposcopeError(f"{source} is a regression, whose numbers are no probabilities; choose a classifier")
    index = _label_index(labels, label, source)
    # Pad on the right: classifiers count positions from the left, and look for the last token there.
    tokenizer.padding_side = "right"
    positions = cast(int, config.to_dict().get("max_position_embeddings", max_length))
    max_length = min(max_length, tokenizer.model_max_length, positions)
    # Without a padding token, a decoder can only read one text at a time.
    padded = tokenizer.pad_token_id is not None and config.pad_token_id is not None
    sigmoid = config.problem_type == "multi_label_classification" or len(labels) == 1
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model.to(where)  # pyright: ignore[reportArgumentType]  (its stub binds a device to self)
    return Scorer(
        f"{Path(source).name if Path(source).is_dir() else source}:{labels[index]}",
        text_digest(
            *(tensor_fingerprint(model.state_dict()), settings_digest(config), tokenizer_digest(tokenizer)),
            *(str(one) for one in (max_length, index, sigmoid)),
        ),
        _Label(model, tokenizer, index, sigmoid, where, max_length, batch_size if padded else 1),
    )


@dataclass(frozen=True, eq=False)
class _Label:
    """Probabilities of one label."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    index: int
    sigmoid: bool
    device: torch.device
    max_length: int
    batch_size: int

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        return _probabilities(self, texts, batch_size=self.batch_size)

    @torch.inference_mode()
    def batch(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Probabilities of texts that are padded to the longest."""
        encoded = self.tokenizer(
            list(texts), padding=len(texts) > 1, truncation=True, max_length=self.max_length, return_tensors="pt"
        ).to(self.device)
        logits = self.model(**encoded).logits.double()
        probabilities = logits.sigmoid() if self.sigmoid else logits.softmax(dim=-1)
        return probabilities[:, self.index].cpu().numpy()


@halving_own_batches
def _probabilities(label: _Label, texts: Sequence[str], *, batch_size: int = 32) -> NDArray[np.float64]:
    # Sorted by length, so that batches need little padding; the longest batch first, which needs the most memory.
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    chosen = [order[start : start + batch_size] for start in reversed(range(0, len(order), batch_size))]
    scores = np.empty(len(texts))
    found = shared(chosen, lambda rows: label.batch([texts[index] for index in rows]))
    for rows, probabilities in zip(chosen, found, strict=True):
        scores[rows] = probabilities
    return scores


def _load(source: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    local = Path(source).is_dir()
    options = {"local_files_only": local or not hub_answers(source), "trust_remote_code": False}
    if local:
        check_files(Path(source))
        if (Path(source) / CONFIG).is_file():
            check_loadable(Path(source), AutoModelForSequenceClassification)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model, info = cast(
            tuple[PreTrainedModel, dict[str, Any]],
            AutoModelForSequenceClassification.from_pretrained(
                source, use_safetensors=True, output_loading_info=True, **options
            ),
        )
    except MemoryError:
        raise
    except Exception as error:  # a stranger's files may fail anywhere in three libraries
        reason = first_line(error)
        raise DposcopeError(
            f"cannot load the classifier {source} ({reason}); name a folder or a hub id that holds a "
            "sequence classifier with its tokenizer and safetensors weights"
        ) from error
    if info["missing_keys"]:
        # A language model loads too, and its random head would score at random.
        missing = ", ".join(sorted(info["missing_keys"])[:3])
        raise DposcopeError(f"{source} lacks trained weights for {missing}; name a trained sequence classifier")
    return model.eval(), cast(PreTrainedTokenizerBase, tokenizer)


def _label_index(labels: Sequence[str], wanted: str | None, source: str) -> int:
    listed = ", ".join(labels)
    folded = [label.casefold() for label in labels]
    if wanted is not None:
        wanted = str(wanted)  # a number, say
        if wanted in labels:
            return labels.index(wanted)
        if folded.count(wanted.casefold()) == 1:
            return folded.index(wanted.casefold())
        raise DposcopeError(f"{source} has no label {wanted!r}; choose one of: {listed}")
    if len(labels) == 1:
        return 0
    for usual in ("toxic", "toxicity"):
        if usual in folded:
            return folded.index(usual)
    if folded == ["label_0", "label_1"]:
        return 1
    raise DposcopeError(f"which label of {source} is the score? choose one of: {listed}")
