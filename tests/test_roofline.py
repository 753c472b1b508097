"""The least time of a step, read off the text of a compiled module."""

import pytest

from benchmarks.hlo import Module, num_bytes
from benchmarks.roofline import BYTES_PER_S, FLOPS_PER_S, kernels, tables

TEXT = """\
HloModule jit__fun, is_scheduled=true

%fused_slice (param_0.1: bf16[256,384], param_1.1: f32[96]) -> bf16[256,96] {
  %param_0.1 = bf16[256,384]{1,0} parameter(0)
  %param_1.1 = f32[96]{0} parameter(1)
  %broadcast.1 = bf16[256,96]{1,0} broadcast(%param_1.1), dimensions={1}
  %slice.1 = bf16[256,96]{1,0} slice(%param_0.1), slice={[0:256], [0:96]}
  ROOT %add.1 = bf16[256,96]{1,0} add(%slice.1, %broadcast.1), \
metadata={op_name="jit(_fun)/jvp(N)/bn_3a_1x1/add"}
}

%gemm_dot (parameter_0: bf16[256,96], parameter_1: bf16[96,64]) -> bf16[256,64] {
  %parameter_0 = bf16[256,96]{1,0} parameter(0)
  %parameter_1 = bf16[96,64]{1,0} parameter(1)
  ROOT %dot.1 = bf16[256,64]{1,0} dot(%parameter_0, %parameter_1), lhs_contracting_dims={1}, \
rhs_contracting_dims={0}
}

ENTRY %main.1 (x: bf16[256,384], s: f32[96], k: bf16[96,64], i: bf16[2,8,8,3], \
w: bf16[16,3,3,3]) -> (bf16[256,64], bf16[2,4,4,16]) {
  %x = bf16[256,384]{1,0} parameter(0)
  %s = f32[96]{0} parameter(1)
  %k = bf16[96,64]{1,0} parameter(2)
  %i = bf16[2,8,8,3]{3,2,1,0} parameter(3)
  %w = bf16[16,3,3,3]{3,2,1,0} parameter(4)
  %loop_add_fusion = bf16[256,96]{1,0} fusion(%x, %s), kind=kLoop, calls=%fused_slice
  %gemm_fusion = bf16[256,64]{1,0} fusion(%loop_add_fusion, %k), kind=kCustom, calls=%gemm_dot, \
metadata={op_name="jit(_fun)/transpose(jvp(N))/conv_4b_3x3/dot_general"}
  %cudnn-conv.1 = (bf16[2,4,4,16]{3,2,1,0}, u8[0]{0}) custom-call(%i, %w), \
window={size=3x3 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, \
custom_call_target="__cudnn$convForward", \
metadata={op_name="jit(_fun)/jvp(N)/conv_conv1/conv_general_dilated"}
  %gte = bf16[2,4,4,16]{3,2,1,0} get-tuple-element(%cudnn-conv.1), index=0
  ROOT %tuple.1 = (bf16[256,64]{1,0}, bf16[2,4,4,16]{3,2,1,0}) tuple(%gemm_fusion, %gte)
}
"""


def test_bytes_and_products_of_each_kernel():
    fusion, product, convolution = kernels(Module.read(TEXT))
    assert fusion.bytes == 2 * (2 * 256 * 96) + 4 * 96  # the slice of x, not all of it
    assert fusion.flops == 0 and (fusion.layer, fusion.block) == ("bn_3a_1x1", "3a")
    assert product.bytes == 2 * (256 * 96 + 96 * 64 + 256 * 64)
    assert product.flops == 2 * 256 * 96 * 64 and product.part == "products, backward"
    assert convolution.flops == 2 * (2 * 4 * 4) * (16 * 3 * 3 * 3)
    assert convolution.bytes == 2 * (2 * 8 * 8 * 3 + 16 * 27 + 2 * 4 * 4 * 16)
    assert convolution.block == "stem"


def test_a_kernel_takes_the_longer_of_both_times():
    fusion, product, _ = kernels(Module.read(TEXT))
    speed = FLOPS_PER_S["bfloat16"]
    assert fusion.seconds(speed) == pytest.approx(fusion.bytes / BYTES_PER_S)
    assert product.seconds(1.0) == product.flops


def test_the_tables_name_parts_and_blocks():
    text = tables(kernels(Module.read(TEXT)), 2, "bfloat16", 1)
    assert "images/s at most" in text
    assert "| products, backward | 1 |" in text and "| 4b | 1 |" in text


def test_shapes_of_tuples():
    assert num_bytes("(bf16[2,3]{1,0}, /*index=1*/f32[], u8[0]{0})") == 16
