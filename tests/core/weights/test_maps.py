"""Published checkpoints: name maps in both directions, reading without running code, writing whole or not at all."""

import pickle

import pytest
import torch
from mmcore.errors import CheckpointError, MissingDataError, UnsafeDataError, WeightsError
from mmcore.weights.files import INDEX_FILE, read_tensors, write_safetensors
from mmcore.weights.maps import Rule, WeightMap

MAP = WeightMap(
    rules=(
        Rule("enc.*.qkv.weight", ("encoder.*.q.weight", "encoder.*.k.weight", "encoder.*.v.weight")),
        Rule(("exp.0.w", "exp.1.w"), "experts.weight"),
        Rule("proj.*", "projection.*", to_ours=torch.t, to_published=torch.t),
        Rule("head.*", "head.*"),
    ),
    prefix="net.",
    aliases=(("tied.*", "head.*"),),
    ignored=("*.position_ids",),
    new=("fresh.*",),
    constants={"criterion.weight": torch.ones(2)},
    label="test checkpoint",
)


def ours() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "encoder.0.q.weight": (2, 3), "encoder.0.k.weight": (2, 3), "encoder.0.v.weight": (2, 3),
        "experts.weight": (2, 4), "projection.weight": (3, 5), "head.bias": (3,),
    }  # fmt: skip
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_what_is_written_reads_back_equal():
    state = ours()
    published = MAP.to_published(state)
    assert set(published) == {
        "net.enc.0.qkv.weight", "net.exp.0.w", "net.exp.1.w", "net.proj.weight", "net.head.bias", "net.tied.bias",
        "criterion.weight",
    }  # fmt: skip
    assert published["net.enc.0.qkv.weight"].shape == (6, 3)
    again, report = MAP.to_ours(published, state)
    assert set(again) == set(state)
    assert all(torch.equal(again[name], state[name]) for name in state)
    assert report.ignored == ["criterion.weight"]


def test_the_prefix_may_be_missing():
    bare = {name.removeprefix("net."): tensor for name, tensor in MAP.to_published(ours()).items()}
    assert set(MAP.to_ours(bare, ours())[0]) == set(ours())


def test_an_alias_stands_for_a_source_that_is_not_there():
    published = MAP.to_published(ours())
    value = published.pop("net.head.bias")
    assert torch.equal(MAP.to_ours(published, ours())[0]["head.bias"], value)


def test_aliases_that_differ_are_refused():
    published = MAP.to_published(ours())
    published["net.tied.bias"] = published["net.tied.bias"] + 1
    with pytest.raises(WeightsError, match=r"tied.bias and head.bias .* differ"):
        MAP.to_ours(published, ours())


def test_new_parameters_stay_and_ignored_tensors_are_listed():
    published = MAP.to_published(ours()) | {"net.text.position_ids": torch.arange(3)}
    state, report = MAP.to_ours(published, ours() | {"fresh.weight": torch.zeros(1)})
    assert "fresh.weight" not in state
    assert report.new == ["fresh.weight"]
    assert "text.position_ids" in report.ignored


def test_unknown_missing_and_misshapen_tensors_are_named():
    published = MAP.to_published(ours())
    with pytest.raises(WeightsError, match=r"fit nowhere in this model: heed\.bias[\s\S]*nearest.*head"):
        MAP.to_ours(published | {"net.heed.bias": torch.zeros(3)}, ours())
    with pytest.raises(WeightsError, match=r"lacks 1 tensor of this model: experts\.weight"):
        MAP.to_ours({name: t for name, t in published.items() if "exp.1" not in name}, ours())
    changed = published | {"net.head.bias": torch.zeros(4), "net.tied.bias": torch.zeros(4)}
    with pytest.raises(WeightsError, match=r"head\.bias is \(4,\) there and \(3,\) here"):
        MAP.to_ours(changed, ours())


def test_a_name_without_a_published_name_cannot_be_exported():
    with pytest.raises(WeightsError, match=r"no published name for other\.weight"):
        MAP.to_published(ours() | {"other.weight": torch.zeros(1)})


@pytest.mark.parametrize("nest", [None, "model", "state_dict", "module"])
@pytest.mark.parametrize("legacy", [False, True])
def test_torch_files_are_read_flat_and_nested(tmp_path, nest, legacy):
    state = ours()
    path = tmp_path / "weights.pth"
    content = state if nest is None else {nest: state, "iteration": 3}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    read = read_tensors(path)
    assert all(torch.equal(read[name], state[name]) for name in state)


def test_names_of_a_parallel_wrapper_are_stripped(tmp_path):
    torch.save({f"module.{name}": tensor for name, tensor in ours().items()}, tmp_path / "w.pt")
    assert set(read_tensors(tmp_path / "w.pt")) == set(ours())


class Attack:
    def __reduce__(self):
        import pathlib

        return pathlib.Path.touch, (pathlib.Path(self.target),)


def test_a_pickle_posing_as_a_checkpoint_is_refused_and_not_run(tmp_path):
    attack = Attack()
    attack.target = str(tmp_path / "pwned")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"a": attack}))
    torch.save({"model": {"a": attack}}, tmp_path / "zipped.pth")
    for name in ("plain.pth", "zipped.pth"):
        with pytest.raises(WeightsError, match="nothing in it was run") as caught:
            read_tensors(tmp_path / name)
        assert caught.value.where == str(tmp_path / name)
    assert not (tmp_path / "pwned").exists()


def test_what_holds_no_tensors_is_refused(tmp_path):
    torch.save({"a": "text", "b": torch.ones(1)}, tmp_path / "mixed.pth")
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    (tmp_path / "noise.safetensors").write_bytes(b"not a header at all")
    (tmp_path / "noise.bin").write_bytes(b"\x00" * 100)
    for name in ("mixed.pth", "list.pth", "noise.safetensors", "noise.bin"):
        with pytest.raises(WeightsError):
            read_tensors(tmp_path / name)
    (tmp_path / "weights.zip").write_bytes(b"PK")
    with pytest.raises(WeightsError, match="an archive, not a checkpoint"):
        read_tensors(tmp_path / "weights.zip")


def test_a_missing_file_or_empty_folder_says_so(tmp_path):
    for path in (tmp_path / "nothing.pth", tmp_path):
        with pytest.raises(MissingDataError):
            read_tensors(path)


def test_large_states_are_written_as_shards_with_an_index(tmp_path):
    state = ours()
    files = write_safetensors(state, tmp_path, max_shard_bytes=40)
    assert files[-1].name == INDEX_FILE
    assert len(files) > 3
    assert sorted(tmp_path.iterdir()) == sorted(files)
    for where in (tmp_path, tmp_path / INDEX_FILE):
        read = read_tensors(where)
        assert all(torch.equal(read[name], state[name]) for name in state)


def test_a_smaller_export_replaces_all_shards_of_a_larger_one(tmp_path):
    write_safetensors(ours(), tmp_path, max_shard_bytes=40)
    files = write_safetensors({"a": torch.ones(2)}, tmp_path)
    assert [path.name for path in files] == ["model.safetensors"]
    assert list(tmp_path.iterdir()) == files
    assert set(read_tensors(tmp_path)) == {"a"}


def test_tensors_that_share_memory_are_written_apart(tmp_path):
    base = torch.arange(6.0)
    write_safetensors({"a": base, "b": base, "c": base[2:4], "d": base.view(2, 3).t()}, tmp_path)
    read = read_tensors(tmp_path)
    assert torch.equal(read["b"], base)
    assert torch.equal(read["c"], base[2:4])
    assert torch.equal(read["d"], base.view(2, 3).t())


def test_a_full_disk_leaves_the_old_weights(tmp_path, monkeypatch):
    write_safetensors({"a": torch.ones(2)}, tmp_path)
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(CheckpointError, match="No space left"):
        write_safetensors({"a": torch.zeros(100)}, tmp_path)
    assert torch.equal(read_tensors(tmp_path)["a"], torch.ones(2))
    assert len(list(tmp_path.iterdir())) == 1


def test_an_index_cannot_name_files_outside_its_folder(tmp_path):
    (tmp_path / INDEX_FILE).write_text('{"weight_map": {"a": "../secret.safetensors"}}')
    with pytest.raises(UnsafeDataError, match="outside its folder"):
        read_tensors(tmp_path)


TIED = WeightMap(rules=(Rule("w", "first"), Rule("v", "second")), tied=(("second", "first"),))


def test_a_tied_tensor_may_stand_in_the_file_once_or_twice_and_is_written_once():
    state = {"first": torch.ones(2), "second": torch.ones(2)}
    for published in ({"w": torch.ones(2)}, {"w": torch.ones(2), "v": torch.ones(2)}):
        found, report = TIED.to_ours(published, state)
        assert torch.equal(found["second"], found["first"])
        assert report.new == []
    assert set(TIED.to_published(state)) == {"w"}


def test_tied_tensors_that_differ_are_refused():
    with pytest.raises(WeightsError, match="one tensor"):
        TIED.to_ours({"w": torch.ones(2), "v": torch.zeros(2)}, {"first": torch.ones(2), "second": torch.ones(2)})
