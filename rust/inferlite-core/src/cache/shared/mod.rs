//! Answers that processes and machines share, in a Redis or Valkey server that nobody has to trust.
//!
//! A question is its keyed digest, and a value carries a MAC over that and its bytes: a server can lose answers, or give
//! old ones again, but not make them up. Every question has a time limit, and where the server fails again and again, a
//! breaker keeps it from being asked.

mod breaker;
mod connection;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::decode::Reader;
use super::key::write_value;
use super::portable::{FORMAT, Portable, outputs_asked_for, without_generation};
use crate::clock::Clock;
use crate::tensor::Value;
use breaker::Breaker;
use connection::{Connection, Deadline, Reply, command};

pub use connection::{Address, Server};

/// What every key on the server begins with; the number is that of the format.
const PREFIX: &str = "inferlite:1:";
const _: () = assert!(FORMAT == 1, "the prefix names the format");
const SEAL: usize = blake3::OUT_LEN;
/// Larger answers are not shared.
const MOST_BYTES: usize = 16 << 20;
/// How long an answer stays on the server where the cache has no time to live.
const DEFAULT_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// Connections that are kept open.
const MOST_IDLE: usize = 8;

/// What the shared tier has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SharedSummary {
    /// Questions that the server had the answer to.
    pub hits: u64,
    /// Questions that it had no answer to, or none that can be trusted.
    pub misses: u64,
    /// Questions and answers that failed: no connection, the time limit, or a refusal.
    pub errors: u64,
    /// Whether the server is not asked now, because it failed again and again.
    pub is_open: bool,
}

/// A question as the server knows it.
#[derive(Debug, Clone, Copy)]
pub struct SharedKey([u8; 32]);

impl SharedKey {
    fn name(&self) -> String {
        format!("{PREFIX}{}", blake3::Hash::from_bytes(self.0).to_hex())
    }
}

#[derive(Debug)]
pub(super) struct Shared {
    server: Server,
    clock: Clock,
    key_key: [u8; 32],
    seal_key: [u8; 32],
    breaker: Mutex<Breaker>,
    /// How the server failed last.
    failure: Mutex<String>,
    idle: Mutex<Vec<Connection>>,
    hits: AtomicU64,
    misses: AtomicU64,
    errors: AtomicU64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(server: Server, portable: &Portable, clock: Clock) -> Self {
        Self {
            server,
            clock,
            key_key: portable.shared_key(),
            seal_key: portable.shared_seal(),
            breaker: Mutex::default(),
            failure: Mutex::default(),
            idle: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        }
    }

    pub(super) fn key(&self, words: &[u64]) -> SharedKey {
        let mut hasher = blake3::Hasher::new_keyed(&self.key_key);
        for word in without_generation(words) {
            hasher.update(&word.to_ne_bytes());
        }
        SharedKey(hasher.finalize().into())
    }

    /// The answer to a question, and how much longer it counts, as far as the server knows.
    pub(super) fn get(&self, words: &[u64]) -> Option<(Vec<Value>, Option<Duration>)> {
        let key = self.key(words);
        let name = key.name();
        let mut commands = Vec::new();
        command(&[b"GET", name.as_bytes()], &mut commands);
        command(&[b"PTTL", name.as_bytes()], &mut commands);
        let [value, left] = self.ask(&commands)?;
        let found = match value {
            Reply::Bytes(bytes) => self.opened(key, &bytes, words),
            _ => None,
        };
        let count = if found.is_some() { &self.hits } else { &self.misses };
        count.fetch_add(1, Ordering::Relaxed);
        let left = match left {
            Reply::Number(left) => u64::try_from(left).ok().map(Duration::from_millis),
            _ => None,
        };
        Some((found?, left))
    }

    /// Keeps the answer to a question on the server.
    pub(super) fn put(&self, words: &[u64], values: &[Value], ttl: Option<Duration>) {
        let key = self.key(words);
        let mut bytes = vec![0; SEAL];
        bytes.extend_from_slice(&FORMAT.to_ne_bytes());
        bytes.extend_from_slice(&(values.len() as u64).to_ne_bytes());
        for value in values {
            write_value(value, &mut bytes);
            if bytes.len() > MOST_BYTES {
                return;
            }
        }
        let seal = self.seal(key, &bytes[SEAL..]);
        bytes[..SEAL].copy_from_slice(seal.as_bytes());
        let left = u64::try_from(ttl.unwrap_or(DEFAULT_TTL).as_millis()).unwrap_or(u64::MAX);
        // The server refuses times beyond its clock, and none of no length.
        let left = left.clamp(1, 1 << 50).to_string();
        let mut commands = Vec::new();
        command(
            &[b"SET", key.name().as_bytes(), &bytes, b"PX", left.as_bytes()],
            &mut commands,
        );
        let _: Option<[Reply; 1]> = self.ask(&commands);
    }

    /// Drops an answer from the server; whether there was one.
    pub(super) fn remove(&self, key: SharedKey) -> bool {
        let mut commands = Vec::new();
        command(&[b"DEL", key.name().as_bytes()], &mut commands);
        matches!(self.ask(&commands), Some([Reply::Number(1)]))
    }

    /// Why the server cannot be used now.
    pub(super) fn problem(&self) -> Option<String> {
        let mut commands = Vec::new();
        command(&[b"PING"], &mut commands);
        let problem = match self.exchange::<1>(&commands) {
            Ok([Reply::Refusal(words)]) => words,
            Ok(_) => {
                locked(&self.breaker).succeeded();
                return None;
            }
            Err(error) => self.words_of(&error),
        };
        self.failed(problem.clone());
        Some(problem)
    }

    /// How the server failed, if that is why it is left alone now.
    pub(super) fn pause(&self) -> Option<String> {
        let is_open = locked(&self.breaker).is_open();
        is_open.then(|| locked(&self.failure).clone())
    }

    pub(super) fn summary(&self) -> SharedSummary {
        SharedSummary {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            is_open: locked(&self.breaker).is_open(),
        }
    }

    fn seal(&self, key: SharedKey, payload: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.seal_key);
        hasher.update(&key.0);
        hasher.update(payload);
        hasher.finalize()
    }

    /// The values under a seal; `None` for whatever was not sealed with the secret for this very question.
    fn opened(&self, key: SharedKey, bytes: &[u8], words: &[u64]) -> Option<Vec<Value>> {
        let (seal, payload) = bytes.split_first_chunk::<SEAL>()?;
        if self.seal(key, payload) != *seal {
            return None;
        }
        let mut reader = Reader(payload);
        if reader.array()? != FORMAT.to_ne_bytes() {
            return None;
        }
        let count = reader.count(1)?;
        let values = (0..count).map(|_| reader.value()).collect::<Option<Vec<_>>>()?;
        (reader.0.is_empty() && outputs_asked_for(words) == Some(count)).then_some(values)
    }

    fn words_of(&self, error: &io::Error) -> String {
        if is_timeout(error) {
            return format!("no answer within {:?}", self.server.timeout);
        }
        error.to_string()
    }

    fn failed(&self, how: String) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        // Before the breaker opens, so that whoever sees it open finds the reason.
        *locked(&self.failure) = how;
        locked(&self.breaker).failed(self.clock.now());
    }

    /// Asks the server, unless the breaker says that there is no point; `None` if there is no reply to all of it.
    fn ask<const N: usize>(&self, commands: &[u8]) -> Option<[Reply; N]> {
        if !locked(&self.breaker).allows(self.clock.now()) {
            return None;
        }
        let replies = match self.exchange(commands) {
            Ok(replies) => replies,
            Err(error) => {
                self.failed(self.words_of(&error));
                return None;
            }
        };
        let refusal = replies.iter().find_map(|reply| match reply {
            Reply::Refusal(words) => Some(words),
            _ => None,
        });
        match refusal {
            None => {
                locked(&self.breaker).succeeded();
                return Some(replies);
            }
            // Something else lies under this one key.
            Some(words) if words.starts_with("WRONGTYPE") => {
                self.errors.fetch_add(1, Ordering::Relaxed);
                locked(&self.breaker).succeeded();
            }
            Some(words) => self.failed(words.clone()),
        }
        None
    }

    /// Sends commands and reads as many replies, all within the time limit.
    fn exchange<const N: usize>(&self, commands: &[u8]) -> io::Result<[Reply; N]> {
        let deadline = Deadline::after(self.server.timeout);
        let idle = locked(&self.idle).pop();
        if let Some(connection) = idle {
            match self.exchange_over(connection, commands, deadline) {
                Err(error) if !is_timeout(&error) => {
                    // The server has closed it since, and the others with it: that says nothing about the server now.
                    locked(&self.idle).clear();
                }
                result => return result,
            }
        }
        self.exchange_over(Connection::open(&self.server, deadline)?, commands, deadline)
    }

    fn exchange_over<const N: usize>(
        &self,
        mut connection: Connection,
        commands: &[u8],
        deadline: Deadline,
    ) -> io::Result<[Reply; N]> {
        connection.send(commands, deadline)?;
        let mut replies = [const { Reply::Nothing }; N];
        for reply in &mut replies {
            *reply = connection.reply(MOST_BYTES, deadline)?;
        }
        let mut idle = locked(&self.idle);
        if connection.is_in_step() && idle.len() < MOST_IDLE {
            idle.push(connection);
        }
        Ok(replies)
    }
}

fn is_timeout(error: &io::Error) -> bool {
    // Sockets say that a wait would block where their own time limit is over.
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

#[cfg(all(test, unix))]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::{env, fs, process, thread};

    use super::*;

    #[test]
    fn a_server_that_fails_is_left_alone_with_the_reason_until_it_answers() {
        let path = env::temp_dir().join(format!("inferlite-shared-{}.sock", process::id()));
        let server = Server {
            address: Address::Unix(path.clone()),
            user: None,
            password: None,
            database: 0,
            timeout: Duration::from_secs(30),
        };
        let (clock, hand) = Clock::held();
        let shared = Shared::new(server, &Portable::new([1; 32], None), clock);
        let question = [0, 1];
        for _ in 0..2 {
            assert!(shared.get(&question).is_none());
            assert_eq!(shared.pause(), None);
        }
        for _ in 0..2 {
            assert!(shared.get(&question).is_none());
            assert_eq!(
                shared.pause().as_deref(),
                Some("No such file or directory (os error 2)")
            );
        }
        let failed = SharedSummary {
            errors: 3,
            is_open: true,
            ..SharedSummary::default()
        };
        assert_eq!(shared.summary(), failed);
        let listener = UnixListener::bind(&path).unwrap();
        let answering = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 1024];
            assert!(stream.read(&mut asked).unwrap() > 0);
            stream.write_all(b"$-1\r\n:-2\r\n").unwrap();
        });
        hand.advance(Duration::from_millis(500));
        assert!(shared.get(&question).is_none());
        answering.join().unwrap();
        assert_eq!(shared.pause(), None);
        let mended = SharedSummary {
            misses: 1,
            errors: 3,
            ..SharedSummary::default()
        };
        assert_eq!(shared.summary(), mended);
        fs::remove_file(&path).unwrap();
    }
}
