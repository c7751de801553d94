"""Classifiers as scorers against naive forward passes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
)

from dposcope.errors import DposcopeError, SmallerBatches
from dposcope.evaluation.classifier import classifier_scorer
from dposcope.evaluation.scorers import load_scorer

WORDS = ["you", "are", "a", "stupid", "idiot", "kind", "person", "and", "the", "river", "is", "very", "long", "today"]
TEXTS = [
    "you are kind",
    "you stupid idiot",
    "the river is very long today and you are a kind person",
    "idiot",
    "a river",
]


def make_tokenizer(*, bert=True):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(special + WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if not bert:
        return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )


def bert_config(labels, **options):
    return BertConfig(
        vocab_size=4 + len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
        # Wide enough for the labels to differ visibly between texts.
        initializer_range=0.5,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        **options,
    )


@pytest.fixture
def classifier(tmp_path):
    def make(labels, name="classifier", **options):
        torch.manual_seed(0)
        folder = tmp_path / name
        BertForSequenceClassification(bert_config(labels, **options)).eval().save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
        return folder

    return make


def naive_logits(folder, texts):
    """One text at a time, encoded by hand: [CLS] words [SEP]."""
    vocabulary = {word: i + 4 for i, word in enumerate(WORDS)}
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    rows = []
    for text in texts:
        ids = [2, *[vocabulary.get(word, 1) for word in text.split()], 3]
        with torch.no_grad():
            rows.append(model(input_ids=torch.tensor([ids])).logits[0].double().numpy())
    return np.array(rows)


def test_one_label_of_several_exclusive_ones_is_a_softmax(classifier):
    folder = classifier(["neutral", "toxic", "other"])
    logits = naive_logits(folder, TEXTS)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scorer = classifier_scorer(folder, batch_size=2)
    np.testing.assert_allclose(scorer(TEXTS), expected[:, 1], atol=1e-6)
    assert np.ptp(expected[:, 1]) > 0.02
    assert scorer.name == "classifier:toxic"
    np.testing.assert_allclose(classifier_scorer(folder, label="other")(TEXTS), expected[:, 2], atol=1e-6)


def test_one_of_independent_labels_is_a_sigmoid(classifier):
    folder = classifier(["insult", "toxicity"], problem_type="multi_label_classification")
    expected = 1 / (1 + np.exp(-naive_logits(folder, TEXTS)))
    np.testing.assert_allclose(classifier_scorer(folder)(TEXTS), expected[:, 1], atol=1e-6)
    np.testing.assert_allclose(classifier_scorer(folder, label="Insult")(TEXTS), expected[:, 0], atol=1e-6)


def test_an_only_label_is_a_sigmoid(classifier):
    folder = classifier(["rude"])
    expected = 1 / (1 + np.exp(-naive_logits(folder, TEXTS)[:, 0]))
    np.testing.assert_allclose(classifier_scorer(folder)(TEXTS), expected, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_a_batch_is_its_members_one_by_one(classifier, batch_size):
    scorer = classifier_scorer(classifier(["neutral", "toxic"]), batch_size=batch_size)
    texts = [TEXTS[0], "", *TEXTS[1:], " \n"]
    scores = scorer(texts)
    np.testing.assert_allclose(scores, [replace(scorer)([text])[0] for text in texts], atol=1e-6)
    assert scores[1] == scores[-1] == 0.0
    assert scores.dtype == np.float64


def test_long_texts_are_cut_where_the_classifier_ends(classifier):
    scorer = classifier_scorer(classifier(["neutral", "toxic"]))
    # 24 positions: [CLS], 22 words, [SEP].
    start = ("kind " * 22).strip()
    assert scorer([start + " idiot" * 50])[0] == pytest.approx(scorer([start])[0], abs=1e-6)
    shorter = classifier_scorer(classifier(["neutral", "toxic"]), max_length=5)
    assert shorter(["you are kind person idiot"])[0] == pytest.approx(scorer(["you are kind"])[0], abs=1e-6)


@pytest.mark.parametrize(("pad_token", "pad_id"), [(None, None), ("[PAD]", None), ("[PAD]", 0)])
def test_a_decoder_judges_the_last_token_with_and_without_padding(tmp_path, pad_token, pad_id):
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=4 + len(WORDS), n_embd=16, n_layer=1, n_head=2, n_positions=24, num_labels=2, initializer_range=0.5
    )
    config.pad_token_id = pad_id
    model = GPT2ForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer = make_tokenizer(bert=False)
    tokenizer.pad_token = pad_token
    # As decoders' tokenizers are often saved; the shorter texts' positions would then be wrong.
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(tmp_path)
    expected = []
    for text in TEXTS:
        ids = torch.tensor([[WORDS.index(word) + 4 for word in text.split()]])
        with torch.no_grad():
            expected.append(model(input_ids=ids).logits[0].double().softmax(-1)[1].item())
    scorer = classifier_scorer(tmp_path, batch_size=7)
    np.testing.assert_allclose(scorer(TEXTS), expected, atol=1e-6)
    assert scorer.score.batch_size == (7 if pad_token is not None and pad_id is not None else 1)


@pytest.mark.parametrize(
    ("labels", "chosen"),
    [
        (["non-toxic", "Toxic"], "Toxic"),
        (["toxicity", "toxic"], "toxic"),
        (["severe_toxicity", "toxicity"], "toxicity"),
        (["LABEL_0", "LABEL_1"], "LABEL_1"),
        (["anything"], "anything"),
    ],
)
def test_the_usual_label_is_chosen(classifier, labels, chosen):
    assert classifier_scorer(classifier(labels)).name == f"classifier:{chosen}"


@pytest.mark.parametrize("labels", [["hate", "none"], ["LABEL_0", "LABEL_1", "LABEL_2"], ["non-toxic", "severe_toxic"]])
def test_an_unclear_label_lists_them(classifier, labels):
    with pytest.raises(DposcopeError, match=f"is the score\\? choose one of: {', '.join(labels)}$"):
        classifier_scorer(classifier(labels))


def test_an_unknown_label_lists_them(classifier):
    with pytest.raises(DposcopeError, match="has no label 'rude'; choose one of: neutral, toxic"):
        classifier_scorer(classifier(["neutral", "toxic"]), label="rude")
    with pytest.raises(DposcopeError, match="has no label '1'; choose one of: neutral, toxic"):
        classifier_scorer(classifier(["neutral", "toxic"]), label=1)


def test_labels_that_differ_in_case_alone_are_told_apart(classifier):
    folder = classifier(["Rude", "rude"])
    assert classifier_scorer(folder, label="rude").name == "classifier:rude"
    with pytest.raises(DposcopeError, match="has no label 'RUDE'"):
        classifier_scorer(folder, label="RUDE")


def test_a_regression_is_refused(classifier):
    with pytest.raises(DposcopeError, match=r"is a regression, .*; choose a classifier"):
        classifier_scorer(classifier(["score"], problem_type="regression"))


def test_a_language_model_without_a_trained_head_is_refused(tmp_path):
    BertModel(bert_config(["a", "b"])).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(DposcopeError, match=r"lacks trained weights for classifier\.bias.*; name a trained sequence"):
        classifier_scorer(tmp_path)


def test_pickled_weights_are_refused(classifier):
    folder = classifier(["neutral", "toxic"])
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(DposcopeError, match=r"cannot load the classifier .*; name a folder .* safetensors weights"):
        classifier_scorer(folder)


def test_a_folder_that_holds_no_classifier_is_refused_without_the_network(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DposcopeError, match="cannot load the classifier"):
            classifier_scorer(folder)


def test_other_weights_of_the_same_name_are_another_scorer(classifier, tmp_path):
    folder = classifier(["neutral", "toxic"])
    before = classifier_scorer(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.bias[0] += 1
    model.save_pretrained(folder)
    after = classifier_scorer(folder)
    assert (before.name, before.digest) != (after.name, after.digest)
    assert before.name == after.name


def test_other_settings_of_the_same_weights_are_another_scorer(classifier):
    """Sigmoid or softmax, and how a text becomes tokens."""
    folder = classifier(["neutral", "toxic"])
    before = classifier_scorer(folder).digest
    config = folder / "config.json"
    told = json.loads(config.read_text())
    config.write_text(json.dumps(told | {"problem_type": "multi_label_classification"}))
    sigmoid = classifier_scorer(folder).digest
    config.write_text(json.dumps(told))
    assert classifier_scorer(folder).digest == before
    other = classifier_scorer(folder, label="neutral").digest
    make_tokenizer(bert=False).save_pretrained(folder)
    assert len({before, sigmoid, other, classifier_scorer(folder).digest}) == 4


def test_load_scorer_reads_a_classifier_folder(classifier):
    folder = classifier(["neutral", "toxic"])
    assert load_scorer(str(folder)).name == "classifier:toxic"
    assert load_scorer(str(folder), label="neutral", device="cpu").name == "classifier:neutral"


def test_too_little_memory_for_a_batch_gives_the_same_scores(classifier, monkeypatch):
    folder = classifier(["neutral", "toxic"])
    expected = classifier_scorer(folder, batch_size=4)(TEXTS)
    scorer = classifier_scorer(folder, batch_size=4)
    model = scorer.score.model
    forward, seen = model.forward, []

    def at_most_one(input_ids, **others):
        seen.append(input_ids.shape)
        if len(input_ids) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(input_ids=input_ids, **others)

    monkeypatch.setattr(model, "forward", at_most_one)
    with pytest.warns(SmallerBatches, match=r"batches of \d; going on with \d$"):
        np.testing.assert_allclose(scorer(TEXTS), expected, atol=1e-6)
    assert seen[0][1] == max(shape[1] for shape in seen)
