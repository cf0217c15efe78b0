//! Feeds that own what they feed, for callers whose inputs come from a wire.

use smallvec::SmallVec;

use super::{Feed, Input};
use crate::tensor::{Owner, Tensor, Value};

/// Inputs of a call and the memory that they look at.
#[derive(Debug, Default)]
pub struct OwnedFeeds {
    // Dropped in this order: what looks at the memory goes before what releases it.
    feeds: SmallVec<[Feed; 1]>,
    owners: SmallVec<[Owner; 1]>,
}

impl OwnedFeeds {
    /// Feeds a tensor to the input with this index.
    pub fn push(&mut self, index: usize, tensor: Tensor) {
        let (view, owner) = tensor.into_parts();
        self.owners.push(owner);
        self.feeds.push(Feed {
            index,
            value: Input::Tensor(view),
        });
    }

    /// Feeds any value to the input with this index.
    pub fn push_value(&mut self, index: usize, value: Value) {
        match value {
            Value::Tensor(tensor) => self.push(index, tensor),
            other => self.feeds.push(Feed {
                index,
                value: Input::Value(other.into()),
            }),
        }
    }

    /// The feeds, and what has to be dropped after them.
    pub(crate) fn into_parts(self) -> (SmallVec<[Feed; 1]>, SmallVec<[Owner; 1]>) {
        (self.feeds, self.owners)
    }

    /// The feeds, as [`Call::feeds`](super::Call::feeds) takes them.
    #[inline]
    #[must_use]
    pub fn feeds(&self) -> &[Feed] {
        &self.feeds
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{Dtype, Strings};
    use smallvec::smallvec;

    #[test]
    fn feeds_keep_their_order_and_their_bytes() {
        let mut feeds = OwnedFeeds::default();
        let tensor = Tensor::from_bytes(Dtype::Uint8, smallvec![3], &[1, 2, 3]).unwrap();
        feeds.push_value(2, Value::Tensor(tensor));
        feeds.push_value(0, Value::Strings(Strings::with_shape(smallvec![0])));
        let moved = Box::new(feeds);
        let [first, second] = moved.feeds() else {
            panic!("two were pushed")
        };
        assert_eq!((first.index, second.index), (2, 0));
        let Input::Tensor(view) = &first.value else {
            panic!("a tensor was pushed")
        };
        let mut bytes = [0; 3];
        view.copy_part(0, &mut bytes);
        assert_eq!(bytes, [1, 2, 3]);
        assert!(matches!(&second.value, Input::Value(value) if matches!(**value, Value::Strings(_))));
    }
}
