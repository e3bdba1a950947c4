"""choose: known answers, ties, straddled limits, nothing that passes, and what cannot be compared."""

import json
import math
import random
import subprocess
import sys
from dataclasses import replace

import pytest

from diptych.choice import Choice, choose
from diptych.cli import run
from diptych.cli.reports import reports_of
from diptych.errors import NotComparable, RunError, WrongUse
from diptych.scores import Estimate, Report, RulerCard

CARD = RulerCard("features 1", "0" * 64, "digits", "1" * 64, 500, "none", 0, "1")


def report(name, fid=None, latency=None, **more):
    scores = {}
    if fid is not None:
        scores["fid"] = Estimate(*fid, 500)
    if latency is not None:
        scores["latency_ms"] = Estimate(*latency, 100, "lower", "ms")
    return Report(name, name.partition(",")[0], {}, {**scores, **more}, {}, CARD)


FAST = report("r3gan", (31.2, 29, 33), (3, 2.9, 3.1))
GOOD = report("edm, 8 steps", (12.1, 11, 13), (40, 39, 41))
SLOW = report("edm, 35 steps", (10.1, 9.5, 10.7), (812, 790, 840))
BAD = report("edm, 1 step", (200, 190, 210), (5, 4.9, 5.1))


def test_the_best_that_passes_is_chosen_and_every_other_has_its_measured_reason():
    choice = choose([FAST, GOOD, SLOW, BAD], at_most={"latency_ms": 50})
    assert choice.chosen == GOOD
    assert choice.decided
    assert choice.verdict == "Ship edm, 8 steps"
    assert dict(choice.dropped) == {
        "r3gan": "fid 31.2 [29.0, 33.0] is worse than edm, 8 steps 12.1 [11.0, 13.0]: "
        "the intervals do not overlap",
        "edm, 35 steps": "latency_ms 812 [790, 840] is over the limit of 50",
        "edm, 1 step": "fid 200 [190, 210] is worse than edm, 8 steps 12.1 [11.0, 13.0]: "
        "the intervals do not overlap",
    }
    assert choice.sentence == (
        "edm, 8 steps has the best fid 12.1 [11.0, 13.0] of the 3 that keep latency_ms at most 50; "
        "the next, r3gan, has 31.2 [29.0, 33.0], and the intervals do not overlap."
    )


def test_without_limits_the_slow_one_wins():
    assert choose([FAST, GOOD, SLOW, BAD]).chosen == SLOW


@pytest.mark.parametrize(("better", "name"), [("lower", "low"), ("higher", "high")])
def test_the_estimate_says_which_side_is_better(better, name):
    reports = [report(n, coverage=Estimate(v, v, v, 9, better)) for n, v in (("low", 0.2), ("high", 0.8))]
    assert choose(reports, best="coverage").chosen.name == name


def test_overlapping_intervals_are_not_decidable_and_speed_only_breaks_the_tie():
    near = report("consistency, 2 steps", (13, 12.5, 13.5), (8, 7.9, 8.1))
    choice = choose([FAST, GOOD, near], at_most={"latency_ms": 50})
    assert choice.chosen == GOOD
    assert choice.tied == (near,)
    assert not choice.decided
    assert choice.tie_break == "consistency, 2 steps"
    assert "not decidable at this n (500)" in choice.sentence
    assert "As a tie-break only, and no finding about fid: consistency, 2 steps is faster" in choice.sentence
    assert [name for name, _ in choice.dropped] == ["r3gan"]


def sampled(name, value, deviations, better="lower"):
    """A report whose fid has replicates."""
    fid = Estimate(value, value - 9, value + 9, 500, better, "", "", deviations)
    return replace(report(name), scores={"fid": fid})


def test_equal_models_are_seldom_called_worse_than_the_best_of_them():
    """Which is the best is found by looking: of ten equal ones, in one family of twenty one is dropped."""
    draws = random.Random(0)
    wrong = 0
    for _ in range(400):
        models = [
            sampled(str(i), 20 + draws.gauss(0, 1), tuple(draws.gauss(0, 1) for _ in range(100)))
            for i in range(10)
        ]
        wrong += bool(choose(models).dropped)
    assert 0.01 < wrong / 400 < 0.075


@pytest.mark.parametrize(("better", "value"), [("lower", 13.0), ("higher", 11.0)])
def test_why_one_is_worse_is_said_with_the_difference_and_its_p(better, value):
    common = tuple(math.sin(i) for i in range(100))
    own = tuple(x + 0.1 * math.cos(3 * i) for i, x in enumerate(common))
    models = [sampled("a", 12.0, common, better), sampled("b", value, own, better)]
    ((name, reason),) = choose(models).dropped
    assert name == "b"
    assert reason.endswith("is worse than a 12.0 [3.00, 21.0] by 1.00 [0.858, 1.14], p < 0.001")
    models.append(sampled("c", 12.0, tuple(-x for x in common), better))
    three = choose(models)
    assert dict(three.dropped)["b"].endswith("p < 0.001 among 3 pairs")
    assert "the paired test gives p = 1.00 among 3 pairs" in three.sentence


def test_many_ties_are_a_number_and_the_nearest():
    draws = random.Random(1)
    models = [sampled(f"m{i}", 20 + i / 100, tuple(draws.gauss(0, 1) for _ in range(100))) for i in range(11)]
    choice = choose(models)
    assert len(choice.tied) == 10
    assert (
        "whether it is better than 10 others, of which the nearest is m1 (20.0 [11.0, 29.0]; "
        in choice.sentence
    )
    assert "m2" not in choice.sentence
    assert [name for name, _ in choice.others] == [f"m{i}" for i in range(1, 11)]
    assert choice.others[0][1].startswith("not told apart, fid 20.0 [11.0")


def test_a_tie_whose_speeds_overlap_too_is_not_broken():
    near = report("twin", (12.5, 11.5, 13.5), (40.2, 39.5, 41))
    choice = choose([GOOD, near])
    assert choice.tied == (near,)
    assert choice.tie_break == ""
    assert "Nor does latency_ms break the tie" in choice.sentence


def test_a_tie_is_broken_by_cost_where_no_latency_was_measured():
    scores = {"big": 9e6, "small": 1e6}
    reports = [report(n, (12, 11, 13), parameters=Estimate.exact(v)) for n, v in scores.items()]
    choice = choose(reports)
    assert choice.chosen.name == "big"
    assert choice.tie_break == "small"
    assert "small is cheaper, parameters 1,000,000 against 9,000,000" in choice.sentence


@pytest.mark.parametrize(("value", "passes"), [(49.0, True), (50.0, True), (51.0, False)])
def test_a_limit_is_checked_on_the_value_and_a_straddling_interval_is_told(value, passes):
    straddling = report("edm", (10, 9, 11), (value, 45, 55))
    choice = choose([straddling, FAST], at_most={"latency_ms": 50})
    assert (choice.chosen == straddling) == passes
    told = choice.sentence if passes else dict(choice.dropped)["edm"]
    assert "its interval contains" in told


def test_a_worse_report_that_straddles_a_limit_is_told_too():
    reason = dict(choose([GOOD, FAST], at_most={"latency_ms": 50}, at_least={"latency_ms": 2.95}).dropped)[
        "r3gan"
    ]
    assert reason.startswith("fid 31.2")
    assert "keeps the limit of 2.95, but its interval contains it" in reason


def test_none_passes_names_the_nearest_and_by_how_much():
    choice = choose([GOOD, SLOW], at_most={"latency_ms": 20})
    assert choice.chosen is None
    assert choice.verdict == "Nothing to ship"
    assert choice.sentence == (
        "None of 2 keeps latency_ms at most 20. The nearest is edm, 8 steps: "
        "latency_ms 40.0 [39.0, 41.0] is over the limit of 20 by 20.0 (100 %)."
    )
    assert len(choice.dropped) == 2


def test_at_least_excludes_from_below():
    reports = [
        replace(GOOD, scores={**GOOD.scores, "recall": Estimate(r, r, r, 9, "higher")}) for r in (0.1, 0.6)
    ]
    reports = [replace(r, name=f"r{i}") for i, r in enumerate(reports)]
    choice = choose(reports, at_least={"recall": 0.5})
    assert choice.chosen.name == "r1"
    assert choice.dropped == (("r0", "recall 0.100 is under the limit of 0.5"),)


def test_missing_and_nan_scores_are_dropped_with_that_reason():
    silent, lost = (
        report("silent", None, (1, 1, 1)),
        report("lost", (math.nan, math.nan, math.nan), (1, 1, 1)),
    )
    reasons = dict(choose([GOOD, silent, lost]).dropped)
    assert reasons == {"silent": "it has no fid", "lost": "its fid is not a number"}
    assert dict(choose([GOOD, silent], at_most={"fid": 20}).dropped) == {"silent": "it has no fid"}
    assert choose([silent, GOOD]).chosen == GOOD


def test_pareto_is_the_front_of_quality_against_latency():
    # edm in one step is beaten by r3gan on both axes; the others trade one for the other
    assert choose([FAST, GOOD, SLOW, BAD]).pareto == ("r3gan", "edm, 8 steps", "edm, 35 steps")


def test_pareto_without_latency_takes_every_other_score():
    def one(name, fid, recall, density):
        high = {k: Estimate.exact(v, "higher") for k, v in (("recall", recall), ("density", density))}
        return report(name, (fid, fid, fid), **high)

    reports = [one("a", 1, 0.1, 0.1), one("b", 2, 0.9, 0.1), one("c", 3, 0.05, 0.9), one("d", 3, 0.9, 0.1)]
    assert choose(reports).pareto == ("a", "b", "c")


def test_other_rulers_are_not_compared():
    other = replace(FAST, ruler=replace(CARD, n=100, extractor="features 2"))
    with pytest.raises(NotComparable, match=r"extractor: features 1 against features 2; n: 500 against 100"):
        choose([GOOD, other])


def test_other_machines_are_pointed_out():
    here, there = (
        replace(GOOD, machine={"cores": 2, "os": "Linux"}),
        replace(FAST, machine={"cores": 8, "os": "Linux"}),
    )
    assert choose([here, there]).notes == ("not all were measured on the same machine: cores differ",)
    assert choose([here, here]).notes == ()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"best": "fdi"}, "did you mean fid"),
        ({"at_most": {"latency": 5}}, "did you mean latency_ms"),
        ({"at_least": {"elegance": 5}}, "there are: fid, latency_ms"),
        ({"at_most": {"fid": math.nan}}, "not a number"),
        ({"at_most": {"fid": 5}, "at_least": {"fid": 6}}, "at least 6 and at most 5"),
    ],
)
def test_wrong_use(asked, message):
    with pytest.raises(WrongUse) as caught:
        choose([GOOD, FAST], **asked)
    assert message in str(caught.value)


def test_a_score_without_a_better_side_cannot_decide():
    with pytest.raises(WrongUse, match="no better side"):
        choose([report("a", seed=Estimate.exact(1.0, "neither"))], best="seed")


def test_infinite_limits_exclude_nothing_or_everything():
    assert choose([GOOD], at_most={"fid": math.inf}).chosen == GOOD
    assert choose([GOOD], at_least={"fid": math.inf}).chosen is None


def test_the_same_name_twice_is_told_apart_by_run():
    a, b = replace(GOOD, run="runs/a"), replace(SLOW, name=GOOD.name, run="runs/b")
    choice = choose([a, b])
    assert choice.chosen.name == "edm, 8 steps (runs/b)"
    assert choice.dropped[0][0] == "edm, 8 steps (runs/a)"
    assert [name for name, _ in choose([GOOD, replace(SLOW, name=GOOD.name)]).dropped] == ["edm, 8 steps #1"]


def test_nothing_to_choose_from():
    choice = choose([])
    assert choice.chosen is None
    assert choice.sentence == "There is no report to choose from."


def test_one_report_alone():
    assert choose([GOOD]).sentence == "edm, 8 steps is the only one of 1; its fid is 12.1 [11.0, 13.0]."


@pytest.mark.parametrize("limit", [1.0, 50.0])
def test_json_round_trip(limit):
    choice = choose(
        [FAST, GOOD, SLOW, report("twin", (12, 11, 13), (9, 9, 9))], at_most={"latency_ms": limit}
    )
    assert Choice.from_json(json.loads(json.dumps(choice.to_json()))) == choice


def test_choosing_does_not_import_torch():
    script = "import sys, diptych.choice, diptych.report.record; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_reports_are_read_out_of_every_file_that_holds_some(tmp_path):
    points = [each.to_json() for each in (FAST, GOOD)]
    files = {
        "one": points[0],
        "graded": {"reports": points, "differences": [], "warnings": []},
        "duel": {
            "contenders": [{"name": "a", "points": points[:1]}, {"name": "b", "points": points[1:]}, {}]
        },
        "other": {"contents": 3},
    }
    for name, tree in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(tree))
    assert reports_of(tmp_path / "one.json") == [FAST]
    assert reports_of(tmp_path / "graded.json") == reports_of(tmp_path / "duel.json") == [FAST, GOOD]
    assert reports_of(tmp_path / "other.json") == []
    assert run(["choose", str(tmp_path / "graded.json")]) == 0
    for broken in ({"reports": 3}, {"reports": [3]}, {"contenders": [3]}, {"contenders": [{"points": 3}]}):
        (tmp_path / "broken.json").write_text(json.dumps(broken))
        with pytest.raises(RunError, match=r"broken\.json: "):
            reports_of(tmp_path / "broken.json")
