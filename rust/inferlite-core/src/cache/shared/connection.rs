//! A connection to a Redis or Valkey server: the few commands that a cache needs, each within one time limit.
//!
//! The limit holds for a question as a whole, however slowly the server sends its parts, and nothing is set aside for
//! a length that a server only claims.

use std::fmt;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

/// A longer line is no reply to what is asked here.
const LONGEST_LINE: usize = 4096;
const CHUNK: usize = 16 * 1024;

/// Where a server is.
#[derive(Debug, Clone)]
pub enum Address {
    /// In a network; the first that can be reached is taken.
    Tcp(Vec<SocketAddr>),
    /// On this machine.
    Unix(PathBuf),
}

/// A server, and how to enter.
#[derive(Clone)]
pub struct Server {
    /// Where it is.
    pub address: Address,
    /// The user, where the server knows several.
    pub user: Option<String>,
    /// The password, where it wants one.
    pub password: Option<String>,
    /// The number of the database.
    pub database: u32,
    /// How long one question may take.
    pub timeout: Duration,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.address)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// A moment at which a question is given up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(Instant);

impl Deadline {
    pub(super) fn after(timeout: Duration) -> Self {
        Self(Instant::now() + timeout)
    }

    fn left(self) -> io::Result<Duration> {
        let left = self.0.saturating_duration_since(Instant::now());
        if left.is_zero() {
            Err(io::ErrorKind::TimedOut.into())
        } else {
            Ok(left)
        }
    }
}

/// What a server says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Nothing,
    Bytes(Vec<u8>),
    Number(i64),
    Status,
    /// The server's own words.
    Refusal(String),
}

/// An open connection, with nothing under way.
#[derive(Debug)]
pub(super) struct Connection<S = Socket> {
    stream: S,
    buffer: Vec<u8>,
    /// What of the buffer has been read.
    start: usize,
}

/// A stream that can be told how long to wait.
pub(super) trait Timed: Read {
    fn wait_at_most(&self, limit: Duration) -> io::Result<()>;

    /// Sends some of the bytes, and says how many.
    fn send_some(&mut self, bytes: &[u8]) -> io::Result<usize>;
}

impl Timed for Socket {
    fn wait_at_most(&self, limit: Duration) -> io::Result<()> {
        // Less than a microsecond would mean for ever.
        let limit = limit.max(Duration::from_micros(1));
        self.set_read_timeout(Some(limit))?;
        self.set_write_timeout(Some(limit))
    }

    fn send_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A program may have given SIGPIPE its usual meaning back, and would end where the server has gone.
        #[cfg(all(unix, not(target_vendor = "apple")))]
        return self.send_with_flags(bytes, libc::MSG_NOSIGNAL);
        // Where the flag is not known, the socket was made so already, or there is no such signal.
        #[cfg(not(all(unix, not(target_vendor = "apple"))))]
        return self.send(bytes);
    }
}

/// The bytes of a command.
pub(super) fn command(parts: &[&[u8]], into: &mut Vec<u8>) {
    into.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
    for part in parts {
        into.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        into.extend_from_slice(part);
        into.extend_from_slice(b"\r\n");
    }
}

impl Connection {
    /// Connects and enters.
    pub(super) fn open(server: &Server, deadline: Deadline) -> io::Result<Self> {
        let mut connection = Self::over(connect(&server.address, deadline)?);
        let mut commands = Vec::new();
        let mut replies = 0;
        if let Some(password) = &server.password {
            match &server.user {
                Some(user) => command(&[b"AUTH", user.as_bytes(), password.as_bytes()], &mut commands),
                None => command(&[b"AUTH", password.as_bytes()], &mut commands),
            }
            replies += 1;
        }
        if server.database != 0 {
            command(&[b"SELECT", server.database.to_string().as_bytes()], &mut commands);
            replies += 1;
        }
        if replies > 0 {
            connection.send(&commands, deadline)?;
        }
        for _ in 0..replies {
            match connection.reply(0, deadline)? {
                Reply::Status => {}
                Reply::Refusal(words) => return Err(io::Error::new(io::ErrorKind::PermissionDenied, words)),
                _ => return Err(nonsense()),
            }
        }
        Ok(connection)
    }
}

fn connect(address: &Address, deadline: Deadline) -> io::Result<Socket> {
    let open = |domain, address: &SockAddr| {
        let socket = Socket::new(domain, Type::STREAM, None)?;
        socket.connect_timeout(address, deadline.left()?)?;
        Ok(socket)
    };
    match address {
        Address::Unix(path) => open(Domain::UNIX, &SockAddr::unix(path)?),
        Address::Tcp(addresses) => {
            let mut result = Err(io::Error::new(
                io::ErrorKind::NotFound,
                "its name was not known when the model was loaded",
            ));
            for &address in addresses {
                result = open(Domain::for_address(address), &address.into());
                if result.is_ok() {
                    break;
                }
            }
            let socket = result?;
            // A question is one small packet.
            socket.set_tcp_nodelay(true)?;
            Ok(socket)
        }
    }
}

fn nonsense() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it does not speak as a Redis server does")
}

impl<S: Timed> Connection<S> {
    pub(super) fn over(stream: S) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            start: 0,
        }
    }

    pub(super) fn send(&mut self, mut bytes: &[u8], deadline: Deadline) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.wait_at_most(deadline.left()?)?;
            match self.stream.send_some(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next reply; bytes beyond `most` are refused.
    pub(super) fn reply(&mut self, most: usize, deadline: Deadline) -> io::Result<Reply> {
        let line = self.line(deadline)?;
        let (kind, rest) = line.split_first().ok_or_else(nonsense)?;
        let number = || {
            std::str::from_utf8(rest)
                .ok()
                .and_then(|text| text.parse::<i64>().ok())
                .ok_or_else(nonsense)
        };
        match kind {
            b'+' => Ok(Reply::Status),
            b'-' => Ok(Reply::Refusal(String::from_utf8_lossy(rest).into_owned())),
            b':' => Ok(Reply::Number(number()?)),
            b'$' => match number()? {
                -1 => Ok(Reply::Nothing),
                length => {
                    let length = usize::try_from(length).map_err(|_| nonsense())?;
                    if length > most {
                        return Err(io::Error::new(
                            io::ErrorKind::InvalidData,
                            "it sends more than was ever stored",
                        ));
                    }
                    let mut bytes = self.exactly(length + 2, deadline)?;
                    if !bytes.ends_with(b"\r\n") {
                        return Err(nonsense());
                    }
                    bytes.truncate(length);
                    Ok(Reply::Bytes(bytes))
                }
            },
            _ => Err(nonsense()),
        }
    }

    fn line(&mut self, deadline: Deadline) -> io::Result<Vec<u8>> {
        let mut searched = 0;
        loop {
            let unread = &self.buffer[self.start..];
            if let Some(end) = unread[searched..].windows(2).position(|pair| pair == b"\r\n") {
                let line = unread[..searched + end].to_vec();
                self.start += line.len() + 2;
                return Ok(line);
            }
            searched = unread.len().saturating_sub(1);
            if searched > LONGEST_LINE {
                return Err(nonsense());
            }
            self.fill(deadline)?;
        }
    }

    fn exactly(&mut self, count: usize, deadline: Deadline) -> io::Result<Vec<u8>> {
        while self.buffer.len() - self.start < count {
            self.fill(deadline)?;
        }
        let bytes = self.buffer[self.start..self.start + count].to_vec();
        self.start += count;
        Ok(bytes)
    }

    /// Reads what has come, at least a byte.
    fn fill(&mut self, deadline: Deadline) -> io::Result<()> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let filled = self.buffer.len();
        self.buffer.resize(filled + CHUNK, 0);
        let result = loop {
            self.stream.wait_at_most(deadline.left()?)?;
            match self.stream.read(&mut self.buffer[filled..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        let read = result.as_ref().copied().unwrap_or(0);
        self.buffer.truncate(filled + read);
        match result? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Whether every byte that came has been read: what is left over answers no question.
    pub(super) fn is_in_step(&self) -> bool {
        self.start == self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives its bytes a few at a time.
    #[derive(Debug)]
    struct Scripted {
        bytes: Vec<u8>,
        sent: Vec<u8>,
        at_a_time: usize,
    }

    impl Read for Scripted {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = self.at_a_time.min(self.bytes.len()).min(into.len());
            into[..count].copy_from_slice(&self.bytes[..count]);
            self.bytes.drain(..count);
            Ok(count)
        }
    }

    impl Timed for Scripted {
        fn wait_at_most(&self, _limit: Duration) -> io::Result<()> {
            Ok(())
        }

        fn send_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.sent.extend_from_slice(&bytes[..bytes.len().min(self.at_a_time)]);
            Ok(bytes.len().min(self.at_a_time))
        }
    }

    fn later() -> Deadline {
        Deadline::after(Duration::from_secs(60))
    }

    fn said(bytes: &[u8], at_a_time: usize) -> Connection<Scripted> {
        Connection::over(Scripted {
            bytes: bytes.to_vec(),
            sent: Vec::new(),
            at_a_time,
        })
    }

    #[test]
    fn replies_are_read_however_they_are_cut() {
        for at_a_time in 1..40 {
            let mut connection = said(
                b"+OK\r\n$5\r\na\r\nbc\r\n:-2\r\n$-1\r\n-NOAUTH first\r\n$0\r\n\r\n",
                at_a_time,
            );
            let replies: Vec<Reply> = (0..6)
                .map(|_| connection.reply(5, later()).expect("it is whole"))
                .collect();
            let wanted = [
                Reply::Status,
                Reply::Bytes(b"a\r\nbc".into()),
                Reply::Number(-2),
                Reply::Nothing,
                Reply::Refusal("NOAUTH first".into()),
                Reply::Bytes(Vec::new()),
            ];
            assert_eq!(replies, wanted);
            assert!(connection.is_in_step());
            assert!(connection.reply(5, later()).is_err());
        }
    }

    #[test]
    fn commands_are_sent_whole_however_little_is_taken() {
        let mut bytes = Vec::new();
        command(&[b"SET", b"a\r\n", b""], &mut bytes);
        assert_eq!(bytes, b"*3\r\n$3\r\nSET\r\n$3\r\na\r\n\r\n$0\r\n\r\n");
        for at_a_time in 1..9 {
            let mut connection = said(b"", at_a_time);
            connection.send(&bytes, later()).expect("it is taken");
            assert_eq!(connection.stream.sent, bytes);
        }
        let nobody = said(b"", 0).send(&bytes, later());
        assert_eq!(nobody.expect_err("nothing is taken").kind(), io::ErrorKind::WriteZero);
    }

    #[test]
    fn claims_cost_nothing() {
        for claim in [
            &b"$6\r\n123456\r\n"[..],
            b"$99999999999999999999\r\n",
            b"$-7\r\n",
            b"*1000000000\r\n",
            b"%1\r\n",
            b"\r\n",
        ] {
            assert!(said(claim, 100).reply(5, later()).is_err());
        }
        assert!(said(&b"+".repeat(1 << 20), 1 << 20).reply(5, later()).is_err());
        assert!(said(b"$5\r\nabcdefg", 100).reply(5, later()).is_err());
    }

    #[test]
    fn a_question_ends_with_its_time_however_slowly_the_parts_come() {
        let over = Deadline::after(Duration::ZERO);
        let kind = |result: io::Result<Reply>| result.expect_err("its time is over").kind();
        assert_eq!(kind(said(b"+OK\r\n", 1).reply(5, over)), io::ErrorKind::TimedOut);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_reply_or_an_error(bytes in prop::collection::vec(prop_oneof![
            any::<u8>(), Just(b'$'), Just(b'\r'), Just(b'\n'), Just(b'1'), Just(b':')], 0..60), at_a_time in 1..20_usize) {
            let mut connection = said(&bytes, at_a_time);
            while connection.reply(20, later()).is_ok() {}
        }
    }
}
