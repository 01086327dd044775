"""The options that several commands share."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from medusa_chat.commands.completing import complete_model
from medusa_chat.errors import UsageError
from medusa_chat.printable import printable
from medusa_chat.records import (
    MIN_CONTEXT_LENGTH,
    Device,
    DType,
    KVPrecision,
    LMHeadPrecision,
    Quantization,
    SamplingOptions,
)

_MODEL = "A model `models` lists, a folder, or OWNER/NAME on the hub."
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=_MODEL, autocompletion=complete_model)]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help=_MODEL, autocompletion=complete_model),
]
HeadsOption = Annotated[
    str | None,
    typer.Option(
        "--heads",
        metavar="PATH",
        help="Medusa heads instead of the model's own: a folder, a file, hub:OWNER/NAME.",
    ),
]
QuantOption = Annotated[Quantization | None, typer.Option("--quant", help="How the weights are held.")]
DeviceOption = Annotated[Device | None, typer.Option("--device", help="Where the model runs.")]
ContextOption = Annotated[
    int | None,
    typer.Option(
        "--context",
        metavar="TOKENS",
        min=MIN_CONTEXT_LENGTH,
        help="Longest context. Without: the model's own, or what fits into memory.",
    ),
]
DTypeOption = Annotated[DType | None, typer.Option("--dtype", help="What the model computes in.")]
KVCacheOption = Annotated[
    KVPrecision | None,
    typer.Option("--kv-cache", help="How the conversation's keys and values are held: 8bit takes half."),
]
LMHeadOption = Annotated[
    LMHeadPrecision | None,
    typer.Option("--lm-head", help="How the base model's LM head is held on a GPU: 4bit takes a quarter."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TreeOption = Annotated[
    str | None,
    typer.Option(
        "--tree",
        metavar="dynamic|static|NAME|FILE",
        help="dynamic drafts what is likeliest at each step; static always the same. Or a tree published "
        "with Medusa, as mc_sim_7b_63, or a JSON file of paths.",
    ),
]


def with_overrides(options: SamplingOptions, **overrides: Any) -> SamplingOptions:
    """The options with those given that are not None. Raises UsageError."""
    try:
        return dataclasses.replace(options, **{k: v for k, v in overrides.items() if v is not None})
    except ValueError as error:
        raise UsageError(str(error)) from None


def print_remarks(remarks: Sequence[str]) -> None:
    """On standard error, where they disturb no answer."""
    for remark in remarks:
        print(printable(remark), file=sys.stderr)
