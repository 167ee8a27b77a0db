"""A student whose dataset cannot be pickled, with workers: ``python -m tests.integration.forking``.

The argument is the address of the toy's teacher "minus". Workers can only be forked here, which is
done before any socket exists. It leaves without closing the loader, in the middle of an epoch.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from student_client import KnowledgeLoader
from tests.integration.toy import SIZE


def main() -> None:
    """Read an epoch and a bit."""

    class Local:
        def __len__(self) -> int:
            return SIZE

        def __getitem__(self, i: int) -> tuple[Tensor, int]:
            return torch.tensor([float(i)]), i

    loader = KnowledgeLoader(
        Local(),
        batch_size=100,
        shuffle=True,
        teachers={"t": sys.argv[1]},
        num_workers=2,
        dataset_fingerprint="toy",
    )
    seen: list[Any] = []
    for batch in loader:
        assert torch.equal(batch.knowledge["sum_float32"], 2 * batch.inputs - 1)
        seen += batch.targets.tolist()
    assert sorted(seen) == list(range(SIZE))
    next(iter(loader))
    print("done")


if __name__ == "__main__":
    main()
