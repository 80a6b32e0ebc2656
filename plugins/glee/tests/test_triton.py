"""The Triton kernels of deformable sampling: in Triton's interpreter against plain torch, and compiled for a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmcore_glee import deformable
from mmcore_glee.deformable import sample

triton = pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
from mmcore_glee import deformable_triton  # noqa: E402 - imports Triton

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")


INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
in_interpreter = pytest.mark.skipif(not INTERPRETED, reason="runs in the process of test_in_the_interpreter")


@pytest.mark.skipif(INTERPRETED, reason="is what runs this process")
def test_in_the_interpreter() -> None:
    """Triton is interpreted when it is imported so, which takes a process of its own."""
    words = ["-q", "-p", "no:cacheprovider", "-k", "kernels_equal or no_number", __file__]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True
    )
    said = done.stdout.decode()
    assert done.returncode == 0, said[-4000:]
    assert f"{len(SIZES) + 1} passed" in said


SIZES = {
    "three levels": (2, 5, 2, 2, 4, ((6, 8), (3, 4), (1, 2)), torch.float32),
    "more queries than one program serves": (1, 40, 1, 1, 5, ((4, 3),), torch.float64),
    "odd numbers": (1, 3, 3, 3, 7, ((1, 1), (5, 1)), torch.float64),
    "half precision": (1, 4, 2, 1, 8, ((4, 4),), torch.bfloat16),
}


@in_interpreter
@pytest.mark.parametrize(("batch", "queries", "heads", "num_points", "channels", "shapes", "dtype"), SIZES.values(),
                         ids=SIZES)  # fmt: skip
def test_the_kernels_equal_plain_torch_with_all_gradients(
    batch, queries, heads, num_points, channels, shapes, dtype
) -> None:
    draw = torch.Generator().manual_seed(0)
    exact = torch.float32 if dtype == torch.bfloat16 else dtype
    sides = torch.tensor([[width, height] for height, width in shapes], dtype=exact)
    split = (batch, queries, heads, len(shapes), num_points)
    value = torch.randn(batch, sum(h * w for h, w in shapes), heads, channels, dtype=exact, generator=draw).to(dtype)
    # A third of the points lies outside the map or in the half pixel around it.
    points = torch.rand(*split, 2, dtype=exact, generator=draw) * (sides[:, None] + 3) - 2
    points[0, 0, 0, 0, 0] = torch.tensor([float("inf"), -1e9], dtype=exact)
    weights = torch.randn(split, dtype=exact, generator=draw)
    upstream = torch.randn(batch, queries, heads * channels, dtype=exact, generator=draw).to(dtype)
    results = []
    for function in (deformable_triton.sample, sample):
        inputs = [tensor.clone().requires_grad_() for tensor in (value, points, weights)]
        out = function(*inputs, shapes)
        results.append([out, *torch.autograd.grad(out, inputs, upstream)])
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {}
    for ours, plain in zip(*results, strict=True):
        assert ours.dtype == plain.dtype
        torch.testing.assert_close(ours, plain, **tolerance)


@in_interpreter
def test_a_point_that_is_no_number_harms_its_own_query_only() -> None:
    value, weights = torch.randn(1, 4, 1, 3), torch.ones(1, 2, 1, 1, 1)
    points = torch.zeros(1, 2, 1, 1, 1, 2)
    points[0, 1] = float("nan")
    out = deformable_triton.sample(value, points, weights, ((2, 2),))
    assert out[0, 0].isfinite().all()
    assert out[0, 1].isnan().all()


@pytest.mark.parametrize("name", ["_forward", "_backward"])
def test_the_kernels_compile_for_a_gpu_without_one(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if sys.platform != "linux":
        pytest.skip("the compiler for NVIDIA's GPUs comes with Triton for Linux only")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(deformable_triton, name)
    fixed = {"num_heads": 8, "num_levels": 4, "num_points": 4, "channels": 32, "padded": 32, "block": 32}
    fixed["exact"] = triton.language.float32
    kinds = {"level_table": "*i32", "num_queries": "i32", "num_pixels": "i32", **dict.fromkeys(fixed, "constexpr")}
    signature = {argument: kinds.get(argument, "*fp32") for argument in kernel.arg_names}
    made = triton.compile(ASTSource(kernel, signature, fixed), target=GPUTarget("cuda", 90, 32))
    assert made.asm["cubin"]


class _OnGpu:
    """What of a tensor decides which path is taken."""

    is_cuda = True
    device = torch.device("cuda", 0)


@pytest.mark.parametrize(("broken", "told"), [(False, "the Triton kernel"), (True, "plain torch, for Triton cannot")])
def test_a_gpu_gets_the_kernels_where_they_run_and_says_which(
    broken: bool, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stand_in(*arguments: object) -> str:
        if broken:
            raise RuntimeError("no compiler")
        return "by kernels"

    ones = torch.ones(1, 1, 1, 1)
    monkeypatch.setattr(deformable_triton, "sample", stand_in)
    monkeypatch.setattr(deformable.torch, "ones", lambda *sizes, device: ones)
    deformable._kernels.cache_clear()
    assert deformable._kernels(_OnGpu.device) is (None if broken else deformable_triton)
    assert told in capsys.readouterr().err
    if not broken:
        assert sample(_OnGpu(), None, None, ()) == "by kernels"  # type: ignore[arg-type]
        plain: list[object] = []
        monkeypatch.setattr(deformable._Sample, "apply", lambda *arguments: plain.append(arguments))
        sample(_OnGpu(), None, None, (), triton=False)  # type: ignore[arg-type]
        assert len(plain) == 1
    deformable._kernels.cache_clear()
