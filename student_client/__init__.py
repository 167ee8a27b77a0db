"""The student's side: batches with the knowledge of several teachers, and queries at once."""

from pantheon.sampling.batch import Batch
from student_client.client import TeacherClient
from student_client.loader import KnowledgeLoader
from student_client.stats import LoaderStats, ReplicaStats, TeacherStats

__all__ = [
    "Batch",
    "KnowledgeLoader",
    "LoaderStats",
    "ReplicaStats",
    "TeacherClient",
    "TeacherStats",
]
