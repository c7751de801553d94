"""An edit in several processes, whole: texts of all 20 tokens, and figures that are painted."""

import pytest

from helpers.damage import results
from helpers.jobs import make_job
from helpers.together import command_together

pytestmark = pytest.mark.slow


def test_an_edit_is_the_same_bytes_in_two_processes(tmp_path):
    job = make_job(tmp_path / "job")
    flags = job.flags(batch_size=2, limit=14, max_passages=3, max_windows=1)
    for count in (1, 2):
        out = tmp_path / str(count)
        told = command_together(count, tmp_path, "edit", job.model, "--out", out, *flags)
        assert [(one.code, one.err) for one in told] == [(0, "")] * count
    alone, two = ({name: it for name, it in results(tmp_path / str(n)).items() if name != "run.json"} for n in (1, 2))
    assert alone == two
    assert b"<svg" in alone["report.html"]
