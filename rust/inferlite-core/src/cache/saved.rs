//! Answers in a file, for the next process.
//!
//! ```text
//! magic (16)  version (4)  identity (32)  saved at (8)  entries (8)     then, per entry, least recently used first:
//!     milliseconds left (8)  words (8)  question (16 each)  values (8)  each value                    then a seal (32)
//! ```
//! The seal is a BLAKE3 MAC over everything before it. It is looked at before anything else but magic and version is.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::decode::Reader;
use super::entry::Entry;
use super::key::write_value;
use super::portable::{FORMAT, Portable, generation_of, outputs_asked_for, without_generation};

const MAGIC: &[u8; 16] = b"inferlite-cache\n";
const SEAL: usize = blake3::OUT_LEN;
const WORD: usize = size_of::<u64>();
/// Stands for an entry that never expires.
const FOR_EVER: u64 = u64::MAX;

/// An answer as a file has it.
#[derive(Debug)]
pub(super) struct Restored {
    pub(super) words: Vec<u64>,
    pub(super) values: Vec<crate::tensor::Value>,
    pub(super) left: Option<Duration>,
}

/// Writes entries to a file that takes the place of the old one once it is whole; says how many there are.
pub(super) fn save(
    path: &Path,
    portable: &Portable,
    entries: &[Arc<Entry>],
    now: Duration,
    wall: Duration,
) -> io::Result<usize> {
    let is_alive = |entry: &&Arc<Entry>| entry.expires_at.is_none_or(|end| end > now);
    let entries: Vec<&Arc<Entry>> = entries.iter().filter(is_alive).collect();
    let temporary = Temporary::beside(path)?;
    let mut file = Sealing {
        file: BufWriter::new(File::options().write(true).create_new(true).open(&temporary.0)?),
        seal: portable.file_seal(),
    };
    file.write(MAGIC)?;
    file.write(&FORMAT.to_ne_bytes())?;
    file.write(portable.identity())?;
    file.write(&milliseconds(wall).to_ne_bytes())?;
    file.write(&(entries.len() as u64).to_ne_bytes())?;
    let mut bytes = Vec::new();
    for entry in &entries {
        bytes.clear();
        let left = entry
            .expires_at
            .map_or(FOR_EVER, |end| milliseconds(end.saturating_sub(now)));
        bytes.extend_from_slice(&left.to_ne_bytes());
        bytes.extend_from_slice(&(entry.words().len() as u64).to_ne_bytes());
        for word in without_generation(entry.words()) {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(&(entry.values().len() as u64).to_ne_bytes());
        for value in entry.values() {
            write_value(value, &mut bytes);
        }
        file.write(&bytes)?;
    }
    let seal = file.seal.finalize();
    file.file.write_all(seal.as_bytes())?;
    file.file.into_inner()?.sync_all()?;
    fs::rename(&temporary.0, path)?;
    std::mem::drop(temporary);
    Ok(entries.len())
}

/// The entries of a file that still count, the least recently used one first; `None` if there is no file.
///
/// The error says why the file is not used.
pub(super) fn load(path: &Path, portable: &Portable, wall: Duration) -> Result<Option<Vec<Restored>>, String> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
        // A pipe would be waited for.
        Ok(found) if !found.is_file() => return Err("it is no regular file".to_owned()),
        Ok(_) => {}
    }
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    read(&bytes, portable, wall).map(Some)
}

fn read(bytes: &[u8], portable: &Portable, wall: Duration) -> Result<Vec<Restored>, String> {
    let foreign = || "it is no saved cache".to_owned();
    let cut_short = || "it is cut short".to_owned();
    let mut reader = Reader(bytes);
    if reader.array().ok_or_else(foreign)? != *MAGIC {
        return Err(foreign());
    }
    let version = u32::from_ne_bytes(reader.array().ok_or_else(cut_short)?);
    if version != FORMAT {
        return Err(format!(
            "it is of version {version} of the format, and this inferlite reads version {FORMAT}"
        ));
    }
    let (content, seal) = bytes
        .len()
        .checked_sub(SEAL)
        .and_then(|end| bytes.split_at_checked(end))
        .ok_or_else(cut_short)?;
    let mut hasher = portable.file_seal();
    hasher.update(content);
    let seal: [u8; SEAL] = seal.try_into().map_err(|_| cut_short())?;
    // The comparison takes the same time whatever the bytes are.
    if hasher.finalize() != seal {
        return Err("its seal does not fit: it is damaged, was changed, or was sealed with another secret".to_owned());
    }
    let header = MAGIC.len() + size_of::<u32>();
    let mut reader = Reader(content.get(header..).ok_or_else(cut_short)?);
    if reader.array().ok_or_else(cut_short)? != *portable.identity() {
        return Err("it is of another model, or of other options or versions".to_owned());
    }
    entries(reader, wall).ok_or_else(|| "what it holds cannot be read".to_owned())
}

fn entries(mut reader: Reader<'_>, wall: Duration) -> Option<Vec<Restored>> {
    let saved_at = reader.number()?;
    // A wall clock that was set back makes nothing live longer than it had left.
    let passed = milliseconds(wall).saturating_sub(saved_at);
    let count = reader.count(3 * size_of::<u64>())?;
    let mut entries = Vec::new();
    for _ in 0..count {
        let left = match reader.number()? {
            FOR_EVER => Some(None),
            left => left
                .checked_sub(passed)
                .filter(|&left| left > 0)
                .map(|left| Some(Duration::from_millis(left))),
        };
        let words = reader.count(WORD)?;
        let words = (0..words)
            .map(|_| reader.array().map(u64::from_ne_bytes))
            .collect::<Option<Vec<u64>>>()?;
        let values = reader.count(1)?;
        let values = (0..values).map(|_| reader.value()).collect::<Option<Vec<_>>>()?;
        if outputs_asked_for(&words)? != values.len() || generation_of(&words) != 0 {
            return None;
        }
        if let Some(left) = left {
            entries.push(Restored { words, values, left });
        }
    }
    reader.0.is_empty().then_some(entries)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).map_or(FOR_EVER - 1, |number| number.min(FOR_EVER - 1))
}

struct Sealing {
    file: BufWriter<File>,
    seal: blake3::Hasher,
}

impl Sealing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.seal.update(bytes);
        self.file.write_all(bytes)
    }
}

/// A name that is gone again unless the file has been renamed.
struct Temporary(PathBuf);

impl Temporary {
    fn beside(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("`{}` names no file", path.display()),
            )
        })?;
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        // Random, since the same process ids come again where each container counts its own.
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        temporary.push(format!(".{:016x}.part", u64::from_ne_bytes(random)));
        Ok(Self(path.with_file_name(temporary)))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::memory::Memory;
    use super::*;
    use crate::runtime::Values;
    use crate::tensor::{Dtype, Shape, Tensor, Value};

    const NOW: Duration = Duration::from_secs(5);
    const WALL: Duration = Duration::from_secs(1_000);

    /// The question with this number, which asks for one output.
    fn question(number: u64) -> [u64; 3] {
        [7, 1, number]
    }

    fn entry(number: u64, expires_at: Option<Duration>) -> Arc<Entry> {
        let shape = Shape::from_slice(&[1]);
        let tensor = Tensor::from_bytes(Dtype::Float32, shape, &1.5_f32.to_ne_bytes()).expect("four bytes");
        let values = Values::from_iter([Value::Tensor(tensor)]);
        let entry = Entry::of_values(&Arc::new(Memory::new(0)), 0, &question(number), values, expires_at);
        Arc::new(entry.expect("there is memory"))
    }

    fn portable(secret: Option<&[u8]>) -> Portable {
        Portable::new([3; 32], secret)
    }

    fn saved(portable: &Portable, entries: &[Arc<Entry>]) -> Vec<u8> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("inferlite-saved-{}-{next}", std::process::id()));
        fs::create_dir(&folder).expect("it is a new folder");
        let path = folder.join("answers");
        fs::write(&path, "an older file").expect("it can be written");
        save(&path, portable, entries, NOW, WALL).expect("it can be written");
        let bytes = fs::read(&path).expect("it was written");
        assert_eq!(fs::read_dir(&folder).expect("it is there").count(), 1);
        fs::remove_dir_all(&folder).expect("it is ours");
        bytes
    }

    #[test]
    fn entries_come_back_in_order_without_their_generation() {
        let bytes = saved(&portable(None), &[entry(2, None), entry(1, Some(NOW * 3))]);
        let restored = read(&bytes, &portable(None), WALL + Duration::from_secs(4)).expect("it is whole");
        let found: Vec<_> = restored
            .iter()
            .map(|answer| (answer.words.clone(), answer.left))
            .collect();
        let words = |number| vec![0, 1, number];
        assert_eq!(found, [(words(2), None), (words(1), Some(Duration::from_secs(6)))]);
    }

    #[test]
    fn what_has_expired_is_neither_written_nor_read() {
        let entries = [entry(1, Some(NOW)), entry(2, Some(NOW * 2))];
        let bytes = saved(&portable(None), &entries);
        let numbers = |wall| {
            let restored = read(&bytes, &portable(None), wall).expect("it is whole");
            restored.iter().map(|answer| answer.words[2]).collect::<Vec<_>>()
        };
        assert_eq!(numbers(WALL), [2]);
        assert_eq!(numbers(Duration::ZERO), [2]);
        assert!(numbers(WALL + NOW).is_empty());
    }

    #[test]
    fn every_changed_byte_and_every_shorter_file_is_noticed() {
        for secret in [None, Some(&b"sixteen or more bytes"[..])] {
            let portable = portable(secret);
            let bytes = saved(&portable, &[entry(1, None), entry(2, Some(NOW * 2))]);
            assert!(read(&bytes, &portable, WALL).is_ok());
            for place in 0..bytes.len() {
                for change in [1, 0x80, 0xff] {
                    let mut changed = bytes.clone();
                    changed[place] ^= change;
                    assert!(read(&changed, &portable, WALL).is_err(), "{place}");
                }
                assert!(read(&bytes[..place], &portable, WALL).is_err(), "{place}");
            }
            let longer = [&bytes[..], &[0]].concat();
            assert!(read(&longer, &portable, WALL).is_err());
        }
    }

    #[test]
    fn files_of_others_are_refused_with_their_own_reason() {
        let secret = Some(&b"sixteen or more bytes"[..]);
        let bytes = saved(&portable(secret), &[entry(1, None)]);
        let reason = |portable: &Portable| read(&bytes, portable, WALL).expect_err("it is another's");
        assert!(reason(&portable(None)).contains("its seal does not fit"));
        assert!(reason(&portable(Some(b"another secret of the same"))).contains("its seal does not fit"));
        assert_eq!(
            reason(&Portable::new([4; 32], secret)),
            "it is of another model, or of other options or versions"
        );
        assert_eq!(
            read(b"something else altogether", &portable(None), WALL).err(),
            Some("it is no saved cache".into())
        );
    }

    #[test]
    fn a_sealed_file_that_makes_no_sense_is_refused() {
        let portable = portable(None);
        let bytes = saved(&portable, &[entry(1, None)]);
        for place in 60..bytes.len() - SEAL {
            let mut changed = bytes[..bytes.len() - SEAL].to_vec();
            changed[place] ^= 0xff;
            let mut seal = portable.file_seal();
            seal.update(&changed);
            changed.extend_from_slice(seal.finalize().as_bytes());
            // Whoever writes files without a secret may say anything, and gets no panic.
            let _ = read(&changed, &portable, WALL);
        }
    }
}
