#![expect(unsafe_code, reason = "maps memory for an allocator")]
//! What the heap takes from the system, piece by piece, and how much of that it may.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dlmalloc::Allocator;

/// Bytes that a heap has from the system, and may have; whoever holds the heap's lock writes to it.
#[derive(Debug, Default)]
pub(super) struct Share {
    held: AtomicUsize,
    most: AtomicUsize,
}

impl Share {
    /// Lets it have so many bytes from now on; what it has beyond stays.
    pub(super) fn allow(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    fn has_room(&self, byte_len: usize) -> bool {
        let held = self.held.load(Ordering::Relaxed);
        held.saturating_add(byte_len) <= self.most.load(Ordering::Relaxed)
    }

    fn add(&self, byte_len: usize) {
        self.held.fetch_add(byte_len, Ordering::Relaxed);
    }

    fn remove(&self, byte_len: usize) {
        self.held.fetch_sub(byte_len, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

/// Where a heap's memory comes from.
pub(super) struct Segments {
    share: Arc<Share>,
}

impl Segments {
    pub(super) const fn new(share: Arc<Share>) -> Self {
        Self { share }
    }
}

// SAFETY: pieces are new mappings of at least the size asked for, nobody else's, zeroed, and of whole pages; they are
// unmapped when they are given back, whole or from some page on, and never moved.
#[cfg(unix)]
unsafe impl Allocator for Segments {
    fn alloc(&self, byte_len: usize) -> (*mut u8, usize, u32) {
        const NOTHING: (*mut u8, usize, u32) = (std::ptr::null_mut(), 0, 0);
        if !self.share.has_room(byte_len) {
            return NOTHING;
        }
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANON);
        // SAFETY: a new anonymous mapping touches nothing that there is.
        let data = unsafe { libc::mmap(std::ptr::null_mut(), byte_len, access, kind, -1, 0) };
        if data == libc::MAP_FAILED {
            return NOTHING;
        }
        self.share.add(byte_len);
        (data.cast(), byte_len, 0)
    }

    fn remap(&self, _: *mut u8, _: usize, _: usize, _: bool) -> *mut u8 {
        std::ptr::null_mut()
    }

    fn free_part(&self, data: *mut u8, old_len: usize, new_len: usize) -> bool {
        // SAFETY: the allocator gives back what it got here, from a page on.
        self.free(unsafe { data.add(new_len) }, old_len - new_len)
    }

    fn free(&self, data: *mut u8, byte_len: usize) -> bool {
        // SAFETY: the allocator gives back what it got here and does not use any more.
        let is_gone = unsafe { libc::munmap(data.cast(), byte_len) } == 0;
        if is_gone {
            self.share.remove(byte_len);
        }
        is_gone
    }

    fn can_release_part(&self, _: u32) -> bool {
        true
    }

    fn allocates_zeros(&self) -> bool {
        true
    }

    fn page_size(&self) -> usize {
        4096
    }
}

// SAFETY: pieces are of the system's heap, of at least the size asked for and nobody else's. That heap keeps words before
// each of them, so that no two are side by side and the allocator cannot join them: what it gives back is what it got.
#[cfg(not(unix))]
unsafe impl Allocator for Segments {
    fn alloc(&self, byte_len: usize) -> (*mut u8, usize, u32) {
        const NOTHING: (*mut u8, usize, u32) = (std::ptr::null_mut(), 0, 0);
        let Ok(layout) = self.layout(byte_len) else {
            return NOTHING;
        };
        if byte_len == 0 || !self.share.has_room(byte_len) {
            return NOTHING;
        }
        // SAFETY: the size is not zero.
        let data = unsafe { std::alloc::alloc(layout) };
        if data.is_null() {
            return NOTHING;
        }
        self.share.add(byte_len);
        (data, byte_len, 0)
    }

    fn remap(&self, _: *mut u8, _: usize, _: usize, _: bool) -> *mut u8 {
        std::ptr::null_mut()
    }

    fn free_part(&self, _: *mut u8, _: usize, _: usize) -> bool {
        false
    }

    fn free(&self, data: *mut u8, byte_len: usize) -> bool {
        let Ok(layout) = self.layout(byte_len) else {
            return false;
        };
        // SAFETY: it was made with this layout.
        unsafe { std::alloc::dealloc(data, layout) };
        self.share.remove(byte_len);
        true
    }

    fn can_release_part(&self, _: u32) -> bool {
        true
    }

    fn allocates_zeros(&self) -> bool {
        false
    }

    fn page_size(&self) -> usize {
        4096
    }
}

#[cfg(not(unix))]
impl Segments {
    fn layout(&self, byte_len: usize) -> Result<std::alloc::Layout, std::alloc::LayoutError> {
        std::alloc::Layout::from_size_align(byte_len, self.page_size())
    }
}
