"""How many descriptors a server may open: each connection takes one, a stranger's too."""

from __future__ import annotations

import logging
import resource
from collections.abc import Sequence

from pantheon.transport import parse_address

logger = logging.getLogger(__name__)

ENOUGH = 8192
"""Descriptors for twice as many connections as students are taken."""

MOST = 1 << 16
"""Descriptors for which a limit is raised; each connection takes memory, too."""


def raise_limit(addresses: Sequence[str]) -> None:
    """Let this process open as many descriptors as it may, up to `MOST`, if it serves a socket.

    The soft limit is often 1,024, which strangers use up; then nobody else can connect.
    """
    if all(parse_address(address).scheme == "inproc" for address in addresses):
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError) as error:
            logger.debug("the limit of descriptors stays at %d: %s", soft, error)
    if soft != resource.RLIM_INFINITY and soft < ENOUGH:
        logger.warning(
            "this process may open only %d files and connections, which strangers can use up: "
            "raise its hard limit (ulimit -Hn, LimitNOFILE=, --ulimit nofile=) to %d or more",
            soft,
            ENOUGH,
        )
