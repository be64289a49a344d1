"""The surface of the command: its names are frozen, its help is quick, its usage errors are 2."""

import resource
import subprocess
import sys
from typing import Any

import pytest
import typer.main
from tests.pipelines.cli.conftest import JOB, call, command, environment

from tokenmill_pipelines.cli.app import app

COMMON = {"--json", "--debug"}

#: Scripts call these: a name is added here on purpose and taken away in a major version only.
SURFACE = {
    "": {"--version"},
    "run": {"JOB", "--set", "--prefect"} | COMMON,
    "plan": {"JOB", "--set"} | COMMON,
    "train": {"JOB", "--set", "--resume", "--prefect"} | COMMON,
    "judge": {
        *("TOKENIZER", "--data", "--view", "--set", "--content", "--by", "--limit", "--views"),
        *("--skip", "--features", "--out"),
    }
    | COMMON,
    "fit": {"JOB", "--set", "--resume", "--prefect"} | COMMON,
    "serve": {"JOBS_DIR"} | COMMON,
    "retry": {"STORE", "--reason"} | COMMON,
    "show": {"STORE[@REF]", "--ref"} | COMMON,
    "log": {"STORE[@REF]"} | COMMON,
    "diff": {"A", "B", "--limit"} | COMMON,
    "branch": {"STORE", "NAME", "REF", "--delete"} | COMMON,
    "restore": {"STORE", "REF", "--branch"} | COMMON,
    "merge": {"STORE", "NAME", "--into"} | COMMON,
    "verify": {"STORE[@REF]", "--ref", "--quick"} | COMMON,
    "tag": {"STORE", "NAME", "REF"} | COMMON,
    "feed": {
        *("STORE[@REF]", "--ref", "--since", "--where", "--mix", "--streams", "--columns"),
        *("--pack", "--buckets", "--shuffle", "--batch-size", "--batches", "--seed"),
        *("--world-size", "--rank", "--follow"),
        *("--plan", "--classes", "--step", "--steps-of", "--by"),
    }
    | COMMON,
    "export": {"STORE[@REF]", "--format", "--to", "--where", "--group", "--option"} | COMMON,
    "takedown": {
        *("STORE", "--keys", "--where", "--by", "--reason"),
        *("--purge", "--grace", "--receipt"),
    }
    | COMMON,
    "gc": {"STORE", "--grace", "--expire-older-than", "--dry-run", "--receipt"} | COMMON,
    "columns": set(),
    "columns add": {
        *("STORE", "NAME", "FILE", "--from-store", "--streams", "--columns"),
        *("--by", "--covered", "--branch"),
    }
    | COMMON,
    "columns drop": {"STORE", "NAME", "--branch"} | COMMON,
    "columns list": {"STORE[@REF]"} | COMMON,
    "compact": {"STORE", "--target-mb", "--target-rows", "--dry-run", "--branch"} | COMMON,
    "samples": set(),
    "samples list": COMMON,
    "samples fetch": {"NAME", "--to"} | COMMON,
    "samples path": COMMON,
    "kinds": {"SECTION", "KIND"} | COMMON,
    "tokenizers": set(),
    "tokenizers list": COMMON,
    "tokenizers describe": {"KIND", "--variant", "--size"} | COMMON,
}


def surface(node: Any, name: str = "") -> dict[str, set[str]]:
    """Return every command with its options and arguments."""
    words = {
        word
        for parameter in node.params
        for word in (
            parameter.opts if parameter.param_type_name == "option" else [parameter.metavar]
        )
    }
    found = {name: words}
    for child, command_ in getattr(node, "commands", {}).items():
        found |= surface(command_, f"{name} {child}".strip())
    return found


def test_commands_and_options_are_frozen() -> None:
    """Adding or renaming one changes this test, and with it the changelog."""
    assert surface(typer.main.get_command(app)) == SURFACE


@pytest.mark.parametrize("name", sorted(SURFACE))
def test_every_command_explains_itself(name: str) -> None:
    """``--help`` says what the command does and names all of its options."""
    shown = call(*name.split(), "--help")
    assert shown.code == 0
    assert all(word in shown.out for word in SURFACE[name])


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    """Less than half a second of processor time, which a busy machine does not change."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command("--help"), check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_the_command_imports_no_heavy_library() -> None:
    """Torch, Ray, Prefect and Arrow are imported by the commands that use them."""
    code = (
        "import sys, tokenmill_pipelines.cli.app\n"
        "heavy = {'torch', 'ray', 'prefect', 'pyarrow', 'numpy', 'PIL', 'jinja2'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "args", [["nonsense"], ["run"], ["run", "a.toml", "--no-such"], ["feed", "s", "--batches", "0"]]
)
def test_bad_usage_is_exit_code_2(args: list[str]) -> None:
    """A slip in the command line does nothing and says so on standard error."""
    outcome = call(*args)
    assert (outcome.code, outcome.out) == (2, "")
    assert "Error" in outcome.err


def test_the_version_is_the_packages() -> None:
    """One line, and nothing of the machine."""
    outcome = call("--version")
    assert outcome.code == 0
    assert outcome.out.strip().replace(".", "").isalnum()


def test_without_its_libraries_the_command_says_what_to_install() -> None:
    """A trainer's base install has no Typer; the entry point says so in one line."""
    code = (
        "import sys\nsys.modules['typer'] = None\nfrom tokenmill_pipelines.cli import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "tokenmill: the command needs 'typer': pip install 'tokenmill[cluster]'\n"
    )


@pytest.mark.parametrize(("args", "code"), [(["samples", "list"], 0), (["show", "/nowhere"], 1)])
def test_native_exit_handlers_cannot_spoil_a_finished_command(args: list[str], code: int) -> None:
    """What Python has registered runs, all is written, and C++ has no say in the exit code."""
    program = (
        "import atexit, ctypes, sys\n"
        "libc = ctypes.CDLL(None)\n"
        "getattr(libc, '__cxa_atexit')(libc.abort, None, None)\n"
        "atexit.register(print, 'exit handlers ran')\n"
        "from tokenmill_pipelines.cli import main\n"
        "main()"
    )
    command_ = [sys.executable, "-c", program, *args]
    done = subprocess.run(command_, check=False, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert done.stdout.endswith("exit handlers ran\n")
    assert "openclipart" in done.stdout if code == 0 else "tokenmill: " in done.stderr


#: Stands for the module that does the work: says what the libraries that it loads would read.
WATCHED = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            print(os.environ.get("OPENBLAS_NUM_THREADS"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Watch())
"""


@pytest.mark.parametrize(
    "program",
    [
        "sys.argv[1:] = ['run', JOB]\nfrom tokenmill_pipelines.cli import main\nmain()",
        "sys.argv[1:] = ['retry', '/nowhere']\nfrom tokenmill_pipelines.cli import main\nmain()",
        "from tokenmill_pipelines import demo\ndemo.shutil = None\ndemo.main()",
    ],
    ids=["run", "retry", "demo"],
)
def test_threads_are_limited_before_numpy_is_loaded(program: str) -> None:
    """It reads the limits as it loads; later ones come too late."""
    text = f"{WATCHED}\nJOB = {str(JOB)!r}\n{program}"
    env = {k: v for k, v in environment().items() if not k.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", text], check=False, capture_output=True, text=True, env=env
    )
    assert (done.stdout, done.stderr) == ("1\n", "")
