"""One epoch's knowledge in order: merged as it arrives, and handed out in batches."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from pantheon.knowledge import Knowledge
from student_client.assemble import collect, masks
from student_client.delivery import Delivery

Made = tuple[Knowledge, Tensor | None]
"""A batch's knowledge, and its mask where not all rows are real."""


class Epoch:
    """The batches of one epoch; works inside `take`, in the caller's thread.

    Args:
        delivery: the answers.
        head: local rows that were yielded before.
        pin: put knowledge into page-locked memory.

    Attributes:
        head: local rows yielded.
    """

    def __init__(self, delivery: Delivery, head: int, pin: bool = False) -> None:
        order = delivery.itinerary.order
        self.delivery, self.head, self.pin = delivery, head, pin
        self._batch, self._rows = order.batch_size, order.rows
        self._made: deque[Made] = deque()

    def take(self) -> Made | None:
        """The next batch's knowledge, waiting for it if need be; None at the end of the epoch."""
        if not self._made:
            if self.head >= self._rows:
                return None
            self._make(self.delivery.wait_past(self.head))
        made = self._made.popleft()
        self.head += len(made[0])
        if not self._made:
            # Before the batch is handed out, so that teachers work while the student trains.
            self.delivery.release(self.head)
        return made

    def ready(self) -> int:
        """Whole batches that could be taken without waiting."""
        return max(0, -(-(self.delivery.ledger.ready() - self.head) // self._batch))

    def _make(self, ready: int) -> None:
        start, ledger = self.head, self.delivery.ledger
        stop = ledger.span(ledger.holding(start))[1]
        # A request of whole batches is merged at once and cut into views. Any other cut gives the
        # same bits batch by batch, only slower.
        whole = ready >= stop and (stop % self._batch == 0 or stop == self._rows)
        if not (whole and self.delivery.plan.rowwise):
            stop = min(start + self._batch, self._rows)
        self._made.extend(self._merge(start, stop))

    def _merge(self, start: int, stop: int) -> list[Made]:
        delivery = self.delivery
        rows = delivery.rows(start, stop)
        pieces = delivery.pieces(start, stop)
        answers = {t: collect(found, start, stop) for t, found in pieces.items()}
        fields = delivery.plan.merge(answers, rows.ids)
        view = delivery.itinerary.view(delivery.epoch)
        views = torch.full((stop - start,), view) if view else None
        # Trusted: the answers were checked against schema and rows as they came.
        kept = delivery.plan.masks(answers, stop - start)
        merged = Knowledge.trusted(torch.from_numpy(rows.ids), fields, views, kept)
        if self.pin:
            merged = merged.pin_memory()
        if stop - start <= self._batch:
            return [(merged, masks(rows.real, self._batch, stop - start)[0])]
        cut = merged.split(self._batch)
        return list(zip(cut, masks(rows.real, self._batch, stop - start), strict=True))

    def close(self) -> None:
        """Abandon the rest."""
        self._made.clear()
        self.delivery.close()
