"""What the page's script will read is unpacked here as the script does it, and compared with the value."""

import base64
import json
import re

import numpy as np
import pytest

from dposcope.report.browser.kept import kept
from dposcope.report.browser.neurons import GROUPS, TokenActivations, TokenisedText
from dposcope.report.browser.packing import BYTES_OF_KEPT, BYTES_OF_NEURON, in_script, packed_parts
from dposcope.report.masked_text import ShownText
from helpers.browsers import browser, hostile_browser, lens
from helpers.pages import HOSTILE, STARRED, STRONG


def parts_of(value) -> dict:
    return json.loads(json.dumps(packed_parts(value, ShownText())))


def unpacked(array: dict) -> np.ndarray:
    values = np.frombuffer(base64.b64decode(array["data"]), "<" + array["type"])
    return values.astype(np.float64) * array["scale"] if "scale" in array else values


def text_of(entry, words: list[str] | None = None) -> str:
    """A token as it is shown; with `words`, with the switch on."""
    shown = ""
    for piece in [entry] if isinstance(entry, str) else entry:
        if isinstance(piece, str) or words is None or len(piece) == 1:
            shown += piece if isinstance(piece, str) else piece[0]
        else:
            _, word, *part = piece
            shown += words[word][slice(*part)] if part else words[word]
    return shown


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_columns_come_back_as_float32(dtype):
    drawn = browser(4, 50)
    value = browser(
        4,
        50,
        cosine=drawn.cosine.astype(dtype),
        mean_before=(drawn.mean_before * 1e4).astype(dtype),
        contribution=drawn.contribution.astype(dtype),
    )
    parts = parts_of(value)
    assert parts["shape"] == [4, 50]
    flags = unpacked(parts["columns"]["flags"]).reshape(4, 50)
    np.testing.assert_array_equal(flags & 7, value.group)
    np.testing.assert_array_equal((flags & 8) != 0, value.certain)
    columns = [value.cosine, value.mean_before, value.mean_after, value.contribution]
    for name, column in zip(("cosine", "before", "after", "contribution"), columns, strict=True):
        np.testing.assert_array_equal(unpacked(parts["columns"][name]).reshape(4, 50), column.astype(np.float32))


def test_of_the_neurons_that_are_kept_columns_lenses_and_activations_come_back():
    value = browser(4, 50, n_opened=3)
    part = kept(value, 60)
    parts = json.loads(json.dumps(packed_parts(value, ShownText(), part)))
    places = unpacked(parts["kept"]["neurons"])
    np.testing.assert_array_equal(places, part.neurons)
    np.testing.assert_array_equal(unpacked(parts["kept"]["ranks"]), part.ranks)
    np.testing.assert_array_equal(unpacked(parts["kept"]["peerRanks"]), part.peer_ranks)
    assert (parts["kept"]["peers"], parts["kept"]["total"], parts["shape"]) == (part.peers, 200, [4, 50])
    np.testing.assert_array_equal(unpacked(parts["columns"]["flags"]) & 7, value.group.ravel()[places])
    for name, column in {"before": value.mean_before, "contribution": value.contribution}.items():
        np.testing.assert_array_equal(unpacked(parts["columns"][name]), column.astype(np.float32).ravel()[places])
    assert places[unpacked(parts["lenses"]["neurons"])].tolist() == sorted(value.lenses)
    assert places[unpacked(parts["activations"]["neurons"])].tolist() == value.activations.neurons.tolist()
    size = sum(len(one["data"]) for one in (*parts["columns"].values(), *(parts["kept"][n] for n in KEPT_COLUMNS)))
    assert abs(size - BYTES_OF_KEPT * len(places)) < 4 * 8
    assert abs(sum(len(one["data"]) for one in parts_of(value)["columns"].values()) - BYTES_OF_NEURON * 200) < 4 * 5


KEPT_COLUMNS = ("neurons", "ranks", "peerRanks")


def test_columns_of_nothing_but_zeros_stay_zero():
    zeros = np.zeros((2, 3))
    parts = parts_of(browser(2, 3, n_lenses=0, n_opened=1, contribution=zeros, mean_before=zeros, mean_after=zeros))
    assert not unpacked(parts["columns"]["before"]).any()
    assert parts["digits"] == {"contribution": 3, "mean": 3}


@pytest.mark.parametrize(("largest", "digits"), [(0.0004, 6), (0.05, 6), (0.5, 5), (7.0, 4), (123.0, 2), (3e6, 0)])
def test_the_largest_contribution_has_five_digits(largest, digits):
    contribution = np.full((1, 2), -largest)
    parts = parts_of(browser(1, 2, n_lenses=0, n_opened=1, contribution=contribution))
    assert parts["digits"]["contribution"] == digits


def test_lenses_come_back_in_the_order_of_neurons():
    value = browser(2, 6, n_lenses=0, n_opened=1)
    given = {7: lens(" a", "b", logit=300.0), 2: lens("c", " a", logit=-4.0)}
    parts = parts_of(browser(2, 6, lenses=given, n_opened=1))
    assert unpacked(parts["lenses"]["neurons"]).tolist() == [2, 7]
    named = [text_of(parts["tokens"][i]) for i in unpacked(parts["lenses"]["tokens"])]
    assert named == ["c", " a", " a", "c", " a", "b", "b", " a"]
    logits = unpacked(parts["lenses"]["logits"])
    wanted = [-4.0, -5.0, -2.0, -2.5, 300.0, 299.0, 150.0, 149.5]
    np.testing.assert_allclose(logits, wanted, rtol=2**-11)
    assert unpacked(parts_of(value)["lenses"]["neurons"]).size == 0


def test_activations_come_back_to_a_254th_of_their_largest():
    before = np.array([[0.0, 1.0, -0.3], [0.0, 0.0, 0.0], [1e-3, 2e4, 5.0]])
    after = np.array([[0.0, -2.0, 0.4], [0.0, 0.0, 0.0], [1e4, 0.0, -2e4]])
    made = TokenActivations(np.array([5, 0, 3]), before, after)
    parts = parts_of(browser(2, 3, n_lenses=0, activations=made, texts=[TokenisedText(["a", "b", "a"], 1)]))
    scales = unpacked(parts["activations"]["scales"])
    largest = np.maximum(np.abs(before), np.abs(after)).max(axis=1)
    assert unpacked(parts["activations"]["neurons"]).tolist() == [5, 0, 3]
    np.testing.assert_allclose(scales * 127, largest, rtol=1e-6)
    for name, values in {"before": before, "after": after}.items():
        back = unpacked(parts["activations"][name]).reshape(3, 3) * scales[:, None]
        assert (np.abs(back - values) <= largest[:, None] / 254 * (1 + 1e-5)).all()
    assert [text_of(parts["tokens"][i]) for i in unpacked(parts["texts"][0]["tokens"])] == ["a", "b", "a"]
    assert parts["texts"][0]["prompt"] == 1


def test_equal_tokens_are_kept_once():
    parts = parts_of(browser(3, 40))
    assert len({json.dumps(entry) for entry in parts["tokens"]}) == len(parts["tokens"]) <= 17


def test_more_tokens_than_two_bytes_count_are_told_apart():
    words = [f"t{i}" for i in range(66_000)]
    made = TokenActivations.none(len(words))
    parts = parts_of(browser(1, 2, n_lenses=0, texts=[TokenisedText(words, 0)], activations=made))
    assert parts["texts"][0]["tokens"]["type"] == "u4"
    assert [parts["tokens"][i] for i in unpacked(parts["texts"][0]["tokens"])[[0, 65_999]]] == ["t0", "t65999"]


def test_a_word_across_tokens_is_masked_and_each_token_knows_its_letters():
    shown = ShownText()
    texts = [TokenisedText(["You ", STRONG[:2], f"{STRONG[2:]}!\n", "", f" {STRONG}"], 1)]
    parts = packed_parts(browser(1, 2, n_lenses=0, texts=texts, activations=TokenActivations.none(5)), shown)
    words = json.loads(shown.words())
    entries = [parts["tokens"][i] for i in unpacked(parts["texts"][0]["tokens"])]
    assert words == [STRONG]
    assert [text_of(entry) for entry in entries] == ["You ", STARRED[:2], f"{STARRED[2:]}!↵", "", f" {STARRED}"]
    assert [text_of(entry, words) for entry in entries] == ["You ", STRONG[:2], f"{STRONG[2:]}!↵", "", f" {STRONG}"]
    assert entries[1] == [[STARRED[:2], 0, 0, 2]]
    assert entries[4] == [" ", [STARRED, 0]]
    assert STRONG not in json.dumps(parts)


def test_hostile_tokens_are_visible_and_inert():
    value = hostile_browser()
    shown = ShownText()
    parts = packed_parts(value, shown)
    script = str(in_script(parts))
    script.encode("utf-8")
    assert STRONG not in script
    assert not re.search("[<>&]", script)
    assert not re.search("[\x00-\x1f\x7f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]", script)
    back = json.loads(script)
    assert back == json.loads(json.dumps(parts))
    tokens = unpacked(back["lenses"]["tokens"])
    top = [text_of(back["tokens"][i]) for i in tokens[: len(tokens) // 2]]
    assert top[0] == HOSTILE[0]
    assert top[1].startswith("U+202Egpj.exeU+2066 U+200B NUL ␀")
    assert top[len(HOSTILE) :] == [f" {STARRED}", "", "  ", "U+00A0", "⇥"]


def test_groups_have_the_codes_that_the_flags_have_room_for():
    assert len(GROUPS) <= 8
