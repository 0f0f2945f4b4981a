"""Differential tests: the proofs and witnesses of registration against the evaluation of many messages."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest

from missive import JSONMessage, StructuredMessage
from missive.matchers import Matcher
from missive.routing.conflicts import Relation, analyse, contained, relation
from missive.routing.witness import decodes_json
from tests.support.pairs import KINDS, Given, matcher, messages

PAIRS = 10_000 if "--deep" in sys.argv else 100


def _matching(one: Matcher[Any], sent: list[StructuredMessage]) -> list[int]:
    return [number for number, message in enumerate(sent) if one.evaluate(message)]


@pytest.mark.parametrize("message_cls", [JSONMessage, Given])
@pytest.mark.parametrize("kind", KINDS)
def test_registration_agrees_with_evaluation(kind: str, message_cls: type[StructuredMessage]) -> None:
    """No proof is wrong, and registration finds an overlap wherever one of many messages matches both matchers."""
    json = decodes_json(message_cls)
    for number in range(PAIRS):
        rng = random.Random(f"{kind}:{number}")
        one, other = matcher(rng, kind), matcher(rng, kind)
        sent = list(messages(rng, kind, (one, other), message_cls))
        first, second = (analyse(each, json=json) for each in (one, other))
        for analysis in (first, second):
            assert analysis.alternatives or not _matching(analysis.matcher, sent), analysis.matcher
        for inner, outer in ((first, second), (second, first)):
            outside = set(_matching(inner.matcher, sent)) - set(_matching(outer.matcher, sent))
            assert not (outside and contained(inner, outer)), (number, inner.matcher, outer.matcher)
        found = relation(first, second, message_cls)
        if found.witness is not None:
            assert one.evaluate(found.witness), (number, one, other)
            assert other.evaluate(found.witness), (number, one, other)
        elif both := set(_matching(one, sent)) & set(_matching(other, sent)):
            message = sent[min(both)]
            shown = (message.content, message.topic, message.key, message.headers.pairs)
            pytest.fail(f"pair {number} is {found.relation.value}, but {one} and {other} match {shown}")
        assert (found.relation is Relation.overlap) is (found.witness is not None)
