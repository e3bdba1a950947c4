"""Two runs beside each other: what differs in logs and sheets; strangers' sheets are decoded safely."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from diptych.errors import RunError
from diptych.training.agreement import lines_differ, samples_differ, sheets_of


def test_the_first_line_that_differs() -> None:
    line = {"images": 8, "seconds": 1.0, "losses": {"a": 1.0, "b": float("nan")}, "alarms": {"x": {"p": 1}}}
    assert lines_differ([line], [{**line, "seconds": 2.0, "exam_seconds": 1.0}]) == ""
    other = {**line, "losses": {"a": 1.0, "b": 2.0}}
    assert lines_differ([line, line], [line, other]).startswith("line 2, after 8 images, has losses.b nan")
    assert lines_differ([line], [{**line, "alarms": {"x": {"p": 2}}}]).endswith("alarms.x.p 1 then, 2 now")
    assert "has 0 lines, not 1" in lines_differ([line], [])


def test_entries_that_one_line_alone_has() -> None:
    line = {"images": 8, "exam": {"fid": 1.5}, "weights_sha256": "ab", "alarms": {"x": {"p": 1}}}
    assert lines_differ([line], [{"images": 8}]).endswith("has exam an object of 1 then, none now")
    assert lines_differ([{"images": 8}], [line]).endswith("has exam none then, an object of 1 now")
    assert lines_differ([line], [{**line, "exam": {}}]).endswith("has exam.fid 1.5 then, none now")
    assert lines_differ([line], [{**line, "exam_n": 64}]).endswith("has exam_n none then, 64 now")
    assert lines_differ([line], [{"images": 8}], strict=False) == ""
    assert "weights_sha256 'ab' then, 'cd' now" in lines_differ(
        [line], [{"images": 8, "weights_sha256": "cd"}], strict=False
    )


def samples(folder: Path, levels: dict[int, int], side: int = 4) -> Path:
    """Grey sheets, by the images that were seen."""
    folder.mkdir()
    for images, level in levels.items():
        Image.fromarray(np.full((side, side), level, np.uint8)).save(folder / f"{images:012d}.png")
    return folder


def apart(then: Path, now: Path, images: int = 100) -> str:
    return samples_differ(sheets_of(then, images), sheets_of(now, images))


def test_how_far_samples_are_apart(tmp_path: Path) -> None:
    one, other = samples(tmp_path / "a", {1: 50, 2: 100}), samples(tmp_path / "b", {1: 50, 2: 103})
    assert apart(one, other) == "1 of 2 sheets differ, by up to 3 levels of 255"
    assert apart(one, one) == ""
    assert apart(one, samples(tmp_path / "c", {1: 50})) == "the repetition lacks 1 of 2 sheets"
    assert apart(one, samples(tmp_path / "d", {3: 50})) == "the repetition lacks 2 of 2 sheets"
    assert apart(one, samples(tmp_path / "e", {2: 99})).startswith(
        "the repetition lacks 1 of 2 sheets; 1 of 1 "
    )
    assert apart(one, samples(tmp_path / "f", {1: 50}), 1) == ""  # what a kill left after the last line
    assert "255 levels" in apart(one, samples(tmp_path / "g", {1: 50, 2: 100}, side=8))


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n"


def test_a_strangers_sheet_is_decoded_as_png_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, then = samples(tmp_path / "now", {1: 50}), samples(tmp_path / "then", {1: 50})
    sheet = then / "000000000001.png"
    sound = sheet.read_bytes()

    def refused(*args: Any, **kwargs: Any) -> None:
        pytest.fail("it was handed to Ghostscript")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", refused)
    jpeg = tmp_path / "a.jpg"
    Image.fromarray(np.full((4, 4), 50, np.uint8)).save(jpeg)
    for damaged in (EPS, sound[:40], b"", b"nothing", jpeg.read_bytes(), sound[:16] + b"\xff" * 17):
        sheet.write_bytes(damaged)
        with pytest.raises(RunError, match=r"then/000000000001\.png cannot be read") as error:
            apart(then, now)
        assert "where it is removed" in error.value.hint
    sheet.unlink()
    sheet.mkdir()
    assert apart(then, now) == ""
