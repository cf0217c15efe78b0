//! A reader that is asked for one value after the other.
//!
//! The grammar is that of RFC 8259 and nothing more. What is wrong is said in the words of `RapidJSON`, which clients of
//! Triton know.

use std::borrow::Cow;

#[cfg(target_arch = "x86_64")]
use inferlite_core::tensor::Buffer;

#[cfg(target_arch = "x86_64")]
use super::decimals::{self, Decimal};
use super::number::{self, Number};

/// How deep arrays and objects may be nested.
const MAX_DEPTH: usize = 64;

const NOT_ARRAY: &str = "attempt to access JSON non-array as array";
const NOT_BOOLEAN: &str = "attempt to access JSON non-boolean as boolean";
const NOT_OBJECT: &str = "attempt to access JSON non-object as object";
const NOT_STRING: &str = "attempt to access JSON non-string as string";

/// What is wrong, and where: a position in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// This is no JSON.
    Malformed {
        /// What is missing or too much.
        what: &'static str,
        /// Where.
        at: usize,
    },
    /// A value of another type was wanted.
    Mistyped {
        /// What was wanted.
        what: &'static str,
        /// Where the value begins.
        at: usize,
    },
    /// A number that the wanted type cannot hold.
    OutOfRange {
        /// Where it begins.
        at: usize,
    },
    /// Arrays of one axis have several lengths, or numbers stand beside arrays.
    Ragged,
    /// There are more elements than wanted.
    TooMany,
}

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Object,
    Array,
    String,
    Number,
    Boolean,
    Null,
}

/// Where in a text one is.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

/// The members of an object that has been entered.
#[derive(Debug)]
pub(crate) struct Members {
    is_first: bool,
}

/// The elements of an array that has been entered.
#[derive(Debug)]
pub(crate) struct Elements {
    is_first: bool,
}

/// What follows an element of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Another element.
    Element,
    /// Nothing: the array has been left.
    End,
}

impl<'a> Reader<'a> {
    /// Begins at the start of a text, which must be UTF-8 as a whole.
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, Fault> {
        let text = std::str::from_utf8(bytes).map_err(|error| Fault::Malformed {
            what: "Invalid encoding in string.",
            at: error.valid_up_to(),
        })?;
        Ok(Self { text, at: 0, depth: 0 })
    }

    /// The same text, from a position on where a value begins.
    pub(crate) fn moved_to(&self, at: usize) -> Self {
        Self {
            text: self.text,
            at,
            depth: 0,
        }
    }

    /// Where the next value begins.
    pub(crate) fn position(&mut self) -> usize {
        self.token();
        self.at
    }

    /// How many bytes are left.
    #[inline]
    pub(crate) fn left(&self) -> usize {
        self.text.len().saturating_sub(self.at)
    }

    /// The beginning of the value at a position, for a message.
    pub(crate) fn excerpt(&self, at: usize) -> String {
        const MAX: usize = 32;
        let mut value = self.moved_to(at);
        let end = value.skip_value().map_or(self.text.len(), |()| value.at);
        let text = self.text.get(at..end).unwrap_or_default();
        match text.char_indices().nth(MAX) {
            Some((cut, _)) => format!("{}...", text.get(..cut).unwrap_or_default()),
            None => text.into(),
        }
    }

    #[inline]
    fn bytes(&self) -> &'a [u8] {
        self.text.as_bytes()
    }

    /// The next byte that is no white space.
    #[inline]
    fn token(&mut self) -> Option<u8> {
        let bytes = self.bytes();
        loop {
            match bytes.get(self.at) {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                other => return other.copied(),
            }
        }
    }

    #[cold]
    fn malformed(&self, what: &'static str) -> Fault {
        Fault::Malformed { what, at: self.at }
    }

    #[cold]
    fn no_value(&self) -> Fault {
        let is_blank = self
            .text
            .bytes()
            .all(|byte| matches!(byte, b' ' | b'\n' | b'\r' | b'\t'));
        self.malformed(if is_blank {
            "The document is empty."
        } else {
            "Invalid value."
        })
    }

    /// The fault of a value that has another type than was wanted, unless it is no value at all.
    #[cold]
    pub(super) fn mistyped(&mut self, what: &'static str) -> Fault {
        let at = self.position();
        match self.clone().skip_value() {
            Ok(()) => Fault::Mistyped { what, at },
            Err(fault) => fault,
        }
    }

    /// The type of the next value.
    #[inline]
    pub(crate) fn kind(&mut self) -> Result<Kind, Fault> {
        Ok(match self.token() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::String,
            Some(b'-' | b'0'..=b'9') => Kind::Number,
            Some(b't' | b'f') => Kind::Boolean,
            Some(b'n') => Kind::Null,
            _ => return Err(self.no_value()),
        })
    }

    fn enter(&mut self) -> Result<(), Fault> {
        if self.depth == MAX_DEPTH {
            return Err(self.malformed("Nested deeper than 64 levels."));
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    fn leave(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        self.at += 1;
    }

    /// Enters an object.
    pub(crate) fn object(&mut self) -> Result<Members, Fault> {
        if self.token() != Some(b'{') {
            return Err(self.mistyped(NOT_OBJECT));
        }
        self.enter()?;
        Ok(Members { is_first: true })
    }

    /// Enters an array.
    pub(crate) fn array(&mut self) -> Result<Elements, Fault> {
        if self.token() != Some(b'[') {
            return Err(self.mistyped(NOT_ARRAY));
        }
        self.enter()?;
        Ok(Elements { is_first: true })
    }

    /// Leaves an array that has just been entered, if it is empty.
    pub(crate) fn leave_if_empty(&mut self) -> bool {
        let is_empty = self.token() == Some(b']');
        if is_empty {
            self.leave();
        }
        is_empty
    }

    /// What follows an element of an array.
    #[inline]
    pub(crate) fn next_element(&mut self) -> Result<Next, Fault> {
        match self.token() {
            Some(b',') => {
                self.at += 1;
                Ok(Next::Element)
            }
            Some(b']') => {
                self.leave();
                Ok(Next::End)
            }
            _ => Err(self.malformed("Missing a comma or ] after an array element.")),
        }
    }

    /// Reads a string.
    pub(crate) fn string(&mut self) -> Result<Cow<'a, str>, Fault> {
        if self.token() != Some(b'"') {
            return Err(self.mistyped(NOT_STRING));
        }
        let start = self.at + 1;
        let (end, has_escapes) = self.end_of_string(start)?;
        self.at = end + 1;
        let raw = self.text.get(start..end).unwrap_or_default();
        Ok(if has_escapes {
            Cow::Owned(unescaped(raw))
        } else {
            Cow::Borrowed(raw)
        })
    }

    fn skip_string(&mut self) -> Result<(), Fault> {
        let (end, _) = self.end_of_string(self.at + 1)?;
        self.at = end + 1;
        Ok(())
    }

    /// Where the string ends whose characters begin at `start`, and whether some are escaped.
    fn end_of_string(&self, start: usize) -> Result<(usize, bool), Fault> {
        let bytes = self.bytes();
        let malformed = |what, at| Err(Fault::Malformed { what, at });
        let mut at = start;
        let mut has_escapes = false;
        loop {
            match bytes.get(at) {
                Some(b'"') => return Ok((at, has_escapes)),
                Some(b'\\') => {
                    has_escapes = true;
                    at = match bytes.get(at + 1) {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => at + 2,
                        Some(b'u') => match unicode_escape(bytes, at) {
                            Ok((_, end)) => end,
                            Err(what) => return malformed(what, at),
                        },
                        _ => return malformed("Invalid escape character in string.", at),
                    };
                }
                Some(0..=0x1F) => return malformed("Invalid encoding in string.", at),
                Some(_) => at += 1,
                None => return malformed("Missing a closing quotation mark in string.", start.saturating_sub(1)),
            }
        }
    }

    /// Reads a number as a type of the caller's.
    #[inline]
    pub(crate) fn number<T: Number>(&mut self) -> Result<T, Fault> {
        self.token();
        T::read(self)
    }

    /// The digits of a number that begins here, which is left behind; `what` was wanted.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the loop over numbers is the hot path")]
    pub(super) fn scan(&mut self, what: &'static str) -> Result<number::Scanned<'a>, Fault> {
        match number::scan(self.text, self.at) {
            Ok((scanned, end)) => {
                self.at = end;
                Ok(scanned)
            }
            Err(number::NoNumber::Other) => Err(self.mistyped(what)),
            Err(number::NoNumber::Malformed(what, at)) => Err(Fault::Malformed { what, at }),
        }
    }

    /// Reads short decimals, from the very position of the reader, as long as each has a comma behind it, and at most so
    /// many; gives how many they are. Numbers that are written in another way are left to [`Reader::number`].
    #[cfg(target_arch = "x86_64")]
    pub(super) fn decimals<T: Decimal>(&mut self, into: &mut Buffer, most: usize) -> usize {
        let (count, at) = decimals::read::<T>(self.bytes(), self.at, most, into);
        self.at = at;
        count
    }

    /// Reads `true` or `false`.
    pub(crate) fn boolean(&mut self) -> Result<bool, Fault> {
        match self.token() {
            Some(b't') => self.literal("true").map(|()| true),
            Some(b'f') => self.literal("false").map(|()| false),
            _ => Err(self.mistyped(NOT_BOOLEAN)),
        }
    }

    /// Reads `null`, if it comes next.
    pub(crate) fn null(&mut self) -> Result<bool, Fault> {
        if self.token() != Some(b'n') {
            return Ok(false);
        }
        self.literal("null").map(|()| true)
    }

    fn literal(&mut self, word: &str) -> Result<(), Fault> {
        if !self
            .bytes()
            .get(self.at..)
            .is_some_and(|rest| rest.starts_with(word.as_bytes()))
        {
            return Err(self.malformed("Invalid value."));
        }
        self.at += word.len();
        Ok(())
    }

    /// Reads a value of any type and forgets it.
    pub(crate) fn skip_value(&mut self) -> Result<(), Fault> {
        match self.kind()? {
            Kind::Object => {
                let mut members = self.object()?;
                while members.next(self)?.is_some() {
                    self.skip_value()?;
                }
                Ok(())
            }
            Kind::Array => {
                let mut elements = self.array()?;
                while elements.next(self)? {
                    self.skip_value()?;
                }
                Ok(())
            }
            Kind::String => self.skip_string(),
            Kind::Number => f64::read(self).map(drop),
            Kind::Boolean => self.boolean().map(drop),
            Kind::Null => self.null().map(drop),
        }
    }

    /// Finds the end of a value by its brackets and quotes alone; what else is wrong with it is found when it is read.
    pub(crate) fn hop(&mut self) -> Result<(), Fault> {
        if !matches!(self.kind()?, Kind::Array | Kind::Object) {
            return self.skip_value();
        }
        let bytes = self.bytes();
        let mut open = 0_usize;
        loop {
            self.at += flat::<32>(bytes, self.at);
            self.at += flat::<8>(bytes, self.at);
            match bytes.get(self.at) {
                Some(b'[' | b'{') => open += 1,
                Some(b']' | b'}') => {
                    open = open.saturating_sub(1);
                    if open == 0 {
                        self.at += 1;
                        return Ok(());
                    }
                }
                Some(b'"') => {
                    self.skip_string()?;
                    continue;
                }
                Some(_) => {}
                None => return Err(self.malformed("Missing a comma or ] after an array element.")),
            }
            self.at += 1;
        }
    }

    /// Makes sure that nothing follows.
    pub(crate) fn end(&mut self) -> Result<(), Fault> {
        match self.token() {
            None => Ok(()),
            Some(_) => Err(self.malformed("The document root must not be followed by other values.")),
        }
    }
}

impl Members {
    /// The name of the next member, whose value must be read then; `None` at the end of the object.
    pub(crate) fn next<'a>(&mut self, reader: &mut Reader<'a>) -> Result<Option<Cow<'a, str>>, Fault> {
        let is_first = std::mem::replace(&mut self.is_first, false);
        match reader.token() {
            Some(b'}') => {
                reader.leave();
                return Ok(None);
            }
            Some(b',') if !is_first => reader.at += 1,
            _ if is_first => {}
            _ => return Err(reader.malformed("Missing a comma or } after an object member.")),
        }
        if reader.token() != Some(b'"') {
            return Err(reader.malformed("Missing a name for object member."));
        }
        let name = reader.string()?;
        if reader.token() != Some(b':') {
            return Err(reader.malformed("Missing a colon after a name of object member."));
        }
        reader.at += 1;
        Ok(Some(name))
    }
}

impl Elements {
    /// Whether there is another element, which must be read then.
    pub(crate) fn next(&mut self, reader: &mut Reader<'_>) -> Result<bool, Fault> {
        if std::mem::replace(&mut self.is_first, false) {
            return Ok(!reader.leave_if_empty());
        }
        Ok(reader.next_element()? == Next::Element)
    }
}

/// How many bytes from a position on, in whole blocks, are neither quotes nor letters nor brackets.
#[inline]
fn flat<const BLOCK: usize>(bytes: &[u8], at: usize) -> usize {
    // Brackets and letters have one of the two highest bits. Without a branch, so that a block is looked at at once.
    let others = |block: &[u8; BLOCK]| {
        let add = |others, &byte: &u8| others | byte & 0xC0 | u8::from(byte == b'"');
        block.iter().fold(0, add)
    };
    let (blocks, _) = bytes.get(at..).unwrap_or_default().as_chunks::<BLOCK>();
    blocks.iter().take_while(|block| others(block) == 0).count() * BLOCK
}

/// The character of the escape `\uXXXX` at `at`, or of two that form a pair, and where it ends.
fn unicode_escape(bytes: &[u8], at: usize) -> Result<(char, usize), &'static str> {
    const NO_DIGITS: &str = "Incorrect hex digit after \\u escape in string.";
    const NO_PAIR: &str = "The surrogate pair in string is invalid.";
    let unit = |at: usize| -> Option<u32> {
        let digits = bytes.get(at + 2..at + 6)?;
        digits
            .iter()
            .try_fold(0, |unit, &digit| Some(unit << 4 | char::from(digit).to_digit(16)?))
    };
    let first = unit(at).ok_or(NO_DIGITS)?;
    if !(0xD800..0xE000).contains(&first) {
        return Ok((char::from_u32(first).ok_or(NO_PAIR)?, at + 6));
    }
    if first >= 0xDC00 || bytes.get(at + 6..at + 8) != Some(b"\\u") {
        return Err(NO_PAIR);
    }
    let second = unit(at + 6).ok_or(NO_DIGITS)?;
    if !(0xDC00..0xE000).contains(&second) {
        return Err(NO_PAIR);
    }
    let code = 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00);
    Ok((char::from_u32(code).ok_or(NO_PAIR)?, at + 12))
}

/// The characters that a string with escapes stands for; the escapes have been checked.
fn unescaped(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        text.push_str(plain);
        let (character, end) = match escaped.as_bytes().first() {
            Some(b'b') => ('\u{8}', 1),
            Some(b'f') => ('\u{C}', 1),
            Some(b'n') => ('\n', 1),
            Some(b'r') => ('\r', 1),
            Some(b't') => ('\t', 1),
            Some(b'u') => {
                let start = rest.len() - escaped.len() - 1;
                match unicode_escape(rest.as_bytes(), start) {
                    Ok((character, end)) => (character, end - start - 1),
                    Err(_) => (char::REPLACEMENT_CHARACTER, escaped.len()),
                }
            }
            Some(&other) => (char::from(other), 1),
            None => break,
        };
        text.push(character);
        rest = escaped.get(end..).unwrap_or_default();
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests;
