"""`fl-experiment lora`: fine-tune on the speakers of Hamlet or on your own texts, with the adapter and a picture saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fl_impl.experiment.console import console, progress
from fl_impl.experiment.options import BROKEN, INTERRUPTED, USAGE, fail, fraction

if TYPE_CHECKING:
    from fl_impl.lora import LoRAFLAdapter
    from fl_impl.metrics import FLMetrics, RoundResult

Names = Annotated[str, typer.Option(help="Linear modules to adapt, with commas between.")]
Texts = Annotated[
    Path | None,
    typer.Option(help="A folder of .txt files, one for each client; Hamlet by speaker where not given.", exists=True),
]


def lora(
    base_model: Annotated[str, typer.Option(help='"tiny", "smollm2", a folder, a .gguf file or a cached name.')] = "tiny",
    texts: Texts = None,
    num_clients: Annotated[int, typer.Option(help="Speakers, those with most to say; all texts of a folder.")] = 10,
    num_rounds: Annotated[int, typer.Option(min=1)] = 5,
    aggregation: Annotated[str, typer.Option(help='A mode, a rule, or both: "fedex", "krum", "flora|nnm|krum".')] = "flexlora",
    byzantine_fraction: Annotated[float, typer.Option(parser=fraction, help="What the rule is to tolerate: 0.3 or 1/3.")] = 0.0,
    attack: Annotated[str | None, typer.Option(help='An attack on updates: "sign_flip(scale=5)".')] = None,
    attack_fraction: Annotated[
        float | None, typer.Option(parser=fraction, help="Who attacks; the byzantine fraction by default.")
    ] = None,
    rank: Annotated[int, typer.Option(min=1)] = 8,
    alpha: Annotated[float, typer.Option()] = 16,
    target_modules: Names = "q_proj,v_proj",
    local_steps: Annotated[int, typer.Option(min=1)] = 10,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    learning_rate: Annotated[float, typer.Option()] = 1e-2,
    dp_epsilon: Annotated[float | None, typer.Option(help="Privacy budget of the whole fit; with --aggregation ffa.")] = None,
    dp_delta: Annotated[float | None, typer.Option(help="Probability that the budget does not hold.")] = None,
    dp_clip: Annotated[float | None, typer.Option(help="Length that updates are clipped to.")] = None,
    compression: Annotated[str, typer.Option(help='"none", "sparse", "quantize" or another.')] = "none",
    fraction_fit: Annotated[float, typer.Option(parser=fraction, help="The share of the clients in a round.")] = 1.0,
    min_clients: Annotated[int, typer.Option(min=1, help="The quorum of a round.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in --output stopped.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print what it needs, in bytes by place, and run nothing.")] = False,
    seed: Annotated[int, typer.Option()] = 0,
    device: Annotated[str, typer.Option()] = "cpu",
    output: Annotated[Path, typer.Option(help="Folder of the adapter, the metrics and the picture.")] = Path("fl_lora"),
) -> None:
    """Fine-tune a language model by federated LoRA: held-out loss of each client, and an adapter that peft loads."""
    if plan:
        print_sizes(base_model, rank, target_modules.split(","), num_clients, fraction_fit)
        return
    from fl_impl.lora import LoRAFLAdapter, make_text_clients  # noqa: PLC0415  # transformers take seconds: not for --help

    try:
        own = None if texts is None else read_texts(texts)
        clients = make_text_clients(None if own else num_clients, texts=own)
        adapter = LoRAFLAdapter(base_model, rank, alpha, target_modules.split(","), device=device, seed=seed)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        fail(str(error), USAGE)
    with progress() as bar:
        task = bar.add_task("rounds", total=num_rounds, status="")

        def show(result: RoundResult) -> None:
            bar.update(task, completed=result.round, status=status(result))

        try:
            adapter.federated_fit(
                clients, num_rounds, aggregation=aggregation, byzantine_fraction=byzantine_fraction, attack=attack,
                attack_fraction=attack_fraction, local_steps=local_steps, batch_size=batch_size,
                learning_rate=learning_rate, dp_epsilon=dp_epsilon, dp_delta=dp_delta, dp_clip=dp_clip,
                compression=compression, fraction_fit=fraction_fit, min_clients=min_clients,
                output=output / "metrics.json", resume=resume, on_round=show,
            )  # fmt: skip
        except KeyboardInterrupt:
            stored(adapter, output)
            fail(f"interrupted after round {len(adapter.metrics.rounds)}; what there is lies in {output}", INTERRUPTED)
        except ValueError as error:
            fail(str(error), BROKEN)
    stored(adapter, output)
    console.print(f"{status(adapter.metrics.final)}  ->  {output}")


def print_sizes(base_model: str, rank: int, target_modules: list[str], num_clients: int, share: float) -> None:
    """A table of bytes by place."""
    from fl_impl.lora.sizes import sizes  # noqa: PLC0415  # it imports torch

    try:
        found = sizes(base_model, rank, target_modules, num_clients, share)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        fail(str(error), USAGE)
    for size in found:
        console.print(f"{size.place:14} {shown(size.bytes):>10}  {size.what}", highlight=False, soft_wrap=True)


def shown(count: float) -> str:
    """Bytes in the decimal unit that fits."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def read_texts(folder: Path) -> dict[str, str]:
    """The .txt files of a folder by name. Raises ValueError where there is none."""
    found = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))}
    if not found:
        raise ValueError(f"expected .txt files in {folder}, one for each client; got none")
    return found


def status(result: RoundResult) -> str:
    """A round in a line."""
    lost = f"  {len(result.rejected)} rejected" if result.rejected else ""
    return f"round {result.round}: held-out loss {result.global_loss:.4f} nats a token{lost}"


def stored(adapter: LoRAFLAdapter, output: Path) -> None:
    """Write the adapter, metrics.json and held_out.png."""
    adapter.save(output / "adapter")
    adapter.metrics.save(output / "metrics.json")
    try:
        held_out_losses(adapter.metrics).savefig(output / "held_out.png", dpi=150)
    except ModuleNotFoundError as error:
        console.print(f"no picture: {error}")


def held_out_losses(metrics: FLMetrics) -> Any:
    """A figure: the loss of each client on its own held-out text, from before the first round on, and that of all text."""
    from fl_impl.lora.adapter import HELD_OUT  # noqa: PLC0415  # it imports torch
    from fl_impl.plotting.figures import new_figure, title_of  # noqa: PLC0415  # matplotlib is an extra

    figure, axis = new_figure(7, 4)
    for name, losses in metrics.clients.items():
        if name.startswith(HELD_OUT):
            axis.plot(range(len(losses)), losses, marker=".", linewidth=1, label=name.removeprefix(HELD_OUT))
    rounds = metrics.series("round")
    axis.plot(rounds, metrics.series("global_loss"), color="black", linewidth=2, label="all text")
    axis.set(xlabel="round", ylabel="held-out loss, nats a token")
    axis.set_title(title_of(metrics.config), fontsize=9)
    axis.legend(fontsize=7, ncols=2)
    return figure
