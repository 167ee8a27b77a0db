"""The wire format: messages as frames of bytes, and back from an untrusted side."""
