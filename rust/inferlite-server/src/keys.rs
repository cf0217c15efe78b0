//! Who may ask: keys for inference and for administration apart.

use std::fmt;

use crate::routes::Access;

/// Keys that requests must bring, as `Authorization: Bearer KEY` or `X-API-Key: KEY`.
///
/// They are kept and compared as digests, in a time that does not depend on how much of a key is right.
#[derive(Clone, Default)]
pub struct Keys {
    inference: Vec<blake3::Hash>,
    admin: Vec<blake3::Hash>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Keys({} for inference, {} for administration)",
            self.inference.len(),
            self.admin.len()
        )
    }
}

impl Keys {
    /// Any of these keys; whoever has one for administration may infer as well. Where there is none of a kind, nobody
    /// needs one, except that a key for inference alone shuts administration for all.
    #[must_use]
    pub fn new<K: AsRef<[u8]>>(inference: &[K], admin: &[K]) -> Self {
        let hashed = |keys: &[K]| keys.iter().map(|key| blake3::hash(key.as_ref())).collect();
        Self {
            inference: hashed(inference),
            admin: hashed(admin),
        }
    }

    /// Whether requests need a key for anything that changes or reveals something.
    #[must_use]
    pub fn are_asked_for(&self) -> bool {
        !self.inference.is_empty()
    }

    /// Whether a request with this key, or without one, may have access.
    pub(crate) fn admit(&self, access: Access, given: Option<&[u8]>) -> bool {
        let has = |keys: &[blake3::Hash]| {
            let Some(given) = given else { return false };
            let given = blake3::hash(given);
            // All are compared, so that the time does not tell which one fits.
            keys.iter().filter(|key| **key == given).count() > 0
        };
        match access {
            Access::Open => true,
            Access::Inference => self.inference.is_empty() || has(&self.inference) | has(&self.admin),
            Access::Admin => (self.inference.is_empty() && self.admin.is_empty()) || has(&self.admin),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_keys_everybody_may_ask() {
        let keys = Keys::default();
        for access in [Access::Open, Access::Inference, Access::Admin] {
            assert!(keys.admit(access, None), "{access:?}");
        }
        assert!(!keys.are_asked_for());
    }

    #[test]
    fn a_key_for_inference_opens_no_administration() {
        let keys = Keys::new(&["in"], &["ad"]);
        assert!(keys.admit(Access::Open, None));
        assert!(!keys.admit(Access::Inference, None));
        assert!(!keys.admit(Access::Inference, Some(b"i")));
        assert!(keys.admit(Access::Inference, Some(b"in")));
        assert!(keys.admit(Access::Inference, Some(b"ad")));
        assert!(!keys.admit(Access::Admin, Some(b"in")));
        assert!(keys.admit(Access::Admin, Some(b"ad")));
        assert_eq!(format!("{keys:?}"), "Keys(1 for inference, 1 for administration)");
    }

    #[test]
    fn a_key_for_inference_alone_shuts_administration() {
        let keys = Keys::new(&["in"], &[]);
        assert!(!keys.admit(Access::Admin, Some(b"in")));
        assert!(!keys.admit(Access::Admin, None));
    }

    #[test]
    fn a_key_for_administration_alone_leaves_inference_open() {
        let keys = Keys::new(&[], &["ad"]);
        assert!(keys.admit(Access::Inference, None));
        assert!(!keys.admit(Access::Admin, None));
        assert!(!keys.are_asked_for());
    }
}
