"""`mmcore export`: a run's weights for others to use."""

from pathlib import Path

import click


@click.command()
@click.argument("target", metavar="RUN|CHECKPOINT")
@click.option(
    "--format",
    "format_",
    default="hf",
    show_default=True,
    metavar="hf|upstream|adapter",
    help="Whose names and layout.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="New folder. Default: RUN/exports/FORMAT."
)
@click.option(
    "--checkpoint", default="last", show_default=True, metavar="last|best|STEP", help="Which checkpoint of the run."
)
@click.option(
    "--max-shard-gb", type=click.FloatRange(min=0.01), default=5.0, show_default=True, help="Largest file, GB."
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    help="Precision of the written weights. Default: that of the run's.",
)
@click.option(
    "--pth", is_flag=True, help="With --format upstream: also one .pth of plain tensors for the original code."
)
@click.option("--push-to-hub", metavar="OWNER/NAME", help="Upload the folder to this Hub repository.")
@click.option("--private", is_flag=True, help="With --push-to-hub: a new repository is a private one.")
@click.option(
    "--license", "licence", metavar="ID", help="For the card, as the Hub writes it: apache-2.0, cc-by-nc-4.0, ..."
)
@click.option("--json", "as_json", is_flag=True, help="Print the written files as JSON.")
def export(
    target: str,
    format_: str,
    out: Path | None,
    checkpoint: str,
    max_shard_gb: float,
    precision: str | None,
    pth: bool,
    push_to_hub: str | None,
    private: bool,
    licence: str | None,
    as_json: bool,
) -> None:
    """Write the weights of a run as safetensors, with config, tokenizer and a model card."""
    import json

    from mmcore.errors import UsageError
    from mmcore.runs.export import export as write
    from mmcore.runs.opened import open_model
    from mmcore.runs.upload import check_name, upload, waiting

    if private and not push_to_hub:
        raise UsageError("--private belongs to --push-to-hub", do="give both or neither")
    if push_to_hub:
        check_name(push_to_hub)
    opened = open_model(target, checkpoint=checkpoint)
    if out is None:
        if opened.run_dir is None:
            raise UsageError("--out is needed when TARGET is not a run folder", where=target)
        out = opened.run_dir / "exports" / format_
    what = {
        "origin": opened.origin,
        "step": opened.step,
        "format": format_,
        "precision": precision,
        "pth": pth,
        "shard": max_shard_gb,
        "license": licence,
    }
    if push_to_hub and waiting(out, what):
        click.echo(f"{out} stands from a command whose upload did not come to an end", err=True)
        files = sorted(path for path in out.rglob("*") if path.is_file())
    else:
        shard = int(max_shard_gb * 1e9)
        files = write(opened, format_, out, max_shard_bytes=shard, pth=pth, precision=precision, licence=licence)
    if push_to_hub:
        click.echo(upload(out, push_to_hub, what, private=private), err=True)
    if as_json:
        click.echo(json.dumps({"files": [str(path) for path in files], "step": opened.step, "format": format_}))
        return
    for path in files:
        click.echo(f"{path.stat().st_size / 1e6:10.1f} MB  {path}")
