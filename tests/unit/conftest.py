"""Hypothesis for all unit tests: the same examples each time, whatever else the machine does."""

from __future__ import annotations

import torch
from hypothesis import settings

# Tensors here are tiny: a second thread costs more than it gains, most of all on a busy machine.
torch.set_num_threads(1)
settings.register_profile("pantheon", derandomize=True, deadline=None)
settings.load_profile("pantheon")
