"""The commands: each reads its options, asks the library, and shows the answer."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenmill_pipelines.cli import columns, export, output, takedown, versions
from tokenmill_pipelines.cli.feed import feed
from tokenmill_pipelines.cli.fit import fit
from tokenmill_pipelines.cli.guard import FAILED, QUARANTINE, guard
from tokenmill_pipelines.cli.judge import judge
from tokenmill_pipelines.cli.options import Debug, JobFile, Json, Ref, Sets, StoreAt, StoreUri, show
from tokenmill_pipelines.cli.serve import serve
from tokenmill_pipelines.cli.train import train

if TYPE_CHECKING:
    from tokenmill_pipelines.run import RunResult

SETTINGS: dict[str, Any] = {
    "no_args_is_help": True,
    "add_completion": False,
    "rich_markup_mode": None,  # plain help starts faster and greps better
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
app = typer.Typer(
    help="Tokenize image, video and 3D corpora into versioned stores, and read them.",
    epilog=(
        "Exit codes: 0 done, 1 failed, 2 bad job or usage, 3 done with quarantine, "
        "4 not committed: a limit on quality is broken."
    ),
    **SETTINGS,
)
samples_app = typer.Typer(help="Get real pictures, clips and objects to try things on.", **SETTINGS)
tokenizers_app = typer.Typer(help="See which tokenizers there are.", **SETTINGS)
app.add_typer(samples_app, name="samples")
app.add_typer(tokenizers_app, name="tokenizers")
app.add_typer(takedown.commands)
app.add_typer(export.commands)
app.add_typer(columns.commands)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(version("tokenmill"))
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")
    ] = False,
) -> None:
    """Tokenize image, video and 3D corpora into versioned stores, and read them."""


def _finish(result: RunResult, *, as_json: bool) -> None:
    show(asdict(result), "result", as_json=as_json)
    if result.quarantined:
        raise typer.Exit(QUARANTINE)


@app.command()
def run(
    job: JobFile,
    sets: Sets = None,
    prefect: Annotated[
        bool, typer.Option("--prefect", help="Run as a Prefect flow, also without an API.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Tokenize what a job's source lists and its store lacks."""
    with guard(as_json=as_json, debug=debug) as observer:
        from tokenmill_infra.cluster import limit_threads
        from tokenmill_schemas.job import read_job

        read = read_job(job, overrides=tuple(sets or ()))
        limit_threads(read.cluster)  # before numpy is loaded, which reads it once
        from tokenmill_pipelines.flows.settings import configured
        from tokenmill_pipelines.jobs import run_job

        result = run_job(read, observer=observer, prefect=prefect or configured())
        _finish(result, as_json=as_json)


@app.command()
def plan(job: JobFile, sets: Sets = None, as_json: Json = False, debug: Debug = False) -> None:
    """Say what a run of a job would do; nothing becomes visible in its store."""
    with guard(as_json=as_json, debug=debug):
        from tokenmill_pipelines.cli.stores import describe_stream
        from tokenmill_pipelines.jobs import plan_job
        from tokenmill_schemas.job import read_job

        summary = plan_job(read_job(job, overrides=tuple(sets or ())))
        value = {name: getattr(summary, name) for name in summary.__slots__}
        value["spec"] = summary.spec.to_json()
        value["streams"] = [describe_stream(stream) for stream in summary.spec.streams]
        show(value, "plan", as_json=as_json)


app.command()(serve)


@app.command()
def retry(
    store: StoreUri,
    reason: Annotated[
        list[str] | None,
        typer.Option("--reason", help="Only assets quarantined for this reason; repeatable."),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Tokenize a store's quarantined assets again, by the job that made its newest snapshot."""
    with guard(as_json=as_json, debug=debug) as observer:
        from tokenmill_infra.cluster import limit_threads
        from tokenmill_schemas.job import ClusterConfig

        # Before numpy is loaded, which reads it once; what job it was the store says later.
        limit_threads(ClusterConfig())
        from tokenmill_pipelines.jobs import retry_store

        result = retry_store(store, reasons=tuple(reason or ()), observer=observer)
        _finish(result, as_json=as_json)


for _name, _command in versions.COMMANDS.items():
    app.command(_name)(_command)


@app.command()
def verify(
    store: StoreAt,
    ref: Ref = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only look whether the files are there.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Read a version's files back and prove what it claims; exit code 1 if they do not."""
    with guard(as_json=as_json, debug=debug):
        from tokenmill_pipelines.cli import stores

        value = stores.verify(*stores.open_at(store, ref), deep=not quick)
        show(value, "verified", as_json=as_json)
        if not value["sound"]:
            raise typer.Exit(FAILED)


app.command()(feed)
app.command()(train)
app.command()(fit)
app.command()(judge)


@samples_app.command("list")
def list_samples(as_json: Json = False, debug: Debug = False) -> None:
    """List the corpora that can be fetched."""
    with guard(as_json=as_json, debug=debug):
        from tokenmill_pipelines.cli import catalogues

        show(catalogues.list_samples(), "samples", as_json=as_json)


@samples_app.command("fetch")
def fetch_samples(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A corpus of `samples list`.")],
    to: Annotated[Path, typer.Option("--to", help="Folder to put it in.")] = Path("samples"),
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Download a corpus, check it, and print the folder that it is in."""
    with guard(as_json=as_json, debug=debug):
        from tokenmill_pipelines.samples.fetch import fetch

        path = fetch(name, to)
        output.document({"name": name, "path": str(path)}) if as_json else print(path)


@samples_app.command("path")
def path_of_samples(as_json: Json = False, debug: Debug = False) -> None:
    """Print the folder of the corpus that ships with the repository."""
    with guard(as_json=as_json, debug=debug):
        from tokenmill_pipelines.cli.catalogues import shipped_samples

        path = shipped_samples()
        output.document({"path": str(path)}) if as_json else print(path)


@app.command()
def kinds(
    section: Annotated[
        str,
        typer.Argument(
            metavar="SECTION",
            help="source, decoder, view or tokenizer; or one without kinds, as increment.",
        ),
    ],
    kind: Annotated[
        str,
        typer.Argument(metavar="KIND", help="One of them, to see its keys.", show_default=False),
    ] = "",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the kinds that a section of a job may name, or the keys of one or of the section."""
    with guard(as_json=as_json, debug=debug):
        from tokenmill_pipelines.cli import catalogues

        if section in catalogues.PLAIN and not kind:
            show(catalogues.describe_section(section), "kind", as_json=as_json)
        elif kind:
            show(catalogues.describe_kind(section, kind), "kind", as_json=as_json)
        else:
            show(catalogues.list_kinds(section), "kinds", as_json=as_json)


@tokenizers_app.command("list")
def list_tokenizers(as_json: Json = False, debug: Debug = False) -> None:
    """List the kinds of tokenizers."""
    with guard(as_json=as_json, debug=debug):
        from tokenmill_pipelines.cli import catalogues

        show(catalogues.list_tokenizers(), "kinds", as_json=as_json)


@tokenizers_app.command("describe")
def describe_tokenizer(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="A kind, or package.module:Class.")],
    variant: Annotated[
        str | None, typer.Option("--variant", help="One of the kind's variants.")
    ] = None,
    size: Annotated[int, typer.Option("--size", min=1, help="Side of a view in pixels.")] = 256,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the keys and variants of a tokenizer, and what its tokens are."""
    with guard(as_json=as_json, debug=debug):
        from tokenmill_pipelines.cli import catalogues

        value = catalogues.describe_tokenizer(kind, variant, size)
        show(value, "tokenizer", as_json=as_json)
