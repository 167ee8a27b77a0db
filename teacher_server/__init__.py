"""The teacher's side: serve a model's knowledge to students, or dump it to disk."""

from teacher_server.server import Server, serve, start
from teacher_server.stats import ServerStats
from teacher_server.teacher import Teacher

__all__ = ["Server", "ServerStats", "Teacher", "serve", "start"]
