"""Fingerprints change with what they stand for, and what differs is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from hh_train.metrics.comparison.protocol import (
    EvaluationProtocol,
    ProtocolMismatchError,
    differing_fields,
    require_same_protocol,
)

ONE = EvaluationProtocol(
    shared={"torch": "2", "clips": "48"}, measurers={"speech": {"recognizer": "abc"}, "sync": {"edge": "mask"}}
)


def test_a_fingerprint_stands_for_everything_and_for_each_measurer() -> None:
    same = EvaluationProtocol(
        shared={"clips": "48", "torch": "2"}, measurers={"sync": {"edge": "mask"}, "speech": {"recognizer": "abc"}}
    )
    assert same.fingerprint == ONE.fingerprint, "the order says nothing"
    heard = replace(ONE, measurers={**ONE.measurers, "speech": {"recognizer": "abd"}})
    assert heard.fingerprint != ONE.fingerprint
    assert heard.fingerprints["speech"] != ONE.fingerprints["speech"]
    assert heard.fingerprints["sync"] == ONE.fingerprints["sync"]
    newer = replace(ONE, shared={**ONE.shared, "torch": "3"})
    assert newer.fingerprints["sync"] != ONE.fingerprints["sync"]


def test_it_survives_json() -> None:
    fields = json.loads(json.dumps(ONE.to_json()))
    assert EvaluationProtocol.from_json(fields) == ONE and fields["fingerprint"] == ONE.fingerprint


def test_what_differs_is_refused_by_name() -> None:
    other = EvaluationProtocol(
        name="theirs", shared={"torch": "2", "clips": "40"}, measurers={"speech": {"recognizer": "abc"}, "lips": {}}
    )
    assert differing_fields(ONE, other) == {
        "clips": ("48", "40"), "sync.edge": ("mask", "nothing"), "protocol": ("nothing", "theirs"),
    }  # fmt: skip
    with pytest.raises(
        ProtocolMismatchError, match=r"clips: 48 in A, 40 in B\n(.|\n)*sync\.edge: mask in A, nothing in B"
    ):
        require_same_protocol({"A": ONE, "B": other})
    require_same_protocol({"A": ONE, "B": ONE, "C": ONE})


def test_what_agrees_can_still_be_compared() -> None:
    other = replace(ONE, measurers={**ONE.measurers, "speech": {"recognizer": "xyz"}})
    with pytest.raises(ProtocolMismatchError, match=r"measurers=\[sync\]"):
        require_same_protocol({"A": ONE, "B": other})
    require_same_protocol({"A": ONE.restricted(measurers=["sync"]), "B": other.restricted(measurers=["sync"])})
    fewer = replace(ONE, shared={"torch": "2", "clips": "40"})
    with pytest.raises(ProtocolMismatchError):
        require_same_protocol({"A": ONE, "B": fewer})
    kept = {"measurers": ["sync", "speech"], "without": ["clips"]}
    require_same_protocol({"A": ONE.restricted(**kept), "B": fewer.restricted(**kept)})
