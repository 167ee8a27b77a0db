"""Knowledge distillation for PyTorch: teachers serve what they know, students learn from it.

Names are imported when they are first used, so that ``import pantheon`` needs no torch. Teachers
are in `teacher_server`, loaders in `student_client`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pantheon.exports import lazily

if TYPE_CHECKING:
    from pantheon.codec import BFloat16 as BFloat16
    from pantheon.codec import Codec as Codec
    from pantheon.codec import Float16 as Float16
    from pantheon.codec import Float32 as Float32
    from pantheon.codec import Int8 as Int8
    from pantheon.codec import Raw as Raw
    from pantheon.codec import TopK as TopK
    from pantheon.errors import PantheonError as PantheonError
    from pantheon.knowledge import Knowledge as Knowledge
    from pantheon.merge import Concat as Concat
    from pantheon.merge import Mean as Mean
    from pantheon.merge import Merge as Merge
    from pantheon.merge import Mixture as Mixture
    from pantheon.merge import Route as Route
    from pantheon.merge import Stack as Stack
    from pantheon.merge import Sum as Sum
    from pantheon.merge import Weighted as Weighted
    from pantheon.ragged import Ragged as Ragged
    from pantheon.sampling.sample_stream import SampleStream as SampleStream
    from pantheon.saving.resuming import Checkpoint as Checkpoint
    from pantheon.schema import FieldSpec as FieldSpec
    from pantheon.schema import KnowledgeSchema as KnowledgeSchema
    from pantheon.stream import KnowledgeStream as KnowledgeStream
    from pantheon.topk import TopKLogits as TopKLogits
    from pantheon.topk import TopKMixture as TopKMixture
    from pantheon.training.loop import Training as Training
    from pantheon.training.objective import Objective as Objective
    from pantheon.training.objective import Term as Term
    from pantheon.training.settings import TrainingSettings as TrainingSettings

__all__ = [
    "BFloat16",
    "Checkpoint",
    "Codec",
    "Concat",
    "FieldSpec",
    "Float16",
    "Float32",
    "Int8",
    "Knowledge",
    "KnowledgeSchema",
    "KnowledgeStream",
    "Mean",
    "Merge",
    "Mixture",
    "Objective",
    "PantheonError",
    "Ragged",
    "Raw",
    "Route",
    "SampleStream",
    "Stack",
    "Sum",
    "Term",
    "TopK",
    "TopKLogits",
    "TopKMixture",
    "Training",
    "TrainingSettings",
    "Weighted",
]

_HOMES = {
    "codec": ("BFloat16", "Codec", "Float16", "Float32", "Int8", "Raw", "TopK"),
    "errors": ("PantheonError",),
    "knowledge": ("Knowledge",),
    "merge": ("Concat", "Mean", "Merge", "Mixture", "Route", "Stack", "Sum", "Weighted"),
    "training.objective": ("Objective", "Term"),
    "ragged": ("Ragged",),
    "saving.resuming": ("Checkpoint",),
    "sampling.sample_stream": ("SampleStream",),
    "schema": ("FieldSpec", "KnowledgeSchema"),
    "stream": ("KnowledgeStream",),
    "topk": ("TopKLogits", "TopKMixture"),
    "training.loop": ("Training",),
    "training.settings": ("TrainingSettings",),
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
