//! What a request names, held against what the model takes and gives.

use std::borrow::Cow;
use std::fmt::Write;

use inferlite_core::Dtype;
use inferlite_core::runtime::{Argument, Dim, OwnedFeeds, Signature, ValueType};
use inferlite_core::tensor::{Shape, element_count};
use smallvec::SmallVec;

use super::refusal::MISSHAPEN;
use super::{Refusal, datatype};
use crate::json::grid::Grid;
use crate::json::{Fault, Reader};

/// An input that is a tensor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'s> {
    pub(super) index: usize,
    pub(super) name: &'s str,
    pub(super) dtype: Dtype,
    /// The protocol's name of the type.
    pub(super) datatype: &'static str,
    shape: Option<&'s [Dim]>,
}

/// Whom a request is for, and what its messages begin with.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) signature: &'a Signature,
    pub(super) model: &'a str,
    /// Where messages name the request: the JSON that may have its id.
    pub(super) named_in: Option<&'a [u8]>,
}

/// Element type and axes of an argument that is a tensor, or an optional one, of a type that the protocol names.
pub(super) fn tensor_of(argument: &Argument) -> Option<(Dtype, &'static str, Option<&[Dim]>)> {
    let mut value_type = &argument.value_type;
    if let ValueType::Optional(inner) = value_type {
        value_type = inner;
    }
    match value_type {
        ValueType::Tensor { dtype, shape } => Some((*dtype, datatype::name(*dtype)?, shape.as_deref())),
        _ => None,
    }
}

/// Axes as the protocol writes them: -1 where any extent is allowed.
pub(super) fn dims(shape: &[Dim]) -> impl Iterator<Item = i64> + '_ {
    shape.iter().map(|dim| match dim {
        Dim::Fixed(extent) => *extent,
        Dim::Symbol(_) | Dim::Unknown => -1,
    })
}

/// `[1,5]`.
pub(super) fn listed(shape: impl IntoIterator<Item = i64>) -> String {
    let mut text = String::from("[");
    for extent in shape {
        let _ = write!(text, "{extent},");
    }
    if text.len() > 1 {
        text.pop();
    }
    text.push(']');
    text
}

fn quoted<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("'{name}'")).collect();
    names.join(",")
}

impl<'a> Context<'a> {
    /// A refusal whose text names the request, where requests have names.
    #[cold]
    pub(super) fn refuse(&self, text: &str) -> Refusal {
        let id = self.named_in.map(|json| id_in(json).unwrap_or("<id_unknown>".into()));
        Refusal::bad_request(match id {
            Some(id) => format!("[request id: {id}] {text}"),
            None => text.to_owned(),
        })
    }

    /// The input of this name.
    pub(super) fn input(&self, name: &str) -> Result<Target<'a>, Refusal> {
        let Self { signature, model, .. } = self;
        match signature.input(name) {
            Some(index) => self.input_at(index),
            None => Err(Refusal::bad_request(format!(
                "unexpected inference input '{name}' for model '{model}'"
            ))),
        }
    }

    fn input_at(&self, index: usize) -> Result<Target<'a>, Refusal> {
        let argument = self.signature.inputs.get(index);
        let tensor = argument.and_then(|argument| Some((argument, tensor_of(argument)?)));
        let Some((argument, (dtype, datatype, shape))) = tensor else {
            let (name, declared) = argument
                .map(|input| (input.name.as_str(), input.declared_type()))
                .unzip();
            let (name, declared) = (name.unwrap_or_default(), declared.unwrap_or_default());
            return Err(self.refuse(&format!(
                "input '{name}' for model '{}' is {declared}, which the protocol has no datatype for",
                self.model
            )));
        };
        Ok(Target {
            index,
            name: &argument.name,
            dtype,
            datatype,
            shape,
        })
    }

    /// The input that a request means without naming it: the only one, or the only one that may not be left out.
    pub(super) fn sole_input(&self) -> Option<Result<Target<'a>, Refusal>> {
        let inputs = self.signature.inputs.get(..self.signature.required).unwrap_or_default();
        let mut required = inputs.iter().enumerate().filter(|(_, input)| !input.is_optional());
        let index = match (required.next(), required.next()) {
            (Some((index, _)), None) => index,
            (None, _) if inputs.len() == 1 => 0,
            _ => return None,
        };
        Some(self.input_at(index))
    }

    /// Makes sure that a shape is one that the model declares for the input; gives the number of its elements.
    pub(super) fn check_shape(&self, target: &Target<'_>, shape: &[i64]) -> Result<usize, Refusal> {
        let Target { name, .. } = target;
        if let Some(declared) = target.shape {
            let fits = declared.len() == shape.len()
                && dims(declared)
                    .zip(shape)
                    .all(|(wanted, given)| wanted < 0 || wanted == *given);
            if !fits {
                return Err(self.refuse(&format!(
                    "unexpected shape for input '{name}' for model '{}'. Expected {}, got {}",
                    self.model,
                    listed(dims(declared)),
                    listed(shape.iter().copied())
                )));
            }
        }
        let count = element_count(shape).ok();
        let count = count.filter(|&count| {
            target
                .dtype
                .byte_len(count)
                .is_some_and(|bytes| isize::try_from(bytes).is_ok())
        });
        count.ok_or_else(|| {
            self.refuse(&format!(
                "unexpected shape for input '{name}' for model '{}': {} has more elements than there can be",
                self.model,
                listed(shape.iter().copied())
            ))
        })
    }

    /// The elements that a model declares for an input, with one row and step where it declares none.
    pub(super) fn least_elements(target: &Target<'_>) -> usize {
        let dims = dims(target.shape.unwrap_or_default());
        dims.fold(1, |count, extent| {
            count.saturating_mul(usize::try_from(extent).unwrap_or(1))
        })
    }

    /// The shape of so many elements, for a client that sends none: the one axis without a declared extent takes what is
    /// there, and where there are several, the first counts as one row.
    pub(super) fn deduced_shape(&self, target: &Target<'_>, elements: usize) -> Result<Shape, Refusal> {
        let Target { name, .. } = target;
        let cannot = |why: &str| {
            self.refuse(&format!(
                "the shape of the raw input '{name}' for model '{}' cannot be deduced: {why}",
                self.model
            ))
        };
        let declared = target.shape.ok_or_else(|| cannot("the model declares none"))?;
        let mut shape: Shape = dims(declared).collect();
        let mut open: SmallVec<[usize; 4]> = SmallVec::new();
        open.extend(
            shape
                .iter()
                .enumerate()
                .filter(|(_, extent)| **extent < 0)
                .map(|(axis, _)| axis),
        );
        if open.len() > 1 && open.first() == Some(&0) {
            open.remove(0);
            if let Some(rows) = shape.first_mut() {
                *rows = 1;
            }
        }
        if open.len() > 1 {
            return Err(cannot("more than one axis is variable-sized"));
        }
        if let Some(&axis) = open.first() {
            let step = Self::least_elements(target);
            let extent = elements.checked_div(step).unwrap_or(0);
            if let Some(open) = shape.get_mut(axis) {
                *open = i64::try_from(extent).unwrap_or(i64::MAX);
            }
        }
        Ok(shape)
    }

    /// Makes sure that every input is fed that may not be left out.
    pub(super) fn check_all_fed(&self, inputs: &OwnedFeeds) -> Result<(), Refusal> {
        let feeds = inputs.feeds();
        let declared = self.signature.inputs.get(..self.signature.required).unwrap_or_default();
        let is_fed = |index: usize| feeds.iter().any(|feed| feed.index == index);
        let missing = |(index, input): &(usize, &Argument)| !input.is_optional() && !is_fed(*index);
        if !declared.iter().enumerate().any(|input| missing(&input)) {
            return Ok(());
        }
        let required = declared.iter().filter(|input| !input.is_optional()).count();
        let wanted = if required == declared.len() {
            format!("expected {required} inputs")
        } else {
            format!("expected number of inputs between {required} and {}", declared.len())
        };
        let given = feeds.iter().filter_map(|feed| self.signature.inputs.get(feed.index));
        let lacking = declared.iter().enumerate().filter(missing);
        Err(self.refuse(&format!(
            "{wanted} but got {} inputs for model '{}'. Got input(s) [{}], but missing required input(s) [{}]. Please \
             provide all required input(s).",
            feeds.len(),
            self.model,
            quoted(given.map(|input| input.name.as_str())),
            quoted(lacking.map(|(_, input)| input.name.as_str()))
        )))
    }

    /// Makes sure that an input is not fed yet.
    pub(super) fn check_not_fed(&self, target: &Target<'_>, inputs: &OwnedFeeds) -> Result<(), Refusal> {
        if inputs.feeds().iter().any(|feed| feed.index == target.index) {
            let (name, model) = (target.name, self.model);
            return Err(self.refuse(&format!("input '{name}' for model '{model}' is given twice")));
        }
        Ok(())
    }

    /// Adds the output of this name to those asked for.
    pub(super) fn want(&self, name: &str, fetches: &mut SmallVec<[usize; 4]>) -> Result<(), Refusal> {
        let model = self.model;
        let Some(index) = self.signature.output(name) else {
            return Err(Refusal::bad_request(format!(
                "unexpected inference output '{name}' for model '{model}'"
            )));
        };
        if fetches.contains(&index) {
            return Err(self.refuse(&format!("output '{name}' for model '{model}' is asked for twice")));
        }
        fetches.push(index);
        Ok(())
    }

    /// Asks for all outputs where none was named, and makes sure that each can be written.
    pub(super) fn settle_wanted(&self, fetches: &mut SmallVec<[usize; 4]>) -> Result<(), Refusal> {
        let outputs = &self.signature.outputs;
        if fetches.is_empty() {
            fetches.extend(0..outputs.len());
        }
        for output in fetches.iter().filter_map(|&index| outputs.get(index)) {
            if tensor_of(output).is_none() {
                return Err(self.refuse(&format!(
                    "output '{}' for model '{}' is {}, which the protocol has no datatype for: ask for other outputs",
                    output.name,
                    self.model,
                    output.declared_type()
                )));
            }
        }
        Ok(())
    }

    /// What is wrong with the elements of an input, which `member` has.
    #[cold]
    pub(super) fn refuse_elements(
        member: &str,
        fault: Fault,
        reader: &Reader<'_>,
        target: &Target<'_>,
        grid: &Grid,
    ) -> Refusal {
        let Target { name, datatype, .. } = target;
        let element = grid.len();
        let text: Cow<'_, str> = match fault {
            Fault::Malformed { .. } => return fault.into(),
            Fault::Mistyped { what, at } => {
                format!("{what}: element {element} of input '{name}' is {}", reader.excerpt(at)).into()
            }
            Fault::OutOfRange { at } => format!(
                "element {element} of input '{name}' is {}, which {datatype} cannot hold",
                reader.excerpt(at)
            )
            .into(),
            Fault::Ragged => format!("{MISSHAPEN}: the arrays of input '{name}' differ in length or depth").into(),
            Fault::TooMany => format!("{MISSHAPEN}: input '{name}' has more than {element} elements").into(),
        };
        Refusal::bad_request(format!("Unable to parse '{member}': {text}"))
    }
}

/// The `id` of a request.
fn id_in(json: &[u8]) -> Option<String> {
    let mut reader = Reader::new(json).ok()?;
    let mut members = reader.object().ok()?;
    while let Some(member) = members.next(&mut reader).ok()? {
        if member == "id" {
            return reader.string().ok().map(Cow::into_owned);
        }
        reader.skip_value().ok()?;
    }
    None
}
