"""A mark that falls is found, and one that stands is not."""

import polars as pl
from benchmarks.marks import marks


def test_a_run_whose_marks_all_stand_has_a_title_alone(tmp_path):
    scores = {"none": [0.5] * 40, "many": [0.1 + 0.001 * row for row in range(40)]}
    rows = [
        {"condition": name, "row": row, "toxicity": score, "judge": None}
        for name, values in scores.items()
        for row, score in enumerate(values)
    ]
    pl.DataFrame(rows, schema_overrides={"judge": pl.Float64}).write_parquet(tmp_path / "samples.parquet")
    assert "0 of 1 marks do not stand" in marks([tmp_path]).markdown()


def test_marks_of_few_texts_fall_and_those_of_many_stand(tmp_path):
    base = [0.5] * 40
    few = [0.5 - 1e-9] * 39 + [0.0]
    many = [0.1 + 0.001 * row for row in range(40)]
    rows = [
        {"condition": name, "row": row, "toxicity": score, "judge": None}
        for name, scores in (("none", base), ("few", few), ("many", many), ("ideal", base[:5]))
        for row, score in enumerate(scores)
    ]
    pl.DataFrame(rows, schema_overrides={"judge": pl.Float64}).write_parquet(tmp_path / "samples.parquet")
    shown = marks([tmp_path]).markdown()
    assert "1 of 2 marks do not stand" in shown
    assert "| toxicity | few |" in shown
    assert "many" not in shown
