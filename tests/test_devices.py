"""What would break, or wait, on a GPU: every recipe on a pretended one, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import pytest
import torch

from diptych import catalog

VARIANTS = {  # of recipes, what their defaults leave out
    "r3gan ada": {"augment": "ada-bgcfnc"},
    "dcgan diffaugment": {"augment": "diffaugment"},
    "edm augment": {"augment": 0.5, "checkpointing": True},
}
CASES = [*catalog.recipes(), *VARIANTS]
pytestmark = pytest.mark.skipif(
    not torch.__version__.startswith("2.13.") or torch.version.cuda is not None or sys.platform != "linux",
    reason="the pretended device is made for builds of torch 2.13 without CUDA",
)


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """{case: what is wrong with it}."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("case", CASES)
def test_trains_and_samples_without_a_wait(case: str, seen: dict[str, Any]) -> None:
    assert seen[case] == []


def test_what_is_planted_is_seen(seen: dict[str, Any]) -> None:
    assert len(seen["planted"]) == 3, seen["planted"]
    assert "are on the CPU" in seen["planted"][0]
    assert [what.partition(" at ")[0] for what in seen["planted"][1:]] == [
        "_local_scalar_dense",
        "to the CPU",
    ]


def planted() -> list[str]:
    """What is told of tensors that meet from two devices, of a value that is asked for, and of a copy."""
    from pretend_device import pretend

    with pretend() as noted:
        image = torch.zeros(3, device="cuda")
        try:
            image + torch.zeros(3)
            found = ["nothing"]
        except RuntimeError as error:
            found = [str(error)]
        float(image.sum())
        image.cpu()
        return found + [f"{what} at {where}" for what, where in noted.waits]


def wrong(case: str, bf16: bool) -> list[str]:
    """What goes wrong in three steps, the last of them with all lazy phases, and in sampling."""
    import torch

    from conftest import brief, made_up
    from diptych.model import Condition, Noise
    from diptych.training.state import Settings, Training
    from pretend_device import pretend

    data = (made_up((3, 16, 16)) if case in VARIANTS else made_up()).train
    spec = brief(catalog.recipe(case.partition(" ")[0]))
    settings = Settings(device="cuda", precision="bfloat16" if bf16 else "float32")
    with pretend(bf16=bf16) as noted:
        recipe = spec(data, **{**spec.small, **VARIANTS.get(case, {})})
        training = Training(recipe, data, 1000, settings)
        training.step()
        training.step()
        noted.waits.clear()
        training.steps = 0
        training.step()
        found = [f"training {what} at {where}" for what, where in noted.waits]
        training.check_finite()
        training.settle()
        model, label = training.average, training.average.labels_for(range(2))
        condition = Condition(label=label).to("cuda")
        for _ in range(2):  # the first works out what is kept
            noted.waits.clear()
            with torch.inference_mode():
                model(Noise(range(2), "cuda"), condition)
        return found + [f"sampling {what} at {where}" for what, where in noted.waits]


def main() -> None:
    """JSON of all cases, or of those named; how long each takes goes to stderr."""
    from pretend_device import allow_device

    allow_device()
    found: dict[str, list[str]] = {"planted": planted()}
    for case in sys.argv[1:] or CASES:
        started = time.perf_counter()
        try:
            found[case] = wrong(case, bf16=False) + [f"bf16: {what}" for what in wrong(case, bf16=True)]
        except Exception as error:  # all cases are to be heard of
            found[case] = [f"{type(error).__name__}: {error}"]
        print(f"{case}: {time.perf_counter() - started:.1f} s, {found[case]}", file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
