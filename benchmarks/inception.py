"""Inception features: ours beside torch-fidelity's on the same weights, in one run.

    python benchmarks/inception.py [--sizes 32 256] [--batch 16] [--rounds 7] [--out results.json]

Seeded random weights of the known file's shapes, so that nothing is downloaded; uint8 images in, 2,048
numbers out. The resize alone is timed too. torch-fidelity needs torchvision; on a machine without a GPU
install that without its dependencies. Targets: >= 1.7 times the images a second, difference <= 1e-5.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diptych.features._inception_net import SIZE, random_weights
from diptych.features._resize import tf1_bilinear
from diptych.features.inception import Inception
from diptych.system.device import keep_buffers
from paired import Seconds, finish, interleaved, let_torchvision_load, parser, ratio, shown, table


def theirs(weights: dict[str, Tensor]) -> nn.Module:
    """torch-fidelity's extractor with these weights."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        torch.save(weights, path)
        made: nn.Module = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
        )
    return made


def difference(theirs: Tensor, ours: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((theirs - ours).abs().max() / theirs.abs().max())


def row(what: str, batch: int, seconds: Seconds, off: float) -> tuple[dict[str, Any], list[str]]:
    """One line of the table, and its numbers."""
    speed = {name: batch / statistics.median(rounds) for name, rounds in seconds.items()}
    found = ratio(seconds["theirs"], seconds["ours"])
    shown_row = [what, f"{speed['theirs']:.2f}", f"{speed['ours']:.2f}", shown(found), f"{off:.1e}"]
    return {"images_per_second": speed, "ratio": found, "difference": off}, shown_row


@torch.inference_mode()
def main() -> None:
    """The table."""
    let_torchvision_load()
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    args = parser(__doc__ or "", rounds=7)
    args.add_argument("--sizes", type=int, nargs="+", default=[32, 256])
    args.add_argument("--batch", type=int, default=Inception.block)
    asked = args.parse_args()
    torch.set_num_threads(asked.threads)
    keep_buffers()  # theirs profits as well: it runs in the same process
    weights = random_weights(0)
    peer, mine = theirs(weights), Inception(weights, "").eval()
    rounds = 2 if asked.quick else asked.rounds
    results, rows = {}, []
    for size in asked.sizes[:1] if asked.quick else asked.sizes:
        image = torch.randint(0, 256, (asked.batch, 3, size, size), dtype=torch.uint8)
        seconds = interleaved({"theirs": lambda i=image: peer(i), "ours": lambda i=image: mine(i)}, rounds)
        name = f"features of {size}x{size}"
        off = difference(peer(image)[0], mine(image)["pooled"])
        results[name], shown_row = row(name, asked.batch, seconds, off)
        rows.append(shown_row)

        level = image.float()
        ways = {
            "theirs": lambda x=level: interpolate_bilinear_2d_like_tensorflow1x(x, (SIZE, SIZE), None, False),
            "ours": lambda x=level: tf1_bilinear(x, SIZE),
        }
        name = f"resize alone, {size} to {SIZE}"
        off = difference(ways["theirs"](), ways["ours"]())
        results[name], shown_row = row(name, asked.batch, interleaved(ways, rounds), off)
        rows.append(shown_row)
    table(["", "torch-fidelity, images/s", "ours", "ratio", "relative difference"], rows)
    finish(results, asked.out)


if __name__ == "__main__":
    try:
        main()
    except ModuleNotFoundError as error:
        sys.exit(f"{error}: pip install torch-fidelity")
