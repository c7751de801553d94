"""Scorers against naive implementations, and what they refuse before it can do harm."""

import importlib
import importlib.util
import shutil
import sys
from pathlib import Path

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

from dposcope.errors import DposcopeError
from dposcope.evaluation.scorers import (
    CachedScorer,
    CallableScorer,
    ClassifierScorer,
    ProfanityScorer,
    load_scorer,
    scorer_digest,
)
from dposcope.evaluation.trained_scorer import TrainedScorer

WORDS = ["you", "are", "a", "stupid", "idiot", "kind", "person", "and", "the", "river", "is", "very", "long", "today"]
TEXTS = [
    "you are kind",
    "you stupid idiot",
    "the river is very long today and you are a kind person",
    "idiot",
    "a river",
]


# The embedded scorer


def test_profanity_scores_lie_between_zero_and_one_and_tell_rude_from_civil():
    scorer = ProfanityScorer()
    scores = scorer(["What a stupid idiot you are.", "What a fine day it is."])
    assert scores.dtype == np.float64
    assert scores[0] > 0.9
    assert scores[1] < 0.1
    assert scorer.name == "alt-profanity-check 1.9.1"


def test_profanity_scores_are_the_packages_own():
    scorer = ProfanityScorer()
    package = sys.modules["profanity_check"]
    np.testing.assert_array_equal(scorer(TEXTS), package.predict_prob(TEXTS))


def test_profanity_batches_join_in_order():
    texts = [f"{'stupid' if i % 3 else 'kind'} {i}" for i in range(4096 + 7)]
    scorer = ProfanityScorer()
    scores = scorer(texts)
    assert scores.shape == (4103,)
    np.testing.assert_allclose(scores[-9:], scorer(texts[-9:]), rtol=1e-12)


def real_data():
    return Path(importlib.util.find_spec("profanity_check").origin).parent / "data"


@pytest.fixture
def fake_package(tmp_path, monkeypatch):
    """Put a package in front of the real one; its code leaves a mark where it ran."""

    def make(*, version="1.9.1", data=None, code="", distribution="alt_profanity_check"):
        data = data or real_data()
        package = tmp_path / "profanity_check"
        package.mkdir()
        (package / "__init__.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\n")
        (package / "profanity_check.py").write_text(code)
        shutil.copytree(data, package / "data")
        about = tmp_path / f"{distribution}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution.replace('_', '-')}\nVersion: {version}\n"
        )
        for name in [name for name in sys.modules if name.split(".")[0] == "profanity_check"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.syspath_prepend(tmp_path)
        return package

    yield make
    for name in [name for name in sys.modules if name.split(".")[0] == "profanity_check"]:
        del sys.modules[name]


@pytest.mark.parametrize("file_name", ["model.joblib", "vectorizer.joblib"])
def test_altered_weights_are_never_loaded(fake_package, tmp_path, file_name):
    package = fake_package()
    with (package / "data" / file_name).open("r+b") as stream:
        stream.seek(1000)
        byte = stream.read(1)
        stream.seek(1000)
        stream.write(bytes([byte[0] ^ 1]))
    with pytest.raises(
        DposcopeError, match=rf"{file_name} is not the one .* was not loaded; run: pip install --force-re"
    ):
        ProfanityScorer()
    assert not (tmp_path / "imported").exists()


def test_missing_weights_are_named(fake_package):
    package = fake_package()
    (package / "data" / "model.joblib").unlink()
    with pytest.raises(DposcopeError, match=r"model\.joblib is not the one"):
        ProfanityScorer()


def test_an_unknown_release_is_never_loaded(fake_package, tmp_path):
    fake_package(version="9.9")
    with pytest.raises(
        DposcopeError, match=r"alt-profanity-check 9\.9 is not .*; run: pip install alt-profanity-check=="
    ):
        ProfanityScorer()
    assert not (tmp_path / "imported").exists()


def test_another_package_of_the_same_name_is_never_loaded(fake_package, tmp_path, monkeypatch):
    fake_package(distribution="profanity_check")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(DposcopeError, match="not from alt-profanity-check; run: pip install --force-reinstall"):
        ProfanityScorer()
    assert not (tmp_path / "imported").exists()


def test_known_weights_are_loaded(fake_package, tmp_path):
    fake_package(code="vectorizer = model = None")
    ProfanityScorer()
    assert (tmp_path / "imported").exists()


def test_weights_of_another_scikit_learn_are_refused(fake_package):
    fake_package(
        code="import warnings\n"
        "from sklearn.exceptions import InconsistentVersionWarning as W\n"
        "warnings.warn(W(estimator_name='x', current_sklearn_version='8', original_sklearn_version='7'))"
    )
    with pytest.raises(DposcopeError, match=r"needs another scikit-learn \(7, not 8\); run: pip install"):
        ProfanityScorer()


def test_an_absent_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        DposcopeError, match=r'not installed; run: pip install "dposcope\[demo\]", or name another scorer'
    ):
        ProfanityScorer()


# Hugging Face classifiers


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
    scorer = ClassifierScorer(folder, batch_size=2)
    np.testing.assert_allclose(scorer(TEXTS), expected[:, 1], atol=1e-6)
    assert np.ptp(expected[:, 1]) > 0.02
    assert scorer.name == "classifier:toxic"
    np.testing.assert_allclose(ClassifierScorer(folder, label="other")(TEXTS), expected[:, 2], atol=1e-6)


def test_one_of_independent_labels_is_a_sigmoid(classifier):
    folder = classifier(["insult", "toxicity"], problem_type="multi_label_classification")
    expected = 1 / (1 + np.exp(-naive_logits(folder, TEXTS)))
    np.testing.assert_allclose(ClassifierScorer(folder)(TEXTS), expected[:, 1], atol=1e-6)
    np.testing.assert_allclose(ClassifierScorer(folder, label="Insult")(TEXTS), expected[:, 0], atol=1e-6)


def test_an_only_label_is_a_sigmoid(classifier):
    folder = classifier(["rude"])
    expected = 1 / (1 + np.exp(-naive_logits(folder, TEXTS)[:, 0]))
    np.testing.assert_allclose(ClassifierScorer(folder)(TEXTS), expected, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_a_batch_is_its_members_one_by_one(classifier, batch_size):
    scorer = ClassifierScorer(classifier(["neutral", "toxic"]), batch_size=batch_size)
    texts = [TEXTS[0], "", *TEXTS[1:], " \n"]
    scores = scorer(texts)
    np.testing.assert_allclose(scores, [scorer([text])[0] for text in texts], atol=1e-6)
    assert scores[1] == scores[-1] == 0.0
    assert scores.dtype == np.float64


def test_long_texts_are_cut_where_the_classifier_ends(classifier):
    scorer = ClassifierScorer(classifier(["neutral", "toxic"]))
    # 24 positions: [CLS], 22 words, [SEP].
    start = ("kind " * 22).strip()
    assert scorer([start + " idiot" * 50])[0] == pytest.approx(scorer([start])[0], abs=1e-6)
    shorter = ClassifierScorer(classifier(["neutral", "toxic"]), max_length=5)
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
    np.testing.assert_allclose(ClassifierScorer(tmp_path)(TEXTS), expected, atol=1e-6)


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
    assert ClassifierScorer(classifier(labels)).name == f"classifier:{chosen}"


@pytest.mark.parametrize("labels", [["hate", "none"], ["LABEL_0", "LABEL_1", "LABEL_2"], ["non-toxic", "severe_toxic"]])
def test_an_unclear_label_lists_them(classifier, labels):
    with pytest.raises(DposcopeError, match=f"is the score\\? choose one of: {', '.join(labels)}$"):
        ClassifierScorer(classifier(labels))


def test_an_unknown_label_lists_them(classifier):
    with pytest.raises(DposcopeError, match="has no label 'rude'; choose one of: neutral, toxic"):
        ClassifierScorer(classifier(["neutral", "toxic"]), label="rude")


def test_labels_that_differ_in_case_alone_are_told_apart(classifier):
    folder = classifier(["Rude", "rude"])
    assert ClassifierScorer(folder, label="rude").name == "classifier:rude"
    with pytest.raises(DposcopeError, match="has no label 'RUDE'"):
        ClassifierScorer(folder, label="RUDE")


def test_a_regression_is_refused(classifier):
    with pytest.raises(DposcopeError, match=r"is a regression, .*; choose a classifier"):
        ClassifierScorer(classifier(["score"], problem_type="regression"))


def test_a_language_model_without_a_trained_head_is_refused(tmp_path):
    BertModel(bert_config(["a", "b"])).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(DposcopeError, match=r"lacks trained weights for classifier\.bias.*; name a trained sequence"):
        ClassifierScorer(tmp_path)


def test_pickled_weights_are_refused(classifier):
    folder = classifier(["neutral", "toxic"])
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(DposcopeError, match=r"cannot load the classifier .*; name a folder .* safetensors weights"):
        ClassifierScorer(folder)


def test_a_folder_that_holds_no_classifier_is_refused_without_the_network(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DposcopeError, match="cannot load the classifier"):
            ClassifierScorer(folder)


# One's own functions


def by_length(texts):
    return [len(text) / 100 for text in texts]


def test_a_function_is_a_scorer():
    scorer = CallableScorer(by_length, "length")
    assert scorer(["abc", " ", "abcde"]).tolist() == [0.03, 0.0, 0.05]
    assert scorer.name == "length"
    assert scorer([]).shape == (0,)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda texts: [0.5], r"scorer mine gave shape \(1,\) for 2 texts; return one number per text"),
        (lambda texts: [[0.5]] * len(texts), r"gave shape \(2, 1\) for 2 texts"),
        (lambda texts: [0.5, 1.5], r"gave a score outside \[0, 1\]; rescale its answers"),
        (lambda texts: [-0.1, 0.5], "outside"),
        (lambda texts: [float("nan"), 0.5], "outside"),
    ],
)
def test_a_functions_answers_are_checked(function, message):
    with pytest.raises(DposcopeError, match=message):
        CallableScorer(function, "mine")(["a", "b"])


# What a name does not say


def test_other_weights_of_the_same_name_are_another_scorer(classifier, tmp_path):
    folder = classifier(["neutral", "toxic"])
    before = ClassifierScorer(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.bias[0] += 1
    model.save_pretrained(folder)
    after = ClassifierScorer(folder)
    assert (before.name, before.digest) != (after.name, after.digest)
    assert before.name == after.name
    assert scorer_digest(CachedScorer(after)) == after.digest


def test_another_source_of_a_function_is_another_scorer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = []
    for number in ("0.25", "0.5"):
        (tmp_path / "some_scorer_of_mine.py").write_text(f"def score(texts):\n    return [{number}] * len(texts)\n")
        sys.modules.pop("some_scorer_of_mine", None)
        importlib.invalidate_caches()
        found.append(scorer_digest(load_scorer("some_scorer_of_mine:score")))
    sys.modules.pop("some_scorer_of_mine")
    assert None not in found
    assert found[0] != found[1]
    assert scorer_digest(CallableScorer(len, "built in")) is None


def test_a_name_that_says_all_needs_no_digest():
    assert scorer_digest(load_scorer("profanity")) is None


# The cache


def test_the_cache_asks_once_about_each_text_and_keeps_the_order():
    asked = []

    def function(texts):
        asked.append(list(texts))
        return by_length(texts)

    scorer = CachedScorer(CallableScorer(function, "length"))
    assert scorer(["bb", "a", "bb"]).tolist() == [0.02, 0.01, 0.02]
    assert scorer(["ccc", "a", "", "bb"]).tolist() == [0.03, 0.01, 0.0, 0.02]
    assert scorer(["bb", "ccc"]).tolist() == [0.02, 0.03]
    assert asked == [["bb", "a"], ["ccc"]]
    assert scorer.name == "length"
    assert scorer([]).shape == (0,)


@pytest.mark.parametrize("wrap", [lambda scorer: scorer, CachedScorer])
def test_one_text_instead_of_a_list_is_refused(wrap):
    with pytest.raises(DposcopeError, match="takes a list of texts, and was given one text; put it in a list"):
        wrap(CallableScorer(by_length, "length"))("abc")


# By name


@pytest.fixture
def saved_judge(tmp_path):
    texts = [f"{'stupid' if i % 2 else 'kind'} person {i}" for i in range(60)]
    judge = TrainedScorer.fit(texts, [i % 2 for i in range(60)], seed=0)
    judge.save(tmp_path / "judge")
    return judge


def test_load_scorer_knows_the_embedded_one():
    assert load_scorer("profanity").name == ProfanityScorer().name


def test_load_scorer_reads_a_trained_one_from_its_folder_or_file(saved_judge, tmp_path):
    for spec in (tmp_path, tmp_path / "judge", tmp_path / "judge.json"):
        np.testing.assert_array_equal(load_scorer(str(spec))(TEXTS), saved_judge(TEXTS))


def test_load_scorer_reads_a_classifier_folder(classifier):
    folder = classifier(["neutral", "toxic"])
    assert load_scorer(str(folder)).name == "classifier:toxic"
    assert load_scorer(str(folder), label="neutral", device="cpu").name == "classifier:neutral"


def test_load_scorer_finds_functions_beside_the_caller(tmp_path, monkeypatch):
    (tmp_path / "my_judging.py").write_text("def half(texts):\n    return [0.5] * len(texts)\n\nnumber = 3\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    scorer = load_scorer("my_judging:half")
    assert scorer(["a", ""]).tolist() == [0.5, 0.0]
    assert scorer.name == "my_judging:half"
    assert sys.path == before
    for spec, message in (
        ("my_judging:third", "my_judging has no function third; name one that takes texts"),
        ("my_judging:number", "has no function number"),
        ("no_such_module:half", r"cannot import no_such_module .*; run where no_such_module can be imported"),
    ):
        with pytest.raises(DposcopeError, match=message):
            load_scorer(spec)
    monkeypatch.delitem(sys.modules, "my_judging")


def test_load_scorer_refuses_a_label_where_there_are_none(saved_judge, tmp_path):
    for spec in ("profanity", "json:loads", str(tmp_path)):
        with pytest.raises(DposcopeError, match="has no labels to choose from; leave the label out"):
            load_scorer(spec, label="toxic")
