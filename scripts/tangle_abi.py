"""Compare our declarations of Tangle with ABIs that it publishes.

Usage: python scripts/tangle_abi.py DIRECTORY, the `abi` folder of the crate `tnt-core-bindings`
(`cargo fetch` brings it). Prints what differs; exit 1 when a call, a hook or an event would.
Needs no chain and nothing of the crate is kept here.
"""

import json
import sys
from pathlib import Path
from typing import Any

ABI = Path(__file__).parents[1] / "src" / "faas" / "chain" / "abi"
OURS_ALONE = {"ADMIN", "STAKING", "hookGasLimit", "setHookGasLimit", "slashCount"}
"""Of DevTangle: switches for tests."""
UNPUBLISHED = {"ManagerHookFailed", "OperatorPreRegistered"}
"""Events that the contracts emit and the published interfaces leave out."""
MISPRINTED = {"JobSubmitted"}
"""They say that the job's number is indexed, and the contract does not index it."""


def type_of(entry: dict[str, Any]) -> str:
    if not entry["type"].startswith("tuple"):
        return entry["type"]
    return f"({','.join(map(type_of, entry['components']))}){entry['type'][5:]}"


def entries(path: Path) -> dict[tuple[str, str], tuple[str, ...]]:
    """Functions with what they answer, events with their types, by kind and signature."""
    read = json.loads(path.read_text())
    found = {}
    for entry in read["abi"] if isinstance(read, dict) else read:
        if entry["type"] not in ("function", "event"):
            continue
        signature = f"{entry['name']}({','.join(map(type_of, entry['inputs']))})"
        told = map(type_of, entry.get("outputs", ()))
        if entry["type"] == "event":
            # Indexed or not is no part of an event's signature, and of what decodes it.
            told = ("indexed" if each["indexed"] else "data" for each in entry["inputs"])
        found[entry["type"], signature] = tuple(told)
    return found


def differences(ours: str, theirs: Path, *, is_complete: bool) -> list[str]:
    """What they have otherwise; with `is_complete` also what we lack."""
    mine, published = entries(ABI / f"{ours}.json"), entries(theirs)
    found = []
    for key, answer in mine.items():
        name = key[1].partition("(")[0]
        if name in OURS_ALONE | UNPUBLISHED or (is_complete and key not in published):
            continue
        if key not in published:
            others = [s for k, s in published if k == key[0] and s.partition("(")[0] == name]
            found.append(f"{key[0]} {key[1]}: theirs is {others or 'gone'}")
        elif published[key] != answer and name not in MISPRINTED:
            found.append(f"{key[0]} {key[1]} tells {answer}, theirs {published[key]}")
    if is_complete:
        found += [f"we lack {kind} {s}" for kind, s in published if (kind, s) not in mine]
    return found


def main() -> int:
    if len(sys.argv) != 2:  # noqa: PLR2004  one argument
        print(__doc__, file=sys.stderr)
        return 2
    directory = Path(sys.argv[1])
    found = differences("DevTangle", directory / "ITangleFull.json", is_complete=False)
    manager = directory / "IBlueprintServiceManager.json"
    found += differences("FaaSBlueprint", manager, is_complete=True)
    print("\n".join(found) or "nothing differs")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
