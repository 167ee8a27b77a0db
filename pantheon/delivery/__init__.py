"""The delivery protocol, pure: who is asked for what, what was answered, what may be yielded."""
