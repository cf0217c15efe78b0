//! What lets answers leave the process: an identity that takes the place of the generation, and what is derived from it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::key::{COUNTS, GENERATION};

/// Everything that decides about a model's answers beside its inputs, as one digest.
pub type Identity = [u8; 32];

/// The version of saved files and shared values, and of the keys in them.
pub const FORMAT: u32 = 1;

/// What answers beyond this process are known and sealed by.
#[derive(Clone)]
pub struct Portable {
    identity: Identity,
    secret: Option<Arc<[u8]>>,
    /// Whether the model has become another one, in all copies of this.
    is_void: Arc<AtomicBool>,
}

impl fmt::Debug for Portable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Portable")
            .field("has_secret", &self.secret.is_some())
            .finish_non_exhaustive()
    }
}

impl Portable {
    /// Answers of the model with this identity, sealed with a secret where there is one.
    #[must_use]
    pub fn new(identity: Identity, secret: Option<&[u8]>) -> Self {
        Self {
            identity,
            secret: secret.map(Into::into),
            is_void: Arc::default(),
        }
    }

    /// Lets no answer leave the process any more, nor come into it: the identity is the model's no longer.
    pub(super) fn make_void(&self) {
        self.is_void.store(true, Ordering::Release);
    }

    pub(super) fn is_void(&self) -> bool {
        self.is_void.load(Ordering::Acquire)
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A key for one purpose, which only those with the secret know; without a secret it is known to all.
    fn derived(&self, purpose: &'static str) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new_derive_key(purpose);
        let secret = self.secret.as_deref();
        // Its length first, so that it does not run into what follows.
        hasher.update(&secret.map_or(u64::MAX, |secret| secret.len() as u64).to_le_bytes());
        hasher.update(secret.unwrap_or_default());
        hasher
    }

    /// The key for digests of large inputs: every process of this model takes the same.
    pub(super) fn digest_key(&self) -> [u8; 32] {
        let mut hasher = self.derived("inferlite 2026 digests of large inputs");
        hasher.update(&self.identity);
        hasher.finalize().into()
    }

    /// The key for what questions are called on a shared server.
    pub(super) fn shared_key(&self) -> [u8; 32] {
        let mut hasher = self.derived("inferlite 2026 names of shared answers");
        hasher.update(&self.identity);
        hasher.finalize().into()
    }

    /// The key for the seals of shared answers.
    pub(super) fn shared_seal(&self) -> [u8; 32] {
        let mut hasher = self.derived("inferlite 2026 seals of shared answers");
        hasher.update(&self.identity);
        hasher.finalize().into()
    }

    /// Seals a saved file. It does not depend on the model, so that a file of another one is told from a damaged one.
    pub(super) fn file_seal(&self) -> blake3::Hasher {
        blake3::Hasher::new_keyed(&self.derived("inferlite 2026 seal of a saved cache").finalize().into())
    }
}

/// The words of a question without the generation of the model that it was put to.
pub(super) fn without_generation(words: &[u64]) -> impl Iterator<Item = u64> + '_ {
    words
        .iter()
        .enumerate()
        .map(|(place, word)| if place == GENERATION { 0 } else { *word })
}

/// The generation in the words of a question.
pub(super) fn generation_of(words: &[u64]) -> u64 {
    words.get(GENERATION).copied().unwrap_or(0)
}

/// How many outputs a question asks for.
pub(super) fn outputs_asked_for(words: &[u64]) -> Option<usize> {
    usize::try_from(words.get(COUNTS)? & u64::from(u32::MAX)).ok()
}
