"""What comes from outside, made wrong on purpose: one target a format.

`make fuzz` lets coverage guide the inputs, a million a format; a fixed set runs in `make test`.
"""

FORMATS = ("wire", "oip", "parts", "shard", "listing", "checkpoint", "artifact")
