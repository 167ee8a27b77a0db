"""What all tests share: Ctrl-C works, in the processes that they start too.

A shell that starts a command in the background has it ignore SIGINT, which every process that it
starts inherits.
"""

from __future__ import annotations

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
