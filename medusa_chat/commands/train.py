"""`medusa-chat train MODEL`: Medusa heads for a base model, from nothing but itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medusa_chat.commands.eval import as_text, measure
from medusa_chat.commands.options import DeviceOption, DTypeOption, ModelArgument, QuantOption
from medusa_chat.commands.progress import shown_progress, training_progress
from medusa_chat.records import LoadRequest
from medusa_chat.training.recipe import LABELS, SELF_DISTILLED, BackboneLoss, HeadKind, Recipe

if TYPE_CHECKING:
    from medusa_chat.engine.opening import OpenModel
    from medusa_chat.model.heads import MedusaHeads
    from medusa_chat.training.accuracy import HeadAccuracy
    from medusa_chat.training.quality import Quality

# Of the closing look at the heads: a prompt of each kind; `eval` looks longer.
_PROMPTS, _TOKENS = 9, 48
_ADAPTER_RECIPES = {"self-distilled": SELF_DISTILLED, "labels": LABELS}


def train(
    model: ModelArgument,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Users' messages to start from; the model writes its own without."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the heads go; by default beside your data.")
    ] = None,
    head_kind: Annotated[
        HeadKind | None,
        typer.Option(help="The paper's blocks, wider MLPs, or heads that see the draft's path so far."),
    ] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Tokens to guess ahead.")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Blocks, or layers of path heads.")] = None,
    head_width: Annotated[
        float | None, typer.Option(min=0.01, help="Hidden units of a layer, in the model's hidden sizes.")
    ] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of dialogue to write.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Times each dialogue is learnt from.")] = None,
    sequence_length: Annotated[int | None, typer.Option(min=64, help="Tokens of a dialogue.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Dialogues in a training step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=1e-7, help="Its highest value.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="For the same heads again.")] = None,
    medusa2: Annotated[
        BackboneLoss | None,
        typer.Option(
            help="Then let an adapter of the model learn with the heads, held near what the model itself "
            "would say, or near the dialogues' words."
        ),
    ] = None,
    quant: QuantOption = None,
    device: DeviceOption = None,
    dtype: DTypeOption = None,
) -> None:
    """Train Medusa heads for a model on dialogues it writes itself; run again, it goes on where it was."""
    from medusa_chat import paths
    from medusa_chat.prompt_file import read_prompt_file
    from medusa_chat.registry import resolve
    from medusa_chat.settings import load_settings

    settings = load_settings(model=model, quant=quant, device=device, dtype=dtype)
    spec = resolve(settings.model)
    prompt_file = read_prompt_file(prompts) if prompts is not None else None
    with shown_progress(always=True) as on_progress:
        from medusa_chat.engine.opening import open_model
        from medusa_chat.training.launching import num_to_launch, run_on_each
        from medusa_chat.training.run import Training
        from medusa_chat.training.workers import join_workers

        num_gpus = num_to_launch(settings.device)
        if not num_gpus:
            workers = join_workers(settings.device)
            request = LoadRequest(settings.model, None, settings.quant, settings.device, settings.dtype)
            loaded = open_model(request, on_progress)
    if num_gpus:
        raise typer.Exit(run_on_each(num_gpus))
    if prompt_file is not None and prompt_file.complaint and workers.is_first:
        print(prompt_file.complaint, file=sys.stderr)
    given: dict[str, Any] = {
        "head_kind": head_kind,
        "num_heads": heads,
        "num_layers": layers,
        "head_width": head_width,
        "num_tokens": tokens,
        "epochs": epochs,
        "sequence_length": sequence_length,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    recipe = Recipe(**{name: value for name, value in given.items() if value is not None})
    out = out or paths.data_dir() / "heads" / spec.name
    # The same model quantised otherwise writes other dialogues and needs other heads.
    work = paths.cache_dir() / "training" / f"{spec.name}-{loaded.quantization}"
    first_messages = [prompt.text for prompt in prompt_file.prompts] if prompt_file is not None else []
    second = None if medusa2 is None else _ADAPTER_RECIPES[medusa2]
    try:
        with training_progress(shown=workers.is_first) as listener:
            trained = Training(loaded, recipe, work, out, listener, first_messages, second, workers).run()
    except KeyboardInterrupt:
        if workers.is_first:
            print("Stopped. Run the same command again to go on.", file=sys.stderr)
        raise
    if trained is None:
        return
    print(trained.cleaning.summary)
    _print_accuracy(trained.accuracy)
    if trained.quality is not None:
        _print_quality(trained.quality)
    print(f"The heads are in {out}. Chat with them: medusa-chat --model {model} --heads {out}\n", flush=True)
    _print_measured(loaded, trained.heads)


def _print_measured(model: OpenModel, heads: MedusaHeads) -> None:
    from medusa_chat.bench.speed import OWN_PROMPTS
    from medusa_chat.prompt_file import read_prompt_file

    own = read_prompt_file(OWN_PROMPTS).prompts
    with shown_progress(always=True) as on_progress:
        report = measure(model, heads, own, on_progress, _PROMPTS, _TOKENS)
    print(as_text(report))


def _print_accuracy(accuracy: HeadAccuracy) -> None:
    from medusa_chat.decoding.tree import best_tree, expected_tokens

    print(f"Accuracy on {accuracy.num_rows:,} tokens of held-out greedy answers:")
    for head in range(len(accuracy.top[1])):
        row = "  ".join(f"top-{count} {rates[head]:.2f}" for count, rates in accuracy.top.items())
        print(f"  head {head + 1}  {row}")
    for size in (8, 16, 32, 64):
        tree = best_tree(accuracy.path_probability, size)
        expected = expected_tokens(tree, accuracy.path_probability)
        print(f"  {size:2} nodes: {expected:.2f} tokens a step to expect")


def _print_quality(quality: Quality) -> None:
    print(
        f"Perplexity of the adapted model on {quality.num_tokens:,} tokens of held-out answers: "
        f"{quality.perplexity:.4f}, of the model itself {quality.base_perplexity:.4f} "
        f"({quality.ratio - 1:+.2%})."
    )
    print(
        f"Of {quality.num_replies:,} greedy replies it gives {quality.identical:.0%} word by word; "
        f"it chooses {quality.agreement:.1%} of their tokens, and differs first after "
        f"{quality.tokens_in_common:.0f} of {quality.tokens_a_reply:.0f}."
    )
