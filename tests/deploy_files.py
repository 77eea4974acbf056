"""The files of `deploy/`, parsed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

HOME = Path(__file__).parents[1]
DEPLOY = HOME / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def compose() -> dict[str, Any]:
    """The Compose file, its anchors resolved."""
    parsed: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return parsed


def manifests() -> Iterator[dict[str, Any]]:
    """Every Kubernetes object."""
    for path in MANIFESTS:
        yield from yaml.safe_load_all(path.read_text(encoding="utf-8"))


def workloads() -> Iterator[dict[str, Any]]:
    """Every Kubernetes object that runs pods."""
    return (each for each in manifests() if each["kind"] in {"Deployment", "Job"})


def pods() -> Iterator[dict[str, Any]]:
    """The specification of every pod."""
    return (each["spec"]["template"]["spec"] for each in workloads())
