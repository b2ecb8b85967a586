from __future__ import annotations

import pickle

import pytest

from xmodal.config.problems import ConfigReportError, Problem
from xmodal.errors import BackendError, ConfigError, DataError, UsageError, XmodalError


@pytest.mark.parametrize("kind", [UsageError, DataError, ConfigError, BackendError])
def test_an_error_of_a_worker_process_arrives_whole(kind: type[XmodalError]) -> None:
    error = kind("scene/depth/3.png", wanted="16 bits", got="8 bits", fix="export it again")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert str(back) == str(error)
    assert (back.where, back.wanted, back.got, back.fix) == (
        "scene/depth/3.png", "16 bits", "8 bits", "export it again",
    )  # fmt: skip
    assert back.exit_code == error.exit_code


def test_a_report_of_many_problems_arrives_whole() -> None:
    problem = Problem(loc=("graph",), line=3, wanted="a graph", got="nothing", fix="write one")
    error = ConfigReportError("run.yaml", [problem])
    back = pickle.loads(pickle.dumps(error))
    assert str(back) == str(error)
    assert back.problems == error.problems
