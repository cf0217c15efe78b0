//! Arrays of numbers or strings, nested or flat, into the memory of one tensor.

use std::marker::PhantomData;

use inferlite_core::Dtype;
use inferlite_core::tensor::{Buffer, Element, Shape, Strings, Value};
use smallvec::SmallVec;

use super::number::{self, Number};
use super::reader::{Fault, Kind, Next, Reader};

/// The lengths of nested arrays, and how deep their elements are: found while they are read.
#[derive(Debug, Default)]
struct Extents {
    extents: SmallVec<[Option<usize>; 6]>,
    rank: Option<usize>,
}

impl Extents {
    fn set_rank(&mut self, rank: usize) -> Result<(), Fault> {
        if *self.rank.get_or_insert(rank) == rank {
            Ok(())
        } else {
            Err(Fault::Ragged)
        }
    }

    fn set(&mut self, axis: usize, extent: usize) -> Result<(), Fault> {
        if self.extents.len() <= axis {
            self.extents.resize(axis + 1, None);
        }
        let known = self.extents.get_mut(axis);
        if known.map(|known| *known.get_or_insert(extent)) == Some(extent) {
            Ok(())
        } else {
            Err(Fault::Ragged)
        }
    }
}

/// What takes the elements.
trait Sink {
    /// Reads one element.
    fn one(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault>;

    /// Reads the elements of an array that has been entered and is not empty, to its end; gives how many there are.
    fn row(&mut self, reader: &mut Reader<'_>) -> Result<usize, Fault>;
}

/// Reads as many elements as are written in the most usual way, at most so many; gives how many they are.
type ReadMany = fn(&mut Reader<'_>, &mut Buffer, usize) -> usize;

/// A row in which nothing was read at once so often is read one by one.
const MOST_FRUITLESS: usize = 4;

/// Numbers that go to the end of a buffer.
struct Numbers<'b, T, F> {
    buffer: &'b mut Buffer,
    /// How many more are wanted.
    room: &'b mut usize,
    read: F,
    /// Where there is a faster way for many.
    read_many: Option<ReadMany>,
    element: PhantomData<T>,
}

impl<T: Element, F: Fn(&mut Reader<'_>) -> Result<T, Fault>> Sink for Numbers<'_, T, F> {
    fn one(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        *self.room = self.room.checked_sub(1).ok_or(Fault::TooMany)?;
        reader.position();
        self.buffer.push((self.read)(reader)?);
        Ok(())
    }

    fn row(&mut self, reader: &mut Reader<'_>) -> Result<usize, Fault> {
        let mut count = 0;
        let mut fruitless = 0;
        loop {
            reader.position();
            if let Some(read_many) = self.read_many
                && fruitless < MOST_FRUITLESS
            {
                let many = read_many(reader, self.buffer, *self.room - count);
                count += many;
                fruitless += usize::from(many == 0);
                reader.position();
            }
            if count == *self.room {
                return Err(too_many(reader));
            }
            self.buffer.push((self.read)(reader)?);
            count += 1;
            if reader.next_element()? == Next::End {
                *self.room -= count;
                return Ok(count);
            }
        }
    }
}

/// Strings that go to the end of others.
struct Texts<'b> {
    strings: &'b mut Strings,
    room: &'b mut usize,
}

impl Sink for Texts<'_> {
    fn one(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        *self.room = self.room.checked_sub(1).ok_or(Fault::TooMany)?;
        self.strings.push(reader.string()?.as_bytes());
        Ok(())
    }

    fn row(&mut self, reader: &mut Reader<'_>) -> Result<usize, Fault> {
        let mut count = 0;
        loop {
            self.one(reader)?;
            count += 1;
            if reader.next_element()? == Next::End {
                return Ok(count);
            }
        }
    }
}

/// Where the elements are.
#[derive(Debug)]
enum Content {
    Bytes(Buffer),
    Strings(Strings),
}

/// A tensor whose elements are being read.
#[derive(Debug)]
pub(crate) struct Grid {
    dtype: Dtype,
    content: Content,
    /// How many more elements are wanted.
    room: usize,
    extents: Extents,
}

impl Grid {
    /// A tensor of a type that JSON has values for, which takes up to `count` elements.
    ///
    /// Memory is taken for as many elements as `text_len` bytes of text can be, `expected` at most.
    pub(crate) fn new(dtype: Dtype, count: usize, expected: usize, text_len: usize) -> Self {
        // An element and what separates it from the next are two bytes.
        let expected = expected.min(text_len / 2 + 1);
        Self {
            dtype,
            content: match dtype {
                Dtype::String => Content::Strings(Strings::default()),
                _ => Content::Bytes(Buffer::with_capacity(dtype.byte_len(expected).unwrap_or(0))),
            },
            room: count,
            extents: Extents::default(),
        }
    }

    /// How many elements there are.
    pub(crate) fn len(&self) -> usize {
        match &self.content {
            Content::Bytes(buffer) => buffer.len() * 8 / self.dtype.bits().max(1),
            Content::Strings(strings) => strings.len(),
        }
    }

    /// Reads one value, an element or nested arrays of them, `axis` axes deep in the tensor.
    pub(crate) fn read(&mut self, reader: &mut Reader<'_>, axis: usize) -> Result<(), Fault> {
        let Self {
            dtype,
            content,
            room,
            extents,
            ..
        } = self;
        match content {
            Content::Strings(strings) => walk(extents, reader, axis, &mut Texts { strings, room }),
            Content::Bytes(buffer) => {
                macro_rules! elements {
                    ($element:ty, $read:expr, $read_many:expr) => {
                        walk(
                            extents,
                            reader,
                            axis,
                            &mut Numbers::<$element, _> {
                                buffer,
                                room,
                                read: $read,
                                read_many: $read_many,
                                element: PhantomData,
                            },
                        )
                    };
                }
                macro_rules! numbers {
                    ($number:ty) => {
                        elements!($number, <$number>::read, Some(<$number>::read_many))
                    };
                }
                match dtype {
                    Dtype::Float32 => numbers!(f32),
                    Dtype::Float64 => numbers!(f64),
                    Dtype::Int8 => numbers!(i8),
                    Dtype::Int16 => numbers!(i16),
                    Dtype::Int32 => numbers!(i32),
                    Dtype::Int64 => numbers!(i64),
                    Dtype::Uint8 => numbers!(u8),
                    Dtype::Uint16 => numbers!(u16),
                    Dtype::Uint32 => numbers!(u32),
                    Dtype::Uint64 => numbers!(u64),
                    Dtype::Float16 => elements!(u16, number::read_float16, None),
                    Dtype::Bfloat16 => elements!(u16, number::read_bfloat16, None),
                    Dtype::Bool => elements!(u8, |reader: &mut Reader<'_>| reader.boolean().map(u8::from), None),
                    // The protocol has no other.
                    _ => Err(reader.mistyped("attempt to access JSON as a type that it cannot hold")),
                }
            }
        }
    }

    /// Says how many values were read `axis` axes deep, where the caller has gone through them itself.
    pub(crate) fn set_extent(&mut self, axis: usize, extent: usize) -> Result<(), Fault> {
        self.extents.set(axis, extent)
    }

    /// The shape that the arrays have.
    pub(crate) fn shape(&self) -> Shape {
        let rank = self.extents.rank.unwrap_or(0);
        let extent = |axis| self.extents.extents.get(axis).copied().flatten().unwrap_or(0);
        (0..rank)
            .map(|axis| i64::try_from(extent(axis)).unwrap_or(i64::MAX))
            .collect()
    }

    /// The elements as a tensor of this shape; `None` if they are not as many.
    pub(crate) fn into_value(self, shape: Shape) -> Option<Value> {
        match self.content {
            Content::Bytes(buffer) => buffer.into_tensor(self.dtype, shape).map(Value::Tensor),
            Content::Strings(mut strings) => {
                let count = inferlite_core::tensor::element_count(&shape).ok()?;
                strings.shape = shape;
                (count == strings.len()).then_some(Value::Strings(strings))
            }
        }
    }
}

/// Reads one value that is `base` axes deep.
fn walk(extents: &mut Extents, reader: &mut Reader<'_>, base: usize, sink: &mut dyn Sink) -> Result<(), Fault> {
    // How many values have been read in each array that is open.
    let mut open: SmallVec<[usize; 6]> = SmallVec::new();
    loop {
        let axis = base + open.len();
        if reader.kind()? == Kind::Array {
            reader.array()?;
            if reader.leave_if_empty() {
                extents.set_rank(axis + 1)?;
                extents.set(axis, 0)?;
            } else if reader.kind()? == Kind::Array {
                if extents.rank.is_some_and(|rank| rank <= axis + 1) {
                    return Err(Fault::Ragged);
                }
                open.push(0);
                continue;
            } else {
                extents.set_rank(axis + 1)?;
                let count = sink.row(reader).map_err(|fault| ragged_or(fault, reader))?;
                extents.set(axis, count)?;
            }
        } else {
            extents.set_rank(axis)?;
            sink.one(reader)?;
        }
        // A value has ended, and perhaps the arrays around it.
        loop {
            let Some(count) = open.last_mut() else {
                return Ok(());
            };
            *count += 1;
            if reader.next_element()? == Next::Element {
                break;
            }
            let count = open.pop().unwrap_or(0);
            extents.set(base + open.len(), count)?;
        }
    }
}

/// The fault of a further element, if there is one.
#[cold]
fn too_many(reader: &mut Reader<'_>) -> Fault {
    reader.kind().err().unwrap_or(Fault::TooMany)
}

/// An array in place of an element makes its row ragged, which says more than its type.
#[cold]
fn ragged_or(fault: Fault, reader: &mut Reader<'_>) -> Fault {
    match (fault, reader.kind()) {
        (Fault::Mistyped { .. }, Ok(Kind::Array)) => Fault::Ragged,
        _ => fault,
    }
}

#[cfg(test)]
mod tests;
