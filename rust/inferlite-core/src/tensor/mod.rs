//! Values: what goes into a model and what comes out of it.

mod buffer;
mod dtype;

use std::ffi::c_void;
use std::fmt;
use std::ops::Range;

use smallvec::SmallVec;

pub use buffer::{Buffer, Element};
pub use dtype::Dtype;

use crate::error::{Error, ErrorKind, Result};

/// The extent of every axis; negative only in what a caller claims, never in what the core has checked.
pub type Shape = SmallVec<[i64; 4]>;

/// The number of elements of a shape; an error for negative extents and for products that overflow.
pub fn element_count(shape: &[i64]) -> Result<usize> {
    let mut count: usize = 1;
    for &extent in shape {
        let extent = usize::try_from(extent).map_err(|_| {
            Error::new(
                ErrorKind::InvalidArgument,
                format!("shape {shape:?} has a negative extent"),
            )
        })?;
        count = count
            .checked_mul(extent)
            .ok_or_else(|| Error::new(ErrorKind::InvalidArgument, format!("shape {shape:?} overflows")))?;
    }
    Ok(count)
}

/// A tensor in memory that the caller keeps alive, and unmoved, while the view exists.
///
/// It is a pointer, never a slice: another thread may write to the memory, which leaves the answer unspecified and
/// would make a `&[u8]` unsound. It is no `Clone`, so that whoever lends one knows how long it is used.
#[derive(Debug)]
pub struct TensorView {
    dtype: Dtype,
    shape: Shape,
    data: *const u8,
    byte_len: usize,
}

#[expect(unsafe_code, reason = "a view points to memory that somebody else keeps alive")]
mod view {
    use super::TensorView;

    // SAFETY: a view is a description; whoever made it promised that the memory stays valid on every thread.
    unsafe impl Send for TensorView {}
    // SAFETY: as above; nothing is written through a view.
    unsafe impl Sync for TensorView {}

    impl TensorView {
        /// Describes `byte_len` bytes at `data`.
        ///
        /// # Safety
        /// The bytes must stay readable at this address until the view and every run that uses it are gone, `shape`
        /// must not be negative, and its product times the element size must be `byte_len`.
        #[inline]
        #[must_use]
        pub unsafe fn new(dtype: super::Dtype, shape: super::Shape, data: *const u8, byte_len: usize) -> Self {
            Self {
                dtype,
                shape,
                data,
                byte_len,
            }
        }

        /// The same description once more.
        ///
        /// # Safety
        /// As for [`TensorView::new`]: the bytes must stay readable until this view is gone, too.
        #[inline]
        #[must_use]
        pub unsafe fn duplicate(&self) -> Self {
            Self {
                shape: self.shape.clone(),
                ..*self
            }
        }
    }
}

impl TensorView {
    /// The type of an element.
    #[inline]
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The extent of every axis.
    #[inline]
    #[must_use]
    pub fn shape(&self) -> &[i64] {
        &self.shape
    }

    /// The first byte; meaningless if there is none.
    #[inline]
    #[must_use]
    pub fn data(&self) -> *const u8 {
        self.data
    }

    /// The number of bytes.
    #[inline]
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.byte_len
    }

    /// Copies the bytes from this one on.
    ///
    /// # Panics
    /// Where the tensor ends before `into` is full.
    #[expect(unsafe_code, reason = "reads memory that a caller keeps alive")]
    pub fn copy_part(&self, start: usize, into: &mut [u8]) {
        let end = start.checked_add(into.len());
        assert!(
            end.is_some_and(|end| end <= self.byte_len),
            "the part is inside the tensor"
        );
        if !into.is_empty() {
            // SAFETY: `start` is inside the view, as was just checked.
            let from = unsafe { self.data.add(start) };
            // SAFETY: the part ends where the view does or before; a view's bytes are readable while it lives
            // (`TensorView::new`), and `into` is ours alone.
            unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        }
    }

    /// Adds the bytes at the end of `into`.
    #[expect(unsafe_code, reason = "reads memory that a caller keeps alive")]
    pub fn append_to(&self, into: &mut Vec<u8>) {
        if self.byte_len == 0 {
            return;
        }
        into.reserve(self.byte_len);
        let room = into.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: a view's bytes are readable while it lives (`TensorView::new`); the room is as large, was just
        // reserved, and is the vector's alone.
        unsafe { std::ptr::copy_nonoverlapping(self.data, room, self.byte_len) };
        // SAFETY: so many bytes behind the end have just been written.
        unsafe { into.set_len(into.len() + self.byte_len) };
    }

    /// Whether two tensors have bytes in common.
    #[inline]
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let (a, b) = (self.data as usize, other.data as usize);
        a < b.wrapping_add(other.byte_len) && b < a.wrapping_add(self.byte_len)
    }

    /// The number of elements.
    #[inline]
    #[must_use]
    pub fn elements(&self) -> usize {
        // Checked when the view was made: the product is not negative and does not overflow.
        self.shape
            .iter()
            .fold(1, |count, &extent| count * usize::try_from(extent).unwrap_or(0))
    }
}

/// Whoever owns a tensor's memory: a pointer and what releases it, so that an owner costs no allocation.
pub struct Owner {
    pointer: *mut c_void,
    release: unsafe fn(*mut c_void),
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Owner").field(&self.pointer).finish()
    }
}

#[expect(unsafe_code, reason = "an owner releases what a pointer stands for")]
mod owner {
    use std::ffi::c_void;
    use std::sync::Arc;

    use super::Owner;

    impl Owner {
        /// Takes over what `pointer` stands for.
        ///
        /// # Safety
        /// `release(pointer)` must be sound once, on any thread.
        #[inline]
        #[must_use]
        pub unsafe fn new(pointer: *mut c_void, release: unsafe fn(*mut c_void)) -> Self {
            Self { pointer, release }
        }

        /// An owner of bytes on the heap, and the address of the first.
        pub(crate) fn of_bytes(bytes: Box<[u8]>) -> (*mut u8, Self) {
            unsafe fn release(pointer: *mut c_void) {
                // SAFETY: `of_bytes` made the pointer from a box of a box, and an owner releases once.
                drop(unsafe { Box::from_raw(pointer.cast::<Box<[u8]>>()) });
            }
            let mut bytes = Box::new(bytes);
            let data = bytes.as_mut_ptr();
            // SAFETY: `release` takes back exactly what `into_raw` gives away; bytes may be freed on any thread.
            (data, unsafe { Self::new(Box::into_raw(bytes).cast(), release) })
        }

        /// The owner of memory that somebody else releases.
        pub(crate) fn of_nothing() -> Self {
            unsafe fn release(_: *mut c_void) {}
            // SAFETY: nothing is done.
            unsafe { Self::new(std::ptr::null_mut(), release) }
        }

        /// One of several owners, of what lies in `shared`.
        #[must_use]
        pub fn of_shared<T: Send + Sync>(shared: Arc<T>) -> Self {
            unsafe fn release<T>(pointer: *mut c_void) {
                // SAFETY: `of_shared` made the pointer from an `Arc<T>`, and an owner releases once.
                drop(unsafe { Arc::from_raw(pointer.cast::<T>().cast_const()) });
            }
            let pointer = Arc::into_raw(shared).cast_mut().cast();
            // SAFETY: `release` takes back exactly what `into_raw` gives away, and `T` may be dropped on any thread.
            unsafe { Self::new(pointer, release::<T>) }
        }
    }

    impl Drop for Owner {
        #[inline]
        fn drop(&mut self) {
            // SAFETY: promised to `new`; `drop` runs once.
            unsafe { (self.release)(self.pointer) };
        }
    }

    // SAFETY: `new` demands a release that is sound on any thread.
    unsafe impl Send for Owner {}
    // SAFETY: an owner gives no access to what it owns.
    unsafe impl Sync for Owner {}
}

/// A tensor of fixed-size elements that owns its memory.
#[derive(Debug)]
pub struct Tensor {
    /// The description of the memory below.
    view: TensorView,
    owner: Owner,
}

impl Tensor {
    /// Joins a view and the owner of its memory.
    #[inline]
    pub(crate) fn new(view: TensorView, owner: Owner) -> Self {
        Self { view, owner }
    }

    /// What the tensor looks like; valid while the tensor lives.
    #[inline]
    #[must_use]
    pub fn view(&self) -> &TensorView {
        &self.view
    }

    /// The address of the elements, which nobody else reads or writes.
    #[inline]
    #[must_use]
    pub fn data_mut(&mut self) -> *mut u8 {
        self.view.data.cast_mut()
    }

    /// The bytes of the elements.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.view.byte_len];
        copy_bytes(&self.view, &mut bytes);
        bytes
    }

    /// The owner by itself, for a caller that keeps the address and releases the memory later.
    #[must_use]
    pub fn into_owner(self) -> Owner {
        self.owner
    }

    /// The description and the owner, which must be released later.
    pub(crate) fn into_parts(self) -> (TensorView, Owner) {
        (self.view, self.owner)
    }

    /// A tensor of these bytes; `None` if they are not as many as the type and the shape say.
    #[must_use]
    pub fn from_bytes(dtype: Dtype, shape: Shape, bytes: &[u8]) -> Option<Self> {
        let is_sized = dtype.bits() > 0;
        let wanted = dtype.byte_len(element_count(&shape).ok()?)?;
        if !is_sized || wanted != bytes.len() {
            return None;
        }
        let (data, owner) = Owner::of_bytes(bytes.into());
        Some(Self {
            view: TensorView {
                dtype,
                shape,
                data,
                byte_len: wanted,
            },
            owner,
        })
    }

    /// A copy on the heap, which keeps nothing else alive.
    #[must_use]
    pub fn copied(view: &TensorView) -> Self {
        let mut bytes = vec![0_u8; view.byte_len].into_boxed_slice();
        copy_bytes(view, &mut bytes);
        Self::of_bytes(view.dtype, view.shape.clone(), bytes)
    }

    /// A tensor of this shape over its bytes, of which there must be as many as the shape says.
    pub(crate) fn of_bytes(dtype: Dtype, shape: Shape, bytes: Box<[u8]>) -> Self {
        let byte_len = bytes.len();
        debug_assert_eq!(
            element_count(&shape).ok().and_then(|count| dtype.byte_len(count)),
            Some(byte_len)
        );
        let (data, owner) = Owner::of_bytes(bytes);
        Self {
            view: TensorView {
                dtype,
                shape,
                data,
                byte_len,
            },
            owner,
        }
    }
}

/// A tensor that nobody writes to any more: several may look at its memory.
#[derive(Debug)]
pub struct Frozen(Tensor);

impl Frozen {
    /// Gives up writing to a tensor.
    #[must_use]
    pub fn new(tensor: Tensor) -> Self {
        Self(tensor)
    }

    /// The tensor of this view, which `owner` keeps as it is.
    pub(crate) fn over(view: TensorView, owner: Owner) -> Self {
        Self(Tensor::new(view, owner))
    }

    /// What the tensor looks like; valid while it lives, or the owner that it is turned into.
    #[inline]
    #[must_use]
    pub fn view(&self) -> &TensorView {
        self.0.view()
    }

    /// The owner by itself, for a caller that keeps the address and releases the memory later.
    #[must_use]
    pub fn into_owner(self) -> Owner {
        self.0.into_owner()
    }
}

#[expect(unsafe_code, reason = "reads memory that a caller keeps alive")]
fn copy_bytes(view: &TensorView, into: &mut [u8]) {
    debug_assert_eq!(view.byte_len, into.len());
    if view.byte_len > 0 {
        // SAFETY: a view's bytes are readable while it lives (`TensorView::new`); `into` is as long and is ours alone.
        unsafe { std::ptr::copy_nonoverlapping(view.data, into.as_mut_ptr(), into.len()) };
    }
}

/// The strings of a tensor: any bytes, NUL included, in C order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strings {
    /// The extent of every axis.
    pub shape: Shape,
    bytes: Vec<u8>,
    /// Where each string ends in `bytes`.
    ends: Vec<usize>,
}

impl Strings {
    /// No strings yet, of a tensor of this shape.
    #[must_use]
    pub fn with_shape(shape: Shape) -> Self {
        Self {
            shape,
            bytes: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// Makes room for so many more strings, and for the bytes of all of them.
    pub fn reserve(&mut self, strings: usize, bytes: usize) {
        self.ends.reserve(strings);
        self.bytes.reserve(bytes);
    }

    /// Adds the next string.
    pub fn push(&mut self, string: &[u8]) {
        self.bytes.extend_from_slice(string);
        self.ends.push(self.bytes.len());
    }

    /// The strings in order.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> + '_ {
        self.part(0..self.ends.len())
    }

    /// The strings of these positions in order; the ones before are not gone through.
    #[must_use]
    pub fn part(&self, positions: Range<usize>) -> impl ExactSizeIterator<Item = &[u8]> + '_ {
        let count = self.ends.len();
        (positions.start.min(count)..positions.end.min(count)).map(|i| {
            let start = if i == 0 { 0 } else { self.ends[i - 1] };
            &self.bytes[start..self.ends[i]]
        })
    }

    /// The bytes that they take on the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * size_of::<usize>()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

/// The keys of a map, in the order of its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MapKeys {
    /// 64-bit integers.
    Int64(Vec<i64>),
    /// Strings.
    String(Strings),
}

/// The values of a map.
#[derive(Debug, Clone, PartialEq)]
pub enum MapValues {
    /// Single-precision numbers, which is what a Python dictionary becomes.
    Float(Vec<f32>),
    /// Double-precision numbers.
    Double(Vec<f64>),
    /// 64-bit integers.
    Int64(Vec<i64>),
    /// Strings.
    String(Strings),
}

/// A map.
#[derive(Debug, Clone, PartialEq)]
pub struct Map {
    /// The keys.
    pub keys: MapKeys,
    /// The values, in the order of the keys.
    pub values: MapValues,
}

/// Anything that a model takes or gives.
#[derive(Debug)]
pub enum Value {
    /// A tensor of fixed-size elements.
    Tensor(Tensor),
    /// A tensor of strings.
    Strings(Strings),
    /// A sequence; the type of its elements matters when there is none.
    Sequence {
        /// The type of an element.
        element: Dtype,
        /// The elements: tensors or maps.
        items: Vec<Value>,
    },
    /// A map.
    Map(Box<Map>),
    /// An optional that holds nothing.
    Absent,
}

impl Value {
    /// The extent of every axis, for a tensor.
    #[must_use]
    pub fn shape(&self) -> Option<&[i64]> {
        match self {
            Self::Tensor(tensor) => Some(tensor.view().shape()),
            Self::Strings(strings) => Some(&strings.shape),
            Self::Sequence { .. } | Self::Map(_) | Self::Absent => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smallvec::smallvec;

    #[test]
    fn a_product_that_overflows_is_an_error() {
        assert!(element_count(&[i64::MAX, 3]).is_err());
        assert!(element_count(&[-1]).is_err());
        assert_eq!(element_count(&[]).ok(), Some(1));
        assert_eq!(element_count(&[0, i64::MAX]).ok(), Some(0));
    }

    #[test]
    fn bytes_are_added_behind_what_is_there() {
        let tensor = Tensor::from_bytes(Dtype::Uint16, smallvec![2], &[1, 2, 3, 4]).unwrap();
        let mut bytes = b"before".to_vec();
        tensor.view().append_to(&mut bytes);
        let empty = Tensor::from_bytes(Dtype::Uint16, smallvec![0], &[]).unwrap();
        empty.view().append_to(&mut bytes);
        assert_eq!(bytes, b"before\x01\x02\x03\x04");
    }

    #[test]
    fn strings_keep_their_bytes_and_order() {
        let mut strings = Strings::with_shape(smallvec![3]);
        for item in [&b"a\0b"[..], b"", b"\xff"] {
            strings.push(item);
        }
        assert_eq!(strings.iter().collect::<Vec<_>>(), [&b"a\0b"[..], b"", b"\xff"]);
        assert_eq!(strings.part(1..3).collect::<Vec<_>>(), [&b""[..], b"\xff"]);
        assert_eq!(strings.part(2..9).collect::<Vec<_>>(), [b"\xff"]);
    }

    #[test]
    #[expect(unsafe_code, reason = "makes a view over a local array")]
    fn a_copy_outlives_what_it_was_copied_from() {
        let copy = {
            let numbers = [1.0_f32, 2.0];
            // SAFETY: the array outlives the view; two floats are eight bytes.
            let view = unsafe { TensorView::new(Dtype::Float32, smallvec![2], numbers.as_ptr().cast(), 8) };
            Tensor::copied(&view)
        };
        assert_eq!(copy.view().elements(), 2);
        // SAFETY: the copy owns eight bytes, of which this is the fifth.
        let place = unsafe { copy.view().data().add(4) };
        // SAFETY: four of the bytes hold a float, and `read_unaligned` asks for no alignment.
        let second = unsafe { place.cast::<f32>().read_unaligned() };
        assert_eq!(second.to_bits(), 2.0_f32.to_bits());
    }
}
