"""The paper's numbers as data: whole, without duplicates, and every disagreement among them listed."""

import csv
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from importlib import resources
from itertools import combinations

import pytest

from dposcope.errors import DposcopeError
from dposcope.paper import comparison
from dposcope.paper.models import MODELS
from dposcope.paper.numbers import (
    EVERY_MODEL,
    TABLES,
    PaperValue,
    contradictions,
    paper_frame,
    paper_values,
    printed_otherwise,
)

NAMES = [model.name for model in MODELS]
GPT2, LLAMA, GEMMA, MISTRAL = NAMES
FOLDER = resources.files("dposcope.paper").joinpath("printed")
EVERYTHING = paper_values()


def one(table: str, model: str, measure: str, row: str, **where: object) -> PaperValue:
    wanted = {"table": table, "model": model, "measure": measure, "row": row, **where}
    (found,) = [v for v in EVERYTHING if all(getattr(v, name) == value for name, value in wanted.items())]
    return found


def number(table: str, model: str, measure: str, row: str, **where: object) -> Decimal:
    return Decimal(one(table, model, measure, row, **where).printed.rstrip("%").replace(",", ""))


@cache
def neurons(model: str) -> Decimal:
    return number("8", model, "blocks", "model") * number("8", model, "d_mlp", "model")


def rounded(value: Decimal, places: int) -> Decimal:
    return value.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)


def listed(kind: str) -> set[tuple[str, str, str, str, str]]:
    return {(c.model, c.row, c.measure, c.value, c.other_value) for c in contradictions() if c.kind == kind}


# The files


def test_every_file_has_the_same_columns_and_no_blank_cell_that_matters():
    names = sorted(path.name for path in FOLDER.iterdir() if path.name.endswith(".csv"))
    tables = [f"table-{int(table):02}.csv" for table in TABLES if table != "text"]
    assert names == sorted([*tables, "text.csv", "contradictions.csv"])
    seen = 0
    for name in (*tables, "text.csv"):
        rows = list(csv.DictReader(FOLDER.joinpath(name).read_text(encoding="utf-8").splitlines()))
        assert rows, name
        for row in rows:
            assert list(row) == paper_frame().columns
            assert all(row[cell] for cell in ("table", "row", "model", "measure", "printed")), row
            assert not any(cell != cell.strip() for cell in row.values())
            assert row["model"] in (*NAMES, EVERY_MODEL)
            assert name == ("text.csv" if row["table"] == "text" else f"table-{int(row['table']):02}.csv")
        seen += len(rows)
    assert seen == len(paper_frame()) == len(EVERYTHING)


def test_no_number_stands_twice_in_one_place():
    frame = paper_frame()
    where = [name for name in frame.columns if name != "printed"]
    assert not frame.select(where).is_duplicated().any()
    assert len(set(contradictions())) == len(contradictions())


def test_tables_have_as_many_cells_as_printed():
    cells = {"2": 15 * 12, "3": 4 * 4, "5": 4 * 5, "8": 4 * 5, "9": 13, "10": 4, "11": 8, "12": 12 * 3, "13": 8}
    cells |= {"17": 16, "18": 8, "19": 13 * 12}
    assert {table: len(paper_values(table=table)) for table in TABLES if table != "text"} == cells


@pytest.mark.parametrize(
    ("cell", "where", "printed"),
    [
        (("2", MISTRAL, "f1", "none"), {}, "0.221"),
        (("2", GPT2, "f1", "patch four groups"), {}, "0.170"),
        (("2", LLAMA, "logppl", "edit"), {"direction": "token_contrast", "beta": 0.8}, "5.82"),
        (("2", GEMMA, "toxicity", "patch TP↓+AN↓"), {}, "0.337"),
        (("19", GPT2, "logppl", "patch ↑ neurons"), {}, "6.05"),
        (("19", MISTRAL, "toxicity", "edit"), {"alpha": 0.05, "ranking": "activation"}, "0.251"),
        (("3", MISTRAL, "share_of_dpo", "patch 256 neurons"), {}, "16.5%"),
        (("5", LLAMA, "neurons", "sum"), {}, "239,460"),
        (("12", GEMMA, "logppl", "steering"), {"alpha": 5.0}, "5.64"),
        (("17", MISTRAL, "p", "shift and alignment"), {}, "0.045"),
        (("text", MISTRAL, "shift", "average shift"), {}, "16.71%"),
    ],
)
def test_cells_are_as_printed(cell, where, printed):
    assert one(*cell, **where).printed == printed


@pytest.mark.parametrize(
    ("printed", "value", "percent", "places"),
    [
        ("0.170", 0.17, False, 3),
        ("16.71%", 0.1671, True, 2),
        ("57,501", 57_501.0, False, 0),
        ("1×10⁻⁵", 1e-5, False, 0),
        ("256 tokens", 256.0, False, 0),
        ("0.1 (preference strength)", 0.1, False, 1),
        *((words, None, words.endswith("%"), None) for words in ("<0.0001", "≈10", "over 91%", "2,000–2,500", "GeLU")),
        *((words, None, False, None) for words in ("90:10", "three", "✗", "Max norm = 10.0")),
    ],
)
def test_printed_cells_as_numbers(printed, value, percent, places):
    found = PaperValue("2", "", "none", GPT2, None, None, None, None, "toxicity", printed)
    assert found.value == value
    assert found.percent == percent
    assert places is None or found.places == places


def test_what_is_asked_for_is_found_in_the_papers_order():
    weights = paper_values(table="10", measure="kl_weight", row="training")
    assert [(value.model, value.printed) for value in weights] == list(
        zip(NAMES, ("0.02", "0.1", "0.05", "0.05"), strict=True)
    )
    of_gemma = paper_values(model=GEMMA)
    assert {value.model for value in of_gemma} == {GEMMA, EVERY_MODEL}
    assert [value.table for value in of_gemma] == sorted((v.table for v in of_gemma), key=TABLES.index)
    places = {value.place for value in paper_values(table="text")}
    assert {"section 5.1", "appendix E", "caption of Table 18", "abstract"} <= places
    assert paper_values(table="2")[0].place == "Table 2"
    with pytest.raises(DposcopeError, match="table '4' is unknown; choose from 2, 3"):
        paper_values(table="4")
    with pytest.raises(DposcopeError, match="model 'gpt2' is unknown; choose from GPT-2-355M"):
        paper_values(model="gpt2")


# The numbers among themselves


def test_what_is_printed_twice_agrees_or_is_listed():
    found = set()
    for mine, other in combinations([v for v in EVERYTHING if v.table in ("2", "12", "19")], 2):
        same = ("row", "model", "measure", "beta", "ranking", "direction")
        if mine.table == other.table or any(getattr(mine, name) != getattr(other, name) for name in same):
            continue
        alphas = [v.alpha for v in (mine, other)]
        if mine.row == "steering":  # Tables 2 and 19 do not print α: it is that of Table 11
            alphas = [alpha or float(number("11", mine.model, "alpha", "steering")) for alpha in alphas]
        if alphas[0] == alphas[1] and mine.printed != other.printed:
            # In the tables' order, as the list has them.
            pair = sorted((mine, other), key=lambda v: int(v.table))
            found.add((*(v.place for v in pair), mine.model, mine.row, mine.measure, *(v.printed for v in pair)))
    stated = {
        (c.place, c.other_place, c.model, c.row, c.measure, c.value, c.other_value)
        for c in contradictions()
        if c.kind == "printed twice"
    }
    assert found == stated
    assert len(found) == 5


def test_parts_add_up_to_the_whole():
    off = set()
    for model in NAMES:
        groups = sum(number("5", model, "of_reducing", f"{group}↓") for group in ("TP", "TN", "AP", "AN"))
        assert abs(groups - 100) <= Decimal("0.2"), model  # four roundings of 0.05 each
        for table, parts in (("13", ("negative", "positive")), ("18", ("share_reducing", "share_increasing"))):
            part, other = (number(table, model, name, "neurons") for name in parts)
            if part + other != 100:
                off.add((model, "neurons", parts[0], f"{part}%", f"{100 - other}%"))
    assert off == {found for found in listed("arithmetic") if found[2] == "negative"}
    # Nor is there a number of GPT-2's neurons whose share and rest round to both.
    total = int(neurons(GPT2))
    near = range(round(0.8725 * total), round(0.8733 * total))
    shares = {tuple(rounded(Decimal(100 * count) / total, 2) for count in (k, total - k)) for k in near}
    assert len(shares) > 5
    assert (Decimal("87.28"), Decimal("12.71")) not in shares


def test_shares_of_reducing_neurons_follow_from_their_number_or_are_listed():
    off = set()
    for model in NAMES:
        printed = number("18", model, "share_reducing", "neurons")
        computed = rounded(100 * number("5", model, "neurons", "sum") / neurons(model), 2)
        if computed != printed:
            off.add((model, "neurons", "share_reducing", f"{printed}%", f"{computed}%"))
    assert off == {found for found in listed("arithmetic") if found[2] == "share_reducing"}
    assert len(off) == 3


def test_neurons_beyond_the_mlp_are_listed_with_its_last_index():
    listed_ones = {found for found in listed("arithmetic") if found[2] == "index"}
    for model, _row, _measure, index, last in listed_ones:
        assert int(index) > int(last) == number("8", model, "d_mlp", "model") - 1
    assert len(listed_ones) == 2


@pytest.mark.parametrize("model", NAMES)
def test_table_3_follows_from_table_2_and_not_always_from_table_19(model):
    off = set()
    for row in ("patch toxic neurons", "patch 256 neurons"):
        printed = one("3", model, "share_of_dpo", row)
        base, part = (number("2", model, "toxicity", name) for name in ("none", row))
        for table in ("2", "19"):
            share = rounded(100 * (base - part) / (base - number(table, model, "toxicity", "dpo")), printed.places)
            if f"{share}%" != printed.printed:
                off.add((model, row, "share_of_dpo", printed.printed, f"{share}%"))
    assert off == {found for found in listed("arithmetic") if found[0] == model and found[2] == "share_of_dpo"}
    assert bool(off) == (model == MISTRAL)


def test_claims_about_toxic_neurons_are_listed_where_numbers_deny_them():
    off = set()
    for model in NAMES:
        for row in ("patch toxic neurons", "patch 256 neurons"):
            share = 100 * number("3", model, "neurons", row) / neurons(model)
            if share >= Decimal("0.05"):
                off.add((model, f"{rounded(share, 3)}%"))
    assert off == {(c.model, c.other_value) for c in contradictions() if c.value == "fewer than 0.05%"}
    least = min(number("3", model, "share_of_dpo", "patch toxic neurons") for model in NAMES)
    assert ("all", "toxic neurons", "share_of_dpo", "2.5%", f"{least}%") in listed("claim")


def stated(place: str, row: str) -> set[tuple[str, str]]:
    claims = [c for c in contradictions() if (c.kind, c.place, c.row, c.measure) == ("claim", place, row, "toxicity")]
    return {(c.model, c.other_value) for c in claims}


@pytest.mark.parametrize(
    ("place", "row", "other", "where"),
    [
        ("1", "edit", "dpo", {"direction": "probe", "beta": 0.55}),
        ("7", "edit", "dpo", {"direction": "token_contrast", "beta": 0.6}),
        ("5.2", "patch four groups", "steering", {}),
        ("caption of Table 2", "patch four groups", "dpo", {}),
    ],
)
def test_claims_about_interventions_are_listed_where_numbers_deny_them(place, row, other, where):
    """Of edits by the settings that the paper marks."""
    denied = {
        (model, one("2", model, "toxicity", row, **where).printed)
        for model in NAMES
        if number("2", model, "toxicity", row, **where) >= number("2", model, "toxicity", other)
    }
    assert denied == stated(place, row)


def test_ranking_by_activation_is_not_less_effective_in_gpt2():
    for alpha, beta in ((0.01, 0.8), (0.01, 0.6), (0.01, 0.55), (0.05, 0.5)):
        activation, cosine = (
            number("19", GPT2, "toxicity", "edit", alpha=alpha, beta=beta, ranking=ranking)
            for ranking in ("activation", "cosine")
        )
        assert activation < cosine
    assert (GPT2, "0.075") in stated("K", "edit")


def test_every_number_of_the_list_is_printed_where_it_says():
    checked = 0
    for found in contradictions():
        for place, text in ((found.place, found.value), (found.other_place, found.other_value)):
            table = place.removeprefix("Table ")
            if table in TABLES and found.kind in ("printed twice", "claim") and found.model != EVERY_MODEL:
                assert text in {v.printed for v in EVERYTHING if (v.table, v.model) == (table, found.model)}, found
                checked += 1
            if place[0].isdigit() and text.endswith("%"):
                assert text in {v.printed for v in EVERYTHING if (v.table, v.part) == ("text", place)}, found
                checked += 1
    assert checked > 30


def test_a_value_knows_where_it_is_printed_otherwise():
    assert printed_otherwise(one("2", MISTRAL, "f1", "none")) == [("Table 12", "0.231"), ("Table 19", "0.231")]
    assert printed_otherwise(one("19", MISTRAL, "toxicity", "dpo")) == [("Table 2", "0.191")]
    assert printed_otherwise(one("2", MISTRAL, "toxicity", "none")) == []
    assert printed_otherwise(one("2", GPT2, "f1", "none")) == []


def test_the_settings_of_the_comparison_are_the_papers():
    counts = {"prompts": comparison.PROMPTS, "passages": comparison.PASSAGES, "pairs": comparison.PAIRS}
    for measure, count in counts.items():
        assert {value.value for value in paper_values(table="text", measure=measure)} == {count}


def test_models_have_the_sizes_of_table_8():
    for model in MODELS:
        sizes = [number("8", model.name, name, "model") for name in ("blocks", "d_model", "d_mlp")]
        assert sizes == [model.blocks, model.d_model, model.d_mlp]
