//! A line for each request, written by a thread of its own: a slow or full disk costs lines, never requests.

use std::fmt;
use std::fmt::Write as _;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crate::json::writer;

/// So many lines may wait for the disk; later ones are dropped.
const MOST_LINES: usize = 8192;

/// What a line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text,
    /// An object on each line.
    Json,
}

/// An access log as somebody wants it.
pub struct AccessLogSettings {
    /// What a line looks like.
    pub form: Form,
    /// Where lines go.
    pub to: Box<dyn Write + Send>,
}

impl fmt::Debug for AccessLogSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLogSettings")
            .field("form", &self.form)
            .finish_non_exhaustive()
    }
}

/// What a line tells.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    /// Seconds since 1970.
    pub(crate) time: Duration,
    pub(crate) peer: &'a str,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) status: u16,
    pub(crate) bytes: u64,
    pub(crate) took: Duration,
}

/// Where lines go.
pub(crate) struct AccessLog {
    form: Form,
    lines: Option<SyncSender<String>>,
    writer: Option<JoinHandle<()>>,
    lost: Arc<AtomicU64>,
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog")
            .field("form", &self.form)
            .finish_non_exhaustive()
    }
}

impl AccessLog {
    /// Writes lines to `to` until it is dropped, which waits for those that are there.
    pub(crate) fn new(form: Form, mut to: Box<dyn Write + Send>) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel::<String>(MOST_LINES);
        let lost = Arc::<AtomicU64>::default();
        let missed = lost.clone();
        let writer = Builder::new().name("inferlite-log".to_owned()).spawn(move || {
            while let Ok(first) = receiver.recv() {
                let mut text = first;
                let mut lines = 1;
                while let Ok(more) = receiver.try_recv() {
                    text.push_str(&more);
                    lines += 1;
                }
                if to.write_all(text.as_bytes()).and_then(|()| to.flush()).is_err() {
                    missed.fetch_add(lines, Ordering::Relaxed);
                }
            }
        })?;
        Ok(Self {
            form,
            lines: Some(sender),
            writer: Some(writer),
            lost,
        })
    }

    pub(crate) fn write(&self, line: &Line<'_>) {
        let text = self.form.of(line);
        let is_taken = self.lines.as_ref().is_some_and(|lines| lines.try_send(text).is_ok());
        if !is_taken {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many lines could not be written.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        drop(self.lines.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Form {
    fn of(self, line: &Line<'_>) -> String {
        let mut text = String::new();
        let (time, took) = (line.time.as_secs_f64(), line.took.as_secs_f64() * 1e3);
        // What clients send may hold line breaks and quotes.
        let (method, path) = (writer::quoted(line.method), writer::quoted(line.path));
        let Line {
            peer, status, bytes, ..
        } = line;
        let _ = match self {
            Self::Text => writeln!(text, "{time:.3} {peer} {method} {path} {status} {bytes} B {took:.3} ms"),
            Self::Json => writeln!(
                text,
                "{{\"time\":{time:.3},\"peer\":\"{peer}\",\"method\":{method},\"path\":{path},\"status\":{status},\
                 \"bytes\":{bytes},\"milliseconds\":{took:.3}}}"
            ),
        };
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::Mutex;

    #[derive(Clone, Default)]
    struct Sheet(Arc<Mutex<Vec<u8>>>);

    impl Write for Sheet {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::from(io::ErrorKind::StorageFull))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const LINE: Line<'static> = Line {
        time: Duration::from_millis(1_500),
        peer: "127.0.0.1",
        method: "POST",
        path: "/v2/models/a\"\nb/infer",
        status: 200,
        bytes: 12,
        took: Duration::from_micros(250),
    };

    #[test]
    fn every_request_has_its_line() {
        let sheet = Sheet::default();
        for (form, wanted) in [
            (
                Form::Text,
                "1.500 127.0.0.1 \"POST\" \"/v2/models/a\\\"\\nb/infer\" 200 12 B 0.250 ms\n",
            ),
            (
                Form::Json,
                "{\"time\":1.500,\"peer\":\"127.0.0.1\",\"method\":\"POST\",\"path\":\"/v2/models/a\\\"\\nb/infer\",\
                 \"status\":200,\"bytes\":12,\"milliseconds\":0.250}\n",
            ),
        ] {
            let log = AccessLog::new(form, Box::new(sheet.clone())).unwrap();
            log.write(&LINE);
            drop(log);
            let written = std::mem::take(&mut *sheet.0.lock().unwrap());
            assert_eq!(String::from_utf8(written).unwrap(), wanted);
        }
    }

    #[test]
    fn a_full_disk_costs_lines_alone() {
        let log = AccessLog::new(Form::Text, Box::new(Full)).unwrap();
        let lost = log.lost.clone();
        log.write(&LINE);
        log.write(&LINE);
        drop(log);
        assert_eq!(lost.load(Ordering::Relaxed), 2);
    }
}
