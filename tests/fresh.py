"""Opens runs, each in a process that has imported torch and nothing of ours. For test_contract.py.

python fresh.py < RUNS: for each line, which is the path of a run, a line of JSON: what its first five samples
are, or why there are none.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import traceback

STARTER = multiprocessing.get_context("forkserver")  # it imports torch once, and its children not at all
STARTER.set_forkserver_preload(["torch"])


def sampled(path: str) -> list[int]:
    """Grey values of five small images."""
    import torch

    torch.set_num_threads(1)
    assert not [name for name in sys.modules if name.startswith("diptych")], "not a fresh process"
    from diptych.runs import load_model

    found: list[int] = load_model(path, "cpu").sample(range(5)).flatten().tolist()
    assert "diptych.method" not in sys.modules, "the left panel was imported"
    return found


def answer(path: str) -> None:
    """Prints them, or the traceback."""
    try:
        told = json.dumps(sampled(path))
    except Exception:
        told = json.dumps(traceback.format_exc())
    print(told, flush=True)


if __name__ == "__main__":
    for line in sys.stdin:
        process = STARTER.Process(target=answer, args=(line.strip(),))
        process.start()
        process.join()
        if process.exitcode:
            print(json.dumps(f"the process ended with {process.exitcode}"), flush=True)
