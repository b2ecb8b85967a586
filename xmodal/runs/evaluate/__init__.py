"""`xmodal eval`: segmentation, localisation, retrieval and clusters, arm by arm, with intervals.

`collect` finds the scenes to judge, `segmentation` and its neighbours measure, `summary` makes the
tables. The measures themselves are functions of `xmodal.evaluate`.
"""

from xmodal.runs.evaluate.command import available_tasks, eval_run
from xmodal.runs.evaluate.request import EvalRequest
from xmodal.runs.evaluate.truth import SURFACES, object_names, truth_on

__all__ = ["SURFACES", "EvalRequest", "available_tasks", "eval_run", "object_names", "truth_on"]
