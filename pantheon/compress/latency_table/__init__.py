"""Tables of latencies: what a model will take on a machine, from what its operators took there.

Names are imported when they are first used, so that a configuration is read without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pantheon.exports import lazily

if TYPE_CHECKING:
    from pantheon.compress.latency_table.building import Builder as Builder
    from pantheon.compress.latency_table.fusing import operators_of as operators_of
    from pantheon.compress.latency_table.operators import Operator as Operator
    from pantheon.compress.latency_table.prediction import Prediction as Prediction
    from pantheon.compress.latency_table.prediction import Predictor as Predictor
    from pantheon.compress.latency_table.table import Table as Table

__all__ = ["Builder", "Operator", "Prediction", "Predictor", "Table", "operators_of"]

_HOMES = {
    "building": ("Builder",),
    "fusing": ("operators_of",),
    "operators": ("Operator",),
    "prediction": ("Prediction", "Predictor"),
    "table": ("Table",),
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
