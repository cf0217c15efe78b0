//! The obvious caches that random operations are compared with.

use super::Policy;
use super::s3_fifo::GHOST_BYTES;
use crate::cache::store::Limits;

#[derive(Debug, Clone, Copy)]
struct Item {
    number: u8,
    hash: u64,
    bytes: usize,
    uses: u8,
}

/// Lists, the oldest first; the least recently used one in `small` alone, where a use moves an item to the end.
#[derive(Debug)]
pub(in crate::cache) struct Naive {
    policy: Policy,
    limits: Limits,
    small: Vec<Item>,
    main: Vec<Item>,
    ghosts: Vec<u64>,
    pub(in crate::cache) evictions: u64,
}

fn position(list: &[Item], number: u8) -> Option<usize> {
    list.iter().position(|item| item.number == number)
}

fn sum(list: &[Item]) -> usize {
    list.iter().map(|item| item.bytes).sum()
}

impl Naive {
    pub(in crate::cache) fn new(policy: Policy, limits: Limits) -> Self {
        Self {
            policy,
            limits,
            small: Vec::new(),
            main: Vec::new(),
            ghosts: Vec::new(),
            evictions: 0,
        }
    }

    pub(in crate::cache) fn len(&self) -> usize {
        self.small.len() + self.main.len()
    }

    pub(in crate::cache) fn bytes(&self) -> usize {
        sum(&self.small) + sum(&self.main) + self.ghosts.len() * GHOST_BYTES
    }

    pub(in crate::cache) fn get(&mut self, number: u8) -> Option<usize> {
        if self.policy == Policy::Lru {
            let item = self.small.remove(position(&self.small, number)?);
            self.small.push(item);
            return Some(item.bytes);
        }
        let list = if position(&self.small, number).is_some() {
            &mut self.small
        } else {
            &mut self.main
        };
        let place = position(list, number)?;
        list[place].uses = (list[place].uses + 1).min(3);
        Some(list[place].bytes)
    }

    pub(in crate::cache) fn insert(&mut self, number: u8, hash: u64, bytes: usize) -> bool {
        if bytes > self.limits.max_bytes || self.limits.max_entries == 0 {
            return false;
        }
        self.remove(number);
        let was_recalled = self.ghosts.contains(&hash);
        self.ghosts.retain(|ghost| *ghost != hash);
        self.make_room(bytes, 1);
        let list = if was_recalled { &mut self.main } else { &mut self.small };
        list.push(Item {
            number,
            hash,
            bytes,
            uses: 0,
        });
        true
    }

    pub(in crate::cache) fn remove(&mut self, number: u8) -> bool {
        let before = self.len();
        self.small.retain(|item| item.number != number);
        self.main.retain(|item| item.number != number);
        self.shorten();
        self.len() < before
    }

    pub(in crate::cache) fn resize(&mut self, limits: Limits) {
        self.limits = limits;
        self.make_room(0, 0);
    }

    pub(in crate::cache) fn clear(&mut self) {
        *self = Self {
            evictions: self.evictions,
            ..Self::new(self.policy, self.limits)
        };
    }

    fn shorten(&mut self) {
        while self.ghosts.len() > self.len() {
            self.ghosts.remove(0);
        }
    }

    fn make_room(&mut self, bytes: usize, entries: usize) {
        loop {
            let needs_bytes = self.bytes() + bytes > self.limits.max_bytes;
            if !needs_bytes && self.len() + entries <= self.limits.max_entries {
                return;
            }
            if self.policy == Policy::Lru {
                self.small.remove(0);
            } else {
                self.evict_s3_fifo(needs_bytes);
                self.shorten();
            }
            self.evictions += 1;
        }
    }

    fn evict_s3_fifo(&mut self, needs_bytes: bool) {
        loop {
            let is_large = if needs_bytes {
                sum(&self.small) >= self.limits.max_bytes / 10
            } else {
                self.small.len() >= self.limits.max_entries / 10
            };
            if self.main.is_empty() || (!self.small.is_empty() && is_large) {
                let item = self.small.remove(0);
                if item.uses <= 1 {
                    self.ghosts.retain(|ghost| *ghost != item.hash);
                    self.ghosts.push(item.hash);
                    return;
                }
                self.main.push(Item { uses: 0, ..item });
            } else {
                let item = self.main.remove(0);
                if item.uses == 0 {
                    return;
                }
                self.main.push(Item {
                    uses: item.uses - 1,
                    ..item
                });
            }
        }
    }
}
