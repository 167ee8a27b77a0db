"""A teacher that is a model in the student's own process."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from pantheon.errors import PantheonError
from pantheon.wire.buffers import from_raw
from pantheon.wire.messages import Score, Welcome
from student_client.answering import Answering

if TYPE_CHECKING:
    from pantheon.scoring.scorer import Scorer


class LocalConnection(Answering):
    """A `Scorer` as a connection: it scores in the caller's thread, when it is received from.

    Values are encoded and decoded as a remote teacher's would be.
    """

    def __init__(self, teacher: str, scorer: Scorer) -> None:
        super().__init__(teacher, "local")
        self._scorer = scorer
        self._asked: deque[Score] = deque()

    def welcome(self, fields: tuple[str, ...] | None) -> Welcome:
        """What the scorer is, its schema narrowed to `fields`."""
        scorer = self._scorer
        schema = scorer.schema if fields is None else scorer.schema.select(fields)
        return Welcome(
            model="",
            revision=scorer.revision,
            schema=schema,
            dataset=scorer.dataset_fingerprint,
            size=scorer.size,
            views=scorer.views,
            accepts_ids=scorer.size is not None,
        )

    def ask(self, score: Score) -> None:
        """Queue a request."""
        self._asked.append(score)

    def cancel(self, requests: frozenset[int]) -> None:
        """Forget queued requests."""
        self._asked = deque(s for s in self._asked if s.request not in requests)

    def work(self) -> None:
        """Score one request, so that the caller can look elsewhere between two."""
        if not self._asked:
            return
        score = self._asked[0]
        try:
            if score.ids is not None:
                parts = self._scorer.score(score.ids, score.views, self._fields)
            else:
                inputs = {name: from_raw(raw) for name, raw in score.inputs.items()}
                parts = self._scorer.score_inputs(inputs, self._fields)
        except PantheonError as error:
            raise self._named(error, score) from error
        self._asked.popleft()
        self._events.append(self._scored(score, parts))

    def _busy(self) -> bool:
        return bool(self._asked or self._events)
