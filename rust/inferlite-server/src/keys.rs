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

    /// Whether a request with these keys, or without one, may have access; one that is good suffices.
    pub(crate) fn admit(&self, access: Access, given: &[&[u8]]) -> bool {
        let is_asked = match access {
            Access::Open => false,
            Access::Inference => !self.inference.is_empty(),
            Access::Admin => !self.inference.is_empty() || !self.admin.is_empty(),
        };
        if !is_asked {
            return true;
        }
        // All are compared with all, so that the time does not tell which one fits.
        let (mut may_infer, mut may_administer) = (false, false);
        for given in given {
            let given = blake3::hash(given);
            let fits = |keys: &[blake3::Hash]| keys.iter().filter(|key| **key == given).count() > 0;
            may_infer |= fits(&self.inference);
            may_administer |= fits(&self.admin);
        }
        match access {
            Access::Open | Access::Inference => may_infer | may_administer,
            Access::Admin => may_administer,
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
            assert!(keys.admit(access, &[]), "{access:?}");
        }
        assert!(!keys.are_asked_for());
    }

    #[test]
    fn a_key_for_inference_opens_no_administration() {
        let keys = Keys::new(&["in"], &["ad"]);
        assert!(keys.admit(Access::Open, &[]));
        assert!(!keys.admit(Access::Inference, &[]));
        assert!(!keys.admit(Access::Inference, &[b"i"]));
        assert!(keys.admit(Access::Inference, &[b"in"]));
        assert!(keys.admit(Access::Inference, &[b"ad"]));
        assert!(!keys.admit(Access::Admin, &[b"in"]));
        assert!(keys.admit(Access::Admin, &[b"ad"]));
        assert_eq!(format!("{keys:?}"), "Keys(1 for inference, 1 for administration)");
    }

    #[test]
    fn a_key_for_inference_alone_shuts_administration() {
        let keys = Keys::new(&["in"], &[]);
        assert!(!keys.admit(Access::Admin, &[b"in"]));
        assert!(!keys.admit(Access::Admin, &[]));
    }

    #[test]
    fn a_key_for_administration_alone_leaves_inference_open() {
        let keys = Keys::new(&[], &["ad"]);
        assert!(keys.admit(Access::Inference, &[]));
        assert!(!keys.admit(Access::Admin, &[]));
        assert!(!keys.are_asked_for());
    }

    #[test]
    fn one_good_key_among_several_suffices() {
        let keys = Keys::new(&["in"], &["ad"]);
        for given in [[b"no", b"in"], [b"in", b"no"], [b"in", b"ad"]] {
            let given = given.map(<[u8; 2]>::as_slice);
            assert!(keys.admit(Access::Inference, &given), "{given:?}");
        }
        assert!(keys.admit(Access::Admin, &[b"in", b"ad"]) && keys.admit(Access::Admin, &[b"ad", b"in"]));
        assert!(!keys.admit(Access::Admin, &[b"in", b"in"]) && !keys.admit(Access::Inference, &[b"no", b"non"]));
    }
}
