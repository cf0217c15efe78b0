//! What a model takes and gives.

use std::ffi::CString;
use std::fmt;
use std::sync::Arc;

use crate::graph::ZipMap;
use crate::tensor::Dtype;

/// The extent of an axis as a model declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    /// A number.
    Fixed(i64),
    /// A name; equal names mean equal extents.
    Symbol(String),
    /// Anything.
    Unknown,
}

/// The type of an input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueType {
    /// A tensor; without a shape nothing is known about its axes.
    Tensor {
        /// The element type.
        dtype: Dtype,
        /// The declared axes.
        shape: Option<Vec<Dim>>,
    },
    /// A sparse tensor.
    SparseTensor {
        /// The element type.
        dtype: Dtype,
        /// The declared axes.
        shape: Option<Vec<Dim>>,
    },
    /// A sequence of this type.
    Sequence(Box<ValueType>),
    /// A map from keys of one type to values of another.
    Map(Dtype, Box<ValueType>),
    /// An optional of this type.
    Optional(Box<ValueType>),
    /// A type that only the runtime knows.
    Opaque,
}

/// Displays as onnxruntime writes types: `tensor(float)`, `seq(map(string,tensor(float)))`.
impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tensor { dtype, .. } => write!(f, "tensor({})", dtype.onnx_name()),
            Self::SparseTensor { dtype, .. } => write!(f, "sparse_tensor({})", dtype.onnx_name()),
            Self::Sequence(element) => write!(f, "seq({element})"),
            Self::Map(key, value) => write!(f, "map({},{value})", key.onnx_name()),
            Self::Optional(inner) => write!(f, "optional({inner})"),
            Self::Opaque => f.write_str("opaque"),
        }
    }
}

/// One input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// The name.
    pub name: String,
    /// The name as the runtime's C interface wants it.
    pub c_name: CString,
    /// The type.
    pub value_type: ValueType,
    /// Whether axis 0 is there and may have any extent.
    pub has_dynamic_rows: bool,
    /// Set for an output of dictionaries, one for each row; where it is a tensor as well, of their numbers.
    pub zipped: Option<Arc<ZipMap>>,
}

impl Argument {
    /// An argument of this name and type; `None` if the name holds a NUL.
    #[must_use]
    pub fn new(name: String, value_type: ValueType) -> Option<Self> {
        let c_name = CString::new(name.as_str()).ok()?;
        let has_dynamic_rows = match &value_type {
            ValueType::Tensor { shape: Some(shape), .. } => {
                matches!(shape.first(), Some(Dim::Symbol(_) | Dim::Unknown))
            }
            _ => false,
        };
        Some(Self {
            name,
            c_name,
            value_type,
            has_dynamic_rows,
            zipped: None,
        })
    }

    /// The type that the model declares, as onnxruntime writes it.
    #[must_use]
    pub fn declared_type(&self) -> String {
        match &self.zipped {
            Some(map) if self.dtype().is_some() => format!("seq(map({},tensor(float)))", map.key_type().onnx_name()),
            _ => self.value_type.to_string(),
        }
    }

    /// The axes, if this is a tensor whose shape is declared.
    #[must_use]
    pub fn shape(&self) -> Option<&[Dim]> {
        match &self.value_type {
            ValueType::Tensor { shape, .. } | ValueType::SparseTensor { shape, .. } => shape.as_deref(),
            _ => None,
        }
    }

    /// The element type, if this is a dense tensor.
    #[must_use]
    pub fn dtype(&self) -> Option<Dtype> {
        match self.value_type {
            ValueType::Tensor { dtype, .. } => Some(dtype),
            _ => None,
        }
    }

    /// Whether a call may leave this input out.
    #[must_use]
    pub fn is_optional(&self) -> bool {
        matches!(self.value_type, ValueType::Optional(_))
    }
}

/// What a model takes and gives, in its own order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signature {
    /// The inputs, and behind them the initializers that a call may override.
    pub inputs: Vec<Argument>,
    /// How many of `inputs` are inputs proper.
    pub required: usize,
    /// The outputs.
    pub outputs: Vec<Argument>,
}

impl Signature {
    /// The inputs that a call must feed, unless they are optional.
    #[must_use]
    pub fn proper_inputs(&self) -> &[Argument] {
        &self.inputs[..self.required]
    }

    /// The initializers that a call may override.
    #[must_use]
    pub fn overridable_initializers(&self) -> &[Argument] {
        &self.inputs[self.required..]
    }

    /// Whether the output of this name is an input handed through, or an initializer that a call may override.
    ///
    /// The runtime answers with the input's own value then, and leaves memory that was made ready for it as it is.
    #[must_use]
    pub fn is_handed_through(&self, output: &Argument) -> bool {
        self.input(&output.name).is_some()
    }

    /// Whether memory for outputs may be made ready before a run: all values are tensors, and none is handed through.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        let is_tensor = |argument: &Argument| matches!(argument.value_type, ValueType::Tensor { .. });
        self.inputs.iter().chain(&self.outputs).all(is_tensor)
            && !self.outputs.iter().any(|output| self.is_handed_through(output))
    }

    /// The index of the input of this name.
    #[must_use]
    pub fn input(&self, name: &str) -> Option<usize> {
        self.inputs.iter().position(|argument| argument.name == name)
    }

    /// The index of the output of this name.
    #[must_use]
    pub fn output(&self, name: &str) -> Option<usize> {
        self.outputs.iter().position(|argument| argument.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_written_as_onnxruntime_writes_them() {
        let float = || {
            Box::new(ValueType::Tensor {
                dtype: Dtype::Float32,
                shape: None,
            })
        };
        let map = ValueType::Map(Dtype::String, float());
        assert_eq!(
            ValueType::Sequence(Box::new(map)).to_string(),
            "seq(map(string,tensor(float)))"
        );
        assert_eq!(
            ValueType::Optional(Box::new(ValueType::Sequence(float()))).to_string(),
            "optional(seq(tensor(float)))"
        );
    }

    #[test]
    fn outputs_that_are_inputs_and_values_that_are_no_tensors_are_not_reusable() {
        let tensor = || ValueType::Tensor {
            dtype: Dtype::Float32,
            shape: None,
        };
        let signature = |output: &str, value_type| Signature {
            inputs: Argument::new("x".into(), tensor()).into_iter().collect(),
            required: 1,
            outputs: Argument::new(output.into(), value_type).into_iter().collect(),
        };
        assert!(signature("y", tensor()).is_reusable());
        assert!(!signature("x", tensor()).is_reusable());
        assert!(!signature("y", ValueType::Optional(Box::new(tensor()))).is_reusable());
    }

    #[test]
    fn rows_are_dynamic_where_axis_0_has_no_number() {
        let argument = |shape| {
            Argument::new(
                "x".into(),
                ValueType::Tensor {
                    dtype: Dtype::Float32,
                    shape,
                },
            )
        };
        let dynamic = |shape| argument(shape).is_some_and(|argument| argument.has_dynamic_rows);
        assert!(dynamic(Some(vec![Dim::Unknown, Dim::Fixed(3)])));
        assert!(!dynamic(Some(vec![Dim::Fixed(1)])));
        assert!(!dynamic(Some(vec![])));
        assert!(!dynamic(None));
    }
}
