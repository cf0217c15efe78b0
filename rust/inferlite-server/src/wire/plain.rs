//! Requests and replies for clients that have nothing but JSON: `POST /predict`, and `:predict` of TensorFlow Serving.

use std::borrow::Cow;
use std::time::Duration;

use inferlite_core::Answer;
use inferlite_core::runtime::{OwnedFeeds, Signature};
use smallvec::SmallVec;

use super::Refusal;
use super::response::{not_text, output};
use super::target::{Context, Target, listed};
use crate::json::grid::Grid;
use crate::json::writer::{self, Cells, NotText};
use crate::json::{Fault, Kind, Reader};

/// Which model a request is for, and where the rest of it stands.
#[derive(Debug, Clone)]
pub struct Head<'b> {
    /// The model's name, which may be left out.
    pub model: Option<Cow<'b, str>>,
    /// A version or label, which may be left out; a number is written as text.
    pub version: Option<Cow<'b, str>>,
    body: Reader<'b>,
    inputs: Option<usize>,
    outputs: Option<usize>,
    timeout: Option<usize>,
}

/// How the reply is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `{"outputs": rows}` where one output was asked for, else `{"outputs": {name: rows}}`.
    Columns,
    /// `{"predictions": [row, ...]}`, where each row is an object if several outputs were asked for.
    Rows,
}

/// One request.
#[derive(Debug)]
pub struct PlainRequest {
    /// The inputs, in memory of their own.
    pub inputs: OwnedFeeds,
    /// Indices into [`Signature::outputs`]: all of them where the request names none.
    pub fetches: SmallVec<[usize; 4]>,
    /// How long the client waits; `None` where it does not say.
    pub timeout: Option<Duration>,
    /// How the reply is laid out.
    pub form: Form,
}

impl PlainRequest {
    fn new(form: Form) -> Self {
        Self {
            inputs: OwnedFeeds::default(),
            fetches: SmallVec::new(),
            timeout: None,
            form,
        }
    }
}

/// Reads which model the body of `POST /predict` is for, and hops over the rest, whose mistakes [`read`] finds.
pub fn head(body: &[u8]) -> Result<Head<'_>, Refusal> {
    let mut reader = Reader::new(body)?;
    let mut head = Head {
        model: None,
        version: None,
        body: reader.clone(),
        inputs: None,
        outputs: None,
        timeout: None,
    };
    let mut members = reader.object()?;
    while let Some(member) = members.next(&mut reader)? {
        match &*member {
            "model" => set(&mut head.model, &mut reader, &member, Reader::string)?,
            "version" => set(&mut head.version, &mut reader, &member, text_or_number)?,
            "inputs" => set(&mut head.inputs, &mut reader, &member, hopped)?,
            "outputs" => set(&mut head.outputs, &mut reader, &member, hopped)?,
            "timeout" => set(&mut head.timeout, &mut reader, &member, hopped)?,
            _ => reader.skip_value()?,
        }
    }
    reader.end()?;
    Ok(head)
}

/// Reads a member, unless it is `null`; a refusal if it was there before.
fn set<'b, T>(
    place: &mut Option<T>,
    reader: &mut Reader<'b>,
    member: &str,
    read: impl FnOnce(&mut Reader<'b>) -> Result<T, Fault>,
) -> Result<(), Refusal> {
    if place.is_some() {
        return Err(Refusal::bad_request(format!(
            "Unable to parse '{member}': the object has two members of this name"
        )));
    }
    if !reader.null()? {
        *place = Some(read(reader).map_err(|fault| Refusal::parsing(member, fault))?);
    }
    Ok(())
}

fn text_or_number<'b>(reader: &mut Reader<'b>) -> Result<Cow<'b, str>, Fault> {
    match reader.kind()? {
        Kind::Number => reader.number().map(|number: u64| number.to_string().into()),
        _ => reader.string(),
    }
}

fn hopped(reader: &mut Reader<'_>) -> Result<usize, Fault> {
    let start = reader.position();
    reader.hop()?;
    Ok(start)
}

/// Reads the rest of the body of `POST /predict`, of which `head` is the beginning.
pub fn read(head: &Head<'_>, signature: &Signature, model: &str) -> Result<PlainRequest, Refusal> {
    let context = context(signature, model);
    let start = &head.body;
    let mut request = PlainRequest::new(Form::Columns);
    let inputs = head.inputs.ok_or_else(|| Refusal::missing("inputs"))?;
    read_columns(&context, &mut start.moved_to(inputs), &mut request.inputs)?;
    if let Some(outputs) = head.outputs {
        let refuse = |fault| Refusal::parsing("outputs", fault);
        let mut reader = start.moved_to(outputs);
        let mut names = reader.array().map_err(refuse)?;
        while names.next(&mut reader)? {
            context.want(&reader.string().map_err(refuse)?, &mut request.fetches)?;
        }
    }
    if let Some(timeout) = head.timeout {
        let seconds = start.moved_to(timeout).number();
        let seconds = seconds.map_err(|fault| Refusal::parsing("timeout", fault))?;
        let timeout = Duration::try_from_secs_f64(seconds);
        let timeout = timeout.map_err(|_| {
            Refusal::bad_request(format!(
                "Unable to parse 'timeout': {seconds:?} is no number of seconds to wait"
            ))
        })?;
        // As in the protocol.
        request.timeout = Some(timeout).filter(|timeout| !timeout.is_zero());
    }
    settle(&context, request)
}

/// Reads the body of TensorFlow Serving's `:predict`.
pub fn read_tensorflow(body: &[u8], signature: &Signature, model: &str) -> Result<PlainRequest, Refusal> {
    let context = context(signature, model);
    let mut reader = Reader::new(body)?;
    let (mut signature_name, mut rows, mut columns) = (None, None, None);
    let mut members = reader.object()?;
    while let Some(member) = members.next(&mut reader)? {
        match &*member {
            "signature_name" => set(&mut signature_name, &mut reader, &member, Reader::string)?,
            "instances" => set(&mut rows, &mut reader, &member, hopped)?,
            "inputs" => set(&mut columns, &mut reader, &member, hopped)?,
            _ => reader.skip_value()?,
        }
    }
    reader.end()?;
    let (form, start) = match (rows, columns) {
        (Some(start), None) => (Form::Rows, start),
        (None, Some(start)) => (Form::Columns, start),
        (None, None) => return Err(Refusal::missing("instances")),
        (Some(_), Some(_)) => {
            let text = "the request must set only one of the following fields: 'instances', 'inputs'";
            return Err(Refusal::bad_request(text));
        }
    };
    let mut request = PlainRequest::new(form);
    let mut reader = reader.moved_to(start);
    match form {
        Form::Columns => read_columns(&context, &mut reader, &mut request.inputs)?,
        Form::Rows => read_rows(&context, &mut reader, &mut request.inputs)?,
    }
    settle(&context, request)
}

fn context<'a>(signature: &'a Signature, model: &'a str) -> Context<'a> {
    Context {
        signature,
        model,
        named_in: None,
    }
}

fn settle(context: &Context<'_>, mut request: PlainRequest) -> Result<PlainRequest, Refusal> {
    context.check_all_fed(&request.inputs)?;
    context.settle_wanted(&mut request.fetches)?;
    Ok(request)
}

fn sole<'a>(context: &Context<'a>, member: &str) -> Result<Target<'a>, Refusal> {
    context.sole_input().unwrap_or_else(|| {
        let inputs = context.signature.inputs.iter().map(|input| format!("'{}'", input.name));
        let inputs: Vec<String> = inputs.collect();
        Err(Refusal::bad_request(format!(
            "Unable to parse '{member}': model '{}' has several inputs, whose names are wanted: [{}]",
            context.model,
            inputs.join(",")
        )))
    })
}

fn grid(reader: &Reader<'_>, target: &Target<'_>) -> Grid {
    Grid::new(target.dtype, usize::MAX, Context::least_elements(target), reader.left())
}

/// Feeds an input with what has been read for it.
fn feed(context: &Context<'_>, target: &Target<'_>, grid: Grid, inputs: &mut OwnedFeeds) -> Result<(), Refusal> {
    let shape = grid.shape();
    context.check_shape(target, &shape)?;
    let value = grid.into_value(shape.clone()).ok_or_else(|| {
        context.refuse(&format!(
            "input '{}' has another number of elements than its shape {}",
            target.name,
            listed(shape.iter().copied())
        ))
    })?;
    inputs.push_value(target.index, value);
    Ok(())
}

/// Reads rows of the only input, or an object of rows by the names of inputs.
fn read_columns(context: &Context<'_>, reader: &mut Reader<'_>, inputs: &mut OwnedFeeds) -> Result<(), Refusal> {
    let mut read = |reader: &mut Reader<'_>, target: &Target<'_>| {
        let mut grid = grid(reader, target);
        if let Err(fault) = grid.read(reader, 0) {
            return Err(Context::refuse_elements("inputs", fault, reader, target, &grid));
        }
        feed(context, target, grid, inputs)
    };
    if reader.kind()? != Kind::Object {
        return read(reader, &sole(context, "inputs")?);
    }
    let mut members = reader.object()?;
    let mut seen: SmallVec<[usize; 4]> = SmallVec::new();
    while let Some(name) = members.next(reader)? {
        let target = context.input(&name)?;
        if seen.contains(&target.index) {
            return Err(given_twice(&name, context));
        }
        seen.push(target.index);
        read(reader, &target)?;
    }
    Ok(())
}

#[cold]
fn given_twice(name: &str, context: &Context<'_>) -> Refusal {
    Refusal::bad_request(format!("input '{name}' for model '{}' is given twice", context.model))
}

/// Reads an array of rows of the only input, or of objects with one row of each input.
fn read_rows(context: &Context<'_>, reader: &mut Reader<'_>, inputs: &mut OwnedFeeds) -> Result<(), Refusal> {
    let mut columns: SmallVec<[(Target<'_>, Grid); 2]> = SmallVec::new();
    let start = reader.clone();
    let mut instances = reader.array().map_err(|fault| Refusal::parsing("instances", fault))?;
    let mut count = 0;
    while instances.next(reader)? {
        if count == 0 && reader.kind()? != Kind::Object {
            break;
        }
        let mut members = reader.object().map_err(|fault| Refusal::parsing("instances", fault))?;
        let mut seen: SmallVec<[usize; 4]> = SmallVec::new();
        while let Some(name) = members.next(reader)? {
            let target = context.input(&name)?;
            if seen.contains(&target.index) {
                return Err(given_twice(&name, context));
            }
            seen.push(target.index);
            if count == 0 {
                columns.push((target, grid(reader, &target)));
            }
            let known = columns.iter_mut().find(|(column, _)| column.index == target.index);
            let Some((_, grid)) = known else {
                return Err(uneven(&name, count));
            };
            if let Err(fault) = grid.read(reader, 1) {
                return Err(Context::refuse_elements("instances", fault, reader, &target, grid));
            }
        }
        if let Some((lacking, _)) = columns.iter().find(|(column, _)| !seen.contains(&column.index)) {
            return Err(uneven(lacking.name, count));
        }
        count += 1;
    }
    if count == 0 {
        let target = sole(context, "instances")?;
        let mut grid = grid(&start, &target);
        let mut reader = start;
        if let Err(fault) = grid.read(&mut reader, 0) {
            return Err(Context::refuse_elements("instances", fault, &reader, &target, &grid));
        }
        return feed(context, &target, grid, inputs);
    }
    for (target, mut grid) in columns {
        if let Err(fault) = grid.set_extent(0, count) {
            return Err(Refusal::parsing("instances", fault));
        }
        feed(context, &target, grid, inputs)?;
    }
    Ok(())
}

#[cold]
fn uneven(name: &str, instance: usize) -> Refusal {
    Refusal::bad_request(format!(
        "Unable to parse 'instances': instance {instance} and those before it do not all have input '{name}'"
    ))
}

/// So many brackets without elements are more than anybody reads.
const MAX_EMPTY_ROWS: i64 = 1 << 20;

/// Deeper arrays are nothing that a reader of JSON takes.
const MAX_RANK: usize = 64;

/// Appends the reply to a request that had this form and asked for these outputs.
///
/// After a refusal `into` is what it was.
pub fn write(
    into: &mut Vec<u8>,
    form: Form,
    fetches: &[usize],
    signature: &Signature,
    answer: &Answer<'_>,
) -> Result<(), Refusal> {
    let start = into.len();
    let mut outputs: SmallVec<[(&str, Cells<'_>); 4]> = SmallVec::new();
    for position in 0..fetches.len() {
        let (name, cells) = output(signature, fetches, answer, position)?;
        let (empty, rank) = (cells.len() == 0, cells.shape().len());
        let rows = cells
            .shape()
            .iter()
            .take_while(|extent| **extent > 0)
            .fold(1, |rows: i64, &extent| rows.saturating_mul(extent));
        if rank > MAX_RANK || empty && rows > MAX_EMPTY_ROWS {
            let shape = listed(cells.shape().iter().copied());
            return Err(Refusal::bad_request(format!(
                "output '{name}' has shape {shape}, which is too much for nested arrays: use the Open Inference Protocol"
            )));
        }
        outputs.push((name, cells));
    }
    into.reserve(
        outputs
            .iter()
            .map(|(_, cells)| cells.len().saturating_mul(12))
            .sum::<usize>()
            + 64,
    );
    let written = match form {
        Form::Columns => write_columns(into, &outputs),
        Form::Rows => write_rows(into, &outputs),
    };
    if written.is_err() {
        into.truncate(start);
    }
    written
}

fn write_columns(into: &mut Vec<u8>, outputs: &[(&str, Cells<'_>)]) -> Result<(), Refusal> {
    into.extend_from_slice(b"{\"outputs\":");
    if let [(name, cells)] = outputs {
        write_nested(into, name, *cells)?;
    } else {
        into.push(b'{');
        for (position, (name, cells)) in outputs.iter().enumerate() {
            if position > 0 {
                into.push(b',');
            }
            writer::key(into, name);
            write_nested(into, name, *cells)?;
        }
        into.push(b'}');
    }
    into.push(b'}');
    Ok(())
}

fn write_nested(into: &mut Vec<u8>, name: &str, cells: Cells<'_>) -> Result<(), Refusal> {
    let written = cells.write_nested(cells.shape(), 0, into);
    written.map(drop).map_err(|NotText| not_text(name))
}

fn write_rows(into: &mut Vec<u8>, outputs: &[(&str, Cells<'_>)]) -> Result<(), Refusal> {
    let count = |cells: &Cells<'_>| cells.shape().first().copied();
    let rows = outputs.first().and_then(|(_, cells)| count(cells));
    let Some(rows) = rows.filter(|_| outputs.iter().all(|(_, cells)| count(cells) == rows)) else {
        let shapes: Vec<String> = outputs
            .iter()
            .map(|(name, cells)| format!("'{name}' {}", listed(cells.shape().iter().copied())))
            .collect();
        return Err(Refusal::bad_request(format!(
            "the outputs have no common number of rows ({}): send 'inputs' in place of 'instances'",
            shapes.join(", ")
        )));
    };
    into.extend_from_slice(b"{\"predictions\":");
    if let [(name, cells)] = outputs {
        write_nested(into, name, *cells)?;
    } else {
        let mut ends: SmallVec<[usize; 4]> = outputs.iter().map(|_| 0).collect();
        into.push(b'[');
        for row in 0..rows {
            into.extend_from_slice(if row > 0 { b",{" } else { b"{" });
            for (position, ((name, cells), end)) in outputs.iter().zip(&mut ends).enumerate() {
                if position > 0 {
                    into.push(b',');
                }
                writer::key(into, name);
                let inner = cells.shape().get(1..).unwrap_or_default();
                *end = cells
                    .write_nested(inner, *end, into)
                    .map_err(|NotText| not_text(name))?;
            }
            into.push(b'}');
        }
        into.push(b']');
    }
    into.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests;
