"""The command and the package versions that make a record's number again."""

from __future__ import annotations

import json
import shlex
from itertools import pairwise
from typing import Any

from harness.file_setting import file_name
from harness.protocol import VERIFIER
from harness.results.record import Record

_NOT_FROM_AN_INDEX = "wsss-harness"


def command_of(record: Record) -> list[str]:
    """Return the words of the command that runs a record's cell, and nothing else.

    What a person has to fill in is in capitals: `FOLDER` of the data, `FILE` and `VERIFIER_FILE` of weights, whose
    names and hashes are in the record; `EXTERNAL_FOLDER` of masks or scores. Plugins are those of the command that
    made the record.
    """
    spec, protocol = record["spec"], record["spec"]["protocol"]
    words = ["harness", "run"]
    for plugin in _given(record["provenance"]["command"], "--plugins"):
        words += ["--plugins", plugin]
    words += ["--methods", spec["method"]]
    if spec["backbone"] != "none":
        words += ["--backbones", spec["backbone"]]
    words += ["--dataset", spec["dataset"], "--protocol", protocol["name"], "--refine", protocol["refine"]]
    if protocol.get("verify", "none") != "none":
        words += ["--verify", protocol["verify"]]
        if record.get("verifier", {}).get("sha256"):
            words += ["--verify-weights", "VERIFIER_FILE"]
    words += ["--seeds", str(spec["seed"])]
    if not spec["dataset"].startswith("toy"):
        words += ["--root", "FOLDER"]
    if spec["weights"] != "none" and not spec.get("checkpoint"):
        words += ["--weights", "FILE" if spec["weights"] == "file" else spec["weights"]]
    if spec.get("checkpoint"):
        words += ["--checkpoint", "FILE"]
    if spec["limit"]:
        words += ["--limit", str(spec["limit"])]
    for name, origin in record["origins"].items():
        if origin == "--set":
            external = name == "folder" and "folder" in spec["params"]
            words += ["--set", f"{spec['method']}.folder=EXTERNAL_FOLDER" if external else _assignment(name, spec)]
    return words


def _given(command: str, option: str) -> list[str]:
    """Return the values of an option in a command as it was given."""
    try:
        words = shlex.split(command)
    except ValueError:
        return []
    after = [second for first, second in pairwise(words) if first == option]
    return [*after, *(word.partition("=")[2] for word in words if word.startswith(f"{option}="))]


def constraints_of(record: Record) -> list[str]:
    """Return the packages that were installed, as lines of a constraints file."""
    packages = record["provenance"]["packages"]
    return [f"{name}=={version.partition('+')[0]}" for name, version in packages.items() if name != _NOT_FROM_AN_INDEX]


def hints_of(record: Record) -> list[str]:
    """Return what command and constraints do not say."""
    provenance = record["provenance"]
    source = provenance["source"]
    commit = f", commit {source['commit'][:12]}" if source else ""
    changed = " with changes that were not committed" if source and source["dirty"] else ""
    hints = [f"wsss-harness {provenance['packages'].get(_NOT_FROM_AN_INDEX, '')}{commit}{changed}"]
    hints.append(f"python {provenance['python']}, {provenance['platform']}, {provenance['cpu']}")
    for what, called in (("weights", "FILE"), ("checkpoint", "FILE"), ("verifier", "VERIFIER_FILE")):
        file: Any = record.get(what)
        if file and file["sha256"]:
            hints.append(f"{what} {called}: {file['file']}, sha256 {file['sha256']}")
    hints += [f"data of {split}: content {content}" for split, content in record.get("data", {}).items()]
    return hints


def _assignment(name: str, spec: dict[str, Any]) -> str:
    owner, *path = name.split(".")
    if not path:
        return f"{spec['method']}.{name}={_yaml(spec['params'][name])}"
    parent = spec.get("parent")
    while parent and parent["method"] != owner:
        parent = parent["parent"]
    if parent:
        value: Any = parent["params"]
    elif owner == spec["protocol"]["refine"].partition(":")[0]:
        value = spec["refiner"]
    else:
        value = spec["verifier" if owner == VERIFIER else owner]
    for part in path:
        value = value[part]
    return f"{name}={_yaml(value)}"


def _yaml(value: Any) -> str:
    """Return a value as `--set` reads it."""
    if file_name(value) is not value:
        return str(next(iter(value))).upper()  # FILE or FOLDER: a person has to say where it lies
    return value if isinstance(value, str) and value.replace("_", "").isalnum() else json.dumps(value)
