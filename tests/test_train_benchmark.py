"""The GPU benchmark of the trainer works from end to end on a tiny model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.train_profile import KINDS, kind

ROOT = Path(__file__).resolve().parents[1]


def test_kernels_are_told_apart():
    names = {
        "nvjet_hsh_256x128_64x4_2x1_v_bz_coopA_NTN": "matrix products",
        "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64": "matrix products",
        "void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel": "attention",
        "cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma": "attention",
        "triton_poi_fused_mul_silu_3": "fused pointwise (Inductor)",
        "void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>": "optimizer",
        "Memcpy HtoD (Pinned -> Device)": "copies and fills",
        "void at::native::vectorized_elementwise_kernel<4>": "reductions and pointwise",
        "ncclDevKernel_AllReduce": "communication",
    }
    assert {name: kind(name) for name in names} == names
    assert set(names.values()) == set(KINDS)
    assert kind("spin") == "other"


def test_smoke():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.train", "--smoke", "--no-peers"],
        capture_output=True, text=True, cwd=ROOT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "| smoke, T=64 | tamis |" in done.stdout
    assert "matrix products" in done.stdout
