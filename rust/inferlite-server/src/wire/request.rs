//! Requests of the Open Inference Protocol.

use std::borrow::Cow;
use std::time::Duration;

use inferlite_core::Value;
use inferlite_core::runtime::{OwnedFeeds, Signature};
use inferlite_core::tensor::Shape;
use smallvec::SmallVec;

use super::refusal::MISSHAPEN;
use super::target::{Context, Target, listed};
use super::{Refusal, binary};
use crate::json::grid::Grid;
use crate::json::{Kind, Reader};

/// The outputs that a request asks for, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Indices into [`Signature::outputs`], as [`Call::fetches`](inferlite_core::Call::fetches) takes them.
    pub fetches: SmallVec<[usize; 4]>,
    /// Whether each goes out as bytes behind the JSON.
    pub is_binary: SmallVec<[bool; 4]>,
}

/// One request.
#[derive(Debug, Default)]
pub struct InferRequest {
    /// What the client calls it; the reply repeats it.
    pub id: Option<String>,
    /// The inputs, in memory of their own.
    pub inputs: OwnedFeeds,
    /// The outputs asked for: all of them where the request names none.
    pub wanted: Wanted,
    /// What [`Terms`](inferlite_core::batch::Terms) want: higher ones leave first.
    ///
    /// The protocol counts the other way: 1 is the most urgent. Requests that do not say count as its level 100.
    pub priority: i32,
    /// How long the client waits; `None` where it does not say, or says 0.
    pub timeout: Option<Duration>,
}

/// The protocol's level of a request that names none.
const DEFAULT_LEVEL: i32 = 100;

/// Reads the body of a request to `model`, which takes and gives what `signature` says.
///
/// `json_len` is the header `Inference-Header-Content-Length`: so many bytes are JSON, and the tensors' bytes follow. Without
/// it everything is JSON; where it is 0, the body is the only input's bytes.
pub fn read(body: &[u8], json_len: Option<usize>, signature: &Signature, model: &str) -> Result<InferRequest, Refusal> {
    let len = json_len.unwrap_or(body.len());
    let Some((json, tail)) = body.split_at_checked(len) else {
        return Err(Refusal::bad_request(format!(
            "inference header size should be in range (0, {}), got: {len}",
            body.len()
        )));
    };
    let context = Context {
        signature,
        model,
        named_in: Some(json),
    };
    let mut request = InferRequest::default();
    if json_len == Some(0) {
        read_raw(&context, body, &mut request)?;
    } else {
        read_json(&context, json, tail, &mut request)?;
    }
    Ok(request)
}

/// Which members of an object have been there.
#[derive(Default)]
struct Seen(u8);

impl Seen {
    /// Takes note of a member; a refusal if it is there twice.
    fn once(&mut self, member: u8, name: &str) -> Result<(), Refusal> {
        if self.0 & 1 << member != 0 {
            return Err(Refusal::bad_request(format!(
                "Unable to parse '{name}': the object has two members of this name"
            )));
        }
        self.0 |= 1 << member;
        Ok(())
    }
}

fn read_raw(context: &Context<'_>, body: &[u8], request: &mut InferRequest) -> Result<(), Refusal> {
    let Some(target) = context.sole_input() else {
        return Err(context.refuse(&format!(
            "raw input is for models that require one input, but model '{}' requires another number",
            context.model
        )));
    };
    let target = target?;
    if target.datatype == "BYTES" {
        return Err(context.refuse(&format!(
            "raw input '{}' for model '{}' cannot be BYTES, whose number cannot be deduced",
            target.name, context.model
        )));
    }
    let shape = context.deduced_shape(&target, body.len() * 8 / target.dtype.bits().max(1))?;
    let count = context.check_shape(&target, &shape)?;
    binary::feed(context, &target, shape, count, body, &mut request.inputs)?;
    context.check_all_fed(&request.inputs)?;
    context.settle_wanted(&mut request.wanted.fetches)?;
    request.wanted.is_binary = request.wanted.fetches.iter().map(|_| true).collect();
    Ok(())
}

fn read_json(context: &Context<'_>, json: &[u8], mut tail: &[u8], request: &mut InferRequest) -> Result<(), Refusal> {
    let mut reader = Reader::new(json)?;
    let mut seen = Seen::default();
    let mut is_binary_by_default = false;
    let mut is_binary: SmallVec<[Option<bool>; 4]> = SmallVec::new();
    let mut has_inputs = false;
    let mut members = reader.object()?;
    while let Some(member) = members.next(&mut reader)? {
        match &*member {
            "id" => {
                seen.once(0, "id")?;
                if !reader.null()? {
                    let id = reader.string().map_err(|fault| Refusal::parsing("id", fault))?;
                    request.id = (!id.is_empty()).then(|| id.into_owned());
                }
            }
            "parameters" => {
                seen.once(1, "parameters")?;
                is_binary_by_default = read_parameters(&mut reader, request)?;
            }
            "inputs" => {
                seen.once(2, "inputs")?;
                has_inputs = true;
                let mut inputs = reader.array().map_err(|fault| Refusal::parsing("inputs", fault))?;
                while inputs.next(&mut reader)? {
                    read_input(context, &mut reader, &mut tail, &mut request.inputs)?;
                }
            }
            "outputs" => {
                seen.once(3, "outputs")?;
                if !reader.null()? {
                    let mut outputs = reader.array().map_err(|fault| Refusal::parsing("outputs", fault))?;
                    while outputs.next(&mut reader)? {
                        is_binary.push(read_output(context, &mut reader, &mut request.wanted.fetches)?);
                    }
                }
            }
            _ => reader.skip_value()?,
        }
    }
    reader.end()?;
    if !has_inputs {
        return Err(Refusal::missing("inputs"));
    }
    if !tail.is_empty() {
        return Err(Refusal::bad_request(format!(
            "unexpected additional input data for model '{}'",
            context.model
        )));
    }
    context.check_all_fed(&request.inputs)?;
    context.settle_wanted(&mut request.wanted.fetches)?;
    let asked = is_binary.into_iter().chain(std::iter::repeat(None));
    let asked = asked.map(|is_binary| is_binary.unwrap_or(is_binary_by_default));
    request.wanted.is_binary = request
        .wanted
        .fetches
        .iter()
        .zip(asked)
        .map(|(_, is_binary)| is_binary)
        .collect();
    Ok(())
}

/// Reads the parameters of a request; gives whether its outputs go out as bytes unless they say otherwise.
fn read_parameters(reader: &mut Reader<'_>, request: &mut InferRequest) -> Result<bool, Refusal> {
    let mut is_binary = false;
    if reader.null()? {
        return Ok(is_binary);
    }
    let mut seen = Seen::default();
    let mut members = reader.object().map_err(|fault| Refusal::parsing("parameters", fault))?;
    while let Some(member) = members.next(reader)? {
        let refuse = |fault| Refusal::parsing(&member, fault);
        match &*member {
            "priority" => {
                seen.once(0, &member)?;
                let level: u64 = reader.number().map_err(refuse)?;
                let level = i32::try_from(level).unwrap_or(i32::MAX);
                request.priority = if level == 0 { 0 } else { DEFAULT_LEVEL - level };
            }
            "timeout" => {
                seen.once(1, &member)?;
                let microseconds = reader.number().map_err(refuse)?;
                request.timeout = (microseconds > 0).then(|| Duration::from_micros(microseconds));
            }
            "binary_data_output" => {
                seen.once(2, &member)?;
                is_binary = reader.boolean().map_err(refuse)?;
            }
            _ => reader.skip_value()?,
        }
    }
    Ok(is_binary)
}

/// What an object says of an input before it is known which one it is.
#[derive(Default)]
struct Fields<'a> {
    name: Option<Cow<'a, str>>,
    datatype: Option<Cow<'a, str>>,
    shape: Option<Shape>,
    data: Option<Data<'a>>,
    binary_len: Option<usize>,
}

/// The elements of an input.
enum Data<'a> {
    /// They have not been read, since it was not known yet what they are.
    At(Reader<'a>),
    /// They have been read.
    Read(usize, Value),
}

fn read_input<'a>(
    context: &Context<'a>,
    reader: &mut Reader<'a>,
    tail: &mut &[u8],
    inputs: &mut OwnedFeeds,
) -> Result<(), Refusal> {
    let mut fields = Fields::default();
    let mut seen = Seen::default();
    let mut members = reader.object().map_err(|fault| Refusal::parsing("inputs", fault))?;
    while let Some(member) = members.next(reader)? {
        let refuse = |fault| Refusal::parsing(&member, fault);
        match &*member {
            "name" => {
                seen.once(0, &member)?;
                fields.name = Some(reader.string().map_err(refuse)?);
            }
            "datatype" => {
                seen.once(1, &member)?;
                fields.datatype = Some(reader.string().map_err(refuse)?);
            }
            "shape" => {
                seen.once(2, &member)?;
                let mut shape = Shape::new();
                let mut extents = reader.array().map_err(refuse)?;
                while extents.next(reader)? {
                    let extent: u64 = reader.number().map_err(refuse)?;
                    shape.push(i64::try_from(extent).unwrap_or(i64::MAX));
                }
                fields.shape = Some(shape);
            }
            "parameters" => {
                seen.once(3, &member)?;
                read_input_parameters(reader, &mut fields)?;
            }
            "data" => {
                seen.once(4, &member)?;
                if reader.null()? {
                    continue;
                }
                fields.data = Some(if let Some((target, shape, count)) = fields.target(context, inputs)? {
                    Data::Read(target.index, read_elements(reader, &target, shape, count)?)
                } else {
                    // What is wrong inside is found when the elements are read, without which no request is accepted.
                    let start = reader.clone();
                    reader.hop()?;
                    Data::At(start)
                });
            }
            _ => reader.skip_value()?,
        }
    }
    fields.check_one_content()?;
    if let Some(Data::Read(index, value)) = fields.data {
        inputs.push_value(index, value);
        return Ok(());
    }
    let Some((target, shape, count)) = fields.target(context, inputs)? else {
        let members = [
            ("name", fields.name.is_some()),
            ("datatype", fields.datatype.is_some()),
            ("shape", fields.shape.is_some()),
        ];
        let missing = members.iter().find(|(_, is_there)| !is_there);
        return Err(Refusal::missing(missing.map_or("inputs", |(member, _)| member)));
    };
    if let Some(Data::At(mut start)) = fields.data {
        let value = read_elements(&mut start, &target, shape, count)?;
        inputs.push_value(target.index, value);
        return Ok(());
    }
    let wanted = fields.binary_len.unwrap_or(0);
    let Some((bytes, rest)) = tail.split_at_checked(wanted) else {
        return Err(Refusal::bad_request(format!(
            "unexpected size for input '{}', expecting {} additional bytes for model '{}'",
            target.name,
            wanted - tail.len(),
            context.model
        )));
    };
    *tail = rest;
    binary::feed(context, &target, shape, count, bytes, inputs)
}

impl Fields<'_> {
    /// Which input this is, with the shape and the number of its elements; `None` where something is still missing.
    fn target<'s>(
        &mut self,
        context: &Context<'s>,
        inputs: &OwnedFeeds,
    ) -> Result<Option<(Target<'s>, Shape, usize)>, Refusal> {
        let (Some(name), Some(datatype), Some(shape)) = (&self.name, &self.datatype, &self.shape) else {
            return Ok(None);
        };
        let target = context.input(name)?;
        context.check_not_fed(&target, inputs)?;
        if *datatype != target.datatype {
            return Err(context.refuse(&format!(
                "inference input '{name}' data-type is '{datatype}', but model '{}' expects '{}'",
                context.model, target.datatype
            )));
        }
        let count = context.check_shape(&target, shape)?;
        Ok(Some((target, shape.clone(), count)))
    }

    /// Makes sure that the elements are given once.
    fn check_one_content(&self) -> Result<(), Refusal> {
        let but = match (&self.data, self.binary_len) {
            (Some(_), None) | (None, Some(_)) => return Ok(()),
            (None, None) => "no field is set",
            (Some(_), Some(_)) => "set 'data' 'binary_data_size'",
        };
        Err(Refusal::bad_request(format!(
            "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters'. But {but}"
        )))
    }
}

fn read_input_parameters(reader: &mut Reader<'_>, fields: &mut Fields<'_>) -> Result<(), Refusal> {
    if reader.null()? {
        return Ok(());
    }
    let mut seen = Seen::default();
    let mut members = reader.object().map_err(|fault| Refusal::parsing("parameters", fault))?;
    while let Some(member) = members.next(reader)? {
        match &*member {
            "binary_data_size" => {
                seen.once(0, &member)?;
                let len: u64 = reader.number().map_err(|fault| Refusal::parsing(&member, fault))?;
                fields.binary_len = Some(usize::try_from(len).unwrap_or(usize::MAX));
            }
            "shared_memory_region" => return Err(no_shared_memory("input", fields.name.as_deref())),
            _ => reader.skip_value()?,
        }
    }
    Ok(())
}

#[cold]
fn no_shared_memory(what: &str, name: Option<&str>) -> Refusal {
    let name = name.map(|name| format!(" '{name}'")).unwrap_or_default();
    Refusal::bad_request(format!(
        "'shared_memory_region' of {what}{name} is not supported: send the bytes with the request"
    ))
}

fn read_elements(reader: &mut Reader<'_>, target: &Target<'_>, shape: Shape, count: usize) -> Result<Value, Refusal> {
    if reader.kind()? != Kind::Array {
        reader.array().map_err(|fault| Refusal::parsing("data", fault))?;
    }
    let mut grid = Grid::new(target.dtype, count, count, reader.left());
    if let Err(fault) = grid.read(reader, 0) {
        return Err(Context::refuse_elements("data", fault, reader, target, &grid));
    }
    let (given, text) = (grid.len(), listed_if(grid.len() != count, &shape));
    grid.into_value(shape).ok_or_else(|| {
        Refusal::bad_request(format!(
            "Unable to parse 'data': {MISSHAPEN}: input '{}' has {given} elements, but its shape {text} wants {count}",
            target.name
        ))
    })
}

/// The shape as text, where a message needs it.
fn listed_if(is_needed: bool, shape: &Shape) -> String {
    if is_needed {
        listed(shape.iter().copied())
    } else {
        String::new()
    }
}

/// Reads what a request says of an output; gives whether it asks for its bytes, if it says so.
fn read_output(
    context: &Context<'_>,
    reader: &mut Reader<'_>,
    fetches: &mut SmallVec<[usize; 4]>,
) -> Result<Option<bool>, Refusal> {
    let mut name = None;
    let mut is_binary = None;
    let mut seen = Seen::default();
    let mut members = reader.object().map_err(|fault| Refusal::parsing("outputs", fault))?;
    while let Some(member) = members.next(reader)? {
        match &*member {
            "name" => {
                seen.once(0, &member)?;
                name = Some(reader.string().map_err(|fault| Refusal::parsing("name", fault))?);
            }
            "parameters" => {
                seen.once(1, &member)?;
                is_binary = read_output_parameters(reader, name.as_deref())?;
            }
            _ => reader.skip_value()?,
        }
    }
    context.want(&name.ok_or_else(|| Refusal::missing("name"))?, fetches)?;
    Ok(is_binary)
}

fn read_output_parameters(reader: &mut Reader<'_>, name: Option<&str>) -> Result<Option<bool>, Refusal> {
    let mut is_binary = None;
    if reader.null()? {
        return Ok(is_binary);
    }
    let mut seen = Seen::default();
    let mut members = reader.object().map_err(|fault| Refusal::parsing("parameters", fault))?;
    while let Some(member) = members.next(reader)? {
        let refuse = |fault| Refusal::parsing(&member, fault);
        match &*member {
            "binary_data" => {
                seen.once(0, &member)?;
                is_binary = Some(reader.boolean().map_err(refuse)?);
            }
            "classification" => {
                seen.once(1, &member)?;
                if reader.number::<u64>().map_err(refuse)? > 0 {
                    let name = name.map(|name| format!(" '{name}'")).unwrap_or_default();
                    return Err(Refusal::bad_request(format!(
                        "'classification' of output{name} is not supported: ask for its numbers"
                    )));
                }
            }
            "shared_memory_region" => return Err(no_shared_memory("output", name)),
            _ => reader.skip_value()?,
        }
    }
    Ok(is_binary)
}

#[cfg(test)]
mod tests;
