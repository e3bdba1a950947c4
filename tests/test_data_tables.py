"""labels.csv and metadata.csv beside the images: which file a line means, and what is said of the rest."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.data import DataSet, open_data

LEVELS = np.rint(np.linspace(10, 240, 24))
PIXELS = LEVELS.astype(np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2)


def pictures(folder: Path) -> Path:
    """24 grey pictures of one level each, and a table of these levels."""
    folder.mkdir(exist_ok=True)
    for i, image in enumerate(PIXELS):
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    lines = [f"{i:02d}.png,{level / 255:.6f}" for i, level in enumerate(LEVELS)]
    (folder / "labels.csv").write_text("\n".join(["file_name,light", *lines]))
    return folder


def right(data: DataSet) -> bool:
    """Whether each image has its own level."""
    parts = (data.train, data.held_out)
    assert all(part.attributes is not None for part in parts)
    return all(np.abs(p.pixels[:, 0, 0, 0] / 255 - p.attributes[:, 0]).max() < 0.003 for p in parts)  # type: ignore[index]


@pytest.mark.parametrize(
    "write",
    ["images/{}.png", "./{}.png", "/old/place/{}.png", "C:\\sets\\{}.png", "{}.PNG", "{}", "x/y/z/w/{}.png"],
)
@pytest.mark.parametrize("comma", [",", ";", "\t"])
def test_lines_that_name_files_in_other_ways(tmp_path: Path, write: str, comma: str) -> None:
    """As they were called where the table was made, or by a program that minds no capitals."""
    folder = pictures(tmp_path / "set")
    lines = [comma.join((write.format(f"{i:02d}"), f"{x:.6f}")) for i, x in enumerate(LEVELS / 255)]
    (folder / "labels.csv").write_text("\n".join([f"file_name{comma}light", *lines]))
    data = open_data(folder)
    assert right(data)
    assert [i.what for i in data.card.incidents] == ["numbers: light"]


def test_names_that_are_not_single_need_their_folders(tmp_path: Path) -> None:
    """A name in two folders is told apart by as much of the path as it takes; else it means none."""
    pixels, lines = PIXELS, ["file,light"]
    for i, image in enumerate(pixels):
        name = f"{'ab'[i % 2]}/{i // 2}.png"
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / name)
        lines.append(f"/gone/{name},{image[0, 0] / 255}")
    (tmp_path / "labels.csv").write_text("\n".join([*lines, "c/0.png,0.5", "0.png,0.6"]))
    data = open_data(tmp_path, attributes="light")
    assert right(data)
    assert "24 of its 26 lines name a file here, 'c/0.png' does not" in {i.what for i in data.card.incidents}


def test_what_of_a_table_is_not_used_is_said(tmp_path: Path) -> None:
    folder = pictures(tmp_path)
    (folder / "labels.csv").write_text("light,dark\n0.5,0.1\n0.6,0.2\n")
    assert said(folder) == {"none of its 2 lines names a file here (first: 0.5)": "not used"}
    (folder / "labels.csv").write_text("file,light,dark\n")
    assert said(folder) == {"empty": "not used"}
    lines = [f"{i:02d}.png,{i},{'?' if i == 7 else i}" for i in range(24)]
    (folder / "labels.csv").write_text("\n".join(["file,light,dark", *lines, "03.png,99,0", "./03.png,9,0"]))
    assert said(folder) == {
        "not all numbers: dark ('?')": "left out",
        "numbers: light": "taken as continuous labels",
        "files with several lines: 1 (first: 03.png)": "the last one taken",
    }
    data = open_data(folder)
    assert 9.0 in np.concatenate([data.train.attributes, data.held_out.attributes])  # type: ignore[list-item]
    (folder / "metadata.csv").write_text("file,light,sound\n01.png,4,5\n")
    assert said(folder)["columns that not all of them have: dark, sound"] == "left out"


def said(source: Path) -> dict[str, str]:
    return {incident.what: incident.done for incident in open_data(source).card.incidents}


def test_a_table_beside_a_lone_archive(tmp_path: Path) -> None:
    """It is of a zip's files; arrays have no names that it could mean."""
    folder, zipped, arrays = pictures(tmp_path / "set"), tmp_path / "zipped", tmp_path / "arrays"
    for place in (zipped, arrays):
        place.mkdir()
        (place / "labels.csv").write_bytes((folder / "labels.csv").read_bytes())
    with zipfile.ZipFile(zipped / "set.zip", "w") as archive:
        for path in sorted(folder.glob("*.png")):
            archive.write(path, f"deep/{path.name}")
    data = open_data(zipped, cache=tmp_path / "cache")
    assert right(data)
    text = (zipped / "labels.csv").read_text().replace("0.941176", "0.5")
    (zipped / "labels.csv").write_text(text)
    assert open_data(zipped, cache=tmp_path / "cache").card.train_sha256 != data.card.train_sha256
    np.savez(arrays / "set.npz", images=PIXELS)
    assert said(arrays) == {"set.npz has no names of files": "not used"}
