"""The exact versions in locks/ are such as pyproject.toml allows, and of what it names."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
WITH = {
    "test": ["video", "data", "plot", "train", "app", "heic"],
    "cuda-app": ["cuda", "app"],
    "cuda-app-video": ["cuda", "app", "video"],
}


@pytest.mark.parametrize("name", WITH)
def test_versions_are_allowed(name):
    locked = (ROOT / f"locks/{name}.txt").read_text()
    versions: dict[str, list[str]] = {}
    for package, version in re.findall(r"^([\w.-]+)(?:\[.*\])?==(\S+)", locked, re.M):
        versions.setdefault(package.replace("_", "-").lower(), []).append(version)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = sum((extras[extra] for extra in WITH[name]), project["dependencies"])
    wanted += extras["test"][1:] if name == "test" else []
    for requirement in map(Requirement, wanted):
        found = versions.get(requirement.name.replace("_", "-").lower())
        assert found, f"{requirement.name} is not in locks/{name}.txt: make lock"
        assert all(map(requirement.specifier.contains, found)), f"{requirement}: make lock"
    assert "==" in locked and all(
        "--hash=sha256:" in entry for entry in re.split(r"^(?=\S)", locked, flags=re.M)[1:]
    )
    assert "://" not in locked  # whose registry it is, is for whoever installs from it


def test_the_container_takes_them():
    container = (ROOT / "Containerfile").read_text()
    assert re.search(r"^FROM \S+@sha256:[0-9a-f]{64}$", container, re.M)
    assert re.search(r"^USER \d+$", container, re.M) and "HEALTHCHECK" in container
    assert re.search(r"^ARG WITH=(\S+)", container, re.M)[1] in WITH
