"""What is settled once every teacher has answered: the schema, the pace, what each row weighs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pantheon.errors import DatasetError
from pantheon.merge import Merge
from pantheon.sampling.itinerary import Itinerary
from pantheon.sampling.reading import Reader
from student_client.delivery import Pace
from student_client.fleet import Fleet
from student_client.known import KnownTeacher
from student_client.options import Options
from student_client.plan import MergePlan
from student_client.requests import input_bytes
from student_client.sizing import is_ragged, request_rows, row_bytes


@dataclass(frozen=True, slots=True)
class Settled:
    """What all epochs of a loader share.

    Args:
        teachers: in the order in which fields are merged.
        plan: the merged schema and how it comes about.
        pace: how much is asked for ahead.
        weights: coded bytes of a row of each teacher.
    """

    teachers: Mapping[str, KnownTeacher]
    plan: MergePlan
    pace: Pace
    weights: Mapping[str, int]

    @classmethod
    def after(
        cls,
        fleet: Fleet,
        merges: Mapping[str, Merge],
        itinerary: Itinerary,
        reader: Reader | None,
        options: Options,
    ) -> Settled:
        """Settle everything, after `Fleet.agree`.

        Raises:
            MergeError, ConfigError: fields that cannot be merged as asked.
        """
        welcomes = {n: a.first for n, a in fleet.agreements.items() if a.first}
        teachers = {n: KnownTeacher.of(n, w, reader) for n, w in welcomes.items()}
        schemas = {n: w.schema for n, w in welcomes.items()}
        plan = MergePlan(schemas, merges)
        weights = {n: row_bytes(s) for n, s in schemas.items()}
        heaviest = max(weights.values())
        if reader is not None and any(t.reader for t in teachers.values()):
            heaviest = max(heaviest, input_bytes(reader, first_id(itinerary)))
        limits = [w.limits for w in welcomes.values()]
        pace = Pace(
            request_rows=request_rows(
                options.batch_size,
                heaviest,
                ragged=any(map(is_ragged, schemas.values())),
                limits=limits,
                asked=options.request_rows,
            ),
            first_rows=options.batch_size if options.request_rows is None else None,
            window_bytes=options.window_bytes,
            max_requests=min([options.max_requests, *(x.max_in_flight for x in limits)]),
            lease=options.lease,
            attempts=options.attempts,
            verify=options.verify,
        )
        return cls(teachers, plan, pace, weights)


def first_id(itinerary: Itinerary) -> int:
    """Some id that is surely in the dataset."""
    return 0 if itinerary.ids is None else int(itinerary.ids[0])


def size_told(fleet: Fleet) -> int:
    """The size of the teachers' dataset, for a student without one.

    Raises:
        DatasetError: no teacher has one either.
    """
    sizes = [a.first.size for a in fleet.agreements.values() if a.first]
    known = [s for s in sizes if s is not None]
    if not known:
        raise DatasetError(
            "neither the student nor any teacher has a dataset: nobody knows how many samples "
            "there are; give the student the dataset"
        )
    return known[0]
