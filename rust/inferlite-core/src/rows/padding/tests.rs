use std::sync::Arc;

use super::*;
use crate::runtime::{Input, ValueType};
use crate::tensor::{Strings, Tensor};

fn argument(name: &str, dtype: Dtype, shape: &[Dim]) -> Argument {
    let shape = Some(shape.to_vec());
    Argument::new(name.into(), ValueType::Tensor { dtype, shape }).expect("there is no NUL in it")
}

fn signature() -> Signature {
    let (any, four) = (Dim::Unknown, Dim::Fixed(4));
    Signature {
        inputs: vec![
            argument("x", Dtype::Uint8, &[any.clone(), any.clone(), four.clone()]),
            argument("mask", Dtype::Float16, &[any.clone(), any.clone()]),
            argument("words", Dtype::String, &[any.clone(), any.clone()]),
            argument("rate", Dtype::Int64, &[]),
        ],
        required: 4,
        outputs: vec![argument("y", Dtype::Uint8, &[any.clone(), any.clone(), any, four])],
    }
}

fn declared(inputs: &[(&str, usize, Filling)], outputs: &[(&str, usize)]) -> DeclaredLength {
    DeclaredLength {
        inputs: inputs
            .iter()
            .map(|(name, axis, filling)| ((*name).to_owned(), *axis, filling.clone()))
            .collect(),
        sizes: vec![4, 8],
        outputs: outputs.iter().map(|(name, axis)| ((*name).to_owned(), *axis)).collect(),
    }
}

fn zero() -> Filling {
    Filling::Integer(0)
}

fn padding(declared: &[DeclaredLength]) -> Result<Padding> {
    let signature = signature();
    let axes = BatchAxes::of(&signature, &[("rate".into(), None)])?;
    Padding::of(&signature, &axes, declared)
}

fn message(declared: DeclaredLength) -> String {
    padding(&[declared]).expect_err("it is refused").message().to_owned()
}

fn bytes(shape: &[i64], bytes: &[u8]) -> Value {
    Value::Tensor(Tensor::of_bytes(Dtype::Uint8, shape.into(), bytes.into()))
}

fn seen(value: &Value) -> (Vec<i64>, Vec<u8>) {
    let Value::Tensor(tensor) = value else {
        panic!("it is a tensor")
    };
    (tensor.view().shape().to_vec(), tensor.to_bytes())
}

fn fed(index: usize, value: Value) -> Feed {
    let value = Input::Value(Arc::new(value));
    Feed { index, value }
}

#[test]
fn what_cannot_be_padded_says_so() {
    for (declared, wanted) in [
        (
            declared(&[("z", 1, zero())], &[]),
            "`pad` names input `z`, which the model has not",
        ),
        (
            declared(&[("x", 1, zero())], &[("z", 1)]),
            "`pad` names output `z`, which the model has not",
        ),
        (
            declared(&[("x", 3, zero())], &[]),
            "`pad` gives input `x` axis 3, but it has 3 axes",
        ),
        (
            declared(&[("x", 2, zero())], &[]),
            "axis 2 of input `x` is 4 long in every call: it cannot be padded",
        ),
        (
            declared(&[("x", 0, zero())], &[]),
            "axis 0 of input `x` holds the rows of the batch, which cannot be padded",
        ),
        (
            declared(&[("rate", 0, zero())], &[]),
            "`pad` gives input `rate` axis 0, but it has 0 axes",
        ),
        (
            declared(&[("x", 1, zero()), ("x", 1, zero())], &[]),
            "`pad` gives axis 1 of input `x` twice",
        ),
        (
            declared(&[("x", 1, zero())], &[("y", 1), ("y", 1)]),
            "`pad` gives axis 1 of output `y` twice",
        ),
        (
            declared(&[("x", 1, zero())], &[("y", 0)]),
            "axis 0 of output `y` holds the rows of the batch, which cannot be padded",
        ),
        (
            declared(&[("x", 1, zero())], &[("y", 3)]),
            "axis 3 of output `y` is 4 long in every call: it cannot be padded",
        ),
        (
            declared(&[("x", 1, Filling::Integer(256))], &[]),
            "`pad` fills input `x` up with 256, which a uint8 cannot be: pass another `value`",
        ),
        (
            declared(&[("x", 1, Filling::Number(0.5))], &[]),
            "`pad` fills input `x` up with 0.5, which a uint8 cannot be: pass another `value`",
        ),
        (
            declared(&[("words", 1, zero())], &[]),
            "`pad` fills input `words` up with 0, which a string cannot be: pass another `value`",
        ),
        (
            declared(&[("mask", 1, Filling::Number(-1e9))], &[]),
            "`pad` fills input `mask` up with -1000000000, which a float16 cannot be: pass another `value`",
        ),
        (
            declared(&[("mask", 1, Filling::Text("a".into()))], &[]),
            "`pad` fills input `mask` up with \"a\", which a float16 cannot be: pass another `value`",
        ),
    ] {
        assert_eq!(message(declared), wanted);
    }
}

#[test]
fn what_is_equal_in_all_calls_cannot_be_padded() {
    let mut signature = signature();
    signature.inputs[3] = argument("rate", Dtype::Int64, &[Dim::Unknown]);
    let axes = BatchAxes::of(&signature, &[("rate".into(), None)]).expect("there are rows");
    let error = Padding::of(&signature, &axes, &[declared(&[("rate", 0, zero())], &[])]).expect_err("it is refused");
    assert_eq!(
        error.message(),
        "input `rate` cannot be padded, since it has no batch axis: it must be equal in all calls of a batch"
    );
}

#[test]
fn fillings_are_of_the_type_of_their_input() {
    let of = |dtype, filling: Filling| element(dtype, &filling);
    assert_eq!(of(Dtype::Int64, Filling::Integer(-1)), Some(vec![255; 8]));
    assert_eq!(
        of(Dtype::Int16, Filling::Integer(-2)),
        Some((-2_i16).to_ne_bytes().to_vec())
    );
    assert_eq!(of(Dtype::Bool, Filling::Integer(1)), Some(vec![1]));
    assert_eq!(of(Dtype::Bool, Filling::Integer(2)), None);
    assert_eq!(
        of(Dtype::Float32, Filling::Integer(3)),
        Some(3_f32.to_ne_bytes().to_vec())
    );
    assert_eq!(
        of(Dtype::Float64, Filling::Number(1e300)),
        Some(1e300_f64.to_ne_bytes().to_vec())
    );
    assert_eq!(of(Dtype::Float32, Filling::Number(1e300)), None);
    assert_eq!(
        of(Dtype::Float32, Filling::Number(f64::NEG_INFINITY)),
        Some(f32::NEG_INFINITY.to_ne_bytes().to_vec())
    );
    assert_eq!(
        of(Dtype::Float16, Filling::Number(f64::NEG_INFINITY)),
        Some(0xFC00_u16.to_ne_bytes().to_vec())
    );
    assert_eq!(
        of(Dtype::Float16, Filling::Integer(1)),
        Some(0x3C00_u16.to_ne_bytes().to_vec())
    );
    assert_eq!(
        of(Dtype::String, Filling::Text("[PAD]".into())),
        Some(b"[PAD]".to_vec())
    );
    assert_eq!(of(Dtype::Complex64, zero()), None);
}

#[test]
fn a_length_belongs_to_all_its_axes() {
    let padding = padding(&[declared(&[("x", 1, zero()), ("mask", 1, zero())], &[])]).expect("it is fine");
    let call = |x: i64, mask: i64| {
        let mask = Value::Tensor(Tensor::of_bytes(
            Dtype::Float16,
            [1, mask].as_slice().into(),
            vec![0; usize::try_from(mask).unwrap_or(0) * 2].into(),
        ));
        [
            fed(1, mask),
            fed(0, bytes(&[1, x, 4], &vec![0; usize::try_from(x).unwrap_or(0) * 4])),
        ]
    };
    assert_eq!(padding.of_call(&call(3, 3)).as_deref(), Some(&[3][..]));
    assert_eq!(padding.of_call(&call(3, 4)), None);
    // One that is left out has nothing to say, and a rank that is too small is not filled up.
    assert_eq!(padding.of_call(&call(3, 4)[..1]).as_deref(), Some(&[4][..]));
    assert_eq!(padding.of_call(&[fed(0, bytes(&[2], &[0, 0]))]), None);
    assert_eq!(padding.of_call(&[]).as_deref(), Some(&[0][..]));
}

#[test]
fn lengths_become_the_next_size_but_for_the_least_and_the_largest() {
    let padding = padding(&[declared(&[("x", 1, zero())], &[])]).expect("it is fine");
    let size = |length: usize| padding.size(0, 1, &Lengths::from_slice(&[length]));
    let sizes: Vec<_> = [0, 1, 2, 4, 5, 8, 9].into_iter().filter_map(size).collect();
    assert_eq!(sizes, [0, 1, 4, 4, 8, 8, 9]);
    assert_eq!(padding.size(0, 2, &Lengths::from_slice(&[3])), None);
    assert_eq!(padding.size(1, 1, &Lengths::from_slice(&[3])), None);
}

#[test]
fn calls_are_filled_up_where_they_differ_and_cut_back() {
    let padding = padding(&[declared(&[("x", 1, Filling::Integer(7))], &[("y", 1), ("y", 2)])]).expect("it is fine");
    let of = |lengths: &[usize]| {
        lengths
            .iter()
            .map(|&length| Lengths::from_slice(&[length]))
            .collect::<Vec<_>>()
    };
    let equal = padding.sizes(&of(&[3, 3]));
    assert_eq!(equal.as_slice(), [None]);
    let x = bytes(&[2, 2, 1], &[1, 2, 3, 4]);
    let piece = Piece::of(&x).expect("it is a tensor");
    assert!(!padding.fills(0, &equal) && padding.fill(0, piece, &equal).is_none());
    let sizes = padding.sizes(&of(&[2, 3]));
    assert_eq!(sizes.as_slice(), [Some(4)]);
    assert!(padding.fills(0, &sizes) && !padding.fills(1, &sizes));
    let filled = padding.fill(0, piece, &sizes).expect("it is filled up");
    assert_eq!(seen(&filled), (vec![2, 4, 1], vec![1, 2, 7, 7, 3, 4, 7, 7]));
    let numbers: Vec<u8> = (0..16).collect();
    let y = bytes(&[1, 4, 4, 1], &numbers);
    assert!(padding.fits(0, Piece::of(&y).expect("it is a tensor"), &sizes));
    let other = bytes(&[1, 4, 3, 1], &numbers[..12]);
    assert!(!padding.fits(0, Piece::of(&other).expect("it is a tensor"), &sizes));
    let cut = padding.cut(0, y, &Lengths::from_slice(&[2]), &sizes);
    assert_eq!(seen(&cut), (vec![1, 2, 2, 1], vec![0, 1, 4, 5]));
}

#[test]
fn what_would_not_fit_into_memory_is_not_filled_up() {
    let mut declared = declared(&[("x", 1, zero())], &[]);
    declared.sizes = vec![usize::MAX / 3];
    let padding = padding(&[declared]).expect("it is fine");
    let sizes = padding.sizes(&[Lengths::from_slice(&[2]), Lengths::from_slice(&[3])]);
    let x = bytes(&[1, 2, 4], &[0; 8]);
    let piece = Piece::of(&x).expect("it is a tensor");
    assert_eq!(padding.bytes(0, piece, &Sizes::from_slice(&[None])), Some(8));
    assert_eq!(padding.bytes(0, piece, &sizes), None);
    assert!(padding.fill(0, piece, &sizes).is_none());
}

#[test]
fn strings_are_filled_up_with_a_string() {
    let padding = padding(&[declared(&[("words", 1, Filling::Text("-".into()))], &[])]).expect("it is fine");
    let mut strings = Strings::with_shape([2, 2].as_slice().into());
    for text in ["a", "b", "c", "d"] {
        strings.push(text.as_bytes());
    }
    let words = Value::Strings(strings);
    let sizes = Sizes::from_slice(&[Some(4)]);
    let Some(Value::Strings(filled)) = padding.fill(2, Piece::of(&words).expect("it is a tensor"), &sizes) else {
        panic!("it is filled up")
    };
    let seen: Vec<&[u8]> = filled.iter().collect();
    assert_eq!(seen.concat(), b"ab--cd--");
    assert_eq!(filled.shape.as_slice(), [2, 4]);
}

#[test]
fn what_is_of_another_type_than_declared_is_left_alone() {
    let padding = padding(&[declared(&[("mask", 1, zero())], &[])]).expect("it is fine");
    let mask = bytes(&[1, 2], &[1, 2]);
    let sizes = Sizes::from_slice(&[Some(4)]);
    assert!(
        padding
            .fill(1, Piece::of(&mask).expect("it is a tensor"), &sizes)
            .is_none()
    );
}
