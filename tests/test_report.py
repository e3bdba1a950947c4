"""The report: the page as a browser parses it, the plots' coordinates, JSON and Markdown."""

import json
import math
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from diptych.choice import Choice, choose
from diptych.data.images import DataCard, Incident
from diptych.report import curves, plots, svg
from diptych.report.facts import spent_rows
from diptych.report.markdown import markdown, plain
from diptych.report.page import write_report
from diptych.report.record import Contender, DuelRecord
from diptych.report.table import notes, tables
from diptych.scores import Estimate, Report, RulerCard

CARD = RulerCard("features 1", "0" * 64, "digits", "1" * 64, 500, "none", 0, "1")
FLOOR = {"fid": Estimate(3, 2.5, 3.5, 500), "coverage": Estimate(0.95, 0.93, 0.97, 500, "higher")}
HOSTILE = "<script>alert('x')</script>|`*"


def point(name, recipe, steps, fid, latency):
    scores = {
        "fid": Estimate(fid, fid * 0.95, fid * 1.05, 500, note="jackknife"),
        "coverage": Estimate(1 / fid, 0.9 / fid, 1.1 / fid, 500, "higher"),
        "latency_ms": Estimate(latency, latency * 0.98, latency * 1.02, 30 + steps, "lower", "ms"),
        "parameters": Estimate.exact(1.5e6),
    }
    return Report(name, recipe, {"steps": steps} if recipe != "r3gan" else {}, scores, FLOOR, CARD)


def contender(name, recipe, settings, ticks=4):
    points = [
        point(name if recipe == "r3gan" else f"{name}, {steps} steps", recipe, steps, fid, latency)
        for steps, fid, latency in settings
    ]
    curve = [
        {"images": 100 * i, "seconds": 10.0 * i, "losses": {"total": 1 / i}, "exam": {"fid": 100 / i}}
        for i in range(1, ticks + 1)
    ]
    return Contender(
        name,
        recipe,
        {"width": 8},
        run=name,
        points=tuple(points),
        curve=tuple(curve),
        samples={p.name: f"{i}-{recipe}.png" for i, p in enumerate(points)},
        neighbours=f"near-{recipe}.png",
        spent={"images": 400, "seconds": 598.0, "flop": 1.25e15},
    )


def record_of(contenders, **asked):
    choice = choose([p for c in contenders for p in c.points], **asked)
    card = DataCard(
        "digits",
        "digits",
        1257,
        540,
        (1, 8, 8),
        "none",
        "a" * 64,
        "b" * 64,
        {"zero": 178},
        (Incident("odd<b>.png", "zero bytes", "left out"),),
    )
    return DuelRecord(
        title=f"digits {HOSTILE}",
        data=asdict(card),
        contenders=tuple(contenders),
        choice=choice,
        budget="10m",
        seeds=[0],
        machine={"processor": f"fast {HOSTILE}", "cores": 2},
        versions={"diptych": "0.1.0"},
        command=f"diptych duel digits --out '{HOSTILE}'",
        real_samples="real.png",
        created="2026-11-21T10:00:00+00:00",
    )


@pytest.fixture
def record():
    gan = contender("r3gan", "r3gan", [(1, 30, 3)])
    edm = contender(f"edm {HOSTILE}", "edm", [(1, 200, 5), (4, 40, 20), (16, 10, 80)])
    failed = Contender(
        "hot", "r3gan", curve=gan.curve[:2], failed="phase 'critic' was no longer finite in step 7"
    )
    return record_of([gan, edm, failed], at_most={"latency_ms": 50})


def written(record, folder):
    """The page of a record, with pictures."""
    files = [f for c in record.contenders for f in (*c.samples.values(), c.neighbours) if f]
    for file in ["real.png", *files]:
        Image.fromarray(np.zeros((8, 16), np.uint8)).save(folder / file)
    return write_report(record, folder)


@pytest.fixture
def page(record, tmp_path):
    return written(record, tmp_path)


class Reader(HTMLParser):
    """What a browser would find."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.stack, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if "style" not in self.stack:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_is_one_file_without_scripts(page):
    text = page.read_text(encoding="utf-8")
    read = Reader(text)
    assert not read.all("script")
    assert not read.all("link")
    for _, attributes in read.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert attributes.get(name, "data:").startswith("data:")
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_every_picture_is_embedded_and_described(page, record):
    images = Reader(page.read_text(encoding="utf-8")).all("img")
    assert all(image["src"].startswith("data:image/png;base64,iVBOR") and image["alt"] for image in images)
    assert all((image["width"], image["height"]) == ("16", "8") for image in images)
    # beside the decision: real, chosen; heads: real and two contenders; edm's dial; two sheets of neighbours
    assert record.choice.chosen.name == "r3gan"
    assert len(images) == 2 + 3 + 3 + 2


def test_every_contender_score_and_reason_is_on_the_page(page, record):
    text = Reader(page.read_text(encoding="utf-8")).text
    for one in record.points:
        assert one.name in text
        for name, estimate in one.scores.items():
            assert name in text
            shown = estimate.value / 1e6 if name == "parameters" else estimate.value
            assert svg.tick(float(f"{shown:.3g}")) in text
    assert "phase 'critic' was no longer finite in step 7" in text
    assert "latency_ms 80.0 [78.4, 81.6] is over the limit of 50" in text
    assert "3.00 [2.50, 3.50]" in text  # the floor
    assert "1.25 PFLOP" in text
    assert "9 min 58 s" in text
    assert "odd<b>.png: zero bytes (left out)" in text
    assert record.command in text
    assert text.index("Ship r3gan") < text.index("Scores") < text.index("Samples")


def test_hostile_names_stay_text(page):
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert text.count("&lt;script&gt;") > 10


def test_tables_have_headers_and_svgs_have_titles(page):
    text = page.read_text(encoding="utf-8")
    read = Reader(text)
    assert all("scope" in header for header in read.all("th"))
    ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for drawing in read.all("svg"):
        if drawing.get("aria-hidden") != "true":
            assert set(drawing["aria-labelledby"].split()) <= set(ids)
    assert all(set(section["aria-labelledby"].split()) <= set(ids) for section in read.all("section"))


def test_a_missing_picture_is_named_and_files_outside_are_never_read(record, tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("L", (4, 4)).save(secret)
    (tmp_path / "duel").mkdir()
    page = write_report(replace(record, real_samples="../secret.png"), tmp_path / "duel").read_text(
        encoding="utf-8"
    )
    assert "There is no picture ../secret.png." in page
    assert "data:image" not in page


def test_json_round_trip(record, tmp_path):
    write_report(record, tmp_path)
    tree = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert DuelRecord.from_json({**tree, "later": 1}) == DuelRecord.from_json(json.loads(json.dumps(tree)))
    again = DuelRecord.from_json(tree)
    assert again.contenders[1].points == record.contenders[1].points
    assert again.choice == record.choice
    assert json.dumps(again.to_json()) == json.dumps(record.to_json())
    assert tree["choice"]["verdict"] == "Ship r3gan"


def test_markdown_has_a_cell_for_every_score(record):
    text = markdown(record)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    bars = [len(re.findall(r"(?<!\\)\|", line)) for line in lines]
    quality = next(i for i, line in enumerate(lines) if "fid ↓ (n = 500)" in line)
    assert bars[quality : quality + 7] == [4] * 7  # head, rule, four points, the failed one
    assert "| r3gan (chosen) | 30.0 [28.5, 31.5] | **0.0333**" not in text
    assert "| r3gan (chosen) | 30.0 [28.5, 31.5] |" in text
    assert "real images (floor) | 3.00 [2.50, 3.50] |" in text
    assert "<script>" not in text.replace(record.command, "")
    assert plain("a_b *c* [x](y) |") == r"a_b \*c\* [x]\(y) \|"


def told(copying, collapse):
    """Alarms of one look."""
    said = {"copying": (copying, f"5 copies {HOSTILE}"), "collapse": (collapse, "coverage is 0.1")}
    return {
        name: {"name": name, "state": state, "sentence": words, "false_positives": 0.05}
        for name, (state, words) in said.items()
    }


def test_alarms_that_rang_are_on_the_page_and_in_the_summary(record, tmp_path):
    gan, *others = record.contenders
    looks = [told("ok", "ok"), told("beyond chance", "ok"), told("alarm", "ok"), told("ok", "ok")]
    curve = tuple({**line, "alarms": look} for line, look in zip(gan.curve, looks, strict=True))
    curve[2]["reaction"] = "rollback"
    record = replace(record, contenders=(replace(gan, curve=curve), *others))
    expected = f"at 1 of 4 looks, last after 300 images: 5 copies {HOSTILE}; rollback; in the end ok"
    (line,) = (line for line in markdown(record).splitlines() if "copying" in line)
    assert line == f"- **r3gan**: copying, **alarm** {plain(expected)}; 1 of 2 alarms ok at all looks"
    words = " ".join(Reader(written(record, tmp_path).read_text(encoding="utf-8")).words)
    assert expected in words
    assert "farther from real images than 95 % of real draws (each alarm, each look)" in words
    assert "of logs: than 95 % of healthy lines" in words


def test_best_is_marked_only_where_intervals_separate(record):
    quality, cost = tables(record)
    marks = {
        column.name: [row.name for row in table.rows if row.cells and row.cells[i].best]
        for table in (quality, cost)
        for i, column in enumerate(table.columns)
    }
    sixteen = f"edm {HOSTILE}, 16 steps"
    assert marks == {"fid": [sixteen], "coverage": [sixteen], "latency_ms": ["r3gan"], "parameters": []}
    near = point("near", "r3gan", 1, 10.2, 3)
    close = record_of([*record.contenders[:2], replace(record.contenders[0], name="near", points=(near,))])
    assert not any(row.cells[0].best for row in tables(close)[0].rows)
    assert cost.floor is None
    assert quality.columns[0].n == "500"
    assert cost.columns[0].n == ""  # differs, so that it stands in the cells
    assert cost.rows[0].cells[0].n == "31"
    assert (cost.columns[1].unit, cost.rows[0].cells[1].value) == ("millions", "1.50")


def test_notes_that_differ_in_numbers_are_one_sentence_and_others_name_their_points(record, tmp_path):
    said = {
        "r3gan": "p50; biased by about 0.31, of 1,200. Interval: normal",
        "edm, 1 step": "p50; biased by about 2, of 1,200. Interval: normal",
        "edm, 2 steps": "p50; biased by about 1e-05, of 1,200. Interval: normal",
        "edm, 4 steps": "p50; no interval",
    }
    models = [
        replace(record.points[0], name=name, scores={"fid": Estimate(3, 2, 4, 500, note=note)})
        for name, note in said.items()
    ]
    common = "p50; biased by about 1e-05 to 2, of 1,200. Interval: normal"
    assert notes(models[:3], "fid") == (common,)
    assert notes(models, "fid") == (
        f"r3gan, edm, 1 step, edm, 2 steps: {common}",
        "edm, 4 steps: p50; no interval",
    )
    assert notes(models, "kid") == ()
    page = written(record_of([replace(record.contenders[0], points=tuple(models))]), tmp_path)
    assert f"r3gan, edm, 1 step, edm, 2 steps: {common}" in Reader(page.read_text(encoding="utf-8")).text


def test_scales_put_known_values_at_known_pixels():
    linear, log = svg.Scale(0, 10, 100, 0), svg.Scale(1, 100, 0, 200, log=True)
    assert [linear(v) for v in (0, 2.5, 10, 99)] == [100, 75, 0, 0]
    assert [log(v) for v in (1, 10, 100, 0.001)] == pytest.approx([0, 100, 200, 0])
    assert linear.ticks(5) == [0, 2, 4, 6, 8, 10]
    assert log.ticks(5) == [1, 3, 10, 30, 100]


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", [[5], [1e-9, 1e9], [3, 3.0001], [0.2, 0.9], [math.nan, 7], [], [-4, 0, 9]])
def test_axes_are_monotone_and_have_ticks_within_them(values, log):
    scale = svg.Scale.over(values, 0, 300, log)
    ticks = scale.ticks(6)
    places = [scale(tick) for tick in ticks]
    assert 1 <= len(ticks) <= 8
    assert places == sorted(places)
    assert len(set(places)) == len(places)
    assert all(0 <= place <= 300 for place in places)
    for value in values:
        if math.isfinite(value) and (value > 0 or not log):
            assert 0 < scale(value) < 300


def attributes_of(drawing, tag, class_):
    tree = ElementTree.fromstring(str(drawing))
    return [node.attrib for node in tree.iter(tag) if class_ in node.attrib.get("class", "").split()]


def test_points_intervals_and_limit_land_where_they_must(record):
    drawing = plots.quality_plot(record)
    every = [dot for curve in plots.dots(record, "fid") for dot in curve]
    x, y = plots.plane(record, every, "fid", 960, 470)
    assert x.log
    assert y.log
    gan = attributes_of(drawing, "circle", "mark")[0]
    assert (float(gan["cx"]), float(gan["cy"])) == pytest.approx((x(3), y(30)), abs=0.1)
    bars = [bar["d"] for bar in attributes_of(drawing, "path", "bar")]
    assert f"M{x(3):.1f} {y(28.5):.1f}V{y(31.5):.1f}" in bars
    assert f"M{x(3 * 0.98):.1f} {y(30):.1f}H{x(3 * 1.02):.1f}" in bars
    assert attributes_of(drawing, "path", "limit")[0]["d"] == f"M{x(50):.1f} 424V28"
    out = attributes_of(drawing, "rect", "out")[0]
    assert (float(out["x"]), float(out["width"])) == pytest.approx((x(50), x.end - x(50)), abs=0.1)
    assert attributes_of(drawing, "path", "floor")[0]["d"] == f"M54 {y(3):.1f}H942"
    assert len(attributes_of(drawing, "path", "hollow")) == 1  # edm in 16 steps is over the limit
    ring = attributes_of(drawing, "circle", "ring")
    assert [(r["cx"], r["cy"]) for r in ring] == [(gan["cx"], gan["cy"])]
    line = attributes_of(drawing, "path", "curve")
    assert len(line) == 1
    across = [float(pair.split()[0]) for pair in line[0]["d"][1:].split("L")]
    assert across == pytest.approx([x(5), x(20), x(80)], abs=0.1)


def test_training_curves_end_where_the_log_ends(record):
    drawing = curves.training_plot(record)
    lines = attributes_of(drawing, "path", "curve")
    assert len(lines) == 3
    first, last = lines[0]["d"][1:].split("L")[0], lines[0]["d"][1:].split("L")[-1]
    assert float(last.split()[1]) > float(first.split()[1])  # fid falls, pixels count from the top
    assert len(attributes_of(drawing, "path", "cross")) == 1  # the failed one
    assert curves.series(record.contenders[0], "exam", "fid")[-1] == (40.0, 25.0)
    assert "from 100 to 25.0" in drawing
    assert "total: from 1.00 to 0.250" in curves.loss_plot(record.contenders[0], 0, "k")


def test_labels_do_not_cover_each_other():
    labels = svg.Labels(svg.Box(0, 0, 400, 300))
    for _ in range(4):
        labels.place("eighteen", [(200, 150)], "dial")
    assert all(a.shared(b) == 0 for i, a in enumerate(labels.taken) for b in labels.taken[:i])
    assert all(box.shared(labels.frame) == pytest.approx(box.shared(box)) for box in labels.taken)


def test_spread_keeps_the_distance_and_the_frame():
    assert svg.spread([10, 11, 50], 12, 0, 100) == [10, 22, 50]
    assert svg.spread([99, 98, 100], 10, 0, 100) == [90, 80, 100]


@pytest.mark.parametrize(
    "contenders",
    [
        [],
        [Contender("a", "edm", failed="no memory")],
        [Contender("a", "edm")],
        [contender("r3gan", "r3gan", [(1, 30, 3)], ticks=1)],
        [replace(contender("edm", "edm", [(1, 30, 3), (2, 30, 3)]), curve=({"images": 1},), samples={})],
        [contender("r3gan", "r3gan", [(1, math.nan, 3)])],
    ],
)
def test_sparse_records_still_make_a_page(contenders, tmp_path):
    record = record_of(contenders)
    text = Reader(written(record, tmp_path).read_text(encoding="utf-8")).text
    assert record.choice.verdict in text
    for one in contenders:
        assert one.name in text
        assert one.failed in text


def test_the_legend_names_the_axes_that_the_front_is_of(record, tmp_path):
    said = "no other is as good in each of {} and better in one"
    by_fid = Reader(written(record, tmp_path).read_text(encoding="utf-8"))
    assert f"Pareto: {said.format('fid, latency_ms')}, by their values" in by_fid.text
    fastest = record_of(record.contenders, best="latency_ms")
    by_latency = Reader(written(fastest, tmp_path).read_text(encoding="utf-8"))
    assert fastest.choice.axes == ("fid", "coverage", "latency_ms", "parameters")
    assert said.format(", ".join(fastest.choice.axes)) in by_latency.text
    titles = [tag.get("title") for tag in by_latency.all("span") if "title" in tag]
    assert set(titles) == {said.format(", ".join(fastest.choice.axes))}
    older = {key: value for key, value in fastest.choice.to_json().items() if key != "axes"}
    assert Choice.from_json(older).axes == ()


def test_minus_signs_are_true_ones_everywhere(record, tmp_path):
    below = Estimate(-0.5, -0.75, -0.25, 500)
    one, other = (
        replace(point(name, "r3gan", 1, 30, 3), scores={"kid": kid, "latency_ms": Estimate(3, 2, 4, 9)})
        for name, kid in (("a", below), ("b", Estimate(3, 2, 4, 500)))
    )
    gan = replace(record.contenders[0], points=(one, other), samples={}, curve=())
    text = Reader(written(record_of([gan], best="kid"), tmp_path).read_text(encoding="utf-8")).text
    assert text.count("−0.500") >= 3  # the sentence, the tile, the table
    assert "[−0.750, −0.250]" in text
    assert not re.search(r"-0\.(5|25|75)", text)


def test_no_latency_means_no_plane(tmp_path):
    one = contender("r3gan", "r3gan", [(1, 30, 3)])
    quiet = replace(one.points[0], scores={"fid": one.points[0].scores["fid"]}, floor={})
    record = record_of([replace(one, points=(quiet,))])
    assert plots.quality_plot(record) == ""
    assert "Latency was not measured" in write_report(record, tmp_path).read_text(encoding="utf-8")
    assert [table.title for table in tables(record)] == ["Cost"]


def test_more_contenders_than_colours_stay_apart_by_shape():
    marks = {(plots.colour(i), str(svg.marker(i, 0, 0))) for i in range(24)}
    assert len(marks) == 24


def test_spent_without_a_log():
    row = spent_rows(
        record_of([Contender("a", "edm", {"guidance_scale": 1.5, "teacher": None}, failed="x")])
    )[0]
    assert (row.images, row.time, row.compute) == ("–", "–", "–")
    assert row.arguments == "edm --guidance-scale 1.5 --teacher none"


def luminance(colour):
    """Relative luminance, WCAG 2.2."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1, 2])
def test_contrast_is_enough_to_read_in_light_dark_and_print(scheme, page):
    text = page.read_text(encoding="utf-8")
    names = dict(
        re.findall(r"--([a-z0-9]+): (#[0-9a-f]{3,6});", re.findall(r":root \{(.*?)\}", text, re.S)[scheme])
    )
    full = {k: v if len(v) == 7 else "#" + "".join(2 * c for c in v[1:]) for k, v in names.items()}
    for ground in ("paper", "wash"):
        for ink in ("ink", "mute", "bad", *(f"c{i}" for i in range(8))):
            light, dark = sorted((luminance(full[ground]), luminance(full[ink])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (ground, ink)
