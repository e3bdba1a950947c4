"""Does each contender draw the class that it was asked for? A classifier of real images judges the samples.

    python benchmarks/recognised.py duel/digits

The classifier is a support vector machine on pixels, trained on training images. Each contender is sampled
at every point of its dial with the labels cycling; recall and coverage come from its reports.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from sklearn.svm import SVC

from diptych.contest import point_name, slug
from diptych.data import open_data
from diptych.data.images import Images
from diptych.runs import open_run
from diptych.system.files import read_json


def vectors(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(len(pixels), -1) / 255


def judge(train: Images, most: int = 10_000) -> SVC:
    return SVC(C=10, gamma="scale").fit(vectors(train.pixels[:most]), train.labels[:most])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("duel", type=Path)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    record = read_json(arguments.duel / "report.json")
    data = open_data(record["data"]["source"], **record["data"]["arguments"])
    classifier = judge(data.train)
    accuracy = classifier.score(vectors(data.held_out.pixels), data.held_out.labels)
    print(f"classifier on {len(data.held_out):,} held-out images: {accuracy:.1%}")
    rows = []
    for contender in record["contenders"]:
        run = open_run(arguments.duel / contender["run"])
        model = run.model()
        for setting in model.dial():
            images = model.using(**setting).sample(range(arguments.n), batch=250).permute(0, 2, 3, 1).numpy()
            asked = np.arange(arguments.n) % model.classes
            name = point_name(contender["name"], setting)
            recognised = float((classifier.predict(vectors(images)) == asked).mean())
            scores = read_json(run.path / "reports" / f"{slug(name)}.json")
            shown = {key: scores["scores"][key]["value"] for key in ("fid", "recall", "coverage")}
            rows.append({"name": name, "recognised": recognised, **shown})
            text = "  ".join(f"{key} {value:.3g}" for key, value in shown.items())
            print(f"{name:24} recognised {recognised:6.1%}  {text}")
    floor = {key: scores["floor"][key]["value"] for key in ("fid", "recall", "coverage")}
    print("floor (real images)      " + "  ".join(f"{key} {value:.3g}" for key, value in floor.items()))
    if arguments.out:
        arguments.out.write_text(json.dumps({"classifier": accuracy, "rows": rows, "floor": floor}, indent=2))


if __name__ == "__main__":
    main()
