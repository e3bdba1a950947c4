"""diptych convert NETWORK.pkl RUN."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from diptych.cli.common import OUTPUT, Json, say_on_stderr, show


def convert(
    network: Annotated[Path, Parameter(help="An official pickle of StyleGAN2-ADA, StyleGAN3 or R3GAN.")],
    out: Annotated[Path, Parameter(help="A directory for the model.")],
    *,
    force: Annotated[
        bool, Parameter(negative="", group=OUTPUT, help="Write over weights that were converted before.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Official weights of StyleGAN2-ADA, StyleGAN3 and R3GAN as a model that samples, evaluates and exports.

    The pickle is read as data: nothing in it is run, and one that asks for more than weights is refused. OUT
    is a model like any other, and a training can begin from it by --init OUT. source.json says where it is
    from. The weights keep their licence, which is their authors' and seldom allows commercial use.
    """
    import logging

    from diptych.convert.commands import training_line
    from diptych.convert.official import convert as converted
    from diptych.convert.official import save

    say_on_stderr()
    found = converted(network)
    save(found, out, force=force)
    for note in found.notes:
        logging.getLogger("diptych").warning("%s", note)
    logging.getLogger("diptych").warning("licence: %s", found.family.licence)
    line = training_line(found, out)
    if as_json:
        show({"out": str(out), **found.describe(), "train": line})
        return
    channels, height, width = found.model.image_shape
    classes = f", {found.model.classes} classes" if found.model.classes else ""
    print(f"{found.family.name} from {network} ({found.chosen}, sha256 {found.sha256})")
    print(f"{found.parameters:,} parameters, {width}x{height} pixels, {channels} channels{classes}")
    judged = "its critic" if found.critic is not None else "a critic that begins anew"
    print(f"to train on, with {judged}: {line}")
    print(out)
