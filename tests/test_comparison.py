"""Paired differences: right error, right p-value, nothing compared that may not be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from diptych.errors import NotComparable, NotMeasurable
from diptych.measuring.comparison import difference, differences, disagreements, p_value
from diptych.measuring.student import quantile, two_sided
from diptych.metrics.intervals import from_influence
from diptych.scores import Estimate, Report, RulerCard

CARD = RulerCard("diptych-1", "abc", "digits", "def", 400, "none", 0, "2")


def report(name: str, value: float, replicates: tuple[float, ...], card: RulerCard = CARD) -> Report:
    estimate = Estimate(value, value - 1, value + 1, 400, "lower", "", "", replicates)
    return Report(name, "edm", {}, {"fid": estimate, "cost": Estimate.exact(1)}, {}, card)


def draws(seed: int) -> tuple[float, ...]:
    return tuple(np.random.default_rng(seed).normal(size=100))


def test_student_is_scipys() -> None:
    for degrees in (20, 99):
        for t in (0.1, 1.0, 2.0, 3.0):
            assert two_sided(t, degrees) == pytest.approx(2 * stats.t.sf(t, degrees), rel=3e-3)
        assert quantile(0.975, degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-4)


def test_what_both_owe_to_the_reals_cancels() -> None:
    common, own = np.array(draws(0)), 0.1 * np.array(draws(1))
    a, b = report("a", 5.0, tuple(common)), report("b", 5.5, tuple(common + own))
    found = difference(a, b, "fid")
    assert (found.value, found.winner, found.decided) == (-0.5, "a", True)
    assert found.high - found.value == pytest.approx(1.984 * np.std(own, ddof=1), rel=1e-3)
    # unpaired draws of the same size tell nothing
    assert not difference(a, report("b", 5.5, tuple(10 * np.array(draws(1)))), "fid").decided
    assert difference(a, a, "fid").p == 1


def test_false_positives_of_means_over_shared_reals() -> None:
    """Two models of one distribution: their means are called different in about 5 % of 400 draws."""
    rng, n, called = np.random.default_rng(0), 300, 0
    for _ in range(400):
        real = rng.normal(size=n) * 3
        reports = []
        for fake in (rng.normal(size=n), rng.normal(size=n)):
            spread = from_influence(torch.tensor(-real), torch.tensor(fake))
            reports.append(report("", fake.mean() - real.mean(), spread.replicates))
        called += difference(*reports, "fid").decided
    assert 0.02 < called / 400 < 0.085


def test_other_rulers_and_counted_scores_are_refused() -> None:
    a = report("a", 1.0, draws(0))
    with pytest.raises(NotComparable, match="n: 400 against 500"):
        difference(a, report("b", 1.0, draws(1), replace(CARD, n=500)), "fid")
    with pytest.raises(NotMeasurable, match="no replicates"):
        difference(a, a, "cost")
    with pytest.raises(NotMeasurable, match="a has no kid"):
        difference(a, a, "kid")
    assert differences([a, a], "cost") == []


def test_rulers_that_disagree_are_named() -> None:
    other = replace(CARD, extractor="inception", extractor_sha256="ghi")
    ours = [report("a", 1.0, draws(0)), report("b", 9.0, draws(1))]
    theirs = [report("a", 7.0, draws(2), other), report("b", 6.9, draws(3), other)]
    (sentence,) = disagreements([*ours, *theirs])
    assert sentence == (
        "the rulers disagree about a and b: by fid diptych-1 prefers a (p < 0.001), "
        "inception prefers b (p = 0.94, not decided)"
    )
    assert disagreements([*ours, replace(theirs[1], name="a"), replace(theirs[0], name="b")]) == []


def test_a_later_report_takes_nothing_from_an_earlier_of_the_same() -> None:
    here = {"cpu": "one", "threads": 2}
    full = report("a", 1.0, draws(0))
    latency = Estimate(3, 2, 4, 9, "lower", "ms")
    full = replace(full, scores={**full.scores, "latency_ms": latency}, machine=here)
    later = replace(full, scores={"fid": replace(full.scores["fid"], value=1.5)})
    found = full.renewed(later)
    assert found.scores == {**full.scores, "fid": later.scores["fid"]}
    for other in (
        {"ruler": replace(CARD, n=10)},
        {"training": {"images": 9}},
        {"options": {"steps": 5}},
        {"provenance": {"weights_sha256": "f"}},
    ):
        alone = replace(later, **other)  # type: ignore[arg-type]
        assert full.renewed(alone) == alone
    # images score the same on every machine, and what was timed is of the machine that the report names
    there = replace(later, machine={"cpu": "two"})
    assert full.renewed(there).machine == here
    assert full.renewed(there).scores.keys() == full.scores.keys()
    timed = replace(there, scores={"memory_mib": Estimate.exact(5.0)})
    assert full.renewed(timed).machine == {"cpu": "two"}
    assert full.renewed(timed).scores.keys() == {"fid", "memory_mib"}


def test_p_values_are_printed_as_papers_do() -> None:
    assert [p_value(p) for p in (0.5, 0.0312, 0.0004)] == ["p = 0.50", "p = 0.031", "p < 0.001"]
