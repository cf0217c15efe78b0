#![expect(unsafe_code, reason = "hands out memory of an allocator of its own")]
//! The memory of what is kept: one heap for all threads, apart from the program's.
//!
//! The program's allocator may give each thread a heap of its own, and then only that thread can fill the hole that an
//! evicted answer leaves: glibc let a cache of 64 MB grow to 103 MB under 16 threads, and mimalloc to 95 MB.
//!
//! Blocks of many sizes leave holes that the next ones do not fit into: without a bound the heap of a full cache grew to
//! 1.05 times its budget with answers of a few sizes, and to twice as much where large ones follow small ones. So it takes
//! no more from the system than the blocks may have, and a little; a block that finds no place then is not made until
//! others have gone. (Over 300 such changes of everything that is kept, 97 to 99 % of the budget were in use on average,
//! 92 % with one answer of 1 MB among a hundred small ones.)

mod segments;

use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use dlmalloc::Dlmalloc;

use self::segments::{Segments, Share};

use crate::fork;
use crate::tensor::TensorView;

/// What every part of a block is aligned to.
const ALIGNMENT: usize = 16;
/// What the allocator keeps before a block.
const HEADER: usize = size_of::<usize>();
const LEAST: usize = 32;
/// A block up to this size is set aside when it is given back.
const SPARE_BYTES: usize = 64 * 1024;
/// What the heap may have beside its blocks, as a part of them...
const HOLES: usize = 64;
/// ...and in any case: it takes pieces of 64 KiB.
const LEAST_HOLES: usize = 1 << 20;

/// Where blocks come from; given back to the system when the last of them is gone.
pub(super) struct Memory {
    heap: Mutex<Option<Heap>>,
    made_in: u64,
}

/// An allocator, and the last block that was given back: in a full cache of answers of one size, each that is kept takes
/// the place of the one that was evicted before, without a look at the allocator's lists, which the run between them has
/// driven out of the processor's caches.
struct Heap {
    allocator: Dlmalloc<Segments>,
    share: Arc<Share>,
    spare: Option<(NonNull<u8>, usize)>,
    /// Bytes of the blocks that are in use; those of answers that callers still see are among them.
    used: usize,
    /// What blocks may use before it is asked which of them can go.
    budget: usize,
}

// SAFETY: the spare block is in memory of the allocator, which may go to another thread.
unsafe impl Send for Heap {}

impl Heap {
    fn new(budget: usize) -> Self {
        let share = Arc::<Share>::default();
        Self {
            allocator: Dlmalloc::new_with_allocator(Segments::new(share.clone())),
            share,
            spare: None,
            used: 0,
            budget,
        }
    }

    /// A block; null where there is no place for it.
    fn take(&mut self, byte_len: usize) -> *mut u8 {
        let used = self.used.saturating_add(taken(byte_len));
        let data = match self.spare.take_if(|(_, spare)| *spare == byte_len) {
            Some((data, _)) => data.as_ptr(),
            None => self.find(byte_len, used),
        };
        if !data.is_null() {
            self.used = used;
        }
        data
    }

    fn find(&mut self, byte_len: usize, used: usize) -> *mut u8 {
        // What callers still see of answers that have gone is theirs, and takes no room from those that are kept.
        let blocks = self.budget.max(used);
        self.share.allow(blocks.saturating_add(blocks / HOLES + LEAST_HOLES));
        // SAFETY: a size and an alignment that is a power of two.
        let data = unsafe { self.allocator.malloc(byte_len, ALIGNMENT) };
        if !data.is_null() || self.spare.is_none() {
            return data;
        }
        self.free_spare();
        // SAFETY: as above.
        unsafe { self.allocator.malloc(byte_len, ALIGNMENT) }
    }

    /// Takes a block back.
    ///
    /// # Safety
    /// This heap has given it, with this size, and nobody uses it any more.
    unsafe fn give_back(&mut self, data: NonNull<u8>, byte_len: usize) {
        self.used = self.used.saturating_sub(taken(byte_len));
        if self.spare.is_none() && byte_len <= SPARE_BYTES {
            self.spare = Some((data, byte_len));
            return;
        }
        // SAFETY: the caller vouches for the block.
        unsafe { self.allocator.free(data.as_ptr(), byte_len, ALIGNMENT) };
    }

    fn free_spare(&mut self) {
        if let Some((data, byte_len)) = self.spare.take() {
            // SAFETY: it was given back with this size.
            unsafe { self.allocator.free(data.as_ptr(), byte_len, ALIGNMENT) };
        }
    }

    fn trim(&mut self) {
        self.free_spare();
        // SAFETY: the allocator is this one's alone.
        unsafe { self.allocator.trim(0) };
    }
}

/// A piece of memory: first words, then the bytes of tensors.
#[derive(Debug)]
pub(super) struct Block {
    memory: Arc<Memory>,
    data: NonNull<u8>,
    byte_len: usize,
    words: usize,
}

// SAFETY: a block is written to by whoever makes it, and only read afterwards; the heap has a lock.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

impl Memory {
    /// For blocks that use so many bytes together; more only for those whose callers still see them.
    pub(super) fn new(budget: usize) -> Self {
        Self {
            heap: Mutex::new(Some(Heap::new(budget))),
            made_in: fork::generation(),
        }
    }

    /// Changes what blocks may use.
    pub(super) fn set_budget(&self, budget: usize) {
        self.with_heap(|heap| heap.budget = budget);
    }

    /// Does something with the heap; `None` in a child, where a thread that is not there may have held it at the fork.
    fn with_heap<T>(&self, work: impl FnOnce(&mut Heap) -> T) -> Option<T> {
        if self.made_in != fork::generation() {
            return None;
        }
        let mut heap = self.heap.lock().unwrap_or_else(PoisonError::into_inner);
        heap.as_mut().map(work)
    }

    /// Gives back to the system what no block needs.
    pub(super) fn trim(&self) {
        self.with_heap(Heap::trim);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.made_in != fork::generation() {
            return;
        }
        let heap = self.heap.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(heap) = heap {
            // SAFETY: every block holds a reference to this, so that there is none any more.
            unsafe { heap.allocator.destroy() };
        }
    }
}

/// What a block of this size takes from the heap.
fn taken(byte_len: usize) -> usize {
    let used = byte_len.saturating_add(HEADER);
    used.checked_next_multiple_of(ALIGNMENT)
        .unwrap_or(usize::MAX)
        .max(LEAST)
}

/// How long something is with what aligns the next one.
fn padded(byte_len: usize) -> Option<usize> {
    byte_len.checked_next_multiple_of(ALIGNMENT)
}

impl Block {
    /// A copy of these words, and of the bytes of each tensor; `None` where there is no room for it.
    pub(super) fn new<'v>(
        memory: &Arc<Memory>,
        words: &[u64],
        tensors: impl Iterator<Item = &'v TensorView> + Clone,
    ) -> Option<Self> {
        let head = padded(size_of_val(words))?;
        let byte_len = tensors
            .clone()
            .try_fold(head, |sum, view| sum.checked_add(padded(view.byte_len())?))?;
        let data = memory.with_heap(|heap| heap.take(byte_len))?;
        let block = Self {
            memory: memory.clone(),
            data: NonNull::new(data)?,
            byte_len,
            words: words.len(),
        };
        // SAFETY: the words are as long as they are, and the block is longer and new.
        unsafe { std::ptr::copy_nonoverlapping(words.as_ptr().cast::<u8>(), data, size_of_val(words)) };
        for (place, view) in block.places(tensors) {
            // SAFETY: the tensor's bytes are readable while its view lives, and `places` finds room for them in the block,
            // which nobody else has seen.
            unsafe { std::ptr::copy_nonoverlapping(view.data(), place.cast_mut(), view.byte_len()) };
        }
        Some(block)
    }

    /// Where the copy of each tensor is; they must be those that the block was made of.
    pub(super) fn places<'v>(
        &self,
        tensors: impl Iterator<Item = &'v TensorView>,
    ) -> impl Iterator<Item = (*const u8, &'v TensorView)> {
        let start = padded(self.words * size_of::<u64>()).unwrap_or(usize::MAX);
        tensors.scan(start, |offset, view| {
            let here = *offset;
            *offset = here.checked_add(padded(view.byte_len())?)?;
            assert!(*offset <= self.byte_len, "the block was made of these tensors");
            // SAFETY: inside the block, as was just checked.
            Some((unsafe { self.data.as_ptr().add(here) }.cast_const(), view))
        })
    }

    /// The words at its front.
    #[inline]
    #[expect(clippy::cast_ptr_alignment, reason = "a block is aligned for more")]
    pub(super) fn words(&self) -> &[u64] {
        // SAFETY: so many words were written there, aligned, and nobody writes to a block that is made.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr().cast::<u64>(), self.words) }
    }

    /// What a block takes from the heap.
    pub(super) fn size(&self) -> usize {
        taken(self.byte_len)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: this heap has given the block with this size, and takes it back once.
        self.memory
            .with_heap(|heap| unsafe { heap.give_back(self.data, self.byte_len) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{Dtype, Tensor};
    use smallvec::smallvec;

    const BUDGET: usize = 1 << 20;

    fn tensor(bytes: &[u8]) -> Tensor {
        let count = i64::try_from(bytes.len()).expect("it is small");
        Tensor::of_bytes(Dtype::Uint8, smallvec![count], bytes.into())
    }

    #[test]
    fn a_block_holds_words_and_tensors_apart_and_aligned() {
        let memory = Arc::new(Memory::new(BUDGET));
        let (first, none, second) = (tensor(&[1; 5]), tensor(&[]), tensor(&[2; 33]));
        let views = || [first.view(), none.view(), second.view()].into_iter();
        let block = Block::new(&memory, &[7, 8, 9], views()).expect("there is memory");
        assert_eq!(block.words(), [7, 8, 9]);
        for (place, view) in block.places(views()) {
            assert_eq!(place.addr() % ALIGNMENT, 0);
            // SAFETY: the block lives, and so many bytes were copied there.
            let bytes = unsafe { std::slice::from_raw_parts(place, view.byte_len()) };
            assert_eq!(bytes, Tensor::copied(view).to_bytes());
        }
        assert_eq!(block.size(), 32 + 16 + 48 + 16);
        assert_eq!(Block::new(&memory, &[], [].into_iter()).expect("as above").words(), []);
    }

    #[test]
    fn what_is_given_back_is_used_again() {
        let memory = Arc::new(Memory::new(BUDGET));
        let large = tensor(&vec![0; 1 << 20]);
        let make = || Block::new(&memory, &[], std::iter::once(large.view())).expect("there is memory");
        let first = make();
        let place = first.data;
        drop(first);
        assert_eq!(make().data, place);
        memory.trim();
    }

    #[test]
    fn a_block_is_set_aside_for_the_next_one_of_its_size_alone() {
        let memory = Arc::new(Memory::new(BUDGET));
        let make = |words: usize| Block::new(&memory, &vec![7; words], [].into_iter()).expect("there is memory");
        let is_spare = |place| {
            let spare = memory.with_heap(|heap| heap.spare.map(|(data, _)| data));
            spare.flatten() == Some(place)
        };
        let (first, second) = (make(8), make(8));
        let place = first.data;
        drop(first);
        drop(second);
        assert!(is_spare(place));
        let other = make(9);
        assert_ne!(other.data, place);
        let again = make(8);
        assert_eq!((again.data, again.words()), (place, &[7; 8][..]));
        drop(again);
        memory.trim();
        assert!(!is_spare(place));
        let large = make(SPARE_BYTES / size_of::<u64>() + 1);
        let place = large.data;
        drop(large);
        assert!(!is_spare(place));
    }

    #[test]
    fn a_block_that_finds_no_place_is_not_made_until_others_have_gone() {
        let memory = Arc::new(Memory::new(BUDGET));
        let make = |bytes: usize| Block::new(&memory, &vec![7; bytes / size_of::<u64>()], [].into_iter());
        let most = BUDGET + BUDGET / HOLES + LEAST_HOLES;
        let held = || {
            memory
                .with_heap(|heap| heap.share.held())
                .expect("this process made it")
        };
        // Small ones as many as fit, of which every other one goes: half of it is free, and no place is large.
        let mut small: Vec<Block> = (0..)
            .map_while(|_| (held() < most - (64 << 10)).then(|| make(1_000))?)
            .collect();
        let mut number = 0;
        small.retain(|_| {
            number += 1;
            number % 2 == 0
        });
        assert!(make(500_000).is_none());
        assert!(held() <= most);
        assert!(make(900).is_some());
        small.truncate(small.len() / 2);
        assert!(make(500_000).is_some());
        drop(small);
        memory.trim();
        assert!(held() <= 128 << 10, "{}", held());
    }

    #[test]
    fn what_callers_still_see_takes_no_room_from_the_others() {
        let memory = Arc::new(Memory::new(BUDGET));
        let make = || Block::new(&memory, &[7; 1_000], [].into_iter());
        let seen: Vec<_> = (0..8 * BUDGET / 8_000)
            .map(|_| make().expect("it is seen already"))
            .collect();
        drop(seen);
        memory.set_budget(4 * BUDGET);
        assert!(make().is_some());
    }

    #[test]
    fn a_block_outlives_the_cache() {
        let memory = Arc::new(Memory::new(BUDGET));
        let block = Block::new(&memory, &[1], [].into_iter()).expect("there is memory");
        drop(memory);
        assert_eq!(block.words(), [1]);
    }

    #[test]
    fn threads_make_and_drop_blocks_of_each_other() {
        let memory = Arc::new(Memory::new(BUDGET));
        let (give, take) = std::sync::mpsc::sync_channel::<Block>(64);
        std::thread::scope(|scope| {
            let maker = scope.spawn(|| {
                for number in 0..2_000_u64 {
                    let words = vec![number; usize::try_from(number % 70).expect("it is small")];
                    let block = Block::new(&memory, &words, [].into_iter()).expect("there is memory");
                    give.send(block).expect("somebody takes them");
                }
                drop(give);
            });
            for (number, block) in take.iter().enumerate() {
                assert!(block.words().iter().all(|&word| word == number as u64));
            }
            maker.join().expect("it does not panic");
        });
    }
}
