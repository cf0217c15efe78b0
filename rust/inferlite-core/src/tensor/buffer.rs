//! Memory that is filled from the front and then becomes a tensor.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error, realloc};
use std::ffi::c_void;
use std::fmt;
use std::ptr::NonNull;

use super::{Dtype, Owner, Shape, Tensor, TensorView, element_count};

/// What the elements are aligned to: what an allocator gives without being asked.
const ALIGNMENT: usize = 16;

/// In front of the elements: the size of the block, which releasing it takes.
const HEADER: usize = 16;

/// Elements that a [`Buffer`] takes.
pub trait Element: Copy + sealed::Plain {}

mod sealed {
    /// Numbers without padding, of which every pattern of bits is one.
    pub trait Plain {}
}

macro_rules! elements {
    ($($number:ty)*) => {
        $(
            impl sealed::Plain for $number {}
            impl Element for $number {}
        )*
    };
}

elements!(u8 u16 u32 u64 i8 i16 i32 i64 f32 f64);

/// Bytes that grow at their end and become a [`Tensor`] without being copied: one allocation for both.
pub struct Buffer {
    /// The first byte behind the header, if there is a block.
    data: NonNull<u8>,
    len: usize,
    /// 0 where there is no block.
    capacity: usize,
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("len", &self.len)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::with_capacity(0)
    }
}

impl Buffer {
    /// No bytes yet, and room for so many.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        let mut buffer = Self {
            data: NonNull::<u128>::dangling().cast(),
            len: 0,
            capacity: 0,
        };
        if bytes > 0 {
            buffer.resize(bytes);
        }
        buffer
    }

    /// How many bytes there are.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[cold]
    fn grow(&mut self, more: usize) {
        let wanted = self.len.saturating_add(more);
        self.resize(wanted.max(self.capacity.saturating_mul(2)).max(64));
    }
}

#[expect(unsafe_code, reason = "owns a block of the allocator's")]
mod block {
    use super::{
        ALIGNMENT, Buffer, Dtype, Element, HEADER, Layout, NonNull, Owner, Shape, Tensor, TensorView, alloc, c_void,
        dealloc, element_count, handle_alloc_error, realloc,
    };

    /// The layout of a block whose elements take so many bytes.
    fn layout(capacity: usize) -> Layout {
        let size = HEADER.saturating_add(capacity);
        Layout::from_size_align(size, ALIGNMENT).expect("nobody can send half of the address space")
    }

    /// Releases the block that holds elements.
    ///
    /// # Safety
    /// `resize` must have made the block whose elements begin at `data`, and nobody may use it any more.
    unsafe fn release(data: *mut c_void) {
        // SAFETY: the header lies in front of the elements, in the same block.
        let block = unsafe { data.cast::<u8>().sub(HEADER) };
        // SAFETY: `resize` has written the size there.
        let capacity = unsafe { block.cast::<usize>().read_unaligned() };
        // SAFETY: `resize` has taken the block from this allocator, with this layout.
        unsafe { dealloc(block, layout(capacity)) };
    }

    impl Buffer {
        /// Moves the bytes to a block that has room for `capacity`, at least as many as there are and not 0.
        pub(super) fn resize(&mut self, capacity: usize) {
            debug_assert!(capacity > 0 && capacity >= self.len);
            let wanted = layout(capacity);
            let block = if self.capacity == 0 {
                // SAFETY: the size is not 0, since it has a header.
                unsafe { alloc(wanted) }
            } else {
                // SAFETY: there is a block, and its header is in front of the elements.
                let block = unsafe { self.data.as_ptr().sub(HEADER) };
                // SAFETY: the block has the layout of `self.capacity`; the new size is not 0 and was checked by `layout`.
                unsafe { realloc(block, layout(self.capacity), wanted.size()) }
            };
            if block.is_null() {
                handle_alloc_error(wanted);
            }
            // SAFETY: the block begins with the header, which is large enough for a number.
            unsafe { block.cast::<usize>().write_unaligned(capacity) };
            // SAFETY: the block is longer than the header.
            let data = unsafe { block.add(HEADER) };
            // SAFETY: an address inside a block is not null.
            self.data = unsafe { NonNull::new_unchecked(data) };
            self.capacity = capacity;
        }

        /// Adds an element at the end.
        #[inline]
        pub fn push<T: Element>(&mut self, element: T) {
            if self.capacity - self.len < size_of::<T>() {
                self.grow(size_of::<T>());
            }
            // SAFETY: the bytes end inside the block.
            let place = unsafe { self.data.as_ptr().add(self.len) };
            // SAFETY: there is room for the element, as was just seen to, and nothing is asked of its alignment.
            unsafe { place.cast::<T>().write_unaligned(element) };
            self.len += size_of::<T>();
        }

        /// Adds bytes at the end.
        pub fn extend_from_slice(&mut self, bytes: &[u8]) {
            if self.capacity - self.len < bytes.len() {
                self.grow(bytes.len());
            }
            // SAFETY: the bytes end inside the block, or where it would begin and none are added.
            let place = unsafe { self.data.as_ptr().add(self.len) };
            // SAFETY: there is room for them, as was just seen to, in a block that nobody else has.
            unsafe { place.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
            self.len += bytes.len();
        }

        /// The bytes as a tensor; `None` if they are not as many as the type and the shape say.
        #[must_use]
        pub fn into_tensor(self, dtype: Dtype, shape: Shape) -> Option<Tensor> {
            let wanted = dtype.byte_len(element_count(&shape).ok()?)?;
            if dtype.bits() == 0 || wanted != self.len {
                return None;
            }
            let buffer = std::mem::ManuallyDrop::new(self);
            let data = buffer.data.as_ptr();
            let owner = if buffer.capacity == 0 {
                Owner::of_nothing()
            } else {
                // SAFETY: the buffer is not dropped, so this is the only release; any thread may do it.
                unsafe { Owner::new(data.cast(), release) }
            };
            // SAFETY: the owner keeps the block, whose first `wanted` bytes are written; the shape was just checked.
            let view = unsafe { TensorView::new(dtype, shape, data, wanted) };
            Some(Tensor::new(view, owner))
        }
    }

    impl Drop for Buffer {
        fn drop(&mut self) {
            if self.capacity > 0 {
                // SAFETY: `resize` made the block, and it goes with the buffer.
                unsafe { release(self.data.as_ptr().cast()) };
            }
        }
    }

    // SAFETY: a buffer has its block for itself.
    unsafe impl Send for Buffer {}
    // SAFETY: nothing is read or written through a shared buffer.
    unsafe impl Sync for Buffer {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use smallvec::smallvec;

    #[test]
    fn elements_keep_their_order_while_the_buffer_grows() {
        for capacity in [0, 3, 64, 4096] {
            let mut buffer = Buffer::with_capacity(capacity);
            for number in 0..1000_u32 {
                buffer.push(number);
            }
            let tensor = buffer.into_tensor(Dtype::Uint32, smallvec![10, 100]).unwrap();
            let wanted: Vec<u8> = (0..1000_u32).flat_map(u32::to_ne_bytes).collect();
            assert_eq!(tensor.to_bytes(), wanted);
            assert_eq!(tensor.view().data() as usize % ALIGNMENT, 0);
        }
    }

    #[test]
    fn elements_of_several_sizes_share_a_buffer() {
        let mut buffer = Buffer::default();
        buffer.push(1_u8);
        buffer.push(f64::from_bits(0x0807_0605_0403_0201));
        buffer.extend_from_slice(b"abc");
        assert_eq!(buffer.len(), 12);
        let tensor = buffer.into_tensor(Dtype::Uint8, smallvec![12]).unwrap();
        let mut wanted = vec![1];
        wanted.extend(0x0807_0605_0403_0201_u64.to_ne_bytes());
        wanted.extend(b"abc");
        assert_eq!(tensor.to_bytes(), wanted);
    }

    #[test]
    fn a_buffer_that_does_not_fit_its_shape_becomes_no_tensor() {
        let buffer = |len| {
            let mut buffer = Buffer::default();
            buffer.extend_from_slice(&vec![0; len]);
            buffer
        };
        assert!(buffer(7).into_tensor(Dtype::Float32, smallvec![2]).is_none());
        assert!(buffer(9).into_tensor(Dtype::Float32, smallvec![2]).is_none());
        assert!(buffer(8).into_tensor(Dtype::Float32, smallvec![-2]).is_none());
        assert!(buffer(8).into_tensor(Dtype::Float32, smallvec![i64::MAX, 3]).is_none());
        assert!(buffer(0).into_tensor(Dtype::String, smallvec![0]).is_none());
        assert!(buffer(8).into_tensor(Dtype::Float32, smallvec![2]).is_some());
        assert!(buffer(0).into_tensor(Dtype::Float32, smallvec![0, 3]).is_some());
        assert!(Buffer::default().is_empty());
    }
}
