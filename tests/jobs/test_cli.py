"""The command line: light to import, helpful when mistyped, the same for every verb."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jobs import cli, world
from tests.support.paths import ROOT

HEAVY = {"torch", "ray", "transformers", "open_clip", "pyarrow", "aiohttp", "boto3"}
PROBE = """
import sys
from jobs.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    loaded = {name.partition(".")[0] for name in sys.modules}
    print("\\nSTATUS", stop.code, *sorted(loaded & set(%r)))
"""


PARTS = ("world make", "world train", "data nltk", "data amber-similarity", "pope make", "pope score")


def probe(*words: str) -> tuple[str, list[str]]:
    """What a command prints, and its exit status followed by the heavy packages it imported."""
    code = PROBE % (sorted(HEAVY),)
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    out, _, status = done.stdout.rpartition("STATUS")
    return out + done.stderr, status.split()


@pytest.mark.parametrize("verb", [*cli.VERBS, *PARTS])
def test_help_imports_nothing_heavy(verb: str) -> None:
    out, status = probe(*verb.split(), "--help")
    assert out.startswith(f"usage: visvm {verb} ")
    assert status == ["0"]


@pytest.mark.parametrize("verb", [verb for verb in cli.VERBS if verb not in ("world", "data", "pope")])
def test_a_mistyped_flag_is_one_line_and_imports_nothing_heavy(verb: str) -> None:
    out, status = probe(verb, "--hepl")
    assert out.strip() == f"error: unknown flag --hepl; did you mean --help? (see visvm {verb} --help)"
    assert status == ["2"]


def test_a_missing_flag_is_named_before_anything_heavy_is_imported() -> None:
    out, status = probe("train-value", "--policy", "world")
    assert out.strip() == (
        "error: missing --out (run folder: model/, checkpoints/, tensorboard/, curve.jsonl)"
        " and --rollouts (run folders of generate-triples)"
    )
    assert status == ["2"]


def test_required_flags_come_first_then_a_group_for_each_config_class() -> None:
    out, _ = probe("caption", "--help")
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
