"""A redesign leaves the numbers as they were."""

import pytest

from helpers.unchanged import artefacts, differences, machine, recorded, run_jobs


@pytest.mark.slow
def test_the_numbers_of_four_small_jobs_are_as_recorded(tmp_path, reproduced):
    where, held = recorded()
    assert differences(run_jobs(tmp_path, reproduced), held, exact=where == machine()) == []


def test_a_number_that_moved_is_told(tmp_path):
    (tmp_path / "scores.json").write_text('{"edit": {"toxicity": [0.25, 0.5]}, "text": "a", "seconds": 3}')
    before = dict(artefacts(tmp_path))
    (tmp_path / "scores.json").write_text('{"edit": {"toxicity": [0.25, 0.500000001]}, "text": "b", "seconds": 4}')
    after = dict(artefacts(tmp_path))
    assert differences(after, before, exact=False) == []
    assert differences(after, before, exact=True) == ["scores.json:  off by 0.0e+00"]
    (tmp_path / "scores.json").write_text('{"edit": {"toxicity": [0.25, 0.6]}}')
    assert differences(dict(artefacts(tmp_path)), before, exact=False) == ["scores.json: /edit/toxicity off by 2.0e-01"]
    (tmp_path / "scores.json").write_text('{"edit": {"toxicity": [0.25]}}')
    assert differences(dict(artefacts(tmp_path)), before, exact=False) == ["scores.json: other places or counts"]
    assert differences({}, before, exact=False) == ["scores.json: missing"]
