"""The command line: light to import, helpful when mistyped, the same for every verb."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import cli, world
from tests.support.paths import ROOT

HEAVY = {"torch", "ray", "transformers", "open_clip", "pyarrow", "aiohttp", "boto3"}
# Runs each command in one process; prints what each printed, its status, and heavy packages it imported.
PROBE = """
import contextlib, io, json, sys
from jobs.cli import main
ran, seen = [], set()
for words in json.load(sys.stdin):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            status = main(words)
        except SystemExit as stop:
            status = stop.code
    loaded = {name.partition(".")[0] for name in sys.modules} & set(%r) - seen
    seen |= loaded
    ran.append((out.getvalue(), status, sorted(loaded)))
print(json.dumps(ran))
"""
PARTS = (
    *("world make", "world train", "world reward"),
    *("data nltk", "data amber-similarity", "pope make", "pope score"),
)
HELP = {verb: [*verb.split(), "--help"] for verb in (*cli.VERBS, *PARTS)}
MISTYPED = {verb: [verb, "--hepl"] for verb in cli.VERBS if verb not in ("world", "data", "pope")}
MISSING = ["train-value", "--policy", "world"]
Ran = tuple[str, int, list[str]]


@pytest.fixture(scope="module")
def ran() -> dict[tuple[str, ...], Ran]:
    """What each command printed, its exit status, and the heavy packages that it imported."""
    commands = [*HELP.values(), *MISTYPED.values(), MISSING]
    code = [sys.executable, "-c", PROBE % (sorted(HEAVY),)]
    done = subprocess.run(
        code, cwd=ROOT, input=json.dumps(commands), capture_output=True, text=True, check=True
    )
    results = json.loads(done.stdout)
    return {tuple(words): tuple(one) for words, one in zip(commands, results, strict=True)}


@pytest.mark.parametrize("verb", HELP)
def test_help_imports_nothing_heavy(verb: str, ran: dict[tuple[str, ...], Ran]) -> None:
    out, status, loaded = ran[tuple(HELP[verb])]
    assert out.startswith(f"usage: visvm {verb} ") and (status, loaded) == (0, [])


@pytest.mark.parametrize("verb", MISTYPED)
def test_a_mistyped_flag_is_one_line_and_imports_nothing_heavy(
    verb: str, ran: dict[tuple[str, ...], Ran]
) -> None:
    out, status, loaded = ran[tuple(MISTYPED[verb])]
    assert out.strip() == f"error: unknown flag --hepl; did you mean --help? (see visvm {verb} --help)"
    assert (status, loaded) == (2, [])


def test_a_missing_flag_is_named_before_anything_heavy_is_imported(ran: dict[tuple[str, ...], Ran]) -> None:
    out, status, loaded = ran[tuple(MISSING)]
    assert out.strip() == (
        "error: missing --out (run folder: model/, checkpoints/, tensorboard/, curve.jsonl)"
        " and --rollouts (run folders of generate-triples)"
    )
    assert (status, loaded) == (2, [])


def test_required_flags_come_first_then_a_group_for_each_config_class(
    ran: dict[tuple[str, ...], Ran],
) -> None:
    out, *_ = ran[tuple(HELP["caption"])]
    usage, *lines = out.splitlines()
    assert usage == "usage: visvm caption --images ... --out ... [flags]"
    groups = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert groups[0] == "required:" and groups[-1] == "every verb:"
    assert len(groups) == 9  # one for each config class, and the two of every verb
    required = lines[lines.index("required:") + 1 : lines.index(groups[1])]
    assert [line.split()[0] for line in required if line.startswith("  --")] == ["--images", "--out"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["capton"], "unknown verb 'capton'; did you mean caption?"),
        (["zzz"], "unknown verb 'zzz' (see visvm --help)"),
        (["world", "mak"], "got 'mak'; did you mean make?"),
        (["world", "make", "--out"], "argument --out: expected one argument (see visvm world make --help)"),
        (["world", "make", "--out", "x", "--set", "cuont=1"], "unknown key; did you mean count?"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("visvm 0.")


def test_a_job_ends_with_its_result_and_the_next_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["make", "--count", "2", "--out", str(tmp_path / "images")]
    for _ in range(2):  # the second time it is complete already
        assert world.main(flags) == 0
        result, following = capsys.readouterr().out.splitlines()
        assert result == f"result: {tmp_path / 'images'}"
        assert following.startswith(f"next:   visvm caption --images {tmp_path / 'images'} ")
    assert world.main([*flags, "--print-config"]) == 0
    assert "split: validation\n" in capsys.readouterr().out
