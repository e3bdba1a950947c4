"""Learning what is usual for a data set, within the seconds that may be spent on it."""

from __future__ import annotations

import logging
import math
import time

import torch

from diptych.alarms.calibration import Calibration, calibrate, usual_draws
from diptych.alarms.draws import FEW, ROOMY, Pool
from diptych.alarms.observer import MORE, reference_of
from diptych.exam import Exam
from diptych.metrics.manifolds import DENSITY_K
from diptych.system.parallel import of_first as alike  # what follows from a time, all processes must do

log = logging.getLogger("diptych")

MOST = 20_000  # training images that copies are looked for in
FEWEST = 40  # images of an exam and of a training set whose neighbours say something
ENOUGH = 100  # real-against-real exams: with fewer, nobody knows the rate of false positives
TIMED = 64  # images that tell how long the extractor takes


def learned(exam: Exam, level: float, seconds: float = math.inf) -> tuple[int, Calibration | None]:
    """Of how many training images, and what is usual beside them for exams like this one.

    Training images are looked at and real images take the exam, as often as the time allows. 0 and None where
    that is not often enough, or there are too few images.
    """
    known, least = len(exam.data.train), 2 * exam.n
    if hindrance(exam.n, known):
        return 0, None
    start = time.perf_counter()
    exam.features("real")
    train = min(known, usual_training(exam.n))
    if math.isfinite(seconds):
        held_out = min(len(exam.data.held_out), max(exam.n, MORE))  # are looked at too
        train = min(train, int(seconds / 2 / alike(seconds_an_image(exam))) - held_out)
    if train < least:
        return too_short(exam.n)
    reference = reference_of(exam, train)
    pool = Pool(reference, exam.n)
    draws = usual_draws(exam.n)
    if math.isfinite(seconds):
        begun = time.perf_counter()
        pool.pair(torch.Generator().manual_seed(0))
        pair = time.perf_counter() - begun
        draws = min(draws, alike(2 * int((seconds - (time.perf_counter() - start)) / pair)))
    if draws < ENOUGH:
        return too_short(exam.n)
    return train, calibrate(reference, level, draws, pool=pool)


def hindrance(n: int, known: int) -> str:
    """Why nobody can know what is usual for exams of n images beside so many training images; or nothing."""
    fewest = max(FEWEST, 2 * (DENSITY_K + 1))
    if not known:
        return "there are no training images to learn from what is usual"
    if n < fewest:
        return f"an exam of {n:,} images is too small to know what is usual: {fewest} at least"
    if known < 2 * n:
        return (
            f"{known:,} training images are too few to know what is usual for an exam of {n:,}: twice as many"
        )
    return ""


def usual_training(n: int) -> int:
    """Beside how many training images exams of n are looked at, where the time allows."""
    return min(MOST, max(ROOMY * n, FEW))


def too_short(n: int) -> tuple[int, None]:
    """Says so."""
    log.info("no time to learn what is usual for %d real images: alarms by log lines alone", n)
    return 0, None


def seconds_an_image(exam: Exam) -> float:
    """How long the extractor takes for a training image, once it is warm."""
    images = exam.data.train.tensor(slice(0, TIMED)).to(exam.device)
    for _ in range(2):
        start = time.perf_counter()
        with torch.inference_mode():
            exam.extractor(images)["pooled"].sum().item()  # a device is waited for
        each = (time.perf_counter() - start) / len(images)
    return each
