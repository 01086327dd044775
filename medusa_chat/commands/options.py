"""The options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from medusa_chat.records import Device, DraftTree, DType, Quantization

ModelOption = Annotated[
    str | None, typer.Option("--model", metavar="NAME", help="A model `models` lists, or a folder.")
]
HeadsOption = Annotated[
    str | None, typer.Option("--heads", metavar="FOLDER", help="Medusa heads, instead of the model's own.")
]
QuantOption = Annotated[Quantization | None, typer.Option("--quant", help="How the weights are held.")]
DeviceOption = Annotated[Device | None, typer.Option("--device", help="Where the model runs.")]
DTypeOption = Annotated[DType | None, typer.Option("--dtype", help="What the model computes in.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TreeOption = Annotated[
    DraftTree | None,
    typer.Option("--tree", help="dynamic drafts what is likeliest at each step; static always the same."),
]
