"""``make cluster``: runs docker-compose.yml twice, once disturbed, and compares the students.

Needs a Docker engine and Compose, of either generation. Takes about six minutes, most of which is
building the image for the first time. The students' files are left in runs/cluster/.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engine import ROOT, ClusterError, Project, inspect, run, until

IMAGE = "pantheon"
MOST = 1.0e9
"""Bytes that the image may add to its base."""

JOB = 600
"""Seconds that a student may take."""

BEGAN = time.monotonic()


def say(text: str) -> None:
    """A line with the seconds since the beginning."""
    print(f"{time.monotonic() - BEGAN:6.1f} s  {text}", flush=True)


def expect(true: bool, what: str) -> None:
    """Say that a promise holds, or end.

    Raises:
        ClusterError: it does not hold.
    """
    if not true:
        raise ClusterError(f"not true: {what}")
    say(f"  ok: {what}")


def check_image() -> None:
    """The image is small, without a compiler, and does not run as root."""
    base = re.findall(r"^FROM (\S+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.M)[-1]
    if not run(["docker", "images", "-q", base]):
        run(["docker", "pull", base], 600)
    sizes = [int(run(["docker", "image", "inspect", "-f", "{{.Size}}", i])) for i in (IMAGE, base)]
    added = sizes[0] - sizes[1]
    expect(
        added <= MOST,
        f"the image has {sizes[0] / 1e6:.0f} MB and adds {added / 1e6:.0f} MB to {base}; "
        f"at most {MOST / 1e6:.0f} MB",
    )
    shell = ["docker", "run", "--rm", "--network", "none", "--entrypoint", "sh", IMAGE, "-c"]
    found = run([*shell, "command -v gcc cc g++ c++ clang ld as; true"])
    expect(not found, "no compiler and no linker is in the image")
    expect(run([*shell, "id -u"]) != "0", "its user is not root")


def check_hardening(project: Project) -> None:
    """Every container is without root, capabilities and a file system that it could write to."""
    services = ("keys", "weights", "teacher", "dump", "student")
    containers = [c for service in services for c in project.containers(service)]
    for container in map(inspect, containers):
        host, name = container["HostConfig"], container["Name"]
        hard = [
            container["Config"]["User"].split(":")[0] not in ("", "0", "root"),
            host["ReadonlyRootfs"],
            host["CapDrop"] == ["ALL"],
            any("no-new-privileges" in option for option in host["SecurityOpt"]),
        ]
        if not all(hard):
            raise ClusterError(f"{name}: not root, read-only, no capabilities, no new ones: {hard}")
    expect(True, f"{len(containers)} containers: not root, read-only, no capabilities, no new ones")
    teacher = project.containers("teacher")[0]
    user = run(["docker", "exec", teacher, "id", "-u"])
    tried = ["docker", "exec", teacher, "sh", "-c"]
    wrote = run([*tried, "for f in / /opt /etc; do touch $f/x && echo $f; done; true"])
    expect(user != "0" and not wrote, f"inside a teacher: user {user}, nothing can be written")


ASK = "pantheon inspect tcp://teacher:5557 --rows 1 --patience 5"
ANN = "pantheon keygen /tmp/ann --client ann && cp -f /keys/student/server.key /tmp/ann"


def check_keys(project: Project) -> None:
    """A teacher answers who is on its list, and nobody else."""
    network = ["--network", f"{project.name}_knowledge"]
    keys = ["-v", f"{project.name}_student-keys:/keys/student:ro"]
    shell = ["docker", "run", "--rm", *network, *keys, "--entrypoint", "sh", IMAGE, "-c"]
    known = run([*shell, f"{ASK} --keys /keys/student"])
    expect("sample 0" in known, "who has the student's key is answered")
    for who, command, said in (
        ("without a key", ASK, "lets in only clients with keys"),
        (
            "with a key that is on no list",
            f"{ANN} && {ASK} --keys /tmp/ann --client ann",
            "refuses our key",
        ),
    ):
        told = run([*shell, f"({command}) 2>&1; true"])
        expect(said in told and "sample" not in told, f"who comes {who} is told nothing")


@contextmanager
def started(name: str) -> Iterator[Project]:
    """A cluster of its own, from nothing, removed at the end."""
    project = Project(f"pantheon-{name}")
    project.down()
    try:
        project.up()
        yield project
    except ClusterError:
        for service in ("student", "teacher", "dump", "weights", "keys"):
            for container in project.containers(service):
                print(f"--- {service} {container}", file=sys.stderr)
                print(run(["docker", "logs", "--tail", "30", container]), file=sys.stderr)
        raise
    finally:
        project.down()


def finish(project: Project, name: str) -> Any:
    """Wait for the student's end; answers its report."""
    until("the student's end", lambda: not project.running(), JOB)
    project.epoch()
    report = project.results(ROOT / "runs" / "cluster" / name)
    last = report["epochs"][-1]
    say(
        f"{name}: {last['epoch'] + 1} epochs in {report['ranks']} ranks, "
        f"accuracy {100 * last['metrics']['accuracy']:.1f} %"
    )
    for key in ("weights_sha256", "ids_sha256"):
        say(f"  {key} {report[key]}")
    return report


def advance(project: Project, epochs: int = 15) -> int:
    """Let the student go on for some epochs; answers the epoch."""
    goal = project.epoch() + epochs
    until(f"epoch {goal}", lambda: project.epoch() >= goal, JOB)
    return project.epoch()


def disturb(project: Project) -> None:
    """Kill a teacher, scale 3 to 5 to 2, and kill the student, all while it trains."""
    say(f"epoch {advance(project)}: 3 teachers")
    victim = project.healthy()[0]
    run(["docker", "kill", "-s", "KILL", victim])
    say(f"epoch {project.epoch()}: killed {inspect(victim)['Name'].strip('/')}")
    say(f"epoch {advance(project)}: {len(project.healthy())} teachers go on without it")
    project.scale(5)
    say(f"epoch {advance(project)}: scaled to 5")
    project.scale(2)
    say(f"epoch {advance(project)}: scaled to 2")
    say(f"epoch {project.epoch()}: killing the student, and starting it again")
    run(["docker", "kill", "-s", "KILL", project.student])
    run(["docker", "start", project.student])
    advance(project)
    expect(project.running(), "the student was still learning when all this was over")


def main() -> None:
    """Build, run undisturbed, run disturbed, compare."""
    version = run(["docker", "version", "-f", "{{.Server.Version}}"])
    say(f"engine {version}; building the image")
    Project("pantheon-calm").build()
    check_image()
    with started("calm") as project:
        say("a cluster of its own, left in peace")
        check_hardening(project)
        check_keys(project)
        calm = finish(project, "calm")
    with started("disturbed") as project:
        say("a cluster of its own, disturbed")
        disturb(project)
        disturbed = finish(project, "disturbed")
    for key, what in (
        ("ids_sha256", "the same sequence of ids"),
        ("weights_sha256", "the same bits"),
    ):
        expect(disturbed[key] == calm[key], f"{what}, disturbed or not")
    say("done")


if __name__ == "__main__":
    try:
        main()
    except ClusterError as error:
        sys.exit(f"error: {error}")
