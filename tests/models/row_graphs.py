"""Graphs whose rows are independent, or are not; `python tests/models/row_graphs.py` writes them to `rows/`.

What the analysis has to say of each stands in `rows/verdicts.tsv`, which the tests of both languages read: the name,
the axes that are declared, and the verdict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from make_models import HERE, parse

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = HERE / "rows"

_WEIGHT = "float[3,3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}"
_CELL = "float[1,8,2] w = {1, 2, 3, 4, 5, 6, 7, 8, 8, 7, 6, 5, 4, 3, 2, 1}"
_RECURRENT = "float[1,8,2] r = {2, 1, 2, 1, 2, 1, 2, 1, 1, 2, 1, 2, 1, 2, 1, 2}"

GRAPHS = {
    "elementwise": "g (float[n,3] x) => (float[n,3] y) <float[3] c = {1, 2, 3}> { r = Relu(x) y = Add(r, c) }",
    "dense": f"g (float[n,3] x) => (float[n,3] y) <{_WEIGHT}, float[3] b = {{1, 2, 3}}> "
    "{ h = Gemm(x, w, b) r = Relu(h) y = MatMul(r, w) }",
    "softmax": "g (float[n,3] x) => (float[n,3] y) { y = Softmax<axis = -1>(x) }",
    "softmax_of_batch": "g (float[n,3] x) => (float[n,3] y) { [sm] y = Softmax<axis = 0>(x) }",
    "mean_of_features": "g (float[n,3] x) => (float[n] y) <int64[1] one = {1}> "
    "{ y = ReduceMean<keepdims = 0>(x, one) }",
    "centred": "g (float[n,3] x) => (float[n,3] y) <int64[1] zero = {0}> "
    "{ [mean] m = ReduceMean(x, zero) y = Sub(x, m) }",
    "turned_twice": "g (float[n,3] x) => (float[n,3] y) { t = Transpose(x) e = Exp(t) y = Transpose(e) }",
    "turned_softmax": "g (float[n,3] x) => (float[n,3] y) { t = Transpose(x) [sm] s = Softmax(t) y = Transpose(s) }",
    "attention": "g (float[n,s,4] x) => (float[n,s,4] y) "
    "{ t = Transpose<perm = [0, 2, 1]>(x) d = MatMul(x, t) p = Softmax(d) y = MatMul(p, x) }",
    "attention_among_rows": "g (float[n,4] x) => (float[n,4] y) "
    "{ t = Transpose(x) [scores] d = MatMul(x, t) p = Softmax(d) y = MatMul(p, x) }",
    "folded": f"g (float[n,2,3] x) => (float[n,2,3] y) <{_WEIGHT}, int64[2] flat = {{-1, 3}}, "
    "int64[3] back = {-1, 2, 3}> { f = Reshape(x, flat) h = MatMul(f, w) y = Reshape(h, back) }",
    "folded_by_shape": f"g (float[n,s,3] x) => (float[n,s,3] y) <{_WEIGHT}, int64[2] flat = {{-1, 3}}> "
    "{ f = Reshape(x, flat) h = MatMul(f, w) shape = Shape(x) y = Reshape(h, shape) }",
    "straddling": "g (float[n,6] x) => (float[n,6] y) <int64[2] four = {-1, 4}> "
    "{ f = Reshape(x, four) [sm] s = Softmax(f) shape = Shape(x) y = Reshape(s, shape) }",
    "perhaps_straddling": "g (float[n,s] x) => (float[n,s] y) <int64[2] four = {-1, 4}> "
    "{ f = Reshape(x, four) [sm] s = Softmax(f) shape = Shape(x) y = Reshape(s, shape) }",
    "folded_too_far": "g (float[n,2,3] x) => (float[m,3] y) <int64[2] flat = {-1, 3}> { y = Reshape(x, flat) }",
    "convolution": "g (float[n,1,5] x) => (float[n,2] y) <float[2,1,3] w = {1, 2, 3, 4, 5, 6}, "
    "int64[2] flat = {0, -1}> { c = Conv(x, w) p = GlobalMaxPool(c) y = Reshape(p, flat) }",
    "convolution_over_rows": "g (float[n,1,5] x) => (float[n,1,5] y) <float[1,1,3] w = {1, 2, 3}> "
    "{ t = Transpose<perm = [2, 1, 0]>(x) [conv] c = Conv<pads = [1, 1]>(t, w) y = Transpose<perm = [2, 1, 0]>(c) }",
    "batch_norm": "g (float[n,3] x) => (float[n,3] y) <float[3] s = {1, 2, 3}, float[3] b = {1, 2, 3}, "
    "float[3] m = {1, 2, 3}, float[3] v = {1, 2, 3}> { y = BatchNormalization(x, s, b, m, v) }",
    "running_sum": "g (float[n,3] x) => (float[n,3] y) <int64 axis = {0}> { [sum] y = CumSum(x, axis) }",
    "sorted": "g (float[n,3] x) => (float[k,3] y) <int64[1] two = {2}> { [top] y, i = TopK<axis = 0>(x, two) }",
    "first_row": "g (float[n,3] x) => (float[n,3] y) <int64[1] zero = {0}, int64[1] one = {1}> "
    "{ [first] f = Slice(x, zero, one, zero) y = Sub(x, f) }",
    "whole_slice": "g (float[n,3] x) => (float[n,2] y) <int64[2] from = {0, 0}, int64[2] to = {2147483647, 2}> "
    "{ y = Slice(x, from, to) }",
    "picked_row": "g (float[n,3] x) => (float[n,3] y) <int64 zero = {0}> { [pick] f = Gather(x, zero) y = Sub(x, f) }",
    "embedding": f"g (int64[n,s] ids) => (float[n,s,3] y) <{_WEIGHT}> {{ y = Gather(w, ids) }}",
    "recurrent": f"g (float[t,n,2] x) => (float[t,1,n,2] y) <{_CELL}, {_RECURRENT}> "
    "{ y = LSTM<hidden_size = 2>(x, w, r) }",
    "last_state": f"g (float[t,n,2] x) => (float[1,n,2] y) <{_CELL}, {_RECURRENT}, float high = {{0.5}}> "
    "{ , h = LSTM<hidden_size = 2>(x, w, r) y = Clip(h, , high) }",
    "rows_for_time": f"g (float[n,1,2] x) => (float[n,1,1,2] y) <{_CELL}, {_RECURRENT}> "
    "{ [cell] y = LSTM<hidden_size = 2>(x, w, r) }",
    "by_position": "g (float[n,3] x) => (float[n,3] y) <float[2,1] c = {1, 2}> { [add] y = Add(x, c) }",
    "numbered": "g (float[n,3] x) => (float[n,3] y) <int64 zero = {0}, int64 one = {1}, int64[1] wide = {1}> "
    "{ shape = Shape(x) n = Gather(shape, zero) r = Range(zero, n, one) f = Cast<to = 1>(r) u = Unsqueeze(f, wide) "
    "[add] y = Add(x, u) }",
    "shared_out": "g (float[n,3] x) => (float[n,3] y) <int64 zero = {0}> "
    "{ shape = Shape(x) n = Gather(shape, zero) f = Cast<to = 1>(n) [div] y = Div(x, f) }",
    "scaled_together": "g (float[n,3] x) => (uint8[n,3] y) { [quantize] y, s, z = DynamicQuantizeLinear(x) }",
    "class_token": "g (float[n,s,2] x) => (float[n,t,2] y) <float[1,1,2] token = {1, 2}, int64[1] zero = {0}, "
    "int64[1] one = {1}, int64[1] two = {2}> "
    "{ shape = Shape(x) n = Gather(shape, zero) wanted = Concat<axis = 0>(n, one, two) c = Expand(token, wanted) "
    "y = Concat<axis = 1>(c, x) }",
    # As PyTorch writes `expand(-1, 3, -1)`.
    "expanded": "g (float[n,1,s] x) => (float[n,3,s] y) <int64[3] given = {-1, 3, -1}, int64[3] minus = {-1, -1, -1}, "
    "int64[3] ones = {1, 1, 1}> "
    "{ c = Equal(given, minus) wanted = Where(c, ones, given) y = Expand(x, wanted) }",
    "mask_for_all": "g (float[n,s] x) => (float[n,s] y) <int64[2] shape = {-1, -1}, int64[1] minus = {-1}, "
    "float[1,1] token = {2}> "
    "{ own = Shape(x) c = Equal(shape, minus) wanted = Where(c, own, shape) e = Expand(token, wanted) y = Mul(x, e) }",
    "unwanted_mixture": "g (float[n,3] x) => (float[n,3] y) { z = Softmax<axis = 0>(x) y = Exp(x) }",
    "doubled_batch": "g (float[n,3] x) => (float[m,3] y) { [join] y = Concat<axis = 0>(x, x) }",
    "as_wide_as_the_batch": "g (float[n,1] x) => (float[n] y) <int64[1] zero = {0}, int64[1] one = {1}> "
    "{ shape = Shape(x) n = Gather(shape, zero) wide = Concat<axis = 0>(n, n) [expand] e = Expand(x, wide) "
    "y = ReduceSum<keepdims = 0>(e, one) }",
    "best_by_count": "g (float[n,5] x) => (float[n] y) <int64[1] zero = {0}, int64[1] one = {1}> "
    "{ shape = Shape(x) n = Gather(shape, zero) [top] e, i = TopK(x, n) y = ReduceSum<keepdims = 0>(e, one) }",
    "padded_by_count": "g (float[n,5] x) => (float[n] y) <int64[1] zero = {0}, int64[1] one = {1}> "
    "{ shape = Shape(x) n = Gather(shape, zero) pads = Concat<axis = 0>(zero, zero, zero, n) [pad] e = Pad(x, pads) "
    "y = ReduceMean<keepdims = 0>(e, one) }",
    "doubled_by_expanding": "g (float[n,3] x) => (float[m,3] y) <int64[1] zero = {0}, int64[1] two = {2}, "
    "int64[1] three = {3}> { shape = Shape(x) n = Gather(shape, zero) twice = Mul(n, two) "
    "wanted = Concat<axis = 0>(twice, three) [expand] y = Expand(x, wanted) }",
    "first_half": "g (float[n,2,3] x) => (float[n,3] y) <int64[1] zero = {0}, int64[1] three = {3}, "
    "int64[2] flat = {-1, 3}> { shape = Shape(x) n = Gather(shape, zero) f = Reshape(x, flat) "
    "[half] p = Slice(f, zero, n, zero) wanted = Concat<axis = 0>(n, three) y = Reshape(p, wanted) }",
    "axis_from_both_ends": "g (float[2,1,n] x, float[3,n] z) => (float[3,n] y) <int64[2] axes = {0, -3}, "
    "int64[1] one = {1}, int64[1] zero = {0}> { t = ReduceSum<keepdims = 0>(x, axes) "
    "[sum] s = ReduceSum<keepdims = 0>(t, one) u = Unsqueeze(s, zero) y = Add(z, u) }",
    "squeezed_from_both_ends": "g (float[1,1,1,n] x, float[3,n] z) => (float[3,n] y) <int64[2] axes = {0, -4}, "
    "int64[1] two = {2}> { t = Squeeze(x, axes) [sum] s = ReduceSum<keepdims = 0>(t, two) y = Add(z, s) }",
    "squeezed_of_ones": "g (float[n,1,3] x) => (float[n,?,3] y) <int64[0] none = {}, int64[1] one = {1}> "
    "{ [squeeze] t = Squeeze(x, none) s = Softmax<axis = -2>(t) y = Unsqueeze(s, one) }",
    "cast_as_another": "g (float[n,3] x) => (float[n,3] y) <float[1,1,1] like = {1}, int64[1] zero = {0}> "
    "{ a = CastLike(x, like) [sum] s = ReduceSum<keepdims = 0>(a, zero) y = Add(x, s) }",
    "quantized": "g (float[n,3] x) => (float[n,3] y) <float s = {0.5}, uint8 z = {128}> "
    "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
    "quantized_by_position": "g (float[n] x) => (uint8[n] y) <float[2] s = {1, 2}, uint8[2] z = {0, 1}> "
    "{ [quantize] y = QuantizeLinear<axis = -1>(x, s, z) }",
    "quantized_on_no_axis": "g (float[n] x) => (uint8[n] y) <float[2] s = {1, 2}, uint8[2] z = {0, 1}> "
    "{ [quantize] y = QuantizeLinear(x, s, z) }",
    "quantized_in_blocks": "g (int8[n,4] x) => (float[n,4] y) <float[2,2] s = {1, 2, 3, 4}> "
    "{ [quantize] y = DequantizeLinear<axis = 1, block_size = 2>(x, s) }",
    "cell_beside_the_rows": f"g (float[n,2] x, float[1,1,2] s) => (float[n,2] y) <{_CELL}, {_RECURRENT}, "
    "int64[1] two = {2}, int64[1] one = {1}, int64[1] zero = {0}> { l = LSTM<hidden_size = 2>(s, w, r) "
    "[add] a = Add(x, l) t = ReduceSum<keepdims = 0>(a, two) u = Squeeze(t, zero) v = Unsqueeze(u, one) "
    "q = Add(x, v) shape = Shape(x) y = Reshape(q, shape) }",
    # [2, 1] and [2] make four numbers, of which some are 0.
    "crossed_axes": "g (float[n,3,3] x) => (float[n,3,3] y) <int64[2,1] a = {1, 2}, int64[2] b = {0, -1}, "
    "int64[1] flat = {-1}> { c = Add(a, b) axes = Reshape(c, flat) [sum] r = ReduceSum(x, axes) y = Sub(x, r) }",
    "chosen_by_a_cube": "g (float[n,3] x) => (float[n,3] y) <bool[1,1,1] c = {1}, int64[3] a = {1, 2, 3}, "
    "int64[3] b = {4, 5, 6}, int64[1] one = {1}> { w = Where(c, a, b) f = Cast<to = 1>(w) q = Mul(x, f) "
    "[sum] r = ReduceSum<keepdims = 0>(q, one) u = Unsqueeze(r, one) v = Add(x, u) shape = Shape(x) "
    "y = Reshape(v, shape) }",
    "wrapped_around": "g (float[n,3] x) => (float[n,3] y) <int32[1] a = {2147483647}, int32[1] b = {3}, "
    "int64[1] zero = {0}> { c = Add(a, a) d = Add(c, b) end = Cast<to = 7>(d) [first] f = Slice(x, zero, end, zero) "
    "y = Sub(x, f) }",
    "cut_off": "g (float[n,3] x) => (float[n,3] y) <int64[1] a = {4294967297}, int64[1] zero = {0}> "
    "{ c = Cast<to = 6>(a) end = Cast<to = 7>(c) [first] f = Slice(x, zero, end, zero) y = Sub(x, f) }",
    # The runtime does not hold the second axis to the first one's name.
    "square_by_name": "g (float[n,n] x) => (float[n,n] y) <int64[1] zero = {0}, int64[1] one = {1}> "
    "{ shape = Shape(x) wide = Gather(shape, one) [first] f = Slice(x, zero, wide, zero) y = Add(x, f) }",
    "sum_of_a_square": "g (float[n,n] x) => (float[n] y) <int64[1] one = {1}> { y = ReduceSum<keepdims = 0>(x, one) }",
    "pooled_and_numbered": "g (float[n,1,4] x) => (float[n,1,2] y, int64[n,1,2] i) "
    "{ [pool] y, i = MaxPool<kernel_shape = [2], strides = [2]>(x) }",
    "triangle": "g (float[n,3] x) => (float[n,3] y) { [tri] y = Trilu(x) }",
    "triangle_of_each": "g (float[n,3,3] x) => (float[n,3,3] y) { y = Trilu(x) }",
    "diagonal": "g (float[n,3] x) => (float[n,3] y) { [eye] e = EyeLike<dtype = 1>(x) y = Add(x, e) }",
    "written_row": "g (float[n,3] x) => (float[n,3] y) <int64[1,1] i = {0}, float[1,3] u = {9, 9, 9}> "
    "{ [write] y = ScatterND(x, i, u) }",
    "written_elements": "g (float[n,3] x) => (float[n,3] y) <int64[1,3] i = {0, 0, 0}, float[1,3] u = {9, 9, 9}> "
    "{ [write] y = ScatterElements<axis = 1>(x, i, u) }",
    "written_in_each": "g (float[n,3] x, int64[n,1] i, float[n,1] u) => (float[n,3] y) "
    "{ y = ScatterElements<axis = 1>(x, i, u) }",
    "numbered_unknowns": "g (float[n,3] x) => (float[n,3] y) <int64 zero = {0}, int64 one = {1}, int64[1] wide = {1}> "
    "{ shape = Shape(x) n = Gather(shape, zero) r = Range(zero, n, one) f = Cast<to = 1>(r) u = Unsqueeze(f, wide) "
    'e = Einsum<equation = "ij->ij">(x) [add] y = Add(e, u) }',
    "neighbours": "g (float[n,3] x, int64[n,2] at) => (float[n,3] y) <int64[1] one = {1}> "
    "{ [pick] q = Gather(x, at) m = ReduceMean<keepdims = 0>(q, one) y = Add(x, m) }",
    "neighbours_by_tuples": "g (float[n,3] x, int64[n,1] at) => (float[n,3] y) { [pick] y = GatherND(x, at) }",
    "class_token_by_minus_ones": "g (float[n,4,2] x) => (float[n,5,2] y) <float[1,1,2] token = {1, 2}, "
    "int64[1] zero = {0}, int64[1] one = {1}, int64[2] minus = {-1, -1}, int64[3] ones = {1, 1, 1}, "
    "int64[3] minuses = {-1, -1, -1}> { shape = Shape(x) n = Slice(shape, zero, one) "
    "given = Concat<axis = 0>(n, minus) c = Equal(given, minuses) wanted = Where(c, ones, given) "
    "e = Expand(token, wanted) y = Concat<axis = 1>(e, x) }",
    # An extent that is not known may be -1, and does not depend on the rows either way.
    "mask_for_each_head": "g (float[n,s] x) => (float[n,1,s] y) <int64[1] one = {1}, int64[1] zero = {0}, "
    "int64[1] two = {2}, int64[3] ones = {1, 1, 1}, int64[3] minuses = {-1, -1, -1}> { shape = Shape(x) "
    "n = Slice(shape, zero, one) s = Slice(shape, one, two) given = Concat<axis = 0>(n, one, s) "
    "c = Equal(given, minuses) wanted = Where(c, ones, given) u = Unsqueeze(x, one) e = Expand(u, wanted) "
    "y = Softmax<axis = -1>(e) }",
    "bounded_by_rows": "g (float[n] x, float[n] low) => (float[n] y) { [clip] y = Clip(x, low) }",
    "folded_and_back": f"g (float[n,s,3] x) => (float[n,s,3] y) <{_WEIGHT}, int64[2] flat = {{-1, 3}}, "
    "int64[1] minus = {-1}, int64[2] from = {0, 1}, int64[1] zero = {0}, int64[1] two = {2}> "
    "{ f = Reshape(x, flat) h = MatMul(f, w) shape = Shape(x) kept = Slice(shape, zero, two) "
    "back = Concat<axis = 0>(kept, minus) r = Reshape(h, back) y = Softmax<axis = -1>(r) }",
    "positive_ones": "g (float[n] x) => (int64[k] y) <int64[1] flat = {-1}> "
    "{ [find] i = NonZero(x) y = Reshape(i, flat) }",
    "branch": "g (float[n,3] x, int64 rate) => (float[n,3] y) <int64 wide = {16000}> { c = Equal(rate, wide) "
    "y = If (c) <then_branch = t () => (float[n,3] a) { a = Exp(x) }, else_branch = e () => (float[n,3] b) "
    "{ b = Softmax(x) }> }",
    "branch_that_mixes": "g (float[n,3] x, int64 rate) => (float[n,3] y) <int64 wide = {16000}> "
    "{ c = Equal(rate, wide) y = If (c) <then_branch = t () => (float[n,3] a) { a = Exp(x) }, "
    "else_branch = e () => (float[n,3] b) { [sm] b = Softmax<axis = 0>(x) }> }",
    "branch_by_rows": "g (float[n] x) => (float[n] y) <float zero = {0}> "
    "{ [all] m = ReduceMax<keepdims = 0>(x) c = Greater(m, zero) "
    "y = If (c) <then_branch = t () => (float[n] a) { a = Exp(x) }, "
    "else_branch = e () => (float[n] b) { b = Neg(x) }> }",
    "branch_by_count": "g (float[n,3] x) => (float[n,3] y) <int64 zero = {0}, int64 one = {1}> "
    "{ shape = Shape(x) n = Gather(shape, zero) c = Equal(n, one) [if] y = If (c) "
    "<then_branch = t () => (float[n,3] a) { a = Exp(x) }, else_branch = e () => (float[n,3] b) { b = Neg(x) }> }",
    "branch_by_size": "g (float[n,3] x) => (float[n,3] y) <int64 six = {6}> { size = Size(x) c = Greater(size, six) "
    "[if] y = If (c) <then_branch = t () => (float[n,3] a) { a = Exp(x) }, "
    "else_branch = e () => (float[n,3] b) { b = Neg(x) }> }",
    # Which branch runs is not known, nor what the one that a call takes does.
    "branch_of_unknowns": "g (float[n,3] x, int64 mode) => (float[n,3] y) <int64 five = {5}> "
    "{ c = Equal(mode, five) y = If (c) <then_branch = t () => (float[n,3] a) { "
    '[sum] a = Einsum<equation = "ij,kj->ij">(x, x) }, else_branch = f () => (float[n,3] b) { b = Exp(x) }> }',
    # The axis is never looked at where the scale is one number.
    "branch_with_an_odd_axis": "g (float[n,3] x, int64 mode) => (float[n,3] y) <float[1] s = {0.5}, uint8[1] z = {0}, "
    "int64 five = {5}> { c = Equal(mode, five) y = If (c) <then_branch = t () => (float[n,3] a) "
    "{ q = QuantizeLinear<axis = 5>(x, s, z) d = DequantizeLinear<axis = 5>(q, s, z) [sm] a = Softmax<axis = 0>(d) }, "
    "else_branch = f () => (float[n,3] b) { b = Exp(x) }> }",
    "tree": "g (float[n,2] x) => (float[n,1] y) { y = ai.onnx.ml.LinearRegressor<coefficients = [1.0, 2.0], "
    "intercepts = [0.5]>(x) }",
    "einsum": 'g (float[n,3] x) => (float[n,3] y) { [sum] y = Einsum<equation = "ij,ij->ij">(x, x) }',
    "einsum_that_mixes": 'g (float[n,3] x) => (float[n,3] y) { [sum] y = Einsum<equation = "ij,kj->ij">(x, x) }',
    "loop_by_count": "g (float[n,3] x) => (float[n,3] y) <bool yes = {1}, int64 zero = {0}> "
    "{ shape = Shape(x) n = Gather(shape, zero) [rounds] y = Loop<body = b (int64 i, bool go, float[n,3] v) => "
    "(bool go_on, float[n,3] w) { go_on = Identity(go) w = Add(v, v) }>(n, yes, x) }",
    "loop": "g (float[n,3] x) => (float[n,3] y) <int64 rounds = {3}, bool yes = {1}> "
    "{ [rounds] y = Loop<body = b (int64 i, bool go, float[n,3] v) => (bool go_on, float[n,3] w) "
    "{ go_on = Identity(go) w = Add(v, v) }>(rounds, yes, x) }",
}


def path(name: str) -> Path:
    """Where the file of a graph is."""
    return FOLDER / f"{name}.onnx"


def verdicts() -> list[tuple[str, dict[str, int], str, str]]:
    """The name of each graph, the axes that are declared, the verdict, and what it says."""
    rows = []
    for line in (FOLDER / "verdicts.tsv").read_text(encoding="utf-8").splitlines():
        name, axes, verdict, text = line.split("\t")
        declared = dict(pair.split("=") for pair in axes.split())
        rows.append((name, {key: int(axis) for key, axis in declared.items()}, verdict, text))
    return rows


def write_all() -> None:
    """Write every file; the same sources give the same bytes."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in GRAPHS.items():
        path(name).write_bytes(parse(text))


if __name__ == "__main__":
    write_all()
