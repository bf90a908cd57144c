"""What two evaluations must share for their numbers to be compared, as a fingerprint and field by field."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

ABSENT = "nothing"


class ProtocolMismatchError(ValueError):
    """Two evaluations were made in different ways. The message says which fields differ."""


@dataclass(frozen=True, kw_only=True)
class EvaluationProtocol:
    """How an evaluation was made. Values are short texts: versions, hashes, settings."""

    shared: Mapping[str, str]
    """What every measure depends on: libraries, decoding, which clips, the bootstrap."""
    measurers: Mapping[str, Mapping[str, str]]
    """What each measurer depends on beside that, by its name in the configuration."""
    name: str | None = None
    """A protocol that others use too."""

    @property
    def fingerprint(self) -> str:
        """Of everything."""
        return _digest({"shared": dict(self.shared), "measurers": {n: dict(f) for n, f in self.measurers.items()}})

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of each measurer, with what it shares with the others."""
        return {n: _digest({"shared": dict(self.shared), "measurer": dict(f)}) for n, f in self.measurers.items()}

    @property
    def fields(self) -> dict[str, str]:
        """All fields by name, those of the measurers as `measurer.field`."""
        own = {f"{name}.{field}": value for name, found in self.measurers.items() for field, value in found.items()}
        return {**({} if self.name is None else {"protocol": self.name}), **self.shared, **own}

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "fingerprints": self.fingerprints,
            "shared": dict(self.shared),
            "measurers": {name: dict(found) for name, found in self.measurers.items()},
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> EvaluationProtocol:
        """Reads `to_json`'s fields. Raises KeyError when some are missing."""
        return cls(name=fields["name"], shared=fields["shared"], measurers=fields["measurers"])

    def restricted(self, *, measurers: Collection[str], without: Collection[str] = ()) -> EvaluationProtocol:
        """The same with these measurers alone, and without some shared fields."""
        return EvaluationProtocol(
            name=self.name,
            shared={name: value for name, value in self.shared.items() if name not in without},
            measurers={name: found for name, found in self.measurers.items() if name in measurers},
        )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def differing_fields(first: EvaluationProtocol, second: EvaluationProtocol) -> dict[str, tuple[str, str]]:
    """The values of both, by the fields in which they differ."""
    mine, theirs = first.fields, second.fields
    return {
        name: (mine.get(name, ABSENT), theirs.get(name, ABSENT))
        for name in dict.fromkeys([*mine, *theirs])
        if mine.get(name) != theirs.get(name)
    }


def require_same_protocol(protocols: Mapping[str, EvaluationProtocol]) -> None:
    """Refuses to compare what was measured in different ways.

    Args:
        protocols: by the evaluation's name; each is compared with the first.

    Raises:
        ProtocolMismatchError: two differ; the message names the fields and the measurers that agree.
    """
    (base, expected), *others = protocols.items()
    for name, protocol in others:
        found = differing_fields(expected, protocol)
        if not found:
            continue
        lines = [f"  {field}: {mine} in {base}, {theirs} in {name}" for field, (mine, theirs) in found.items()]
        equal = [m for m, value in expected.fingerprints.items() if protocol.fingerprints.get(m) == value]
        way_out = f"; or compare what agrees: measurers=[{','.join(equal)}]" if equal else ""
        raise ProtocolMismatchError(
            "\n".join([f"{base} and {name} were not measured in the same way:", *lines])
            + f"\nevaluate both with the same configuration and version{way_out}"
        )
