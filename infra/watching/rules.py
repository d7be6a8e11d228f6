"""Alert rules as Prometheus reads them, and their thresholds.

The rules are a file of the chart with placeholders, which its head explains. The chart replaces
them for a release; `local_rules` replaces them for the servers of a clone.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache

from infra.watching.files import ALERTS

RULE = re.compile(r"^ +- alert: (\w+)\n(.*?)(?=^ +- alert: |^  - name: |\Z)", re.M | re.S)
THRESHOLD = re.compile(r"<(\w+)=([\d.]+)>")
SEVERITY = re.compile(r"severity: (\w+)")
FOR = re.compile(r"^ +for: (\w+)$", re.M)


def local_rules(jobs: Iterable[str]) -> str:
    """Return the rules with default thresholds for a Prometheus with a single installation.

    Args:
        jobs: services that Prometheus scrapes; ServiceDown fires for each that is missing.
    """
    jobs = tuple(jobs)
    lines: list[str] = []
    for line in ALERTS.read_text().splitlines():
        if line.startswith("#"):
            continue
        lines += [line.replace("<service>", job) for job in jobs] if "<service>" in line else [line]
    text = re.sub(r",?<(scope|claims|backups)>", "", "\n".join(lines) + "\n")
    return THRESHOLD.sub(r"\2", text.replace("<services>", "|".join(jobs)))


@cache
def thresholds() -> Mapping[str, Mapping[str, str]]:
    """Return the default thresholds of each alert by name, as text; `for` is one of them."""
    found = {}
    for alert, rule in RULE.findall(ALERTS.read_text()):
        wait = FOR.search(rule)
        found[alert] = {**dict(THRESHOLD.findall(rule)), "for": wait[1] if wait else "0s"}
    return found


def severities() -> Mapping[str, str]:
    """Return the severity of each alert by name: page or ticket."""
    rules = RULE.findall(ALERTS.read_text())
    return {alert: SEVERITY.findall(rule)[0] for alert, rule in rules}
