"""``pantheon health``: whether something takes work, as an exit status for probes."""

from __future__ import annotations

from typing import Annotated
from urllib.error import HTTPError
from urllib.request import urlopen

import typer

from pantheon.cli.output import say_json, stdout
from pantheon.cli.poll import DOWN, SERVING, Poll
from pantheon.cli.security import (
    CaOption,
    CertificateOption,
    ClientOption,
    KeyOption,
    KeysOption,
    security_from,
)
from pantheon.cli.serve import Json
from pantheon.transport import Security

Verdict = tuple[bool, str]


def health(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="A teacher's, or http://…")],
    patience: Annotated[float, typer.Option(min=0.0, help="Seconds to wait.")] = 3.0,
    keys: KeysOption = None,
    client: ClientOption = "student",
    ca: CaOption = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
    json: Json = False,
) -> None:
    """End with status 0 if a teacher takes work, else with 1; what is wrong is printed.

    An http:// address is that of --http: its /readyz is asked, for which no keys are needed.
    """
    if address.startswith("http://"):
        well, said = _ready(address, patience)
    else:
        well, said = _serving(address, patience, security_from(keys, client, ca, certificate, key))
    if json:
        say_json({"address": address, "well": well, "said": said})
    else:
        stdout.print(f"{address}: {said}", markup=False)
    if not well:
        raise typer.Exit(1)


def _ready(address: str, patience: float) -> Verdict:
    try:
        with urlopen(f"{address.rstrip('/')}/readyz", timeout=patience):
            return True, SERVING
    except HTTPError as error:
        with error:
            return False, f"not ready: {error.read(1000).decode(errors='replace').strip()!r}"
    except OSError as error:
        return False, f"{DOWN}: {error}"


def _serving(address: str, patience: float, security: Security) -> Verdict:
    with Poll([address], security) as poll:
        found = poll.round(patience)
    if not found:
        return False, f"{DOWN}: its name has no address"
    wrong = [server for server in found if not server.well]
    said = "; ".join(f"{s.address} is {s.state}{s.trouble and f' ({s.trouble})'}" for s in wrong)
    return not wrong, said or found[0].state
